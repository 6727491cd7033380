"""Samples of any type and number of channels -> mono float."""
# Shapes: C channels, N samples.

from __future__ import annotations

from typing import Any

import numpy as np

from couloir.audio.errors import AudioError, log

LOUDEST = 64.0
"""Samples are nominally in [-1, 1]; beyond this they are of another scale."""

CANCELLED = 0.1
"""Channels cancel each other where their mean has less than this share of the loudest one's amplitude."""

_BLOCK_S = 1.0
_AS_LOUD = 0.99  # of channels as loud as the loudest, the first is taken


def as_array(source: Any, name: str) -> np.ndarray:
    """Samples of numpy, torch or a list as an array of numpy's. Raises `AudioError`."""
    try:
        if hasattr(source, "detach"):  # a tensor, which may lie on a GPU or be of a type that numpy lacks
            source = source.detach().cpu()
            source = (source.float() if source.is_floating_point() else source).numpy()
        return np.asarray(source)
    except (ValueError, TypeError, RuntimeError) as error:
        raise AudioError(f"{name} must hold float or integer samples, but cannot be an array ({error})") from None


def scaled(samples: np.ndarray, name: str) -> np.ndarray:
    """Integer samples by their type's range, floats as they are."""
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128.0) / 128.0
    if np.issubdtype(samples.dtype, np.signedinteger):
        if samples.dtype.itemsize > 4:  # a list of whole numbers, whose range says nothing of the recording's
            raise out_of_range(name, f"are of type {samples.dtype}")
        if samples.dtype.itemsize == 4 and samples.size and 0 < int(np.abs(samples, dtype=np.int64).max()) < 2**15:
            log.warning(
                "%s is of 32-bit integers that 16 bits could hold: as what they are, they are next to silence", name
            )
        return (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    if not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(f"{name} must hold float or integer samples, but its type is {samples.dtype}")
    return samples


def out_of_range(name: str, found: str) -> AudioError:
    """What is said of samples that are of another scale."""
    return AudioError(f"samples of {name} must lie in [-1, 1], but {found}; 16-bit values are to be divided by 32768")


def frames_by_channels(samples: np.ndarray, name: str) -> np.ndarray:
    """Samples (N,) or (N, C): of two axes the shorter one is the channels, the first of equal ones."""
    if samples.ndim not in (1, 2):
        raise AudioError(f"{name} must have one or two dimensions, but its shape is {samples.shape}")
    if 0 in samples.shape:
        return np.zeros(0, np.float32)
    return samples.T if samples.ndim == 2 and samples.shape[0] <= samples.shape[1] else samples


def mono(samples: np.ndarray, rate: int, name: str) -> np.ndarray:
    """One channel of (N,) or (N, C) samples.

    It is the mean of all channels that hold sound. Left out of it are channels that hold one value throughout and,
    where others are sound, those with NaN or infinite samples. Where channels cancel each other (opposite phase) for a
    second or more, or the mean of the whole is next to nothing beside the loudest of them, the loudest is taken.
    Whatever is left out is named on the log.
    """
    if samples.ndim == 1 or samples.shape[1] == 1 or len(samples) == 0:
        return samples.reshape(-1)
    usable = np.isfinite(samples).all(axis=0)
    lively = usable & (samples.max(axis=0) != samples.min(axis=0))
    if not lively.any():  # silence, or nothing but bad channels: what is left says which
        return samples[:, usable].mean(axis=1) if usable.any() else samples.mean(axis=1)
    kept = np.flatnonzero(lively)
    if len(kept) < samples.shape[1]:
        why = "hold nothing but one value" if usable.all() else "hold NaN, infinite samples or nothing"
        log.warning("%s: the mean is of channels %s of %d; the others %s", name, _listed(kept), len(usable), why)
    samples = samples if len(kept) == samples.shape[1] else samples[:, kept]
    mean = samples.mean(axis=1)
    if len(kept) > 1 and (loudest := _cancelling(samples, mean, rate)) is not None:
        chosen = f"channel {kept[loudest] + 1} of {len(usable)}"
        log.warning("%s: %s is taken, since its channels cancel each other in the mean", name, chosen)
        return np.ascontiguousarray(samples[:, loudest])
    return mean


def _listed(channels: np.ndarray) -> str:
    return ", ".join(str(channel + 1) for channel in channels)


def _cancelling(samples: np.ndarray, mean: np.ndarray, rate: int) -> int | None:
    """The loudest channel (N, C) where the mean (N,) loses what they hold: over all, or over any whole second."""
    block = max(1, round(_BLOCK_S * rate))
    counts, sums, squares = [], [], []
    for start in range(0, len(samples), block):
        stop = start + block
        part = np.column_stack([samples[start:stop], mean[start:stop]]).astype(np.float64)
        counts.append([len(part)])
        sums.append(part.sum(axis=0))
        squares.append(np.square(part).sum(axis=0))
    n, total, energy = np.array(counts), np.array(sums), np.array(squares)
    whole = _deviation(n.sum(), total.sum(axis=0), energy.sum(axis=0))
    loudest = int(np.flatnonzero(whole[:-1] >= _AS_LOUD * whole[:-1].max())[0])
    if whole[-1] < CANCELLED * whole[loudest]:
        return loudest
    seconds = _deviation(n, total, energy)[n[:, 0] == block]
    there = seconds[:, :-1].max(axis=1)
    lost = (there > CANCELLED * whole[loudest]) & (seconds[:, -1] < CANCELLED * there)
    return loudest if lost.any() else None


def _deviation(count: np.ndarray, total: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """Standard deviations from counts, sums, and sums of squares."""
    return np.sqrt(np.maximum(energy / count - np.square(total / count), 0.0))
