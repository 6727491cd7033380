"""One batch: forward, backward, and the optimizer's step if every gradient on every rank is finite."""

from __future__ import annotations

import contextlib
import inspect
import math
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from couloir.data.batch import Batch
from couloir.models.common.whiten import Whiten, update_whiten_prob
from couloir.training.distributed import Group
from couloir.training.metrics import HostSums
from couloir.training.objective import Objective
from couloir.training.precision import SMALL_SCALE, Precision


@dataclass
class StepResult:
    """What came of a batch.

    Attributes:
        sums: this rank's sums by name.
        bad: no step was made where one was due: a loss or gradient of its batches was not finite, on any rank, and no
            scaling of an fp16 loss is at fault.
        bad_here: this rank's loss was not finite. bad_loss: a loss of the step's batches was not, on any rank.
        grad_norm: the optimizer's norm of the gradients; NaN where no step was due.
    """

    sums: HostSums = field(default_factory=dict)
    bad: bool = False
    bad_here: bool = False
    bad_loss: bool = False
    grad_norm: float = math.nan


# torch 2.13 renamed it, and warns of the older name.
_SYNC_BUFFERS = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters
    else "broadcast_buffers"
)


class Stepper:
    """Runs batches through the objective and the optimizer.

    Args:
        objective: what is wrapped for several processes. optimizer, scheduler: as `Trainer`'s.
        precision: autocast and loss scale. group: the processes of the run.
        accumulation: batches whose gradients make one step.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        precision: Precision,
        group: Group,
        accumulation: int = 1,
    ) -> None:
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.precision = precision
        self.group = group
        self.accumulation = accumulation
        self._window_bad: Tensor | None = None
        assert isinstance(objective, nn.Module)
        self.objective: Any = objective
        self._whitens = [module for module in objective.modules() if isinstance(module, Whiten)]
        if group.world_size > 1:
            devices = [group.device] if group.device.type == "cuda" else None
            # Depth-wise kernels have a dimension of size 1, whose stride means nothing and may be any number.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view")
            # Some parameters of a Zipformer are for older checkpoints only. No buffer changes in training.
            buffers: dict[str, Any] = {_SYNC_BUFFERS: False}
            self.objective = DistributedDataParallel(
                objective, device_ids=devices, find_unused_parameters=True, **buffers
            )

    def run(self, batch: Batch, batch_idx_train: float, last_of_window: bool) -> StepResult:
        """Train on one batch.

        Args:
            batch: on this process's device; an empty one takes part with weight zero.
            batch_idx_train: where the schedules are (`RunLength.position`); as a rule this batch, counted from 1.
            last_of_window: whether the optimizer steps now, after ``accumulation`` batches.
        """
        weight = 1.0 if len(batch) else 0.0
        if not len(batch) and self.group.world_size == 1 and self.accumulation == 1:
            return StepResult()
        batch = batch if len(batch) else placeholder(self.group.device)
        with self._synchronisation(last_of_window), self.precision.autocast():
            loss, stats = self.objective(batch, batch_idx_train)
            loss = loss * (weight / self.accumulation)
        with self._synchronisation(last_of_window):
            self.precision.scaler.scale(loss).backward()
        values = torch.stack([value.detach().to(loss.device, torch.float32).reshape(()) for value in stats.values()])
        bad_here = (~torch.isfinite(loss.detach())).float()
        self._window_bad = bad_here if self._window_bad is None else torch.maximum(self._window_bad, bad_here)
        self.scheduler.step_batch(batch_idx_train)
        if not last_of_window:
            numbers = torch.cat([values * weight, bad_here.reshape(1)]).tolist()
            update_whiten_prob(self._whitens)
            return StepResult(dict(zip(stats, numbers)), bad_here=bool(numbers[-1]))
        norm = self._gradient_norm()
        bad_loss = self.group.largest_on_device(self._window_bad.clone())
        *sums, flag_here, flag, grad_norm = torch.cat(
            [values * weight, torch.stack([bad_here, bad_loss, norm.to(values.device, torch.float32)])]
        ).tolist()
        update_whiten_prob(self._whitens)
        self._window_bad = None
        finite = not flag and math.isfinite(grad_norm)
        if finite:
            self.optimizer.step()
        if self.precision.scaler.is_enabled():
            self.precision.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        bad = not finite and self._is_bad_step(flag)
        return StepResult(dict(zip(stats, sums)), bad, bool(flag_here), bool(flag), grad_norm)

    def _synchronisation(self, last_of_window: bool) -> contextlib.AbstractContextManager:
        """Gradients are exchanged once per window."""
        if last_of_window or not isinstance(self.objective, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.objective.no_sync()

    def _gradient_norm(self) -> Tensor:
        if self.precision.scaler.is_enabled():
            self.precision.scaler.unscale_(self.optimizer)
        if hasattr(self.optimizer, "measure_gradients"):
            return self.optimizer.measure_gradients()
        grads = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))

    def _is_bad_step(self, loss_is_bad: float) -> bool:
        """An fp16 gradient that overflows under a scale that is not small is the scale's doing: it has been halved."""
        return bool(loss_is_bad) or not self.precision.scaler.is_enabled() or self.precision.scale < SMALL_SCALE


def placeholder(device: torch.device) -> Batch:
    """A batch for a rank that has none: two seconds of a faint tone, the same always, so that a resume is exact."""
    audio = 0.01 * torch.sin(torch.arange(32000, device=device) * 0.05)
    return Batch(
        ids=["placeholder"],
        texts=[""],
        languages=[""],
        speakers=[""],
        tokens=[[1]],
        audio=audio.unsqueeze(0),
        audio_lens=torch.tensor([32000], device=device),
    )
