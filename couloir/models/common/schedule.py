"""Values that change with training progress: piece-wise linear in the adjusted batch count."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

Points = Sequence[tuple[float, float]]


def interpolate(points: Points, x: float) -> float:
    """Piece-wise linear interpolation through ``points`` (x ascending), constant outside them."""
    if x <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in pairwise(points):
        if x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return points[-1][1]


class ScheduledFloat(nn.Module):
    """A float that follows the training progress; in eval mode, and before a batch count was set, its default.

    It is a module so that it follows ``train()`` and ``eval()`` and is found by `set_batch_count`. It owns no tensor.

    Args:
        *points: (batch count, value) pairs, batch counts ascending.
        default: the value in eval mode.
    """

    def __init__(self, *points: tuple[float, float], default: float = 0.0) -> None:
        super().__init__()
        self.points = tuple(points)
        self.default = default
        self.batch_count: float | None = None
        self._scheduled = default

    def set_batch_count(self, batch_count: float) -> None:
        """Move to ``batch_count`` (batches of the reference duration)."""
        self.batch_count = batch_count
        self._scheduled = interpolate(self.points, batch_count)

    def forward(self) -> float:
        """The current value."""
        return self._scheduled if self.training else self.default

    def __deepcopy__(self, memo: dict[int, object]) -> ScheduledFloat:
        # A module's own deepcopy copies twenty empty dictionaries: most of the time that building a model took.
        copied = ScheduledFloat(*self.points, default=self.default).train(self.training)
        copied.batch_count, copied._scheduled = self.batch_count, self._scheduled
        return copied

    def extra_repr(self) -> str:
        """Points and default, for ``print(model)``."""
        return f"{self.points}, default={self.default}"


FloatLike = float | ScheduledFloat


def value_of(number: FloatLike) -> float:
    """The current value of a float or a schedule."""
    return number() if isinstance(number, ScheduledFloat) else number


def dropout_schedule() -> ScheduledFloat:
    """The dropout rate of the front end and the feed-forward modules."""
    return ScheduledFloat((0.0, 0.3), (20000.0, 0.1))


def set_batch_count(model: nn.Module, batch_count: float) -> None:
    """Push the adjusted batch count to every schedule of a model.

    Args:
        model: any module.
        batch_count: batches seen so far, times (max duration x world size) / reference duration.
    """
    for module in model.modules():
        if isinstance(module, ScheduledFloat):
            module.set_batch_count(batch_count)
