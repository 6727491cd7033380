"""What changes the rate or width between stacks: down-sampling by attention, up-sampling, combining.

Source: icefall's first-generation Zipformer; Yao et al. 2024, arXiv:2310.11230, "Downsampled encoder structure", has
simpler forms of all three.

Shapes: T frames, B batch, D model dimension, k the down-sampling factor, G = ceil(T / k) groups.
"""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couloir.models.common.penalty import penalise_large

SCORE_LIMIT, SCORE_PENALTY = 10.0, 1.0e-4
CLAMP_PROB = 0.25
WEIGHT_RANGE = (0.0, 0.75)


def grouped(x: Tensor, factor: int, lens: Tensor | None) -> Tensor:
    """(T, B, D) -> (G, k, B, D), where the last group is filled up with the last frame.

    ``lens`` (B,): the last frame of each item, as if it were alone. None: that of the batch.
    """
    frames, batch, channels = x.shape
    groups = (frames + factor - 1) // factor
    missing = groups * factor - frames
    if lens is not None:
        index = torch.arange(groups * factor, device=x.device)[:, None].minimum(lens - 1)
        x = x.gather(0, index.unsqueeze(-1).expand(-1, -1, channels))
    elif torch.jit.is_tracing() or missing > 0:
        x = torch.cat([x, x[frames - 1 :].expand(missing, -1, -1)], dim=0)
    return x.reshape(groups, factor, batch, channels)


class AttentionDownsample(nn.Module):
    """Merges k frames into one by a softmax over their products with a query.

    Args:
        in_channels, out_channels: widths; channels beyond the input's are a linear map of the k frames.
        factor: k.
    """

    def __init__(self, in_channels: int, out_channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.query = nn.Parameter(torch.randn(in_channels) * in_channels**-0.5)
        self.extra_proj: nn.Module | None = None
        if out_channels > in_channels:
            self.extra_proj = nn.Linear(in_channels * factor, out_channels - in_channels, bias=False)

    def forward(self, x: Tensor, lens: Tensor | None = None) -> Tensor:
        """(T, B, in_channels) -> (G, B, out_channels). ``lens`` as of `grouped`."""
        groups = grouped(x, self.factor, lens)
        scores = torch.matmul(groups, self.query.to(x.dtype))
        if self.training and scores.requires_grad:
            scores = penalise_large(scores, SCORE_LIMIT, SCORE_PENALTY)
        weights = scores.softmax(dim=1).to(x.dtype)
        merged = (groups * weights.unsqueeze(-1)).sum(dim=1)
        if self.extra_proj is None:
            return merged
        return torch.cat([merged, self.extra_proj(groups.transpose(1, 2).flatten(2))], dim=-1)


class SimpleUpsample(nn.Module):
    """Repeats each frame k times, with a learnt offset for each repeat.

    Args:
        channels: D. factor: k.
    """

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(factor, channels) * 0.01)

    def forward(self, x: Tensor) -> Tensor:
        """(G, B, D) -> (k G, B, D)."""
        return (x.unsqueeze(1) + self.bias.to(x.dtype).unsqueeze(1)).flatten(0, 1)


class SimpleCombiner(nn.Module):
    """w x1 + (1 - w) x2 with a learnt w, kept within `WEIGHT_RANGE` in some batches of training.

    Args:
        channels1, channels2: D1 and D2, no smaller; the channels that ``x1`` lacks count as zero.
    """

    def __init__(self, channels1: int, channels2: int) -> None:
        super().__init__()
        self.lacking = channels2 - channels1
        self.weight1 = nn.Parameter(torch.tensor(0.0))

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """(T, B, D1), (T, B, D2) -> (T, B, D2)."""
        weight: Tensor = self.weight1
        if self.training and random.random() < CLAMP_PROB:
            weight = weight.clamp(*WEIGHT_RANGE)
        return torch.lerp(x2, F.pad(x1, (0, self.lacking)) if self.lacking else x1, weight.to(x2.dtype))
