"""One training at a time in a run directory, and a dead one does not keep it; what a batch script learns of a run."""

import json
import os
import signal
import time

import pytest
import torch
from fake_run import finish, forked, main, run_program, start_program

from couloir.errors import UserError
from couloir.locks import SILENCE_S, Owner
from couloir.training import run_dir
from couloir.training.run_dir import LOCK, run_lock
from couloir.training.status import VARIABLE, report_status

ENDLESS = {"num_epochs": 10**6, "save_every_n": 10**6, "log_interval": 1}


def wait_for_rows(exp_dir, number):
    deadline = time.monotonic() + 240
    path = exp_dir / "metrics.jsonl"
    while not (path.exists() and len(path.read_text().splitlines()) >= number):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def held_by(exp_dir, silence=0.0, **values):
    exp_dir.mkdir(exist_ok=True)
    (exp_dir / LOCK).write_text(json.dumps({**vars(Owner.of(os.getpid())), **values}))
    then = time.time() - silence
    os.utime(exp_dir / LOCK, (then, then))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(run_dir, "SHORT_WAIT_S", 0.0)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def test_the_second_training_in_a_folder_is_refused_and_the_first_is_not_disturbed(tmp_path):
    exp_dir = tmp_path / "exp"
    first = start_program(exp_dir, **ENDLESS)
    wait_for_rows(exp_dir, 3)
    (tmp_path / "same").symlink_to(exp_dir)  # another spelling of the folder
    refused = run_program(tmp_path / "same", num_epochs=1)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert f"is used by process {first} on " in refused.stderr.splitlines()[-1]
    os.kill(first, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) == 0
    rows = map(json.loads, (exp_dir / "metrics.jsonl").read_text().splitlines())
    steps = [row["step"] for row in rows if row["kind"] == "train"]
    assert steps == list(range(1, len(steps) + 1))
    assert torch.load(exp_dir / "last.pt", weights_only=True)["batch_idx_train"] == steps[-1]
    assert not (exp_dir / LOCK).exists()


def test_of_three_that_start_in_one_moment_one_trains(tmp_path):
    exp_dir = tmp_path / "exp"
    exp_dir.mkdir()
    screens = [tmp_path / f"{number}.stderr" for number in range(3)]
    screen_of = {forked(lambda: main(exp_dir, ENDLESS), screen): screen for screen in screens}
    refused = []
    while len(refused) < 2:
        refused += [child for child in screen_of.keys() - {*refused} if os.waitpid(child, os.WNOHANG)[0]]
        time.sleep(0.05)
    (winner,) = screen_of.keys() - {*refused}
    said = [screen_of[child].read_text() for child in refused]
    assert all(f"is used by process {winner} on " in text.splitlines()[-1] for text in said)
    wait_for_rows(exp_dir, 3)
    os.kill(winner, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(winner, 0)[1]) == 0
    rows = map(json.loads, (exp_dir / "metrics.jsonl").read_text().splitlines())
    steps = [row["step"] for row in rows if row["kind"] == "train"]
    assert steps == list(range(1, len(steps) + 1))


def test_a_killed_training_does_not_keep_its_folder(tmp_path):
    exp_dir = tmp_path / "exp"
    first = start_program(exp_dir, **ENDLESS)
    wait_for_rows(exp_dir, 3)
    os.killpg(first, signal.SIGKILL)
    os.waitpid(first, 0)
    assert (exp_dir / LOCK).exists()
    assert run_program(exp_dir, max_steps=5, final_decay=0).returncode == 0


@pytest.mark.slow
def test_under_ddp_rank_0_holds_it_for_all(tmp_path):
    held_by(tmp_path / "exp", host="node7")
    refused = run_program(tmp_path / "exp", max_steps=3, final_decay=0, world_size=2)
    assert refused.returncode == 2 and "on node7 since" in refused.stderr and "Traceback" not in refused.stderr
    assert not list((tmp_path / "exp").glob("*.pt")) and "node7" in (tmp_path / "exp" / LOCK).read_text()


@pytest.mark.parametrize(
    ("job", "values", "silence", "free"),
    [
        ("7", {"host": "node7", "job": "7", "restarts": "0"}, 0, True),  # the same job, started again elsewhere
        ("8", {"host": "node7", "job": "7", "restarts": "0"}, SILENCE_S + 5, True),  # another job's node died
        ("8", {"host": "node7", "job": "7", "restarts": "0"}, 0, False),
        ("", {"host": "node7", "job": "7", "restarts": "0"}, 0, False),
        ("", {"pid": 2**22 + 1}, 0, True),
        ("", {}, 0, False),
    ],
)
def test_who_may_begin_after_whom(tmp_path, monkeypatch, job, values, silence, free):
    held_by(tmp_path / "exp", silence, **values)
    monkeypatch.setattr(run_dir, "SILENCE_S", 0.0)  # that a job waits, is below
    monkeypatch.setattr(run_dir, "BEAT_S", 0.0)
    if job:
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    if free:
        with run_lock(tmp_path / "exp"):
            assert json.loads((tmp_path / "exp" / LOCK).read_text())["pid"] == os.getpid()
    else:
        with pytest.raises(UserError, match="exp` must be used by one process at a time, but is used by process"):
            run_lock(tmp_path / "exp").__enter__()


def test_a_job_waits_for_an_owner_whose_node_may_be_dead(tmp_path, monkeypatch, caplog):
    held_by(tmp_path / "exp", SILENCE_S - 0.4, host="node7")
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    begun = time.monotonic()
    with run_lock(tmp_path / "exp"):
        assert time.monotonic() - begun < 30
    assert "is used by process" in caplog.text and "waiting for its end" in caplog.text


def test_a_run_whose_folder_was_taken_over_writes_nothing_more(tmp_path, train, monkeypatch):
    """Its machine was cut off from the file server for longer than a lock lasts."""
    trainer = train(max_steps=3, final_decay=0)
    with run_lock(tmp_path / "exp") as lock:
        trainer.checkpoints.lock = lock
        held_by(tmp_path / "exp", host="node7")
        before = (tmp_path / "exp/last.pt").read_bytes()
        with pytest.raises(UserError, match="exp was taken over by another process"):
            trainer.checkpoints.save(tmp_path / "exp/last.pt")
    assert (tmp_path / "exp/last.pt").read_bytes() == before
    assert "node7" in (tmp_path / "exp" / LOCK).read_text()


def test_diagnostics_beside_a_training_are_allowed(tmp_path, train):
    held_by(tmp_path / "exp", host="node7")
    train(print_diagnostics=True)


@pytest.mark.parametrize(("values", "said"), [({"max_steps": 4}, "complete 4\n"), ({"num_epochs": 1}, "complete 26\n")])
def test_a_batch_script_is_told_that_a_run_is_complete(tmp_path, train, monkeypatch, values, said):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "status"))
    train(final_decay=0, **values)
    assert (tmp_path / "status").read_text() == said


def test_a_batch_script_is_told_of_a_stop_and_of_the_batch_that_was_saved(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "status"))
    child = start_program(tmp_path / "exp", **ENDLESS)
    wait_for_rows(tmp_path / "exp", 3)
    assert (tmp_path / "status").read_text().startswith("running ")
    os.kill(child, signal.SIGUSR1)
    assert finish(tmp_path / "exp", child).returncode == 0
    step = torch.load(tmp_path / "exp/last.pt", weights_only=True)["batch_idx_train"]
    assert (tmp_path / "status").read_text() == f"stopped {step}\n"


def test_a_status_that_cannot_be_written_costs_a_warning(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file/status"))
    report_status("running", 3)
    assert "cannot be written" in caplog.text
    monkeypatch.delenv(VARIABLE)
    report_status("running", 3)
