import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import couloir.cli

sys.path.insert(0, str(Path(__file__).resolve().parent))

from parrot import Parrot
from tiny_models import tiny_model, write_onnx, write_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """(kind, rate factor) -> folder with `run` and `onnx` of the same weights."""
    made = {}

    def get(kind="ctc", factor=1):
        if (kind, factor) not in made:
            folder = tmp_path_factory.mktemp(f"{kind}-{factor}")
            model = tiny_model(kind, factor)
            write_run(folder / "run", model)
            write_onnx(folder / "onnx", model)
            made[kind, factor] = folder
        return made[kind, factor]

    return get


@pytest.fixture(scope="session")
def speech():
    """Three recordings of real speech."""
    return sorted(Path(__file__).resolve().parents[1].joinpath("data").glob("ru_*.flac"))


@pytest.fixture
def call(capsys, monkeypatch):
    """Run a program in this process: its exit code, stdout and stderr."""

    def call(program, *arguments):
        capsys.readouterr()
        try:
            if program == "couloir":
                code = couloir.cli.main([str(a) for a in arguments])
            else:
                monkeypatch.setattr(sys, "argv", [program, *map(str, arguments)])
                runpy.run_path(str(ROOT / "inference" / program), run_name="__main__")
                code = 0
        except SystemExit as end:
            code = end.code
        return SimpleNamespace(returncode=code, **capsys.readouterr()._asdict())

    return call


@pytest.fixture
def parrot(tmp_path):
    (tmp_path / "model.onnx").write_text("weights")
    return Parrot(tmp_path / "model.onnx")


@pytest.fixture
def one_line(call):
    """Check that a program ends with one line that names these words, and exit code 2."""

    def check(program, arguments, *words):
        result = call(program, *arguments)
        assert result.returncode == 2, result
        lines = result.err.strip().splitlines()
        assert len(lines) == 1, result.err
        for word in words:
            assert word in lines[0]

    return check
