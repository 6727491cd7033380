"""One process at a time: what a lock is worth when its owner lives, is killed, is elsewhere, or never was."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from couloir import locks
from couloir.errors import UserError
from couloir.locks import SILENCE_S, Owner, holder, locked

HOLD = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts in the background
from pathlib import Path
from couloir.locks import locked
with locked(Path(sys.argv[1]), "the place"):
    print("held", flush=True)
    time.sleep(60)
"""
TURNS = """
import sys, time
from pathlib import Path
from couloir.locks import locked
folder = Path(sys.argv[1])
for _ in range(int(sys.argv[2])):
    with locked(folder / ".lock", "the place", wait_s=30):
        number = folder / "number"
        value = int(number.read_text() or 0)
        time.sleep(0.002)
        number.write_text(str(value + 1))
"""


def start(code, *words):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, words)], stdout=subprocess.PIPE, text=True)


@contextlib.contextmanager
def other_process(path):
    process = start(HOLD, path)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def record(path, **values):
    path.write_text(json.dumps({**vars(Owner.of(os.getpid())), **values}))


def age(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_the_second_is_refused_in_one_line_that_names_the_first(tmp_path):
    lock = tmp_path / "new/.lock"
    with other_process(lock) as process:
        with pytest.raises(UserError) as refused, locked(lock, "`--exp-dir`", "name another folder"):
            pass
        found = str(refused.value)
        assert f"process {process.pid} on {socket.gethostname()} since 20" in found
        assert "--exp-dir" in found and found.endswith("; name another folder") and "\n" not in found
        assert holder(lock).startswith(f"process {process.pid} ")
    assert holder(lock) == ""


def test_it_is_free_afterwards_and_nothing_is_left(tmp_path):
    for _ in range(2):
        with locked(tmp_path / ".lock", "it") as lock:
            assert lock.is_ours() and [path.name for path in tmp_path.iterdir()] == [".lock"]
        assert not list(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError), locked(tmp_path / ".lock", "it"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_dead_owner_does_not_keep_it(tmp_path, end):
    with other_process(tmp_path / ".lock") as process:
        process.send_signal(end)
        time.sleep(0.1)  # killed but not waited for: a zombie is dead too
        with locked(tmp_path / ".lock", "it", wait_s=20):
            pass


def test_a_number_that_another_process_has_now_is_no_owner(tmp_path):
    record(tmp_path / ".lock", started="1")
    with locked(tmp_path / ".lock", "it") as lock:
        assert lock.is_ours()


@pytest.mark.parametrize("elsewhere", [{"host": "node7"}, {"space": "another boot, or another container"}])
def test_an_owner_elsewhere_keeps_it_while_it_renews_it(tmp_path, elsewhere):
    path = tmp_path / ".lock"
    record(path, **elsewhere)
    for silence in (0, SILENCE_S - 30):
        age(path, silence)
        with pytest.raises(UserError, match="used by process"), locked(path, "it"):
            pass
    age(path, SILENCE_S + 5)
    with locked(path, "it"):
        assert json.loads(path.read_text())["host"] == socket.gethostname()


def test_the_owner_renews_it(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT_S", 0.02)
    path = tmp_path / ".lock"
    with locked(path, "it"):
        age(path, 1000)
        deadline = time.monotonic() + 10
        while time.time() - path.stat().st_mtime > 100 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert time.time() - path.stat().st_mtime < 100


def test_a_job_that_slurm_started_again_is_its_own_successor(tmp_path, monkeypatch):
    path = tmp_path / ".lock"
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    record(path, host="node7", job="42", restarts="1")  # another task of this same start
    with pytest.raises(UserError), locked(path, "it"):
        pass
    record(path, host="node7", job="41", restarts="0")  # another job
    with pytest.raises(UserError), locked(path, "it"):
        pass
    record(path, host="node7", job="42", restarts="0")  # the node died, the job was requeued to this one
    with locked(path, "it"):
        pass


def test_a_lock_that_was_taken_away_is_noticed_and_not_removed(tmp_path):
    path = tmp_path / ".lock"
    with locked(path, "it") as lock:
        record(path, host="node7")
        assert not lock.is_ours()
    assert json.loads(path.read_text())["host"] == "node7"


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "null", '{"host": 1, "pid": 2}', '{"host": "a"}', '{"host": "a", "pid": -1}', "[" * 4000,
             '{"host": "a", "pid": 1, "more": 2}', '{"host": "a", "pid": true}', "\0", "9" * 4000, "x" * 10**6]
)  # fmt: skip
def test_a_damaged_file_is_held_until_it_is_old(tmp_path, text):
    path = tmp_path / ".lock"
    path.write_text(text)
    with pytest.raises(UserError), locked(path, "it"):
        pass
    age(path, SILENCE_S + 5)
    with locked(path, "it"):
        pass


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "broken link"])
def test_what_is_no_file_is_refused(tmp_path, kind):
    path = tmp_path / ".lock"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        (tmp_path / "target").write_text("kept")
        path.symlink_to("target" if kind == "link" else "nowhere")
    with pytest.raises(UserError, match="remove it"), locked(path, "it"):
        pass
    assert kind != "link" or (tmp_path / "target").read_text() == "kept"


def test_a_host_with_escapes_stays_one_harmless_line(tmp_path):
    record(tmp_path / ".lock", host="a\x1b[2J\nb")
    with pytest.raises(UserError) as refused, locked(tmp_path / ".lock", "it"):
        pass
    assert str(refused.value).isprintable()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), locked(tmp_path / "file/.lock", "it"):
        pass


def test_it_is_left_to_the_process_that_starts_the_next(tmp_path):
    path = tmp_path / ".lock"
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with locked(path, "it", heir=parent.pid):
        pass
    assert json.loads(path.read_text())["pid"] == parent.pid
    with pytest.raises(UserError, match=f"process {parent.pid}"), locked(path, "it"):
        pass
    with locked(path, "it", heir=parent.pid):
        assert json.loads(path.read_text())["pid"] == os.getpid()
        with pytest.raises(UserError), locked(path, "it", heir=parent.pid):
            pass
    parent.communicate(b"\n")
    with locked(path, "it"):  # the parent has ended
        pass
    assert not path.exists()


@pytest.mark.parametrize("before", ["nothing", "a dead owner's"])
def test_processes_take_turns(tmp_path, before):
    (tmp_path / "number").write_text("0")
    if before != "nothing":
        record(tmp_path / ".lock", started="1")
    processes = [start(TURNS, tmp_path, 5) for _ in range(3)]
    for process in processes:
        assert process.wait(60) == 0
        process.stdout.close()
    assert (tmp_path / "number").read_text() == "15"
    assert [path.name for path in tmp_path.iterdir()] == ["number"]


def test_of_many_that_start_together_one_has_it(tmp_path, monkeypatch):
    """Also where the file system has no locks of its own (`fcntl.flock`), as some mounts of NFS."""
    monkeypatch.setattr(locks, "_one_at_a_time", lambda folder: contextlib.nullcontext())
    taken = 0
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            with contextlib.suppress(UserError):
                stack.enter_context(locked(tmp_path / ".lock", "it"))
                taken += 1
    assert taken == 1


def test_without_hard_links_it_holds_too(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links here")))
    with locked(tmp_path / ".lock", "it"), pytest.raises(UserError), locked(tmp_path / ".lock", "it"):
        pass
    assert not list(tmp_path.iterdir())
