"""What the batch scripts see of a training, without one: slurm_light.py complete|error|stop|idle.

``stop`` and ``idle`` save when they are asked to, the one after a batch more than before, the other after none.
"""

import os
import signal
import sys
import time

from couloir.training.status import RUNNING, STOPPED, VARIABLE, report_status

PATIENCE_S = 280


def saved():
    """The batch that the runs before this one have come to."""
    with open(os.environ[VARIABLE], encoding="utf-8") as status:
        return int(status.read().split()[-1])


def main(kind):
    is_first = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0))) == 0
    asked = []
    signal.signal(signal.SIGUSR1, lambda number, frame: asked.append(number))
    step = saved() if os.path.exists(os.environ[VARIABLE]) else 0
    if is_first:
        report_status(RUNNING, step)
        tasks, cores = (os.environ.get(f"SLURM_{name}") for name in ("STEP_NUM_TASKS", "CPUS_PER_TASK"))
        print(f"began at {step}: {tasks} tasks of {cores} cores", flush=True)
    if kind == "error":
        print("error: `--no-such-flag` is none", file=sys.stderr)
        return 2
    deadline = time.monotonic() + PATIENCE_S
    while kind != "complete" and not asked and time.monotonic() < deadline:
        time.sleep(0.05)
    if is_first:
        report_status(STOPPED if asked else kind, step + (kind != "idle"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
