"""Glancing sampler: in training some of the predictor's vectors give way to embeddings of the right tokens.

Source: Gao et al. 2022 (arXiv:2206.08317), section 3.3; Qian et al. 2021 (arXiv:2008.07905, GLAT), section 3.1. Where
the paper rounds the number of tokens up, FunASR rounds it down; so does this.

Shapes: B batch, K tokens, D channels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def glance(predicted: Tensor, targets: Tensor, target_lens: Tensor, ratio: float) -> Tensor:
    """Draw the positions (B, K) at which the decoder gets to see the target.

    As many of an item's positions, right or wrong ones, as ``ratio`` times the number of wrong ones.

    Args:
        predicted, targets: (B, K) token ids. target_lens: (B,). ratio: from 0 on; at most all positions are drawn.
    """
    valid = torch.arange(targets.shape[1], device=targets.device) < target_lens[:, None]
    wrong = ((predicted != targets) & valid).sum(dim=1)
    drawn = (wrong.float() * ratio).long()
    keys = torch.rand(targets.shape, device=targets.device).masked_fill(~valid, 2.0)
    rank = keys.argsort(dim=1).argsort(dim=1)
    return (rank < drawn[:, None]) & valid


def mix(acoustic: Tensor, embedded: Tensor, glanced: Tensor, target_lens: Tensor) -> Tensor:
    """(B, K, D): embeddings where ``glanced`` (B, K), the predictor's vectors elsewhere, 0 behind an item's tokens."""
    mixed = torch.where(glanced.unsqueeze(-1), embedded.to(acoustic.dtype), acoustic)
    behind = torch.arange(mixed.shape[1], device=mixed.device) >= target_lens[:, None]
    return mixed.masked_fill(behind.unsqueeze(-1), 0.0)
