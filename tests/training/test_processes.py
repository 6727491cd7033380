"""Several processes, signals, and how a run ends."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fake_run import finish, run_program, start_program
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from couloir.errors import UserError
from couloir.training import launch as launching
from couloir.training import torchrun
from couloir.training.config import TrainerConfig
from couloir.training.distributed import device_of_rank, ranks_from_environment
from couloir.training.launch import launch

ENDLESS = {"num_epochs": 10**6, "save_every_n": 10**6, "log_interval": 1}


def wait_for(condition, patience_s=240):
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def num_logged(exp_dir):
    path = exp_dir / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGUSR1, 0), (signal.SIGINT, 130)])
def test_a_signal_saves_and_leaves(tmp_path, number, code):
    exp_dir = tmp_path / "exp"
    child = start_program(exp_dir, **ENDLESS)
    wait_for(lambda: num_logged(exp_dir) >= 5)
    os.kill(child, number)
    done = finish(exp_dir, child)
    assert done.returncode == code, done.stderr
    assert f"{number.name}: saving after this batch, then leaving" in done.stderr
    saved = torch.load(exp_dir / "last.pt", weights_only=True)
    logged = [json.loads(line) for line in (exp_dir / "metrics.jsonl").read_text().splitlines()]
    assert saved["batch_idx_train"] == max(line["step"] for line in logged)


@pytest.mark.slow
def test_a_launcher_passes_the_signal_on_to_every_rank(tmp_path):
    exp_dir = tmp_path / "exp"
    child = start_program(exp_dir, **ENDLESS, world_size=2, master_port=29651)
    wait_for(lambda: num_logged(exp_dir) >= 3)
    os.kill(child, signal.SIGTERM)
    done = finish(exp_dir, child)
    assert done.returncode == 0, done.stderr
    saved = torch.load(exp_dir / "last.pt", weights_only=True)
    assert len(saved["ranks"]) == 2
    assert saved["sampler"]["world_size"] == 2


@pytest.mark.slow
def test_ranks_agree_on_bad_and_empty_batches_and_an_error_of_one_ends_all(tmp_path):
    exp_dir = tmp_path / "exp"
    values = {"world_size": 2, "master_port": 29652, "max_steps": 12, "final_decay": 0, "log_interval": 1}
    done = run_program(exp_dir, **values, poison=("utt7", "utt50"), empty=((1, 3),))
    assert done.returncode == 0, done.stderr
    assert not re.search(r"\b\w*Warning\b|deprecated", done.stderr), done.stderr
    skipped = [json.loads(line) for line in (exp_dir / "skipped.jsonl").read_text().splitlines()]
    # Each poisoned utterance is of one rank; both ranks leave the batch out, and the rank that saw it is named.
    assert {i for line in skipped for i in ("utt7", "utt50") if i in line["utterances"] and "loss" in line["reason"]}
    saved = torch.load(exp_dir / "checkpoint-12.pt", weights_only=True)
    assert all(tensor.isfinite().all() for tensor in saved["model"].values())
    assert saved["recovery"]["skipped"] >= 1

    done = run_program(exp_dir, **values, width=12)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: `")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("received", "exit_code", "raised", "text"),
    [
        ((), None, None, ""),
        ((), -9, UserError, "ended by SIGKILL; when memory ran out, lower --max-duration or --num-workers"),
        ((), -11, UserError, "ended by SIGSEGV; what was saved"),
        ((), 1, RuntimeError, "code 1; its traceback is above"),
        ((signal.SIGTERM,), -15, None, ""),
        ((signal.SIGINT,), -15, KeyboardInterrupt, ""),
        ((signal.SIGTERM,), 1, RuntimeError, "code 1"),
    ],
)
def test_how_a_rank_ended_is_told(monkeypatch, received, exit_code, raised, text):
    def supervise(processes):
        for number in received:
            signal.raise_signal(number)
        return exit_code

    monkeypatch.setattr(launching, "_start", lambda processes: None)
    monkeypatch.setattr(launching, "_supervise", supervise)
    config = TrainerConfig(world_size=2, device="cpu")
    with pytest.raises(raised, match=text or None) if raised else contextlib.nullcontext():
        launch(print, "", config)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_before_the_ranks_are_there_is_no_error(tmp_path, number, code):
    """A terminal and a scheduler send it to all processes."""
    child = start_program(tmp_path / "exp", num_epochs=1, world_size=2, master_port=29653)
    children = Path(f"/proc/{child}/task/{child}/children")
    wait_for(lambda: len(children.read_text().split()) >= 2)
    os.killpg(child, number)
    done = finish(tmp_path / "exp", child)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def write_rank(folder):
    (folder / os.environ["RANK"]).write_text(f"{os.environ['WORLD_SIZE']} {os.environ['LOCAL_RANK']}")


def test_under_torchrun_the_process_is_the_worker(tmp_path, monkeypatch):
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    launch(write_rank, tmp_path, TrainerConfig(world_size=2, num_threads=1))
    assert (tmp_path / "3").read_text() == "4 1"


def test_ranks_under_srun(monkeypatch):
    # Within sbatch alone there is one process, however many tasks were asked for.
    environment = {"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}
    monkeypatch.setattr(os, "environ", environment)
    assert ranks_from_environment() is None
    environment |= {"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "77"}
    assert ranks_from_environment() == (5, 8, 1)


STEP = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_NODEID": "1"}


@pytest.mark.parametrize(
    ("here", "on_node", "visible", "local_rank", "index"),
    [
        ({}, "4", 4, 3, 3),
        (STEP, "2", 2, 1, 1),
        (STEP, "2", 1, 1, 0),  # --gpus-per-task 1: each task sees its own
        (STEP, "4", 2, 1, 1),  # --gpus-per-task 2
        (STEP | {"SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, "8", 2, 3, 1),
        (STEP, "1", 1, 1, None),  # two tasks for one GPU
        (STEP | {"RANK": "1"}, "2", 1, 1, None),  # of torchrun, whose processes see the same
        ({}, "2", 1, 1, None),
    ],
)
def test_the_gpu_of_a_process(monkeypatch, here, on_node, visible, local_rank, index):
    for name, value in {**here, "SLURM_GPUS_ON_NODE": on_node}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.device_count", lambda: visible)
    if index is None:
        with pytest.raises(UserError, match="`--world-size` must be at most 1, the number of GPUs here"):
            device_of_rank("auto", local_rank)
    else:
        assert device_of_rank("auto", local_rank) == torch.device("cuda", index)
    assert device_of_rank("cpu", local_rank) == torch.device("cpu")


@pytest.mark.parametrize(
    ("exit_code", "ends", "word"), [(2, 2, "2"), (1, 1, "1"), (-9, 1, "-9"), (-15, 1, "-15"), (130, 130, "130")]
)
def test_torchrun_ends_as_the_worker_that_failed_first(monkeypatch, capsys, tmp_path, exit_code, ends, word):
    """With its exit code, a line, and no traceback; the flags are handed on."""
    given, later = [], ProcessFailure(0, 4, -15, "")
    first = ProcessFailure(1, 3, exit_code, "")
    first.timestamp, later.timestamp = 5, 9

    def fails(words):
        given.extend(words)
        raise ChildFailedError("train.py", {0: later, 1: first})

    monkeypatch.setattr(torchrun, "torchrun", fails)
    monkeypatch.setattr("sys.argv", ["torchrun", "--nnodes", "1", "train.py"])
    assert torchrun.main() == ends
    said = capsys.readouterr().err
    assert said == f"torchrun: rank 1 ended with {word}; what it said is above\n"
    assert given[-3:] == ["--nnodes", "1", "train.py"] and given[:2] == ["--signals-to-handle", torchrun.PASSED_ON]


def test_torchrun_ends_well_after_a_signal(monkeypatch, capsys):
    def stopped(words):
        raise SignalException("received", signal.SIGUSR1)

    monkeypatch.setattr(torchrun, "torchrun", stopped)
    monkeypatch.setattr("sys.argv", ["torchrun"])
    assert torchrun.main() == 0
    assert capsys.readouterr().err == "torchrun: SIGUSR1 was passed on to the workers, which have left\n"


@pytest.mark.slow
def test_a_worker_of_torchrun_that_fails_ends_it_with_its_code_and_one_line(tmp_path):
    (tmp_path / "worker.py").write_text("import sys\nprint('error: no', file=sys.stderr)\nsys.exit(2)\n")
    command = [sys.executable, "-m", "couloir.training.torchrun", "--standalone", "--nproc-per-node", "1", "worker.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-2:] == ["error: no", "torchrun: rank 0 ended with 2; what it said is above"]
    assert "Traceback" not in done.stderr
