"""`--help` has what people use, by section; `--help-all` has every flag; both take every flag."""

import re
import subprocess
import sys

import pytest
from programs import ROOT, run_program

from couloir.config import RareFlag, TeachingParser, add_flags, option
from couloir.recipes.run_config import make_parser

TRAIN = ("zipformer_crctc/train.py", "zipformer_transducer/train.py")


def flags_of(text):
    return set(re.findall(r"^  (--[\w-]+)", text, re.M))


def both(program, folder):
    return [run_program(folder, program, [flag]).stdout for flag in ("--help", "--help-all")]


@pytest.mark.parametrize("program", TRAIN)
def test_a_newcomer_sees_the_flags_that_people_use(program, tmp_path):
    short, whole = both(program, tmp_path)
    few, all_of_them = flags_of(short), flags_of(whole)
    assert 40 <= len(few) <= 50 < 120 < len(all_of_them) and few < all_of_them
    wanted = {"--preset", "--config", "--manifest-dir", "--bpe-model", "--exp-dir", "--max-duration", "--base-lr"}
    wanted |= {"--world-size", "--num-epochs", "--use-bf16", "--causal", "--use-ctc", "--time-budget-minutes"}
    assert wanted <= few and "--pos-head-dim" in all_of_them - few
    rest = len(all_of_them - few)
    assert short.rstrip().endswith(f"{rest} more flags, which few people need: --help-all")
    assert "--help-all" not in whole
    # Each section says what it is; one of rare flags alone is left out.
    assert all(title in short for title in ("Data. ", "Text: ", "Optimizer. ", "Trainer. ", "Zipformer encoder:"))
    assert "Filterbank features:" in whole and "Filterbank features:" not in short


def test_rare_flags_are_taken_all_the_same():
    assert make_parser("").parse_args(["--pos-head-dim", "8", "--low-freq=30"]).pos_head_dim == "8"
    with pytest.raises(SystemExit):
        make_parser("").parse_args(["--pos-head-dims", "8"])


def test_the_nearest_flag_may_be_a_rare_one(capsys):
    with pytest.raises(SystemExit):
        make_parser("").parse_args(["--pos-head-dims", "8"])
    assert "did you mean `--pos-head-dim`?" in capsys.readouterr().err


def test_a_parser_without_rare_flags_has_one_help(capsys):
    parser = TeachingParser(prog="x", description="text", epilog="end")
    parser.add_argument("--a", help="first")
    one = parser.format_help()
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(["--help-all"])
    assert stopped.value.code == 0 and capsys.readouterr().out == one and one.endswith("end\n")


def test_transcribe_shows_the_main_settings_of_a_search_and_takes_all(capsys):
    from couloir.cli import make_parser

    few, whole = [], []
    for flag, found in (("--help", few), ("--help-all", whole)):
        with pytest.raises(SystemExit):
            make_parser().parse_args(["transcribe", flag])
        found += flags_of(capsys.readouterr().out)
    assert {"--decoding-method", "--context-file", "--lm-scale", "--inventory", "--output"} <= set(few)
    assert set(whole) - set(few) >= {"--num-paths", "--nbest-scale", "--rnn-lm-hidden-dim"}


def test_help_changes_nothing_of_the_parser():
    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class Some:
        """Some. Of both kinds."""

        often: int = option(1, "often wanted", unit="s")
        seldom: int = option(2, "seldom wanted", unit="s", rare=True)

    parser = TeachingParser(prog="x", epilog="end")
    add_flags(parser, Some)
    first = parser.format_help()
    assert first == parser.format_help() and "seldom" not in first and "1 more flags" in first
    (rare,) = [action for action in parser._actions if isinstance(action, RareFlag)]
    assert rare.help == "seldom wanted [s] (default: 2)" and parser.epilog == "end"
    assert vars(parser.parse_args(["--seldom", "3"])) == {"seldom": "3"}


def test_decoding_shows_its_own_flags_and_not_those_of_training(tmp_path):
    short, whole = both("zipformer_crctc/ctc_decode.py", tmp_path)
    assert {"--exp-dir", "--test-sets", "--decoding-method"} - {"--exp-dir"} <= flags_of(short)
    assert flags_of(short) < flags_of(whole) and "--base-lr" not in flags_of(whole)


@pytest.mark.parametrize(
    "words",
    [
        "zipformer_crctc/train.py --help",
        "zipformer_transducer/decode.py --help",
        "zipformer_transducer/export_onnx.py --help-all",
        "couloir/cli.py --help",
        "couloir/cli.py transcribe --help-all",
        "inference/inference.py --help",
        "inference/batch_inference.py --help",
    ],
)
def test_help_answers_without_torch_and_numpy(words):
    program, flag = words.split()[0], words.split()[1:]
    code = (
        f"import sys, runpy; sys.argv = {[program, *flag]}\n"
        f"try: runpy.run_path('{program}', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'lhotse', 'numpy', 'yaml'} & set(sys.modules), 'heavy imports'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
