"""Positions that are added to a Paraformer's inputs, or that its Conformer attends by. No parameters, no buffers.

Shapes: B batch, T frames or tokens, D channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couloir.models.common.sinusoids import concatenated_sinusoids, interleaved_sinusoids

LEGACY_ROWS = 5000
"""Rows of the table of relative positions, which counts down to 0."""


def from_one(length: int, width: int, device: torch.device) -> Tensor:
    """Encodings (length, width) of the positions 1, 2, ..., sines before cosines."""
    return concatenated_sinusoids(torch.arange(1, length + 1, device=device), width)


def from_zero(length: int, width: int, device: torch.device) -> Tensor:
    """Encodings (length, width) of the positions 0, 1, ..., sines and cosines in turn."""
    return interleaved_sinusoids(torch.arange(length, device=device), width)


def counting_down(length: int, width: int, device: torch.device) -> Tensor:
    """Encodings (length, width) of the positions 4999, 4998, ..., sines and cosines in turn."""
    return interleaved_sinusoids(max(LEGACY_ROWS, length) - 1 - torch.arange(length, device=device), width)


class PositionTable(nn.Module):
    """Encodings of the first positions, computed once for the longest input so far.

    Args:
        encode: `from_one`, `from_zero` or `counting_down`. width: channels, even.
    """

    def __init__(self, encode: Callable[[int, int, torch.device], Tensor], width: int) -> None:
        super().__init__()
        self.encode = encode
        self.width = width
        self._rows: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(T, width) for ``x`` (B, T, D), in its type."""
        length, rows = x.shape[1], self._rows
        if torch.jit.is_tracing() or torch.compiler.is_compiling() or length > LEGACY_ROWS:
            return self.encode(length, self.width, x.device).to(x.dtype)
        if rows is None or rows.device != x.device or rows.shape[0] < length:
            with torch.inference_mode(False), torch.no_grad():
                rows = self._rows = self.encode(length, self.width, x.device)
        return rows[:length].to(x.dtype)


class ScaledPositions(nn.Module):
    """Inputs scaled by the square root of a model's width, plus positions.

    Args:
        encode: as for `PositionTable`. width: of the inputs. model_width: of the model. dropout: rate.
    """

    def __init__(
        self, encode: Callable[[int, int, torch.device], Tensor], width: int, model_width: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.table = PositionTable(encode, width)
        self.scale = math.sqrt(model_width)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return F.dropout(torch.add(self.table(x), x, alpha=self.scale), self.dropout, self.training)


class RelativePositions(nn.Module):
    """Inputs scaled by the square root of their width, and the positions to attend by.

    Args:
        width: of the model. dropout: rate, of both.
    """

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.table = PositionTable(counting_down, width)
        self.scale = math.sqrt(width)
        self.dropout = dropout

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) -> (B, T, D) and the positions' encodings (T, D)."""
        positions = F.dropout(self.table(x), self.dropout, self.training)
        return F.dropout(x * self.scale, self.dropout, self.training), positions
