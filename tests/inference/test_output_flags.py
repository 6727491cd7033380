"""`--output` and `--format` as they are typed, and a standard output that is closed."""

import subprocess
import sys

import pytest
from test_programs import ROOT


def run_closed(*words):
    """`couloir ... >&-`: with no standard output at all."""
    command = [sys.executable, "-m", "couloir.cli", *map(str, words)]
    return subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command], cwd=ROOT, stderr=subprocess.PIPE, text=True)


def test_a_closed_standard_output_is_no_error(models, speech):
    done = run_closed("transcribe", models("ctc") / "run", speech[0])
    assert (done.returncode, done.stderr) == (0, "")


def test_a_format_alone_goes_to_standard_output(models, speech, call):
    rows = call("couloir", "transcribe", models("ctc") / "run", speech[0], "--format", "ctm").out.splitlines()
    assert len(rows) > 5
    assert all(len(row.split()) == 6 and row.split()[1] == "1" for row in rows)


@pytest.mark.parametrize("command", ["transcribe", "align"])
def test_an_output_of_an_unset_variable_is_refused(models, speech, command, call):
    done = call("couloir", command, models("ctc") / "run", speech[0], "ma", "--output", "")
    assert done.returncode == 2
    assert "must be a file, a folder or -, but is empty" in done.err


@pytest.mark.parametrize("name", ["x.tsv", "x.jsonl", "x.ctm"])
def test_no_alignment_is_written_under_the_name_of_another_format(models, speech, tmp_path, name, call):
    done = call("couloir", "align", models("ctc") / "run", speech[0], "ma", "--output", tmp_path / name)
    assert done.returncode == 2
    assert f"`--output` must be a TextGrid's name, but is {tmp_path / name}" in done.err
    assert not list(tmp_path.iterdir())
