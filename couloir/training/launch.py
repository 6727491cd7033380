"""Starting a run's processes: this one alone, several on this machine, or those that torchrun or srun have started."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait
from types import FrameType
from typing import Any, NoReturn, TypeVar

import torch

from couloir.errors import UserError
from couloir.machine import usable_cores
from couloir.training.config import TrainerConfig
from couloir.training.distributed import connect, device_of_rank, ranks_from_environment
from couloir.training.random_state import seed_everything
from couloir.training.rendezvous import LOOPBACK, from_srun, join, listen, processes_here, serve
from couloir.training.signals import SIGNALS

T = TypeVar("T")


@dataclass
class _Shared:
    """What the processes of a run are started with: a queue of errors, the port on which rank 0 serves, how they start
    loader processes."""

    errors: Any
    port: int
    start_method: str


def launch(worker: Callable[[T], None], argument: T, config: TrainerConfig) -> None:
    """Call ``worker(argument)`` in every process of the run, seeded.

    Args:
        worker: a top-level function; it builds the objective and the data and calls `Trainer.fit`.
        argument: what it gets; it must be picklable.
        config: world size, port, seed and threads.

    Raises:
        UserError: the first one that any process raised, or a signal ended one.
        KeyboardInterrupt: after a Ctrl-C, once every process has saved and left.
    """
    ranks = ranks_from_environment()
    if ranks is None and config.world_size > 1:
        _spawn(worker, argument, config)
    else:
        _prepare(config, processes_here() if ranks else 1)
        worker(argument)


def _prepare(config: TrainerConfig, local_world_size: int) -> None:
    threads = config.num_threads or int(os.environ.get("OMP_NUM_THREADS", 0))
    # A task of SLURM's has its own cores.
    if threads := threads or (int(os.environ.get("SLURM_CPUS_PER_TASK", 0)) if from_srun() else 0):
        torch.set_num_threads(threads)
    else:
        torch.set_num_threads(max(1, usable_cores() // local_world_size))
    seed_everything(config.seed)


def _spawn(worker: Callable[[T], None], argument: T, config: TrainerConfig) -> None:
    device_of_rank(config.device, config.world_size - 1)
    context = multiprocessing.get_context("spawn")
    errors = context.SimpleQueue()
    # Held from here on, so no other run gets the port.
    listener = listen([config.master_port, 0], LOOPBACK)
    shared = _Shared(errors, listener.getsockname()[1], multiprocessing.get_start_method())
    processes = [
        context.Process(target=_child, args=(worker, argument, config, rank, shared, None if rank else listener))
        for rank in range(config.world_size)
    ]
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for process in processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGTERM)

    before = {number: signal.signal(number, forward) for number in SIGNALS}
    try:
        _start(processes)
        listener.close()
        failed = _supervise(processes)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if failed is not None:
        if not errors.empty():
            raise UserError(errors.get())
        # A signal that comes before a process can save ends it at once.
        if not (received and failed == -signal.SIGTERM):
            raise _failure(failed)
    if signal.SIGINT in received:
        raise KeyboardInterrupt


def _start(processes: list[Any]) -> None:
    """Start them with Ctrl-C held, which a terminal sends to all, until `_child` ignores it."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        for process in processes:
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _failure(exit_code: int) -> Exception:
    """What is to be raised where a process ended with an exit code; a negative one is a signal's."""
    if exit_code > 0:
        return RuntimeError(f"a process of the run ended with code {exit_code}; its traceback is above")
    remedy = "what was saved before is whole: start again with the same --exp-dir"
    if exit_code == -signal.SIGKILL:
        remedy = f"when memory ran out, lower --max-duration or --num-workers; {remedy}"
    return UserError(f"a process of the run was ended by {signal.Signals(-exit_code).name}; {remedy}")


def _supervise(processes: list[Any]) -> int | None:
    """Wait for all; when one fails, end the others, who would wait for it, and return its exit code."""
    waiting = {process.sentinel: process for process in processes}
    while waiting:
        for sentinel in wait(list(waiting)):
            process = waiting.pop(sentinel)  # type: ignore[call-overload]
            process.join()
            if process.exitcode:
                for other in waiting.values():
                    other.kill()
                    other.join()
                return process.exitcode
    return None


def _child(
    worker: Callable[[T], None],
    argument: T,
    config: TrainerConfig,
    rank: int,
    shared: _Shared,
    listener: socket.socket | None,
) -> None:
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # A spawned process would spawn its loader processes too, which costs seconds at the start of every epoch.
    multiprocessing.set_start_method(shared.start_method, force=True)
    world_size = config.world_size
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    try:
        _prepare(config, world_size)
        store = serve(listener, world_size) if listener else join(LOOPBACK, shared.port, world_size)
        connect(device_of_rank(config.device, rank), rank, world_size, store)
        worker(argument)
    except UserError as error:
        shared.errors.put(str(error))
        _leave(2)
    except Exception:
        traceback.print_exc()
        _leave(1)


def _leave(code: int) -> NoReturn:
    """End at once where there is a GPU: NCCL's own ending may wait for ranks that wait for this one."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    if torch.cuda.is_initialized():
        os._exit(code)
    sys.exit(code)


def _leave_with_parent() -> None:
    """A launcher that was killed leaves no process behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
