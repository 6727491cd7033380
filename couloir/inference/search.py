"""Greedy searches in numpy. Every runtime's CTC output goes through the one here, so that all find the same."""
# Shapes: J joiner dimension, N hypotheses, S output frames, V vocabulary.

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from couloir.decoding.hypothesis import Hypothesis


def token_bias(size: int, allowed: np.ndarray | None, blank_penalty: float) -> np.ndarray | None:
    """What is added to the scores of ``size`` tokens V in every frame: (V,) float32, or None for nothing.

    Args:
        size: of the vocabulary. allowed: (V,) bool, tokens that may be emitted; None for all.
        blank_penalty: taken from blank's score.
    """
    if allowed is None and not blank_penalty:
        return None
    bias = np.zeros(size, np.float32) if allowed is None else np.where(allowed, 0, -np.inf).astype(np.float32)
    bias[0] -= blank_penalty
    return bias


def ctc_greedy(log_probs: np.ndarray, bias: np.ndarray | None = None, blank: int = 0) -> Hypothesis:
    """The best token of each frame, repetitions collapsed, blanks dropped.

    Args:
        log_probs: (S, V). bias: (V,), added to every frame (see `token_bias`).

    Returns:
        Each token with the frames of its run and its probability at the strongest of them.
    """
    if not len(log_probs):
        return Hypothesis()
    scores = log_probs if bias is None else log_probs + bias
    return collapsed(scores.argmax(1), scores.max(1), blank)


def collapsed(ids: np.ndarray, scores: np.ndarray, blank: int = 0) -> Hypothesis:
    """The tokens of a path: repetitions collapsed, blanks dropped.

    Args:
        ids: (S,) label of each frame, at least one. scores: (S,) its log-probability.
    """
    edges = np.flatnonzero(np.diff(ids)) + 1
    starts, ends = np.concatenate([[0], edges]), np.concatenate([edges, [len(ids)]])
    kept = ids[starts] != blank
    best = np.exp(np.maximum.reduceat(scores, starts)[kept]).astype(float)
    return Hypothesis(ids[starts][kept].tolist(), starts[kept].tolist(), ends[kept].tolist(), best.tolist())


Predict = Callable[[np.ndarray], np.ndarray]
Join = Callable[[np.ndarray, np.ndarray], np.ndarray]


def transducer_greedy(
    frames: Sequence[np.ndarray],
    predict: Predict,
    join: Join,
    context_size: int,
    bias: np.ndarray | None = None,
    max_sym_per_frame: int = 1,
) -> list[Hypothesis]:
    """The best token of each frame given those before it, for several recordings at once.

    Args:
        frames: encoder output (S_i, J) of each. predict: histories (N, context_size) -> (N, J).
        join: encoded (N, J), predicted (N, J) -> logits (N, V). bias: (V,), added to them (see `token_bias`).
        max_sym_per_frame: 1 is icefall's search. With more, tokens are taken from a frame until blank wins or that many
            were, and the first history is blanks alone: the search of the client that comes with ZIPA's ONNX files.
    """
    found = [Hypothesis() for _ in frames]
    order = sorted(range(len(frames)), key=lambda i: -len(frames[i]))
    histories = np.zeros((len(frames), context_size), np.int64)
    if max_sym_per_frame == 1:
        histories[:, :-1] = -1  # icefall's first history: no tokens, then blank
    predicted = predict(histories) if len(frames) else histories
    for frame in range(len(frames[order[0]]) if order else 0):
        rows = np.array([i for i in order if len(frames[i]) > frame])
        for _ in range(max_sym_per_frame):
            logits = join(np.stack([frames[i][frame] for i in rows]), predicted[rows])
            logits = logits if bias is None else logits + bias
            tokens = logits.argmax(1)
            emitting = np.flatnonzero(tokens)
            for place in emitting:
                confidence = float(1 / np.exp(logits[place] - logits[place].max()).sum())
                _emit(found[rows[place]], int(tokens[place]), frame, confidence)
            if not len(emitting):
                break
            rows = rows[emitting]
            histories[rows] = np.column_stack([histories[rows, 1:], tokens[emitting]])
            predicted[rows] = predict(histories[rows])
    return found


def _emit(found: Hypothesis, token: int, frame: int, confidence: float) -> None:
    found.tokens.append(token)
    found.starts.append(frame)
    found.ends.append(frame + 1)
    found.confidences.append(confidence)
