"""Kill -9 in the middle of a CR-CTC run on real speech, start again: the same losses to the last bit."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from programs import ROOT, run_process
from real_speech import TINY, losses, prepare

TRAIN = "zipformer_crctc/train.py"
FLAGS = (
    f"{TINY} --manifest-dir data/shar --bpe-model data/lang/bpe.model --max-duration 4 --min-utterance-duration 0.3 "
    "--log-interval 1 --average-period 5 --save-every-n 5 --num-workers 2 --tensorboard False --warmup-batches 4 "
    "--num-epochs 99 --max-steps 20 --num-threads 1"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    # As many batches that the run is killed, and goes on, within an epoch: the first at one process, the second at two.
    return prepare(tmp_path_factory.mktemp("law"), copies=7)


def kill_at(folder, flags, exp_dir, step):
    """Start training and kill it, with all its processes, once it has logged ``step``."""
    command = [sys.executable, str(ROOT / TRAIN), *flags.split()]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=folder, env=env, start_new_session=True, stdout=subprocess.DEVNULL)
    metrics = folder / exp_dir / "metrics.jsonl"
    try:
        while not (metrics.exists() and max(losses(folder / exp_dir), default=0) >= step):
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2])
def test_killed_and_resumed_equals_straight(folder, world_size):
    flags = f"{FLAGS} --world-size {world_size}"
    run_process(folder, TRAIN, f"{flags} --exp-dir straight{world_size}")
    killed = f"killed{world_size}"
    kill_at(folder, f"{flags} --exp-dir {killed}", killed, 8)
    run_process(folder, TRAIN, f"{flags} --exp-dir {killed}")
    straight = losses(folder / f"straight{world_size}")
    assert sorted(straight) == list(range(1, 21))
    assert losses(folder / killed) == straight
