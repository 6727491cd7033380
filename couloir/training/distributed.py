"""The processes of a run: who this one is, and how they agree.

Rank and world size come from torchrun's environment, srun's, or from `couloir.training.launch`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from couloir.errors import must_be
from couloir.machine import pick_device
from couloir.training.rendezvous import PATIENCE, from_srun, processes_here, step_store


def ranks_from_environment() -> tuple[int, int, int] | None:
    """(rank, world size, rank on this machine) under torchrun or srun; None when this process stands alone."""
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        return int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", 0))
    if from_srun(env):
        return int(env["SLURM_PROCID"]), int(env["SLURM_STEP_NUM_TASKS"]), int(env.get("SLURM_LOCALID", 0))
    return None


def device_of_rank(name: str, local_rank: int) -> torch.device:
    """The device of this process. Raises `UserError` where there is no GPU for it.

    A task of srun's that was given GPUs of its own (--gpus-per-task) sees no others.
    """
    device = pick_device(name)
    if device.type == "cpu":
        return device
    count = torch.cuda.device_count()
    if count <= local_rank and from_srun() and int(os.environ.get("SLURM_GPUS_ON_NODE", 0)) >= processes_here():
        return torch.device("cuda", local_rank % count)
    if local_rank >= count:
        raise must_be("--world-size", f"at most {count}, the number of GPUs here, or `--device` cpu", local_rank + 1)
    return torch.device("cuda", local_rank)


def connect(device: torch.device, rank: int, world_size: int, store: dist.Store | None = None) -> None:
    """Join the other processes, where that was not done: at ``store``, in srun's step, or where torchrun says."""
    if dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    with step_store(os.environ, rank, world_size) if store is None and from_srun() else nullcontext(store) as met:
        dist.init_process_group(backend, store=met, rank=rank, world_size=world_size, timeout=PATIENCE)


class Group:
    """All processes of a run.

    What they agree on (stopping, elapsed time) goes over the CPU, so that no rank waits for its GPU.

    Args:
        device: this process's device.
    """

    def __init__(self, device: torch.device) -> None:
        self.rank, self.world_size, self.local_rank = ranks_from_environment() or (0, 1, 0)
        self.device = device
        self._control: Any = None
        if self.world_size == 1:
            return
        connect(device, self.rank, self.world_size)
        self._control = dist.new_group(backend="gloo", timeout=PATIENCE) if device.type == "cuda" else dist.group.WORLD

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the one that writes."""
        return self.rank == 0

    def largest(self, values: Sequence[float]) -> list[float]:
        """The element-wise maximum over the ranks of some host values."""
        if self.world_size == 1:
            return list(values)
        tensor = torch.tensor(list(values), dtype=torch.float64)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self._control)
        return tensor.tolist()

    def largest_on_device(self, value: Tensor) -> Tensor:
        """The maximum over the ranks, without waiting for the device."""
        if self.world_size > 1:
            dist.all_reduce(value, dist.ReduceOp.MAX)
        return value

    def sums(self, values: Sequence[float]) -> list[float]:
        """The element-wise sum over the ranks of some host values."""
        if self.world_size == 1:
            return list(values)
        tensor = torch.tensor(list(values), dtype=torch.float64)
        dist.all_reduce(tensor, group=self._control)
        return tensor.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in order of rank, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._control)
        return values

    def from_main(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._control)
        return box[0]

    def close(self, failed: bool = False) -> None:
        """Leave the group. On GPUs one that ``failed`` leaves it by ending: NCCL would wait for the other ranks."""
        if self.world_size > 1 and dist.is_initialized() and not (failed and self.device.type == "cuda"):
            dist.destroy_process_group()
