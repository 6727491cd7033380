"""Any recording as mono float32 at one sample rate: files, encoded bytes, arrays.

This is the only way audio enters the project, so that training, decoding and inference have the same samples. It
imports neither torch nor a decoder before one is needed. What is there is counted and compared with what the header
says, of
every container; bounds on what a file may claim are in `couloir.limits`.

In memory at a time are, at most: the encoded file, its decoded samples (4 bytes each, of every channel), one copy of
those where channels are joined, and two of one channel where it is resampled.
"""
# Shapes: C channels, N samples.

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from couloir.audio import sources
from couloir.audio.channels import CANCELLED, LOUDEST, as_array, frames_by_channels, mono, out_of_range, scaled
from couloir.audio.chunks import layout_of
from couloir.audio.containers import AUDIO_SUFFIXES, BY_LIBSNDFILE, container_of
from couloir.audio.decoding import MISSING_ALLOWED_S, Samples, decode, refuse_unusable, seconds
from couloir.audio.errors import AudioError

__all__ = [
    "AUDIO_SUFFIXES", "CANCELLED", "LOUDEST", "MISSING_ALLOWED_S", "SAMPLE_RATE", "AudioError", "Source",
    "audio_seconds", "load_audio", "load_span",
]  # fmt: skip

SAMPLE_RATE = 16000
"""Samples per second that every model here expects."""

Source = str | Path | bytes | bytearray | memoryview | BinaryIO | np.ndarray | tuple[Any, int]
"""A recording; tensors of torch and what numpy takes as an array are recordings as well."""

_ROUNDING_S = 0.01  # of manifests' times
_ENCODED = ("wav", "rf64", "w64", "flac", "ogg", "mp4", "matroska", "aiff")


def load_audio(
    source: Source,
    sample_rate: int = SAMPLE_RATE,
    *,
    name: str = "",
    channel: int | None = None,
    pipes: bool = False,
) -> np.ndarray:
    """Read a recording as mono float32.

    Args:
        source: a path (wav, flac, ogg, opus, mp3, aiff, sph... by libsndfile; g722, m4a, webm... by PyAV where it
            is installed), the bytes of such a file (also a bytearray, a memoryview, an object with ``read``), samples
            at ``sample_rate``, or (samples, their rate in Hz). Samples are an array, a tensor or a list, (N,) or
            two-dimensional with the channels on the shorter axis (the first of equal ones); integers of up to 32 bits
            are scaled by their type's range.
        sample_rate: wanted rate in Hz.
        name: what to call the source in messages; for bytes its suffix also tells what no byte of them does (.g722).
        channel: take this one, from 0, where there is one of that number, and the mean (`channels.mono`) otherwise.
        pipes: read a path that is a pipe, which a person has named; otherwise only a regular file is read.

    Returns:
        (N,) float32, nominally in [-1, 1], resampled by soxr (high quality); of several files in one, all. Several
        channels are averaged, but for those that are silent or not finite; where they cancel each other the loudest
        is taken. The log names what was left out.

    Raises:
        AudioError: the source is missing, not audio, empty, cut short, beyond the bounds of `couloir.limits`, or holds
            NaN or infinite samples.
    """
    try:
        parts, name = _read(source, sample_rate, name, pipes)
        waves = [_wave(samples, rate, sample_rate, name, channel) for samples, rate in parts]
    except MemoryError:
        raise AudioError(f"{name or 'a recording'} takes more memory than there is; cut it into shorter ones") from None
    wave = waves[0] if len(waves) == 1 else np.concatenate(waves or [np.zeros(0, np.float32)])
    if wave.size == 0:
        raise AudioError(f"{name} holds no samples")
    return wave


def audio_seconds(path: str | Path) -> float:
    """Length of a recording in s as `load_audio` reads it, without decoding it where the header tells.

    Raises `AudioError`.
    """
    name = str(path)
    with _opened(path, name, seekable=()) as file:
        length = file.frames / file.samplerate if file else None
    if length is None:
        length = seconds(sources.bytes_of_file(path, name), name, name)
    if not length:
        raise AudioError(f"{name} holds no samples")
    return length


def load_span(path: str | Path, start: float, duration: float, channel: int) -> np.ndarray | None:
    """As `load_audio` of the part of a file from ``start`` on, both in s, of which nothing else is decoded.

    None where that cannot be: the whole is to be read. Raises `AudioError`.
    """
    name = str(path)
    with _opened(path, name, seekable=("flac", "ogg")) as file:
        if file is None:
            return None
        first, count = round(start * file.samplerate), round(duration * file.samplerate)
        beyond = first + count - file.frames
        if first < 0 or count < 0 or beyond > _ROUNDING_S * file.samplerate:
            return None
        count -= max(0, beyond)
        samples = _frames(file, first, count)
        return None if samples is None else load_audio((samples.T, file.samplerate), name=name, channel=channel)


def _frames(file: Any, first: int, count: int) -> np.ndarray | None:
    """(N, C) samples of an open file; None where it cannot go there, or they are not all there."""
    import soundfile

    try:
        file.seek(first)
        samples = file.read(count, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError:
        return None
    return samples if len(samples) == count else None


@contextmanager
def _opened(path: str | Path, name: str, seekable: tuple[str, ...]) -> Iterator[Any]:
    """A file of plainly laid out samples with a right header, or in a container of ``seekable``, by soundfile.

    None of others, and where libsndfile cannot go to any sample of it.
    """
    with sources.OpenFile(path, name) as view:
        container = container_of(view, name)
        layout = layout_of(container, view, name) if container in BY_LIBSNDFILE else None
        plain = layout is not None and layout.header is None and not layout.is_mpeg and layout.missing() == 1
        file = _by_soundfile(view.handle) if plain or container in seekable else None
        if file is None:
            yield None
            return
        with file:
            refuse_unusable(file.samplerate, file.channels, name)
            yield file if file.seekable() else None


def _by_soundfile(handle: int) -> Any:
    """An open file, of which no suffix says what it is."""
    import soundfile

    try:
        return soundfile.SoundFile(handle, closefd=False)
    except soundfile.LibsndfileError:
        return None


def _read(source: Any, sample_rate: int, name: str, pipes: bool) -> tuple[list[Samples], str]:
    """A source's samples (N,) or (N, C) with their rate, of each file in it; what to call it."""
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        name = name or str(path)
        is_pipe = pipes and sources.is_pipe(path)
        content = sources.bytes_of_pipe(path, name) if is_pipe else sources.bytes_of_file(path, name)
        return decode(content, name, str(path)), name
    encoded = _encoded(source, name or "the recording")
    if encoded is not None:
        name = name or f"audio of {len(encoded)} bytes"
        return decode(encoded, name, name), name
    name = name or "the array of samples"
    if source is None or isinstance(source, (int, float, dict, set)):
        kinds = "a path, the bytes of a file, or samples"
        raise AudioError(f"{name} must be {kinds}, but is of type {type(source).__name__}")
    samples, rate = source if isinstance(source, tuple) and len(source) == 2 else (source, sample_rate)
    rate, samples = _whole_rate(rate, name), as_array(samples, name)
    if samples.dtype == np.uint8 and samples.ndim == 1 and container_of(samples[:64].tobytes()) in _ENCODED:
        return decode(samples.tobytes(), name, name), name  # a file that was read into an array, not 8-bit samples
    samples = frames_by_channels(scaled(samples, name), name)
    if samples.size:
        refuse_unusable(rate, 1 if samples.ndim == 1 else samples.shape[1], name)
    return [(samples, rate)], name


def _encoded(source: Any, name: str) -> bytes | None:
    """The bytes of an encoded recording; None of samples."""
    if isinstance(source, bytes):
        return source
    if isinstance(source, (bytearray, memoryview)) or (hasattr(source, "read") and hasattr(source, "__buffer__")):
        view = memoryview(source)
        return view.tobytes() if view.format in ("B", "b", "c") else None
    if callable(getattr(source, "read", None)):
        return sources.bytes_of_stream(source, name)
    return None


def _whole_rate(rate: Any, name: str) -> int:
    try:
        whole = int(rate)
        if whole != rate or isinstance(rate, (bool, str)):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise AudioError(f"the sample rate of {name} must be a whole number of Hz, but is {rate!r:.50}") from None
    if whole <= 0:
        raise AudioError(f"the sample rate of {name} must be positive, but is {whole}")
    return whole


def _wave(samples: np.ndarray, rate: int, wanted: int, name: str, channel: int | None) -> np.ndarray:
    if channel is not None and samples.ndim == 2 and 0 <= channel < samples.shape[1]:
        samples = np.ascontiguousarray(samples[:, channel])
    return _resample(_checked(mono(samples, rate, name), rate, name), rate, wanted, name)


def _checked(samples: np.ndarray, rate: int, name: str) -> np.ndarray:
    if samples.size == 0:
        return np.zeros(0, np.float32)
    finite = np.isfinite(samples)
    if not finite.all():
        first = int(np.argmin(finite))
        raise AudioError(
            f"{name} holds {int((~finite).sum())} NaN or infinite samples, the first at {first / rate:.3f} s"
        )
    peak = float(np.abs(samples).max())
    if peak > LOUDEST:
        raise out_of_range(name, f"reach {peak:.0f}")
    return samples.astype(np.float32, copy=False)


def _resample(samples: np.ndarray, rate: int, wanted: int, name: str) -> np.ndarray:
    if rate == wanted or samples.size == 0:
        return np.ascontiguousarray(samples)
    import soxr

    resampled = soxr.resample(samples, rate, wanted)
    if resampled.size == 0:
        raise AudioError(f"{name} is too short: {samples.size} samples at {rate} Hz")
    return resampled
