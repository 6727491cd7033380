import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from tiny_models import tiny_model, write_onnx, write_run


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
