"""RESULTS.md is what its result files say; the README's commands run on real speech, its snippet on a tiny model."""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parent / "recipes"))
from commands import page_commands
from programs import ROOT, restored, run_program
from random_run import random_run
from real_speech import prepare

FIXTURES = ROOT / "tests" / "data"
README = page_commands(ROOT / "README.md")
DEMO_RUN, DEMO_SPEECH = "demo/exp/festvox-ru", "demo/heldout/festvox-ru_ru_0050"
FEW_STEPS = "--max-steps 6 --num-workers 0 --save-every-n 3 --average-period 1 --tensorboard False"
ENV = {
    **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    "OMP_NUM_THREADS": "1",
    "PYTHON": sys.executable,
}


def test_results_page_is_up_to_date():
    assert subprocess.run([sys.executable, "benchmarks/results_page.py", "--check"], cwd=ROOT).returncode == 0


# What the README shows of the demo's model, with a random one in its place.


@pytest.fixture(scope="module")
def after_the_demo(tmp_path_factory):
    folder = prepare(tmp_path_factory.mktemp("demo"))
    (folder / DEMO_RUN).parent.mkdir(parents=True)
    random_run(folder, DEMO_RUN, "zipformer_crctc", "--use-transducer False --use-ctc True")
    (folder / DEMO_SPEECH).parent.mkdir(parents=True)
    soundfile.write(folder / f"{DEMO_SPEECH}.wav", *soundfile.read(FIXTURES / "ru_0274.flac"))
    (folder / f"{DEMO_SPEECH}.ipa").write_text("ja\n", encoding="utf-8")
    return folder


def show(folder, needle):
    """What a command of the README that has no $PYTHON prints, before it is cut by a pipe."""
    command = next(command for command in README if needle in command and "$PYTHON" not in command)
    first, *words = shlex.split(command.split(" | ")[0])
    program = "couloir/cli.py" if first == "couloir" else words.pop(0)
    return run_program(folder, program, words).stdout


def test_couloir_transcribes_aligns_and_says_what_a_model_is(after_the_demo):
    assert "confidence" in show(after_the_demo, "couloir transcribe")
    assert "2 phones in 1 word," in show(after_the_demo, "couloir align")
    assert (after_the_demo / "a.TextGrid").is_file()
    facts = show(after_the_demo, "couloir info")
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("$ couloir info")[1].split("\n```")[0]
    for line in text.splitlines()[1:]:
        assert re.search(rf"^{line.split('  ')[0]}  ", facts, re.M), line


def test_the_snippet_runs(after_the_demo):
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    said = io.StringIO()
    with restored(), contextlib.redirect_stdout(said):
        os.chdir(after_the_demo)
        exec(compile(snippet, "README.md", "exec"), {})
    text, *tokens = said.getvalue().splitlines()
    assert re.fullmatch(r"\S+ \d\.\d+", text) and len(tokens) == 3


@pytest.mark.slow
def test_the_exported_model_runs_without_torch(after_the_demo):
    show(after_the_demo, "export_onnx.py --exp-dir demo/exp")
    assert len(show(after_the_demo, "inference/inference.py").splitlines()) > 3
    show(after_the_demo, "inference/batch_inference.py")
    assert (after_the_demo / "grids").is_dir()


# The way of a newcomer, in a clone, by the shell.


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
    for path in FIXTURES.glob("ru_*.flac"):
        soundfile.write(folder / "my-recordings" / f"{path.stem}.wav", *soundfile.read(path))
        text = path.with_suffix(".txt").read_text(encoding="utf-8")
        (folder / "my-recordings" / f"{path.stem}.txt").write_text(text, encoding="utf-8")
    return folder


def readme_run(home, needle, extra=""):
    command = next(command for command in README if needle in command)
    done = subprocess.run(
        ["bash", "-c", f"{command} {extra}"], cwd=home, env=ENV, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
    return done.stdout


@pytest.fixture(scope="module")
def prepared_home(home):
    readme_run(home, "prepare.sh --user-data", "--heldout-utterances 1 --dev-utterances 1")
    return home


@pytest.mark.slow
def test_own_recordings_from_folder_to_ipa(prepared_home):
    """The README's page for newcomers; only the model and the run are cut down."""
    assert "hours" in (prepared_home / "data/mine/statistics.txt").read_text()
    readme_run(prepared_home, "zipformer_crctc/train.py --config", FEW_STEPS)
    assert "PER %" in readme_run(prepared_home, "ctc_decode.py --exp-dir exp/mine")
    assert "ru_0274" in readme_run(prepared_home, "transcribe exp/mine")
    readme_run(prepared_home, "export_onnx.py --exp-dir exp/mine --with-frontend")
    assert (prepared_home / "exp/mine/audio-model.int8.onnx").is_file()


@pytest.mark.slow
def test_own_recordings_to_a_transducer(prepared_home):
    readme_run(prepared_home, "zipformer_transducer/train.py --config", FEW_STEPS)
    assert "PER %" in readme_run(prepared_home, "zipformer_transducer/decode.py")
    readme_run(prepared_home, "zipformer_transducer/export_onnx.py")
    assert list((prepared_home / "exp/mine-transducer").glob("joiner*.onnx"))
