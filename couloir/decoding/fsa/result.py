"""From back-pointers to hypotheses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from couloir.decoding.fsa.history import History
from couloir.decoding.fsa.lattice import Followed, Lattice
from couloir.decoding.fsa.search import SearchResult, output_labels
from couloir.decoding.hypothesis import Hypothesis

T = TypeVar("T")


@dataclass
class WordHypothesis(Hypothesis):
    """What a graph search returns: beside the tokens, the graph's output labels.

    Attributes:
        words: output labels (on the trivial and the CTC token graph the tokens again).
        word_frames: the frame of the arc that carries each.
    """

    words: list[int] = field(default_factory=list)
    word_frames: list[int] = field(default_factory=list)


def read_hypotheses(history: History, row: Tensor, step: Tensor, score: Tensor) -> list[Hypothesis]:
    """The tokens, frames and confidences of finished hypotheses.

    Args:
        history: with columns ``token`` (0 where none was emitted) and ``log_prob``.
        row, step: (N,) as in `History.trace`. score: (N,); at -inf the hypothesis is empty.
    """
    mask, columns = history.trace(row, step)
    return [Hypothesis(*parts) for parts in _tokens(history, mask, columns, score.tolist())]


def read_best_paths(result: SearchResult) -> list[WordHypothesis]:
    """The best path of each sorted utterance of a search."""
    mask, columns = result.history.trace(result.row, result.step)
    arcs = []
    for name, last in (("arc", result.last_arc), ("move", result.last_move)):
        path = np.where(mask, columns[name], -1) if columns else np.zeros(mask.shape, dtype=np.int64)
        arcs.append(torch.cat([torch.from_numpy(path), last.cpu()[:, None]], dim=1).to(last.device))
    outputs = output_labels(result.graph, arcs[0].flatten(), arcs[1].flatten()).unflatten(0, arcs[0].shape)
    return _with_words(result.history, mask, columns, outputs.cpu().numpy(), result.score.tolist())


def read_followed(found: Followed, lattice: Lattice, score: Tensor) -> list[WordHypothesis]:
    """The best path of each item of `follow`, under the given scores (P,)."""
    mask, columns = found.history.trace(found.row, found.step)
    aux = lattice.aux.cpu().numpy()
    outputs = np.where(mask[:, :, None], aux[columns["arc"]], 0) if columns else np.zeros((*mask.shape, 1), int)
    return _with_words(found.history, mask, columns, outputs, score.tolist())


def _with_words(
    history: History, mask: np.ndarray, columns: dict[str, np.ndarray], outputs: np.ndarray, scores: list[float]
) -> list[WordHypothesis]:
    found = []
    for parts, output, score, steps in zip(_tokens(history, mask, columns, scores), outputs, scores, mask.sum(1)):
        frames = np.array([*history.frames, max(int(steps) - 1, 0)])  # a final arc counts to the last frame
        at, column = np.nonzero(output > 0) if np.isfinite(score) else (frames[:0], frames[:0])
        found.append(WordHypothesis(*parts, output[at, column].tolist(), frames[at].tolist()))
    return found


def _tokens(
    history: History, mask: np.ndarray, columns: dict[str, np.ndarray], scores: list[float]
) -> list[tuple[list[int], list[int], float, list[float]]]:
    if not columns:
        return [([], [], score, []) for score in scores]
    frames = np.array(history.frames)
    emitted = mask & (columns["token"] > 0) & np.isfinite(scores)[:, None]
    return [
        (token[at].tolist(), frames[at].tolist(), score, np.exp(log_prob[at]).tolist())
        for token, log_prob, at, score in zip(columns["token"], columns["log_prob"], emitted, scores)
    ]


def unsorted(results: Sequence[T], order: Tensor) -> list[T]:
    """Results of sorted utterances, in the batch's own order (B,)."""
    by_position = dict(zip(order.tolist(), results))
    return [by_position[i] for i in range(len(results))]
