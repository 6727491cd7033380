"""What adds to a hypothesis' score as its tokens are emitted: language models and hotwords."""
# Shapes: M tokens of each, N hypotheses.

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

State = tuple[Tensor, ...]


class TokenScorer(Protocol):
    """A deterministic scorer of token sequences; each tensor of its state has one row per hypothesis."""

    def start(self, rows: int, device: torch.device) -> State:
        """The state before any token."""

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """The scores (N,) of emitting ``tokens`` (N,), all above 0, and the states after them."""

    def preview(self, state: State, tokens: Tensor) -> Tensor:
        """The scores (N, M) that `step` would give to each of ``tokens`` (N, M), without moving."""

    def final(self, state: State) -> Tensor:
        """What (N,) ending in these states adds."""


class Fusion:
    """Weighted scorers that follow a table of hypotheses.

    Args:
        scorers: (scale, scorer) pairs. rows: hypotheses in the table. device: where it is.
    """

    def __init__(self, scorers: Sequence[tuple[float, TokenScorer]], rows: int, device: torch.device) -> None:
        self.scorers = scorers
        self.states = [scorer.start(rows, device) for _, scorer in scorers]

    def follow(self, parent: Tensor, token: Tensor) -> Tensor:
        """Move to the hypotheses that descend from rows ``parent`` (N,) by ``token`` (N,), 0 where none is emitted.

        Returns:
            (N,) float64, what each gains.
        """
        gain = torch.zeros(parent.shape, dtype=torch.float64, device=parent.device)
        emitting = torch.nonzero(token > 0).squeeze(1)
        for i, (scale, scorer) in enumerate(self.scorers):
            state = tuple(part[parent] for part in self.states[i])
            if len(emitting):
                score, moved = scorer.step(tuple(part[emitting] for part in state), token[emitting])
                gain[emitting] += scale * score.double()
                state = tuple(replace_rows(old, emitting, new) for old, new in zip(state, moved))
            self.states[i] = state
        return gain

    def preview(self, tokens: Tensor) -> Tensor:
        """What each of ``tokens`` (N, M) would gain its row's hypothesis: (N, M) float64."""
        gain = torch.zeros(tokens.shape, dtype=torch.float64, device=tokens.device)
        for (scale, scorer), state in zip(self.scorers, self.states):
            gain += scale * scorer.preview(state, tokens).double()
        return gain

    def final(self) -> Tensor:
        """What (N,) ending here adds."""
        totals = [scale * scorer.final(state).double() for (scale, scorer), state in zip(self.scorers, self.states)]
        return torch.stack(totals).sum(0)


def replace_rows(old: Tensor, rows: Tensor, new: Tensor) -> Tensor:
    """``old`` with ``rows`` replaced; its second axis grows with that of ``new``."""
    if old.dim() > 1 and old.shape[1] < new.shape[1]:
        old = F.pad(old, (0, 0) * (old.dim() - 2) + (0, new.shape[1] - old.shape[1]))
    return old.index_copy(0, rows, new)
