"""Feed-forward module.

Source: Gulati et al. 2020 (Conformer, arXiv:2005.08100), section 2.3, as Yao et al. 2024 (arXiv:2310.11230) have it in
"Zipformer block", with SwooshL.
"""
# Shapes: B batch, D model dimension, T frames.

from __future__ import annotations

from torch import Tensor, nn

from couloir.models.common.activations import ActivationDropoutLinear
from couloir.models.common.balancer import Balancer
from couloir.models.common.schedule import ScheduledFloat, dropout_schedule, value_of
from couloir.models.common.whiten import Whiten
from couloir.models.zipformer.activations import SWOOSH_L


class FeedForward(nn.Module):
    """linear -> SwooshL -> dropout shared over time -> linear.

    Args:
        channels: input and output width. hidden: inner width.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(channels, hidden)
        self.hidden_balancer = Balancer(min_positive=0.3, max_positive=1.0, min_abs=0.75, max_abs=5.0)
        self.dropout = dropout_schedule()
        self.out_proj = ActivationDropoutLinear(hidden, channels, SWOOSH_L, initial_scale=0.1)
        self.out_whiten = Whiten(1, ScheduledFloat((0.0, 7.5), (20000.0, 15.0), default=7.5), grad_scale=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, D) -> (T, B, D)."""
        hidden = self.hidden_balancer(self.in_proj(x))
        return self.out_whiten(self.out_proj(hidden, value_of(self.dropout)))
