"""Every command that a page, a settings file or a program's help shows is one that its program takes."""

import subprocess

import pytest
from commands import check, comment_commands, page_commands, parse
from programs import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "web/README.md",
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("benchmarks/*.md"),
]
RECIPES = [path for path in ROOT.glob("*/*.py") if (path.parent / "train.py").is_file()]
PROGRAMS = [
    *RECIPES,
    *ROOT.glob("local/*.py"),
    *ROOT.glob("inference/*.py"),
    ROOT / "couloir/cli.py",
    ROOT / "couloir/web.py",
]
BENCHMARKS = sorted(ROOT.glob("benchmarks/*.py"))
SETTINGS = sorted((ROOT / "egs").rglob("*.yaml"))
SHOWN = {
    **{path: page_commands(path) for path in PAGES},
    **{path: comment_commands(path) for path in [*SETTINGS, *PROGRAMS, *BENCHMARKS]},
}


@pytest.mark.parametrize("path", [path for path in SHOWN if SHOWN[path]], ids=lambda path: str(path.relative_to(ROOT)))
def test_programs_take_the_commands_that_are_shown(path):
    for command in SHOWN[path]:
        check(command)


def test_the_commands_are_found():
    shown = [command for commands in SHOWN.values() for command in commands]
    for start in (
        "./demo.sh",
        "couloir align",
        "sbatch --nodes 2",
        "LD_PRELOAD=",
        "torchrun",
        "apptainer exec",
        "first=",
    ):
        assert any(command.startswith(start) for command in shown), start


@pytest.mark.parametrize(
    "command",
    [
        "python zipformer_crctc/train.py --prest tiny",
        "python zipformer_crctc/no_such.py",
        "python zipformer_crctc/train.py --base-lr fast",
        "couloir transcribe exp a.wav --outptu a.tsv",
        "./demo.sh --slow",
        "./prepare.sh --colour red",
        "./prepare.sh --min-secs 3",
        "torchrun --no-such-flag 2 zipformer_crctc/train.py",
        "sbatch --nodes 2 egs/slurm/train.sbatch --exp-dri exp",
        "LD_PRELOAD=$(python local/fetch_allocator.py) python zipformer_crctc/train.py",
        "speak hello",
    ],
)
def test_a_wrong_command_would_be_noticed(command):
    with pytest.raises(BaseException) as found:
        check(command)
    assert not isinstance(found.value, KeyboardInterrupt)


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: path.name)
def test_settings_build_a_configuration(path):
    recipe = "zipformer_transducer" if "transducer" in path.name else "zipformer_crctc"
    assert parse(f"{recipe}/train.py", ["--config", str(path)]).config == path


def test_the_demo_teaches():
    done = subprocess.run([ROOT / "demo.sh", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--quick" in done.stdout and "#" not in done.stdout
    assert subprocess.run([ROOT / "demo.sh", "--quik"], capture_output=True).returncode == 2
