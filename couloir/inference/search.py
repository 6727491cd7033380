"""Greedy CTC search in numpy: the one that every runtime's output goes through, so that all find the same."""

from __future__ import annotations

import numpy as np

from couloir.inference.transcript import Spans


def restricted(scores: np.ndarray, allowed: np.ndarray | None) -> np.ndarray:
    """Scores (..., V) with minus infinity for every token that is not ``allowed`` (V,) bool."""
    return scores if allowed is None else np.where(allowed, scores, -np.inf)


def ctc_greedy(log_probs: np.ndarray, allowed: np.ndarray | None = None, blank: int = 0) -> Spans:
    """The best token of each frame, repetitions collapsed, blanks dropped.

    Args:
        log_probs: (S, V). allowed: (V,) bool, tokens that may be emitted; None for all.

    Returns:
        Each token with the frames of its run and its probability at the strongest of them.
    """
    if not len(log_probs):
        return Spans()
    scores = restricted(log_probs, allowed)
    ids = scores.argmax(1)
    edges = np.flatnonzero(np.diff(ids)) + 1
    starts, ends = np.concatenate([[0], edges]), np.concatenate([edges, [len(ids)]])
    best = np.exp(np.maximum.reduceat(scores.max(1), starts)).astype(float)
    kept = ids[starts] != blank
    return Spans(*(values[kept].tolist() for values in (ids[starts], starts, ends, best)))
