"""The loss on the validation set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from couloir.data.batch import Batch
from couloir.training.distributed import Group
from couloir.training.metrics import HostSums
from couloir.training.precision import Precision
from couloir.training.random_state import preserved_random_state


@torch.no_grad()
def validate(objective: Any, loader: Iterable[Batch], precision: Precision, group: Group, step: float) -> HostSums:
    """Sums over the validation set on all ranks; the random states and the mode of the objective are left as they were.

    Args:
        objective: an `Objective`, not wrapped. loader: this rank's part. step: batches that the run has seen.
    """
    totals: dict[str, torch.Tensor] = {}
    objective.eval()
    with preserved_random_state():
        for batch in loader:
            if not len(batch):
                continue
            with precision.autocast():
                _, stats = objective(batch.to(group.device), step)
            for name, value in stats.items():
                totals[name] = totals.get(name, torch.zeros((), dtype=torch.float64)) + value.detach().cpu().double()
    objective.train()
    # A rank without utterances must add to the same sums as the others.
    names = sorted({name for mine in group.gather(sorted(totals)) for name in mine} | {"frames", "utterances", "loss"})
    return dict(zip(names, group.sums([float(totals.get(name, 0.0)) for name in names])))
