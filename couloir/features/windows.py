"""Windows over batches of samples in torch, in forms that are quick and forms that can be exported.

Shapes: B batch, N samples, M samples with margins, T frames, W samples of a window, F feature bins.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def constant(module: nn.Module, name: str, value: np.ndarray) -> None:
    """Give a module a float32 tensor that is not stored with it."""
    module.register_buffer(name, torch.from_numpy(value).float(), persistent=False)


def mirrored(waves: Tensor, wave_lens: Tensor, before: int, after: int, total: int, edge_twice: bool) -> Tensor:
    """Every utterance continued by its mirror image at both of its ends: (B, N) -> (B, total).

    Args:
        waves: what stands behind a length is ignored as far as the margins go. wave_lens: (B,) samples.
        before, after: samples of the margins. total: M, at least both margins and N together.
        edge_twice: the mirror stands between two samples, and not on the last one.
    """
    outside = torch.cat([
        torch.arange(-before, 0, device=waves.device).expand(waves.shape[0], before),
        wave_lens[:, None] + torch.arange(after, device=waves.device),
    ], dim=1)  # fmt: skip
    if edge_twice:
        period = 2 * wave_lens[:, None].clamp(min=1)
        inside = torch.remainder(outside, period)
        inside = torch.minimum(inside, period - 1 - inside)
    else:
        period = 2 * (wave_lens[:, None] - 1).clamp(min=1)
        inside = torch.remainder(outside, period)
        inside = torch.minimum(inside, period - inside)
    padded = F.pad(waves, (before, total - before - waves.shape[1]))
    return padded.scatter(1, outside + before, waves.gather(1, inside))


def windows(samples: Tensor, size: int, shift: int, count: int) -> Tensor:
    """(B, M) -> the first ``count`` windows as a view (B, T, W)."""
    return samples.unfold(1, size, shift)[:, :count]


def exportable_windows(samples: Tensor, size: int, shift: int, count: int) -> Tensor:
    """The same from slices alone. M is a multiple of the shift and reaches behind the last window."""
    blocks = samples.unflatten(1, (-1, shift))
    parts = [blocks[:, start : start + count] for start in range(-(-size // shift))]
    return torch.cat(parts, dim=-1)[..., :size]


def pad_behind(feats: Tensor, feat_lens: Tensor, value: float) -> Tensor:
    """(B, T, F) with ``value`` behind each end (B,)."""
    behind = torch.arange(feats.shape[1], device=feats.device) >= feat_lens[:, None]
    return feats.masked_fill(behind[:, :, None], value)
