"""Any recording as mono float32 at one sample rate: files, encoded bytes, arrays.

This is the only way audio enters the project, so that training, decoding and inference hear the same
samples. It imports neither torch nor a decoder before one is needed.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np

from couloir.errors import UserError

SAMPLE_RATE = 16000
"""Samples per second that every model here expects."""

# libsndfile cannot read these. The container is named to the decoder rather than guessed from the content:
# a probing FFmpeg would also open play-lists, which may point anywhere.
_PYAV_CONTAINERS = {
    ".g722": "g722",
    ".m4a": "mov",
    ".mp4": "mov",
    ".aac": "aac",
    ".webm": "matroska",
    ".mka": "matroska",
    ".amr": "amr",
}
_DECLARED_SIZE = re.compile(r"\b(?:data|SSND)\s*: (\d+) \(should be (\d+)\)")
_UNKNOWN_SIZE = 2**31 - 2**16  # programs that write a wav into a pipe declare this much or more
_MISSING_ALLOWED_S = 0.1
_LOUDEST = 64.0


class AudioError(UserError):
    """A recording that cannot be used. The message names it and says why."""


def load_audio(
    source: str | Path | bytes | np.ndarray | tuple[np.ndarray, int],
    sample_rate: int = SAMPLE_RATE,
    *,
    name: str = "",
) -> np.ndarray:
    """Read a recording as mono float32.

    Args:
        source: a path (wav, flac, ogg, opus, mp3, aiff, sph... by libsndfile; g722, m4a, webm... by PyAV where it
            is installed), the bytes of such a file, samples at ``sample_rate``, or (samples, their rate in Hz).
            Samples are (N,) or two-dimensional with the channels on the shorter axis; integers of up to 32 bits
            are scaled by their type's range.
        sample_rate: wanted rate in Hz.
        name: what to call the source in errors; for bytes its suffix also tells what libsndfile cannot see.

    Returns:
        (N,) float32, the mean over channels, nominally in [-1, 1], resampled by soxr (high quality).

    Raises:
        AudioError: the source is missing, not audio, empty, cut short, or holds NaN or infinite samples.
    """
    if isinstance(source, (str, Path)):
        name = name or str(source)
        samples, rate = _read_file(Path(source), name)
    elif isinstance(source, bytes):
        name = name or f"audio of {len(source)} bytes"
        samples, rate = _decode(source, Path(name).suffix.lower(), name)
    else:
        name = name or "the array of samples"
        samples, rate = source if isinstance(source, tuple) else (source, sample_rate)
        samples = _scaled(np.asarray(samples), name)
    return _resample(_checked(_mono(samples, name), rate, name), rate, sample_rate, name)


def _read_file(path: Path, name: str) -> tuple[np.ndarray, int]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise AudioError(f"audio file {name} does not exist") from None
    except OSError as error:
        raise AudioError(f"audio file {name} cannot be read: {error.strerror}") from None
    return _decode(content, path.suffix.lower(), name)


def _decode(content: bytes, suffix: str, name: str) -> tuple[np.ndarray, int]:
    """Encoded bytes -> samples (N,) or (N, channels) float32, rate."""
    if not content:
        raise AudioError(f"{name} is empty (0 bytes)")
    if suffix in _PYAV_CONTAINERS:
        return _decode_pyav(content, _PYAV_CONTAINERS[suffix], name)
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            samples = file.read(dtype="float32")
            expected = max(file.frames, _declared_frames(file))
            rate = file.samplerate
    except soundfile.LibsndfileError as error:
        reason = error.error_string.strip().rstrip(".")
        if "lost sync" in reason or "flac decoder" in reason or "malformed" in reason:
            raise AudioError(f"{name} is truncated or damaged ({reason})") from None
        raise AudioError(f"{name} is not audio that can be read ({reason})") from None
    if expected - len(samples) > _MISSING_ALLOWED_S * rate:
        raise AudioError(f"{name} is truncated: it holds {len(samples) / rate:.2f} s of {expected / rate:.2f} s")
    return samples, rate


def _declared_frames(file: Any) -> int:
    """Samples per channel that a wav or aiff header promises where libsndfile found fewer bytes, else 0."""
    found = _DECLARED_SIZE.search(file.extra_info)
    if not found or int(found[1]) >= _UNKNOWN_SIZE or int(found[2]) == 0:
        return 0
    return round(file.frames * int(found[1]) / int(found[2]))


def _decode_pyav(content: bytes, container: str, name: str) -> tuple[np.ndarray, int]:
    try:
        import av
    except ImportError:
        raise AudioError(f"{name} needs PyAV to be read; pip install av, or convert it to wav or flac") from None
    try:
        with av.open(io.BytesIO(content), "r", format=container, metadata_errors="replace") as file:
            stream = file.streams.audio[0]
            to_float = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
            frames = [part.to_ndarray() for frame in file.decode(stream) for part in to_float.resample(frame)]
            rate = stream.rate
    except (av.FFmpegError, IndexError) as error:
        raise AudioError(f"{name} is not audio that can be read ({error})") from None
    return (np.concatenate(frames, axis=1) if frames else np.zeros((1, 0), np.float32)), rate


def _scaled(samples: np.ndarray, name: str) -> np.ndarray:
    """Integer samples by their type's range, floats as they are."""
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128.0) / 128.0
    if np.issubdtype(samples.dtype, np.signedinteger):
        if samples.dtype.itemsize > 4:  # a list of whole numbers, whose range says nothing of the recording's
            raise _out_of_range(name, f"are of type {samples.dtype}")
        return (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    if not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(f"{name} must hold float or integer samples, but its type is {samples.dtype}")
    return samples


def _mono(samples: np.ndarray, name: str) -> np.ndarray:
    if samples.ndim == 1:
        return samples
    if samples.ndim != 2:
        raise AudioError(f"{name} must have one or two dimensions, but its shape is {samples.shape}")
    if 0 in samples.shape:
        return np.zeros(0, np.float32)
    return samples.mean(axis=int(np.argmin(samples.shape)))


def _checked(samples: np.ndarray, rate: int, name: str) -> np.ndarray:
    if rate <= 0:
        raise AudioError(f"the sample rate of {name} must be positive, but is {rate}")
    if samples.size == 0:
        raise AudioError(f"{name} holds no samples")
    finite = np.isfinite(samples)
    if not finite.all():
        first = int(np.argmin(finite))
        raise AudioError(
            f"{name} holds {int((~finite).sum())} NaN or infinite samples, the first at {first / rate:.3f} s"
        )
    peak = float(np.abs(samples).max())
    if peak > _LOUDEST:
        raise _out_of_range(name, f"reach {peak:.0f}")
    return samples.astype(np.float32, copy=False)


def _out_of_range(name: str, found: str) -> AudioError:
    return AudioError(f"samples of {name} must lie in [-1, 1], but {found}; 16-bit values are to be divided by 32768")


def _resample(samples: np.ndarray, rate: int, wanted: int, name: str) -> np.ndarray:
    if rate == wanted:
        return np.ascontiguousarray(samples)
    import soxr

    resampled = soxr.resample(samples, rate, wanted)
    if resampled.size == 0:
        raise AudioError(f"{name} is too short: {samples.size} samples at {rate} Hz")
    return resampled
