"""Two preparations in one folder: one goes on, the other ends in one line; parts work beside each other, each once."""

import json
import os
import subprocess
import sys
import time

import pytest
from programs import ROOT, assert_one_line, run_program
from user_files import hum, put

from couloir.data.corpora.exclusive import LOCK, OF_PROGRAM, preparing
from couloir.data.corpora.folders import whole_folder
from couloir.data.corpora.parts import Part
from couloir.errors import UserError
from couloir.locks import Owner, locked

WAIT = """
import sys, time
from pathlib import Path
from couloir.data.corpora.exclusive import preparing
from couloir.data.corpora.parts import Part
with preparing(Path(sys.argv[1]), Part(*map(int, sys.argv[2:])) if sys.argv[2:] else None):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def speech(tmp_path):
    for name in "abcd":
        hum(tmp_path / f"speech/{name}.wav", 1)
        put(tmp_path / f"speech/{name}.ipa", "patakapata")
    return tmp_path / "speech"


def prepare(speech, data, *flags, **env):
    words = ["./prepare.sh", "--python", sys.executable, "--user-data", speech, "--data-dir", data, "--nj", "1", *flags]
    return subprocess.Popen(
        list(map(str, words)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
    )


def holding(data, *part):
    process = subprocess.Popen(
        [sys.executable, "-c", WAIT, str(data), *map(str, part)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def ended(process):
    process.kill()
    process.communicate()


def test_of_two_started_together_one_goes_on(speech, tmp_path):
    runs = [prepare(speech, tmp_path / "data", "--stop-stage", "1") for _ in range(2)]
    said = [run.communicate(timeout=100) for run in runs]
    codes = sorted(run.returncode for run in runs)
    assert codes in ([0, 2], [0, 0]), said  # the second may start when the first has ended
    for run, (_, err) in zip(runs, said):
        assert "Traceback" not in err
        if run.returncode == 2:
            last = err.strip().splitlines()[-1]
            assert last.startswith("error: ") and "used by one process at a time" in last and "since 20" in last
    assert (tmp_path / "data/manifests/user.jsonl.gz").is_file()
    assert not list((tmp_path / "data").glob(".prepare*"))


def test_between_the_stages_of_one_run_no_other_comes(tmp_path, monkeypatch):
    """prepare.sh is not a stage itself: the lock is left to its process."""
    shell = subprocess.Popen(["sleep", "60"])
    monkeypatch.setenv(OF_PROGRAM, str(shell.pid))
    with preparing(tmp_path):
        pass
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == shell.pid
    with preparing(tmp_path):  # its next stage
        pass
    monkeypatch.delenv(OF_PROGRAM)
    with pytest.raises(UserError, match=f"used by process {shell.pid}"), preparing(tmp_path):
        pass
    ended(shell)
    with preparing(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "program", ["make_manifests", "make_phones", "make_shar", "train_tokenizer", "validate_data", "fetch_corpora"]
)
def test_every_stage_is_refused_in_one_line(speech, tmp_path, program):
    with locked(tmp_path / "data" / LOCK, "it"):
        assert_one_line(
            run_program(tmp_path, f"local/{program}.py", "--data-dir data", check=False), "--data-dir data", "process"
        )


def test_a_killed_one_does_not_keep_the_folder(tmp_path):
    ended(holding(tmp_path))
    assert (tmp_path / LOCK).exists()
    with preparing(tmp_path):
        pass


def test_parts_work_beside_each_other_and_each_once(tmp_path):
    part = holding(tmp_path, 0, 2)
    try:
        with preparing(tmp_path, Part(1, 2)):
            assert not (tmp_path / LOCK).exists()
        with pytest.raises(UserError, match=r"--part 0/2"), preparing(tmp_path, Part(0, 2)):
            pass
        with pytest.raises(UserError, match="a part"), preparing(tmp_path):
            pass
    finally:
        ended(part)
    with preparing(tmp_path), preparing(tmp_path / "other"):
        pass


def test_one_process_at_a_time_makes_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("couloir.data.corpora.folders._WAIT_S", 0.0)
    (tmp_path / ".x.17.tmp").mkdir()  # of a killed one, of this machine or another
    with whole_folder(tmp_path / "x") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / ".x.17.tmp").exists()
        with pytest.raises(UserError, match="used by process"), whole_folder(tmp_path / "x"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data-dir="], ["--data-dir", "empty"]), (["--data-dir", ""], ["--data-dir", "empty"]),
        (["--user-data="], ["--user-data", "empty"]), (["--download-dir="], ["--download-dir", "empty"]),
        (["--stage", "9" * 20], ["--stage", "0 to 5"]), (["--stage=-1"], ["--stage"]),
        (["--stop-stage", "x"], ["--stop-stage"]), (["--stage="], ["--stage", "empty"]), (["--nj="], ["--nj", "empty"]),
        (["--python", "/no such/python"], ["--python", "interpreter"]), (["--stage"], ["--stage"]),
        (["--stage", "1e3"], ["--stage"]),
    ],
)  # fmt: skip
def test_flags_that_cannot_be_are_one_line(tmp_path, flags, words):
    done = subprocess.run(
        ["./prepare.sh", "--python", sys.executable, *flags], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2, done.stderr
    assert (
        done.stderr.startswith("error: ")
        and done.stderr.count("\n") == 1
        and all(word in done.stderr for word in words)
    )


def test_an_interpreter_and_folders_with_blanks(speech, tmp_path):
    python = tmp_path / "my python"
    python.symlink_to(sys.executable)
    wrapper = put(tmp_path / "a b/python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    wrapper.chmod(0o755)
    process = prepare(speech, tmp_path / "my data", "--stop-stage", "1", "--python", wrapper)
    assert process.wait(100) == 0, process.stderr.read()
    assert (tmp_path / "my data/manifests/user.jsonl.gz").is_file()


def test_the_lock_is_that_of_a_live_process(tmp_path):
    owner = Owner.of(os.getpid())
    with preparing(tmp_path):
        text = json.loads((tmp_path / LOCK).read_text())
    assert (text["host"], text["pid"]) == (owner.host, os.getpid())
    assert abs(time.mktime(time.strptime(text["since"], "%Y-%m-%d %H:%M:%S")) - time.time()) < 60
