"""Back-pointers of a frame-synchronous search."""
# Shapes: H hypotheses of a step, N hypotheses.

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class History:
    """One row per surviving hypothesis and step: which row of the step before it came from, and named columns."""

    def __init__(self) -> None:
        self.frames: list[int] = []
        self._parents: list[Tensor] = []
        self._columns: list[dict[str, Tensor]] = []

    def __len__(self) -> int:
        return len(self.frames)

    def append(self, frame: int, parent: Tensor, **columns: Tensor) -> None:
        """Add a step.

        Args:
            frame: the frame it consumed; parent: (H,) row in the step before; columns: (H,) values to remember.
        """
        self.frames.append(frame)
        self._parents.append(parent)
        self._columns.append(columns)

    def trace(self, row: Tensor, step: Tensor) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Follow hypotheses back to the start.

        Args:
            row: (N,) row of each hypothesis in its last step; step: (N,) that step, -1 when it has none.

        Returns:
            (N, steps) mask of the steps that each has, and by column the (N, steps) values, 0 where it has none.
        """
        count = len(self.frames)
        if count == 0:
            return np.zeros((len(row), 0), dtype=bool), {}
        sizes = np.array([len(parent) for parent in self._parents])
        begin = np.concatenate([[0], sizes.cumsum()])
        parents = torch.cat(self._parents).cpu().numpy()
        rows, steps = row.cpu().numpy().copy(), step.cpu().numpy()
        picked = np.full((len(rows), count), -1, dtype=np.int64)
        for s in range(count - 1, -1, -1):
            live = steps >= s
            picked[live, s] = begin[s] + rows[live]
            rows[live] = parents[picked[live, s]]
        mask = picked >= 0
        columns = {}
        for name in self._columns[0]:
            values = torch.cat([column[name] for column in self._columns]).cpu().numpy()
            columns[name] = np.zeros(mask.shape, dtype=values.dtype)
            columns[name][mask] = values[picked[mask]]
        return mask, columns
