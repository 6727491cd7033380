"""Continuous integrate-and-fire in closed form: no loop over frames, nothing scattered.

Source: Dong and Xu 2020 (arXiv:1905.11235), section 3.1.

With S_t the sum of the weights up to frame t and S_0 = 0, token k takes of frame t what lies between k - 1 and k:
clamp(S_t - (k - 1), 0, 1) - clamp(S_{t-1} - (k - 1), 0, 1). Weights of any size are shared out exactly. Sums are in
float64, so that neither a recording's length nor its place in a batch moves a token.

Shapes: B batch, T frames, K tokens, D channels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def running_sum(alphas: Tensor) -> Tensor:
    """Sums S (B, T) in float64 of weights (B, T)."""
    return alphas.double().cumsum(dim=1)


def token_shares(sums: Tensor, rows: int | Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """Share (B, K, T) of each frame in each token.

    Args:
        sums: (B, T) running sums. rows: K, the first tokens. dtype: of the shares; next to 0 to 1, where they are
            counted, float32 is exact enough.
    """
    tokens = torch.arange(rows, device=sums.device)  # type: ignore[arg-type]
    taken = (sums.unsqueeze(1) - tokens[:, None]).to(dtype).clamp(0.0, 1.0)
    return torch.cat([taken[..., :1], taken[..., 1:] - taken[..., :-1]], dim=-1)


def integrate(hidden: Tensor, sums: Tensor, rows: int | Tensor) -> Tensor:
    """Vectors (B, K, D) of the first ``rows`` tokens; those that never fill up hold what there is.

    Args:
        hidden: (B, T, D), float32 or better. sums: (B, T) running sums of the frames' weights. rows: K.
    """
    return torch.matmul(token_shares(sums, rows, hidden.dtype), hidden)


def fire_peaks(sums: Tensor) -> Tensor:
    """What has been integrated at each frame (B, T): from 1 on where a token fires there, else below 1.

    Args:
        sums: (B, T) running sums.
    """
    whole = sums.floor()
    before = torch.cat([torch.zeros_like(whole[:, :1]), whole[:, :-1]], dim=1)
    return (sums - whole + (whole > before)).float()


def token_spans(alphas: Tensor, rows: int) -> Tensor:
    """Where each of the first ``rows`` tokens begins and ends, (B, K, 2) in frames and parts of frames.

    Token k lasts from where the sum of weights passes k - 1 to where it passes k. What it never passes lies at the end
    of the last frame that has a weight.

    Args:
        alphas: (B, T) weights.
    """
    sums = running_sum(alphas)
    bounds = torch.arange(rows + 1, device=sums.device, dtype=sums.dtype).expand(len(sums), -1).contiguous()
    bounds = torch.minimum(bounds, sums[:, -1:])
    place = torch.searchsorted(sums.contiguous(), bounds).clamp(max=sums.shape[1] - 1)
    weight = alphas.double().gather(1, place)
    missing = sums.gather(1, place) - bounds
    times = place + 1 - torch.where(weight > 0, missing / weight.clamp(min=1e-12), torch.ones_like(missing))
    return torch.stack([times[:, :-1], times[:, 1:]], dim=-1)
