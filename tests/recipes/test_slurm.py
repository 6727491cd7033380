"""egs/slurm/train.sbatch, with stand-ins for SLURM's own commands: torchrun, its workers and the signals are real."""

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

sys.path.insert(0, str(Path(__file__).parent))
from programs import ROOT
from real_speech import TINY, losses, prepare

FLAGS = (
    f"{TINY} --manifest-dir data/shar --bpe-model data/lang/bpe.model --max-duration 4 --min-utterance-duration 0.3 "
    "--log-interval 1 --average-period 5 --save-every-n 1000000 --num-workers 1 --tensorboard False "
    "--save-last-every 1000000 --warmup-batches 4 --num-epochs 1000000 --num-threads 1 --exp-dir exp"
)
# srun starts one task, and a signal for a step reaches the task's first process alone (as with proctrack/cgroup).
STAND_INS = {
    "srun": 'while [[ $1 == --* ]]; do shift; done; echo $$ >step.pid; exec "$@"',
    "scancel": '[ "$*" = "--signal=USR1 7.0" ] && kill -USR1 "$(cat step.pid)"',
    "scontrol": 'if [ "$1" = show ]; then echo localhost; else echo "$*" >>scontrol.log; fi',
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = prepare(tmp_path_factory.mktemp("slurm"))
    (folder / "bin").mkdir()
    for name, text in STAND_INS.items():
        (folder / "bin" / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / "bin" / name).chmod(0o755)
    return folder


def start_job(folder, flags, log):
    path = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "localhost", "SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": "2"}
    env = {**os.environ, **slurm, "PATH": path, "OMP_NUM_THREADS": "1", "CONTAINER": "", "CUDA_VISIBLE_DEVICES": ""}
    env |= {"RECIPE": str(ROOT / "zipformer_crctc/train.py"), "SLURM_SUBMIT_DIR": str(folder)}
    command = ["bash", str(ROOT / "egs/slurm/train.sbatch"), *flags.split()]
    with open(folder / log, "w") as out:
        return subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=out, start_new_session=True)


@contextlib.contextmanager
def job_until(folder, step, log):
    """The job, once it has logged ``step``; nothing of it is left behind."""
    job = start_job(folder, FLAGS, log)
    metrics = folder / "exp" / "metrics.jsonl"
    try:
        while not (metrics.exists() and max(losses(folder / "exp"), default=0) >= step):
            assert job.poll() is None, (folder / log).read_text()[-3000:]
            time.sleep(0.05)
        yield job
    finally:
        job.kill()
        job.wait()
        # Workers are in sessions of their own, but they work in this folder.
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(process / "cwd") == str(folder):
                    os.kill(int(process.name), signal.SIGKILL)


def assert_saved(folder, log, signal_name):
    """Rank 0 wrote a checkpoint of both ranks after the last batch, and nobody was killed."""
    text = (folder / log).read_text()
    assert f"{signal_name}: saving after this batch, then leaving" in text, text[-3000:]
    assert "SIGKILL" not in text
    saved = torch.load(folder / "exp" / "last.pt", weights_only=True)
    assert saved["batch_idx_train"] == max(losses(folder / "exp"))
    assert len(saved["ranks"]) == saved["sampler"]["world_size"] == 2
    return saved["batch_idx_train"]


@pytest.mark.slow
def test_before_the_time_limit_every_rank_saves_and_the_job_goes_back_into_the_queue(cluster):
    with job_until(cluster, 5, "first.log") as job:
        os.kill(job.pid, signal.SIGUSR1)  # --signal=B:USR1@300 reaches the batch script's shell alone
        assert job.wait(90) == 0
    last = assert_saved(cluster, "first.log", "SIGUSR1")
    assert (cluster / "scontrol.log").read_text() == "requeue 7\n"

    # The queue starts it again; this time it is pre-empted: SLURM sends SIGTERM to the steps, and requeues by itself.
    with job_until(cluster, last + 3, "second.log") as job:
        os.kill(int((cluster / "step.pid").read_text()), signal.SIGTERM)
        job.wait(90)
    final = assert_saved(cluster, "second.log", "SIGTERM")
    assert re.search(rf"resumed from exp/\S+ epoch \d+, batch {last}\n", (cluster / "second.log").read_text())
    rows = [json.loads(line) for line in (cluster / "exp" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, final + 1))
