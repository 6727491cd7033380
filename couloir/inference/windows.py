"""Long recordings in overlapping windows, and their output frames joined again."""
# Shapes: D model dimension, O frames of an overlap, S output frames.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from couloir.inference.frame_times import USUAL

STEP_SAMPLES = USUAL.step_samples
"""Windows begin at multiples of 0.16 s where a model says nothing else. Every part of it then groups the same frames as
in the uncut recording."""
_NEIGHBOURHOOD_S = 0.12


@dataclass(frozen=True)
class Window:
    """A part of a recording: its first sample and the first one after it."""

    start: int
    stop: int


def cut(num_samples: int, longest: int, overlap: int, step: int = STEP_SAMPLES) -> list[Window]:
    """Windows of equal hop that cover a recording; one, if it is no longer than ``longest``.

    Args:
        num_samples: of the recording. longest: samples of a window at most. overlap: samples that neighbours share
            at least. step: samples that windows begin at a multiple of.
    """
    if num_samples <= longest:
        return [Window(0, num_samples)]
    room = max((longest - overlap) // step, 1) * step
    count = -(-(num_samples - longest) // room) + 1
    hop = -(-(num_samples - longest) // (count - 1) // step) * step
    hop = max(min(hop, room), step)
    return [Window(i * hop, min(i * hop + longest, num_samples)) for i in range(count)]


def join(parts: Sequence[np.ndarray], offsets: Sequence[int], frame_shift: float, likelihoods: bool) -> np.ndarray:
    """The frames of overlapping windows as one recording's.

    Each seam lies in the middle half of the overlap, where both windows have context on either side, at the place
    around which they agree best. So no symbol is doubled, lost or split there.

    Args:
        parts: (S_i, D) frames of each window. offsets: the index in the whole of each part's first frame.
        frame_shift: in s. likelihoods: the frames are log-probabilities and are compared as probabilities.

    Returns:
        (S, D)
    """
    pieces, begin = [], 0
    for i, part in enumerate(parts):
        stop = offsets[i] + len(part)
        if i + 1 < len(parts):
            shared = stop - offsets[i + 1]
            left, right = part[len(part) - shared :], parts[i + 1][:shared]
            stop = offsets[i + 1] + _seam(left, right, round(_NEIGHBOURHOOD_S / frame_shift), likelihoods)
        pieces.append(part[begin - offsets[i] : stop - offsets[i]])
        begin = stop
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _seam(left: np.ndarray, right: np.ndarray, around: int, likelihoods: bool) -> int:
    """The frame from which on the right window's output is taken, both (O, D) over the same time."""
    if likelihoods:
        left, right = np.exp(left), np.exp(right)
    distance = np.square(left - right).sum(1)
    smooth = np.convolve(distance, np.ones(2 * around + 1), mode="same")
    quarter = len(smooth) // 4
    middle = np.abs(np.arange(len(smooth)) - len(smooth) / 2)
    candidates = np.arange(quarter, max(len(smooth) - quarter, quarter + 1))
    order = np.lexsort((middle[candidates], smooth[candidates]))
    return int(candidates[order[0]])
