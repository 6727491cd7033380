"""The best CTC path of a given token string (forced alignment), for many utterances at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

NEVER = float("-inf")


@dataclass
class Alignment:
    """Where the tokens of one utterance stand.

    Attributes:
        starts, ends: first frame of each token and the first one after it (blanks between tokens belong to none).
        confidences: probability of each token at the strongest of its frames.
        score: log-probability of the path; -inf, with empty lists, when the frames are too few for the tokens.
    """

    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    score: float = NEVER


@torch.no_grad()
def ctc_align(log_probs: Tensor, lens: Tensor, labels: Sequence[Sequence[int]], blank: int = 0) -> list[Alignment]:
    """Viterbi alignment of labels to frames under the CTC topology (Graves et al. 2006, best path).

    Args:
        log_probs: (B, S, V) normalised log-probabilities; lens: (B,) valid frames.
        labels: token ids of each utterance, without blanks.

    Returns:
        One `Alignment` for each utterance.
    """
    states = _states(labels, blank).to(log_probs.device)
    lens = lens.to(log_probs.device)
    scores, back = _viterbi(log_probs, lens, states, blank)
    label_lens = torch.tensor([len(tokens) for tokens in labels], device=log_probs.device)
    ends = torch.stack([2 * label_lens, (2 * label_lens - 1).clamp(min=0)], 1)
    best, which = scores.gather(1, ends).max(1)
    path = _backtrace(back, ends.gather(1, which[:, None])[:, 0].cpu().numpy(), lens.cpu().numpy())
    on_path = states.gather(1, torch.from_numpy(path).to(states.device))
    emitted = log_probs.gather(2, on_path[:, :, None])[:, :, 0].exp().cpu().numpy()
    return [
        _spans(path[b, :n], emitted[b, :n], len(tokens), score)
        for b, (n, tokens, score) in enumerate(zip(lens.tolist(), labels, best.tolist()))
    ]


def _states(labels: Sequence[Sequence[int]], blank: int) -> Tensor:
    """(B, 2 U + 1) token of each state: blank, token, blank, token, ... blank."""
    states = torch.full((len(labels), 2 * max(map(len, labels), default=0) + 1), blank)
    for b, tokens in enumerate(labels):
        states[b, 1 : 2 * len(tokens) : 2] = torch.tensor(tokens, dtype=torch.int64)
    return states


def _viterbi(log_probs: Tensor, lens: Tensor, states: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    """Best path scores (B, L) at each utterance's last frame, and steps back (S, B, L): 0, 1 or 2 states."""
    batch, width = states.shape
    may_skip = torch.zeros_like(states, dtype=torch.bool)
    may_skip[:, 2:] = (states[:, 2:] != blank) & (states[:, 2:] != states[:, :-2])
    scores = torch.full((batch, width), NEVER, device=states.device, dtype=torch.float64)
    scores[:, 0] = 0.0  # before the first frame: as if a blank had been passed
    back = torch.zeros(log_probs.shape[1], batch, width, dtype=torch.int8, device=states.device)
    never = scores.new_full((batch, 2), NEVER)
    for t in range(log_probs.shape[1]):
        padded = torch.cat([never, scores], 1)
        skipped = padded[:, :width].masked_fill(~may_skip, NEVER)
        best, back[t] = _best_of_three(scores, padded[:, 1 : width + 1], skipped)
        best = best + log_probs[:, t].gather(1, states)
        scores = torch.where((t < lens)[:, None], best, scores)
    return scores, back


def _best_of_three(stay: Tensor, step: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
    best, which = torch.stack([stay, step, skip]).max(0)
    return best, which.to(torch.int8)


def _backtrace(back: Tensor, last: np.ndarray, lens: np.ndarray) -> np.ndarray:
    """(B, S) state of each frame, from the state after each utterance's last frame."""
    steps = back.cpu().numpy()
    path = np.zeros((len(last), len(steps)), dtype=np.int64)
    rows, state = np.arange(len(last)), last.astype(np.int64)
    for t in range(len(steps) - 1, -1, -1):
        path[:, t] = state
        state = np.where(t < lens, state - steps[t, rows, state], state)
    return path


def _spans(path: np.ndarray, emitted: np.ndarray, num_tokens: int, score: float) -> Alignment:
    if score == NEVER:
        return Alignment()
    states = 2 * np.arange(num_tokens) + 1
    starts, ends = np.searchsorted(path, states), np.searchsorted(path, states, side="right")
    strongest = [float(emitted[a:b].max()) for a, b in zip(starts, ends)]
    return Alignment(starts.tolist(), ends.tolist(), strongest, score)
