"""Encoded recordings -> samples of each of the files that they are joined of, checked against their headers."""
# Shapes: N samples.

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from couloir.audio import mpeg, ogg
from couloir.audio.chunks import layout_of
from couloir.audio.containers import BY_LIBSNDFILE, PYAV_FORMATS, container_of
from couloir.audio.errors import AudioError, UnsupportedAudio, log
from couloir.limits import MAX_AUDIO_CHANNELS, MAX_SAMPLE_RATE, MIN_SAMPLE_RATE, max_samples

MISSING_ALLOWED_S = 0.1
"""A recording that lacks more than this of what its header promises is cut short."""

_MISSING_ALLOWED_PYAV_S = 0.25  # codecs' delays and edit lists, of some frames
_MISSING_ALLOWED_OF_SEVERAL_S = 1.0  # the last frame of a video may have no length
_TIME = re.compile(r"(\d{2}):([0-5]\d):([0-5]\d\.\d{1,9})")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_BLOCK = 1 << 20
_KNOWN_FRAMES = 1 << 62  # libsndfile says 2^63 - 1 where it does not know
# How files begin that may be joined to another.
_HEADS = {
    "flac": rb"fLaC[\0\x80]\0\0\x22",  # its first block: 34 bytes about the stream
    "tta": rb"TTA1[\1\3]\0",
    "matroska": rb"\x1a\x45\xdf\xa3.{0,60}?\x42\x82.(?:webm|matroska)",  # a header that names its kind
}
_DAMAGED = ("lost sync", "flac decoder", "malformed", "psf_fseek")
_UNKNOWN = (
    "malformed 'fmt ",
    "unsupported encoding",
    "not recognised",
    "unknown format",
    "unimplemented",
    "not implemented",
)


@dataclass(frozen=True)
class Part:
    """A file that is whole in itself; of what its header promises, how many times what is there, or what s more.

    ``is_known``: libsndfile may know its coding.
    """

    content: bytes
    promised: float = 1.0
    lacking_s: float = 0.0
    is_known: bool = True

    def expected(self, found: int, rate: int) -> float:
        """How many samples there should be where that many are."""
        return found * self.promised + self.lacking_s * rate


Samples = tuple[np.ndarray, int]


def decode(content: bytes, name: str, path: str = "") -> list[Samples]:
    """Samples (N,) or (N, channels) float32 and rate in Hz, of each of the files that a content is joined of.

    The first bytes say what it is; ``path`` is for what has none that do. Raises `AudioError`.
    """
    return list(_each(content, name, path, _samples))


def seconds(content: bytes, name: str, path: str = "") -> float:
    """Length of an encoded recording; it is decoded where its header does not tell. Raises `AudioError`."""
    return sum(_each(content, name, path, _length))


Reader = Callable[[Any, Part, str], Any]
"""What is asked of a file that libsndfile has opened: `_samples` or `_length`."""


def _each(content: bytes, name: str, path: str, read: Reader) -> Iterator[Any]:
    if not content:
        raise AudioError(f"{name} is empty (0 bytes)")
    content = content[mpeg.after_id3(content) :] or content
    container = container_of(content, path)
    if container == "raw":
        raise AudioError(
            f"{name} is raw samples without a header; convert it (sox -r RATE -e signed -b 16 -c 1 IN.raw OUT.wav)"
        )
    if container == "shorten":
        raise AudioError(f"{name} is compressed with shorten, which is not read; convert it with shorten -x or ffmpeg")
    for part in _parts(content, container, name):
        yield _with_either(part, container, name, read)


def _with_either(part: Part, container: str, name: str, read: Reader) -> Any:
    if container in BY_LIBSNDFILE and part.is_known:
        try:
            return _with_libsndfile(part, name, read)
        except UnsupportedAudio:
            if container not in PYAV_FORMATS:
                raise
    return _with_pyav(part.content, container, name, read)


# Parts: each is given to libsndfile with a header that is right.


def _parts(content: bytes, container: str, name: str) -> Iterator[Part]:
    if container == "mp3":
        yield from _mpeg_parts(content)
    elif container == "ogg":
        yield from _ogg_parts(content, name)
    elif container == "mp4":
        yield from _mp4_parts(content)
    elif container in _HEADS:
        yield from _parts_at(content, _HEADS[container])
    else:
        yield from _chunk_parts(content, container, name)


def _parts_at(content: bytes, head: bytes) -> Iterator[Part]:
    """One at each place, beside the first, that looks like a file's head."""
    begins = [0, *(found.start() for found in re.compile(head, re.DOTALL).finditer(content, 1)), len(content)]
    for start, stop in itertools.pairwise(begins):
        yield Part(content[start:stop])


def _mp4_parts(content: bytes) -> Iterator[Part]:
    """One at each box of the highest level that says the file's type, where another before it has the sound's index."""
    start = at = 0
    has_index = False
    while at + 8 <= len(content):
        size, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        if size == 1:
            size = int.from_bytes(content[at + 8 : at + 16], "big")
        if kind == b"ftyp" and has_index:
            yield Part(content[start:at])
            start, has_index = at, False
        has_index = has_index or kind == b"moov"
        if size < 8:  # to the end
            break
        at += size
    yield Part(content[start:])


def _mpeg_parts(content: bytes) -> Iterator[Part]:
    runs = mpeg.runs(content)
    if not any(run.count for run in runs):
        yield Part(content)
    for run in runs:
        if run.count:
            yield Part(run.counted(), lacking_s=run.lacking_s())


def _ogg_parts(content: bytes, name: str) -> Iterator[Part]:
    links, is_whole = ogg.links(content)
    if not is_whole:
        raise AudioError(f"{name} is truncated: it ends within a page")
    for link in links:
        if not link.ends:
            log.warning("%s does not say that it ends: a recording that was stopped, or cut short", name)
        yield Part(content[link.start : link.stop], is_known=link.is_plain())
    if not links:
        yield Part(content)


def _chunk_parts(content: bytes, container: str, name: str) -> Iterator[Part]:
    layout = layout_of(container, content, name)
    if layout is None:
        yield Part(content)
        return
    samples = content[layout.start : layout.start + layout.there] if layout.header or layout.is_mpeg else b""
    if layout.is_mpeg:
        yield from (replace(part, promised=layout.missing()) for part in _mpeg_parts(samples))
    else:
        yield Part(layout.header(layout.there) + samples if layout.header else content, layout.missing())
    if layout.joined:
        yield from _chunk_parts(content[layout.joined :], container, name)


# libsndfile


class _Memory(io.BytesIO):
    """Bytes as a file that a damaged header sends nowhere: no exception crosses libsndfile, it would be printed."""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


@cache
def _stream() -> Any:
    import soundfile

    class Stream(soundfile.SoundFile):
        """A file that is only read on: soundfile itself goes back after each block, which some codings cannot."""

        def seekable(self) -> bool:
            return False

    return Stream


def _with_libsndfile(part: Part, name: str, read: Reader) -> Any:
    import soundfile

    try:
        with _stream()(_Memory(part.content)) as file:
            refuse_unusable(file.samplerate, file.channels, name)
            if max_samples(len(part.content)) < file.frames * file.channels and file.frames < _KNOWN_FRAMES:
                raise _too_many(name, file.frames * file.channels, len(part.content))
            return read(file, part, name)
    except soundfile.LibsndfileError as error:
        reason = error.error_string.strip().rstrip(".")
        if any(word in reason.lower() for word in _UNKNOWN):
            raise UnsupportedAudio(f"{name} is not audio that can be read ({reason})") from None
        if any(word in reason for word in _DAMAGED):
            raise AudioError(f"{name} is truncated or damaged ({reason})") from None
        raise AudioError(f"{name} is not audio that can be read ({reason})") from None


def _samples(file: Any, part: Part, name: str) -> Samples:
    if file.frames < _KNOWN_FRAMES:
        samples = file.read(file.frames, dtype="float32")
        _refuse_short(
            len(samples), max(file.frames, part.expected(len(samples), file.samplerate)), file.samplerate, name
        )
        return samples, file.samplerate
    blocks, count = [], 0
    while len(block := file.read(_BLOCK, dtype="float32")):
        blocks.append(block)
        count += len(block)
        if count * file.channels > max_samples(len(part.content)):
            raise _too_many(name, count * file.channels, len(part.content))
    _refuse_short(count, part.expected(count, file.samplerate), file.samplerate, name)
    return np.concatenate(blocks or [np.zeros(0, np.float32)]), file.samplerate


def _length(file: Any, part: Part, name: str) -> float:
    if file.frames >= _KNOWN_FRAMES:
        return len(_samples(file, part, name)[0]) / file.samplerate
    _refuse_short(file.frames, part.expected(file.frames, file.samplerate), file.samplerate, name)
    return file.frames / file.samplerate


def refuse_unusable(rate: float, channels: int, name: str) -> None:
    """Raise `AudioError` for a rate in Hz or a number of channels that recordings do not have."""
    if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
        raise AudioError(
            f"the sample rate of {name} must be from {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz, but is {rate:g}"
        )
    if not 1 <= channels <= MAX_AUDIO_CHANNELS:
        raise AudioError(f"{name} must have from 1 to {MAX_AUDIO_CHANNELS} channels, but has {channels}")


def _refuse_short(found: float, expected: float, rate: int, name: str, allowed: float = MISSING_ALLOWED_S) -> None:
    if expected - found > allowed * rate:
        raise AudioError(f"{name} is truncated: it holds {found / rate:.2f} s of {expected / rate:.2f} s")


def _too_many(name: str, count: int, size: int) -> AudioError:
    return AudioError(
        f"{name} must hold at most {max_samples(size)} samples for its {size} bytes, but has {count} or more"
    )


# PyAV


def _with_pyav(content: bytes, container: str, name: str, read: Reader) -> Any:
    samples, rate = _decode_pyav(content, PYAV_FORMATS[container], container_of(content) == container, name)
    return (samples, rate) if read is _samples else len(samples) / rate


def _decode_pyav(content: bytes, container: str, known: bool, name: str) -> Samples:
    """``container`` is FFmpeg's name; ``known`` says whether the first bytes named it."""
    try:
        import av
    except ImportError:
        raise AudioError(f"{name} needs PyAV to be read; pip install av, or convert it to wav or flac") from None
    try:
        with av.open(io.BytesIO(content), "r", format=container, metadata_errors="replace") as file:
            return _frames_of(file, content, name)
    except (
        av.FFmpegError,
        IndexError,
        AttributeError,
        ValueError,
        OverflowError,
    ) as error:  # what damage makes of PyAV
        reason = getattr(error, "strerror", None) or str(error)
        if known:
            raise AudioError(f"{name} is truncated or damaged ({reason})") from None
        raise AudioError(f"{name} is not audio that can be read ({reason})") from None


def _frames_of(file: Any, content: bytes, name: str) -> Samples:
    import av

    stream = file.streams.audio[0]
    if stream.codec_context is None:
        raise UnsupportedAudio(f"{name} is not audio that can be read (its coding is not known)")
    rate = stream.rate or 0
    refuse_unusable(rate, stream.channels, name)
    limit = max_samples(len(content)) // stream.channels
    # Packed: PyAV crashes where a frame has more than eight planes.
    to_float = av.AudioResampler(format="flt", layout=stream.layout, rate=rate)
    parts, count, end = [], 0, 0.0
    for packet in file.demux():
        if packet.pts is not None and packet.time_base is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        for frame in packet.decode() if packet.stream.index == stream.index else ():
            for part in to_float.resample(frame):
                parts.append(part.to_ndarray().reshape(-1, stream.channels))
                count += len(parts[-1])
        if count > limit:
            raise _too_many(name, count * stream.channels, len(content))
    promised = _promised_seconds(file, stream, content)
    _refuse_short(count, promised * rate, rate, name, _MISSING_ALLOWED_PYAV_S)
    if not promised and len(file.streams) > 1 and file.duration:
        _refuse_short(end, file.duration / 1e6, 1, name, _MISSING_ALLOWED_OF_SEVERAL_S)
    return np.concatenate(parts or [np.zeros((0, 1), np.float32)]), rate


def _promised_seconds(file: Any, stream: Any, content: bytes) -> float:
    """What the header says of a stream's length, 0 where it is silent or FFmpeg only guesses it."""
    if file.format.name in ("aac", "amr", "g722", "ape", "tta", "ogg"):
        return 0.0
    if file.format.name == "asf" and _is_live(content):
        return 0.0
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if tag := _TIME.match(stream.metadata.get("DURATION", "")):  # of Matroska
        return 3600 * int(tag[1]) + 60 * int(tag[2]) + float(tag[3])
    if file.duration and len(file.streams) == 1:
        return file.duration / 1e6
    return 0.0


def _is_live(content: bytes) -> bool:
    """Whether a WMA was written into a pipe: the first of its flags, beside a length that says nothing."""
    at = content.find(_ASF_PROPERTIES, 0, 1 << 16)
    return at >= 0 and content[at + 88 : at + 89] != b"" and bool(content[at + 88] & 1)
