"""Programs of this repository, run as a user runs them but in this process: importing torch again takes seconds.

What a program leaves behind in a process (log handlers, signals, threads, random states...) is put back.
"""

import contextlib
import io
import logging
import os
import random
import runpy
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def restored():
    """What happens inside leaves the state of this process as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    draws = random.getstate(), np.random.get_state(), torch.get_rng_state()
    folder, threads, grad = os.getcwd(), torch.get_num_threads(), torch.is_grad_enabled()
    # A program that sets up logging for itself finds none set up, as in a process of its own.
    root.handlers[:] = []
    try:
        with mock.patch.dict(os.environ), mock.patch.object(sys, "path", sys.path[:]), warnings.catch_warnings():
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        for number, handler in signals.items():
            signal.signal(number, handler)
        random.setstate(draws[0])
        np.random.set_state(draws[1])
        torch.set_rng_state(draws[2])
        os.chdir(folder)
        torch.set_num_threads(threads)
        torch.set_grad_enabled(grad)


def run_program(folder, program, flags, check=True, **env):
    """Run a program as ``python PROGRAM FLAGS`` in ``folder`` would: its code, stdout and stderr.

    An exception that is not the program's way to end goes through, where the interpreter would print a traceback.

    Args:
        program: its file, below the repository's root. flags: a string, or a list of words. check: it must succeed.
    """
    words = flags.split() if isinstance(flags, str) else [str(word) for word in flags]
    out, err = io.StringIO(), io.StringIO()
    with restored(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        os.chdir(folder)
        os.environ.update(env)
        with mock.patch.object(sys, "argv", [str(ROOT / program), *words]):
            try:
                runpy.run_path(str(ROOT / program), run_name="__main__")
                code = 0
            except SystemExit as end:
                if isinstance(end.code, str):
                    print(end.code, file=sys.stderr)
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return _checked(subprocess.CompletedProcess([program, *words], code, out.getvalue(), err.getvalue()), check)


def run_process(folder, program, flags, check=True, **env):
    """The same in a process of its own: for what needs one (several ranks), and to show that it is the same."""
    words = flags.split() if isinstance(flags, str) else [str(word) for word in flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **env}
    command = [sys.executable, str(ROOT / program), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    return _checked(done, check)


def _checked(done, check):
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def assert_one_line(done, *words):
    """It ended as a person's mistake does: exit code 2, one line with these words, no traceback."""
    assert done.returncode == 2, done.stderr[-2000:]
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and "Traceback" not in done.stderr
    assert all(word in last for word in words), last
