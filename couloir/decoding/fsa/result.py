"""From back-pointers to hypotheses."""
# Shapes: B batch, N hypotheses, P paths.

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from couloir.decoding.fsa.history import History
from couloir.decoding.fsa.lattice import Followed, Lattice
from couloir.decoding.fsa.search import SearchResult, output_labels
from couloir.decoding.hypothesis import Hypothesis

T = TypeVar("T")


def read_hypotheses(history: History, row: Tensor, step: Tensor, score: Tensor) -> list[Hypothesis]:
    """The tokens, frames and confidences of finished hypotheses.

    Args:
        history: with columns ``token`` (0 where none was emitted) and ``log_prob``.
        row, step: (N,) as in `History.trace`. score: (N,); at -inf the hypothesis is empty.
    """
    mask, columns = history.trace(row, step)
    return _hypotheses(history, mask, columns, score.tolist())


def read_best_paths(result: SearchResult) -> list[Hypothesis]:
    """The best path of each sorted utterance of a search."""
    mask, columns = result.history.trace(result.row, result.step)
    arcs = []
    for name, last in (("arc", result.last_arc), ("move", result.last_move)):
        path = np.where(mask, columns[name], -1) if columns else np.zeros(mask.shape, dtype=np.int64)
        arcs.append(torch.cat([torch.from_numpy(path), last.cpu()[:, None]], dim=1).to(last.device))
    outputs = output_labels(result.graph, arcs[0].flatten(), arcs[1].flatten()).unflatten(0, arcs[0].shape)
    return _with_words(result.history, mask, columns, outputs.cpu().numpy(), result.score.tolist())


def read_followed(found: Followed, lattice: Lattice, score: Tensor) -> list[Hypothesis]:
    """The best path of each item of `follow`, under the given scores (P,)."""
    mask, columns = found.history.trace(found.row, found.step)
    aux = lattice.aux.cpu().numpy()
    outputs = np.where(mask[:, :, None], aux[columns["arc"]], 0) if columns else np.zeros((*mask.shape, 1), int)
    return _with_words(found.history, mask, columns, outputs, score.tolist())


def _with_words(
    history: History, mask: np.ndarray, columns: dict[str, np.ndarray], outputs: np.ndarray, scores: list[float]
) -> list[Hypothesis]:
    found = _hypotheses(history, mask, columns, scores)
    for hypothesis, output, steps in zip(found, outputs, mask.sum(1)):
        frames = np.array([*history.frames, max(int(steps) - 1, 0)])  # a final arc counts to the last frame
        at, column = np.nonzero(output > 0) if np.isfinite(hypothesis.score) else (frames[:0], frames[:0])
        hypothesis.words, hypothesis.word_frames = output[at, column].tolist(), frames[at].tolist()
    return found


def _hypotheses(
    history: History, mask: np.ndarray, columns: dict[str, np.ndarray], scores: list[float]
) -> list[Hypothesis]:
    """Tokens of one frame each, as a transducer has them; of CTC, `with_extents` gives the rest of their frames."""
    if not columns:
        return [Hypothesis(score=score) for score in scores]
    frames = np.array(history.frames)
    emitted = mask & (columns["token"] > 0) & np.isfinite(scores)[:, None]
    return [
        Hypothesis(
            token[at].tolist(), frames[at].tolist(), (frames[at] + 1).tolist(), np.exp(log_prob[at]).tolist(), score
        )
        for token, log_prob, at, score in zip(columns["token"], columns["log_prob"], emitted, scores)
    ]


def unsorted(results: Sequence[T], order: Tensor) -> list[T]:
    """Results of sorted utterances, in the batch's own order (B,)."""
    by_position = dict(zip(order.tolist(), results))
    return [by_position[i] for i in range(len(results))]
