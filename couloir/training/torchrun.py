"""torchrun, as a batch script wants it: signals reach the workers, who get time to save, and its end is a line.

    python -m couloir.training.torchrun --nnodes 2 --nproc-per-node 4 ... zipformer_crctc/train.py ...

By itself torchrun dies of SIGUSR1 and leaves its workers running, kills after 30 s who is still saving, and ends with a
traceback and exit code 1 after every signal and every error of a worker, who has said itself what it was.
"""

from __future__ import annotations

import logging
import sys

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

PASSED_ON = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
SAVING_S = 270
"""For how long workers may save: all but half a minute of the five that SLURM is asked for."""


def main() -> int:
    """Run torchrun with the flags given; 0 after a signal, for the workers have saved and left."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        torchrun(["--signals-to-handle", PASSED_ON, "--shutdown-timeout", str(SAVING_S), *sys.argv[1:]])
    except SignalException as signal:
        print(f"torchrun: {signal.sigval.name} was passed on to the workers, which have left", file=sys.stderr)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        print(f"torchrun: rank {rank} ended with {failure.exitcode}; what it said is above", file=sys.stderr)
        return failure.exitcode if failure.exitcode > 0 else 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
