"""Where the processes of a run find each other: a store behind a socket that is bound once and held from then on.

A port that was found free and let go may be another run's a moment later; here rank 0, or the launcher for it, listens
before any process is given it, and takes another port where one is in use.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist

from couloir.errors import UserError

# Rank 0 may be writing a checkpoint to a slow file system while the others wait.
PATIENCE = timedelta(minutes=60)
# Below the range from which Linux draws the ports of connections.
PORTS = range(10000, 30000)
TRIED = 16
ANSWER_S = 5.0
LOOPBACK = "127.0.0.1"


def listen(ports: Sequence[int], host: str = "") -> socket.socket:
    """A listening socket on the first of ``ports`` that is free (0 is any).

    Args:
        host: "" is all interfaces, both of IPv4 and IPv6.

    Raises:
        UserError: none of them is free.
    """
    both = not host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    for port in ports:
        with contextlib.suppress(OSError):
            return socket.create_server((host, port), family=family, backlog=2048, dualstack_ipv6=both)
    raise UserError(f"none of the ports {', '.join(map(str, ports))} is free; set MASTER_PORT to one that is")


def serve(listener: socket.socket, world_size: int) -> dist.TCPStore:
    """The store of rank 0 behind a socket of `listen`, which it takes over."""
    port = listener.getsockname()[1]
    return dist.TCPStore(
        LOOPBACK, port, world_size, True, PATIENCE, wait_for_workers=False, master_listen_fd=listener.detach()
    )


def join(host: str, port: int, world_size: int) -> dist.TCPStore:
    """The store that rank 0 serves at that port."""
    return dist.TCPStore(host, port, world_size, False, PATIENCE, wait_for_workers=False)


@contextmanager
def announced(name: str, port: int, ports: Sequence[int]) -> Iterator[None]:
    """Within, those who connect to the first of ``ports`` that was free read there that run ``name`` is at ``port``."""
    with listen(ports) as door:

        def greet() -> None:
            with contextlib.suppress(OSError):  # the door is shut
                while True:
                    with contextlib.suppress(ConnectionError), door.accept()[0] as guest:
                        guest.sendall(f"{name} {port}\n".encode())

        threading.Thread(target=greet, daemon=True).start()
        try:
            yield
        finally:
            door.shutdown(socket.SHUT_RDWR)


def find(name: str, host: str, ports: Sequence[int]) -> int:
    """The port of run ``name``, as `announced` at one of ``ports``; what else answers there is passed over.

    Raises:
        UserError: rank 0 did not come within `PATIENCE`.
    """
    deadline = time.monotonic() + PATIENCE.total_seconds()
    while time.monotonic() < deadline:
        for port in ports:
            with contextlib.suppress(OSError, ValueError), socket.create_connection((host, port), ANSWER_S) as door:
                said, _, number = door.makefile().readline(200).rpartition(" ")
                if said == name:
                    return int(number)
        time.sleep(0.1)
    raise UserError(f"rank 0 of the run was not found on {host}, ports {', '.join(map(str, ports))}")


def first_host(nodelist: str) -> str:
    """The first host of SLURM's notation: ``gpu[003-007,9],cpu1`` -> ``gpu003``."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodelist)
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first.group()) if first else nodelist


@contextmanager
def step_store(env: Mapping[str, str], rank: int, world_size: int) -> Iterator[dist.TCPStore]:
    """The store of a step that srun has started; all ranks must have come together before this is left.

    All its ranks draw the same ports from the numbers of job, step and restart; rank 0, on the step's first node,
    announces the store at the first that is free. MASTER_ADDR and MASTER_PORT are heeded where they are set.

    Raises:
        UserError: as `listen` and `find`.
    """
    name = "couloir " + ".".join(env.get(f"SLURM_{part}", "0") for part in ("JOB_ID", "STEP_ID", "RESTART_COUNT"))
    ports = random.Random(name).sample(PORTS, TRIED)
    if "MASTER_PORT" in env:
        ports.insert(0, int(env["MASTER_PORT"]))
    if rank == 0:
        listener = listen([0])
        with announced(name, listener.getsockname()[1], ports):
            yield serve(listener, world_size)
        return
    nodes = env.get("SLURM_STEP_NODELIST", env.get("SLURM_NODELIST", "localhost"))
    host = env.get("MASTER_ADDR") or first_host(nodes)
    yield join(host, find(name, host, ports), world_size)


def processes_here(env: Mapping[str, str] = os.environ) -> int:
    """How many of a run's processes are on this machine, as torchrun or srun has started them."""
    if "LOCAL_WORLD_SIZE" in env:
        return int(env["LOCAL_WORLD_SIZE"])
    # "4(x2),1": four tasks on each of the first two nodes, one on the third.
    counts: list[int] = []
    for tasks, nodes in re.findall(r"(\d+)(?:\(x(\d+)\))?", env.get("SLURM_STEP_TASKS_PER_NODE", "")):
        counts += [int(tasks)] * int(nodes or 1)
    node = int(env.get("SLURM_NODEID", 0))
    return counts[node] if node < len(counts) else 1


def from_srun(env: Mapping[str, str] = os.environ) -> bool:
    """Whether srun has started this process as one of several, and nobody else has set its rank."""
    return "RANK" not in env and int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and "SLURM_PROCID" in env
