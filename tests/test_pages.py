"""RESULTS.md is what its result files say; the README's commands run on real speech."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "tests" / "data"

ENV = {
    **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    "OMP_NUM_THREADS": "1",
    "PYTHON": sys.executable,
}


def readme_commands():
    """The commands of the README's code blocks, continued lines joined, comments dropped."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    text = "\n".join(blocks).replace("\\\n", " ")
    return [line.split("   #")[0].strip() for line in text.splitlines() if line.strip()]


def test_results_page_is_up_to_date():
    assert subprocess.run([sys.executable, "benchmarks/results_page.py", "--check"], cwd=ROOT).returncode == 0


def test_programs_that_the_readme_names_are_there():
    for command in readme_commands():
        program = next((word for word in shlex.split(command) if word.endswith((".sh", ".py"))), None)
        assert program is None or (ROOT / program).is_file(), command


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A clone as a user has it, with a folder of their own recordings."""
    folder = tmp_path_factory.mktemp("readme") / "couloir"
    rooms = ("couloir", "local", "zipformer_crctc", "zipformer_transducer", "egs", "prepare.sh", "setup.sh")
    for room in rooms:
        copy = shutil.copytree if (ROOT / room).is_dir() else shutil.copy
        folder.mkdir(exist_ok=True)
        copy(ROOT / room, folder / room)
    (folder / "my-recordings").mkdir()
    import soundfile

    for path in FIXTURES.glob("ru_*.flac"):
        soundfile.write(folder / "my-recordings" / f"{path.stem}.wav", *soundfile.read(path))
        text = path.with_suffix(".txt").read_text(encoding="utf-8")
        (folder / "my-recordings" / f"{path.stem}.txt").write_text(text, encoding="utf-8")
    return folder


def readme_run(home, needle, extra=""):
    command = next(command for command in readme_commands() if needle in command)
    done = subprocess.run(
        ["bash", "-c", f"{command} {extra}"], cwd=home, env=ENV, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
    return done.stdout


@pytest.mark.slow
def test_own_recordings_from_folder_to_ipa(home):
    """The README's page for newcomers; only the model and the run are cut down."""
    readme_run(home, "prepare.sh --user-data", "--heldout-utterances 1 --dev-utterances 1")
    assert "hours" in (home / "data/mine/statistics.txt").read_text()
    readme_run(
        home,
        "zipformer_crctc/train.py --preset tiny",
        "--max-steps 6 --num-workers 0 --save-every-n 3 --average-period 1 --tensorboard False",
    )
    assert "PER %" in readme_run(home, "ctc_decode.py --exp-dir exp/mine")
    assert "ru_0274" in readme_run(home, "couloir.cli transcribe exp/mine")
