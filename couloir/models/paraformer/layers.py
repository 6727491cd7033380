"""What several layers of a Paraformer have: norm and feed-forward modules.

Shapes: B batch, T frames or tokens, D channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1.0e-12


def layer_norm(width: int) -> nn.LayerNorm:
    """A layer norm with the reference's epsilon."""
    return nn.LayerNorm(width, eps=NORM_EPS)


def padding_of(lens: Tensor, frames: int) -> Tensor:
    """(B, T), True beyond each of ``lens`` (B,)."""
    return torch.arange(frames, device=lens.device) >= lens[:, None]


class FeedForward(nn.Module):
    """linear -> activation -> dropout -> linear.

    Args:
        width: channels. hidden: inner ones. dropout: rate. swish: the activation is SiLU, not ReLU.
    """

    def __init__(self, width: int, hidden: int, dropout: float, swish: bool = False) -> None:
        super().__init__()
        self.w_1 = nn.Linear(width, hidden)
        self.w_2 = nn.Linear(hidden, width)
        self.dropout = dropout
        self.activation = F.silu if swish else F.relu

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return self.w_2(F.dropout(self.activation(self.w_1(x)), self.dropout, self.training))


class NormedFeedForward(nn.Module):
    """linear -> ReLU -> dropout -> layer norm -> linear without bias, as in a SAN-M decoder.

    Args:
        width: channels. hidden: inner ones. dropout: rate.
    """

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.w_1 = nn.Linear(width, hidden)
        self.w_2 = nn.Linear(hidden, width, bias=False)
        self.norm = layer_norm(hidden)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return self.w_2(self.norm(F.dropout(F.relu(self.w_1(x)), self.dropout, self.training)))
