"""`couloir train|decode|export RECIPE` and `couloir prepare`: which program they run, and what they refuse."""

import os
import subprocess
import sys

import pytest
from programs import ROOT, assert_one_line, run_process, run_program

from couloir import commands
from couloir.errors import UserError

CLI = "couloir/cli.py"


@pytest.mark.parametrize(
    ("command", "name", "program"),
    [
        ("train", "zipformer_crctc", "zipformer_crctc/train.py"),
        ("train", "zipformer_crctc/", "zipformer_crctc/train.py"),
        ("train", "zipformer_transducer/finetune", "zipformer_transducer/finetune.py"),
        ("train", "zipformer_transducer/train_lm.py", "zipformer_transducer/train_lm.py"),
        ("decode", "zipformer_crctc", "zipformer_crctc/ctc_decode.py"),
        ("decode", "zipformer_transducer", "zipformer_transducer/decode.py"),
        ("decode", "zipformer_transducer/ctc_decode", "zipformer_transducer/ctc_decode.py"),
        ("export", "zipformer_crctc", "zipformer_crctc/export.py"),
        ("export", "zipformer_crctc/export_onnx_streaming", "zipformer_crctc/export_onnx_streaming.py"),
    ],
)
def test_the_program_of_a_name(command, name, program):
    assert commands.find_program(command, name) == ROOT / program


@pytest.mark.parametrize(
    ("command", "name", "words"),
    [
        ("train", "zipformer_ctc", ["unknown recipe `zipformer_ctc`", "did you mean `zipformer_crctc`?"]),
        ("train", "whisper", ["unknown recipe `whisper`", "zipformer_crctc, zipformer_transducer"]),
        ("decode", "zipformer_crctc/train", ["zipformer_crctc", "`train`", "ctc_decode"]),
        ("export", "zipformer_transducer/export_onix", ["did you mean `export_onnx`?"]),
        ("train", "../etc", ["unknown recipe"]),
        ("train", "tests/", ["unknown recipe"]),
    ],
)
def test_other_names_are_refused_with_the_nearest(command, name, words):
    with pytest.raises(UserError) as error:
        commands.find_program(command, name)
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words), error.value


def test_every_program_of_a_recipe_is_run_by_one_command():
    for name, folder in commands.recipes().items():
        found = [program for command in commands.PROGRAMS for program in commands.programs_of(command, folder)]
        assert sorted(found) == sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__"), name


@pytest.mark.parametrize("command", commands.PROGRAMS)
def test_what_there_is_to_run_is_listed(command, tmp_path):
    shown = run_program(tmp_path, CLI, [command, "--help"]).stdout
    for name, folder in commands.recipes().items():
        first, *others = commands.programs_of(command, folder)
        for word in (name, *(f"{name}/{other}" for other in others)):
            assert f"  {word} " in shown
    for words in ([command], [command, "--exp-dir", "exp"]):
        refused = run_program(tmp_path, CLI, words, check=False)
        assert_one_line(refused, f"couloir {command} must be followed by a recipe: zipformer_crctc")


def test_the_command_names_all_of_them(tmp_path):
    shown = " ".join(run_program(tmp_path, CLI, ["--help"]).stdout.split())
    assert all(f"{name} {summary}" in shown for name, summary in commands.SUMMARIES.items())


def test_flags_go_to_the_program_as_they_are(tmp_path):
    words = "train zipformer_crctc --exp_dir=x --max-duration much"
    assert_one_line(run_program(tmp_path, CLI, words, check=False), "`--max-duration` must be a number")
    direct = run_program(tmp_path, "zipformer_crctc/train.py", ["--help"]).stdout
    assert run_program(tmp_path, CLI, ["train", "zipformer_crctc", "--help"]).stdout == direct


def test_a_folder_of_ones_own_is_a_recipe(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.py").write_text("import sys\nprint(sys.argv[1:], __name__)\nsys.exit(3)\n")
    done = run_program(tmp_path, CLI, ["train", "mine", "--a", "b"], check=False)
    assert (done.returncode, done.stdout) == (3, "['--a', 'b'] __main__\n")
    refused = run_program(tmp_path, CLI, ["decode", "./mine"], check=False)
    assert_one_line(refused, "./mine has no program to decode with")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "helper.py").write_text("WORD = 'helped'\n")
    program = "import helper, zipformer_crctc.train as train\nprint(helper.WORD, train.RECIPE)\n"
    (tmp_path / "other" / "export_it.py").write_text(program)
    assert run_program(tmp_path, CLI, ["export", "other"]).stdout == "helped zipformer_crctc\n"
    sys.modules.pop("helper")


def test_prepare_is_prepare_sh_in_the_working_folder(tmp_path):
    script = subprocess.run(["bash", ROOT / "prepare.sh", "--help"], capture_output=True, text=True).stdout
    assert run_process(tmp_path, CLI, ["prepare", "--help"]).stdout == script
    refused = run_process(tmp_path, CLI, ["prepare", "--colour", "red"], check=False)
    assert refused.returncode == 2 and "unknown flag `--colour`" in refused.stderr
    refused = run_process(tmp_path, CLI, ["prepare", "zipformer_crctc"], check=False)
    assert_one_line(refused, "zipformer_crctc has no prepare.sh")


def test_prepare_of_a_recipe_with_its_own(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "prepare.sh").write_text('echo "$COULOIR_WORK_DIR $PYTHON $*"\n')
    done = run_process(tmp_path, CLI, ["prepare", "mine", "--stage", "2"], PYTHON="")
    assert done.stdout == f"{os.path.realpath(tmp_path)} {sys.executable} --stage 2\n"


@pytest.mark.parametrize("name", ["egs/words_en_ru", "words_en_ru"])
def test_prepare_of_a_recipe_that_is_shipped(tmp_path, name):
    words = ["prepare", name, "--python", "echo", "--stage", "4", "--stop-stage", "4"]
    done = run_process(tmp_path, CLI, words)
    assert "local/train_tokenizer.py --tokenizer unigram --data-dir data" in done.stdout
    assert "usage: egs/words_en_ru/prepare.sh" in run_process(tmp_path, CLI, ["prepare", name, "--help"]).stdout


def test_nothing_heavy_is_imported_before_the_program_runs():
    code = (
        "import sys; from couloir import commands; commands.find_program('train', 'zipformer_crctc');"
        "assert not {'torch', 'numpy', 'yaml', 'rich'} & set(sys.modules), 'heavy imports'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
