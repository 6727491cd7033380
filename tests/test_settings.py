"""Every settings file that is shipped trains: the command in its head, cut down to two batches of real speech."""

import json
import shlex
import sys

import pytest
from commands import comment_commands
from programs import ROOT, run_program

sys.path.insert(0, str(ROOT / "tests" / "recipes"))
from real_speech import TINY, prepare

SETTINGS = sorted((ROOT / "egs").rglob("*.yaml"))
CUT_DOWN = (
    f"{TINY} --max-steps 2 --log-interval 1 --num-workers 0 --device cpu --tensorboard False --max-duration 10 "
    "--time-budget-minutes 0 --manifest-dir data/shar --bpe-model data/lang/bpe.model --exp-dir {exp_dir}"
)


def command_of(path):
    """The first command in a file's head that trains."""
    return next(command for command in comment_commands(path) if "/train.py" in command)


def test_every_file_has_its_command():
    assert len(SETTINGS) >= 3
    for path in SETTINGS:
        assert str(path.relative_to(ROOT)) in command_of(path), path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("settings"))


@pytest.mark.slow
@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_command_of_a_settings_file_trains(path, folder):
    exp_dir = folder / path.parent.name / path.stem
    _, program, *words = shlex.split(command_of(path))
    words[words.index("--config") + 1] = str(path)
    run_program(folder, program, [*words, *CUT_DOWN.format(exp_dir=exp_dir).split()])
    rows = [json.loads(line) for line in (exp_dir / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert len(losses) == 2 and all(0 < loss < 1e4 for loss in losses)
