"""Containers of uncompressed and other plainly laid out samples: what their headers promise, and what is there.

WAV with its larger relatives (RF64, BW64, Wave64), AIFF, AU, SPHERE, CAF and VOC. A program that writes into a pipe, or
that was stopped, leaves a size that says nothing; then the samples go to the end of the file.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from couloir.audio.errors import AudioError
from couloir.limits import MAX_CHUNKS

_STREAMED_WITHIN = 2**16
_TAG = re.compile(rb"[A-Za-z0-9_ ()\xa9-]{4}")
_LEAST_HIDDEN = 4096
_MPEG_IN_WAV = (0x50, 0x55)


class Bytes(Protocol):
    """What is sliced like bytes: bytes, or a file that is read where it is sliced."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> bytes: ...


@dataclass(frozen=True)
class Layout:
    """Where the samples of a file are.

    Attributes:
        start, there: where its coded samples begin, and how many bytes of them there are.
        promised: how many the header says; None where it does not know.
        header: makes the file's beginning for that many bytes of samples; None where it is right as it is.
        joined: where another file of its kind begins behind it; 0: none does. is_mpeg: MP3 within a WAV.
    """

    start: int
    there: int
    promised: int | None
    header: Callable[[int], bytes] | None = None
    joined: int = 0
    is_mpeg: bool = False

    def missing(self) -> float:
        """How many times what is there the header promises; 1 where nothing is missing."""
        return 1.0 if self.promised is None else max(1.0, self.promised / max(self.there, 1))


def is_streamed(size: int) -> bool:
    """Whether a size of 32 bits is what programs declare that cannot go back to write it."""
    return min(abs(size - streamed) for streamed in (0x7F000000, 2**31, 2**32)) <= _STREAMED_WITHIN


def layout_of(container: str, content: Bytes, name: str) -> Layout | None:
    """Where the samples are; None where the header is not understood, which its decoder then says."""
    reader = _READERS.get(container)
    try:
        return reader(content, name) if reader else None
    except struct.error:  # the file ends within its header
        return None


def _int(content: Bytes, at: int, code: str) -> int:
    return int(struct.unpack(code, content[at : at + struct.calcsize(code)])[0])


def _chunks(content: Bytes, at: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """The chunks of a RIFF or AIFF file as (tag, where its content begins, declared size).

    Each is padded to an even size, which some writers forget.
    """
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(content):
            return
        tag, size = content[at : at + 4], _int(content, at + 4, order + "I")
        yield tag, at + 8, size
        at += 8 + size
        if size % 2 and not (content[at : at + 1] != b"\0" and _is_chunk(content, at, order)):
            at += 1


def _is_chunk(content: Bytes, at: int, order: str) -> bool:
    if at + 8 > len(content) or not _TAG.fullmatch(content[at : at + 4]):
        return False
    if content[at : at + 4] in (b"RIFF", b"RF64") and content[at + 8 : at + 12] == b"WAVE":
        return True  # another file, whose size may say nothing
    return _int(content, at + 4, order + "I") <= len(content) - at - 8 + 1


def _behind(content: Bytes, at: int, order: str) -> tuple[int, bool]:
    """What is behind the declared samples: where another file of the kind begins, or 0; whether it is more samples."""
    end = at
    for _ in range(MAX_CHUNKS):
        start = next((i for i in (end, end + end % 2) if _is_chunk(content, i, order)), None)
        if start is None:
            break
        if content[start : start + 4] in (b"RIFF", b"RIFX", b"RF64") and content[start + 8 : start + 12] == b"WAVE":
            return start, False
        end = start + 8 + _int(content, start + 4, order + "I")
    rest = content[at : at + _LEAST_HIDDEN]
    is_tag = any(content[i : i + 8].startswith((b"TAG", b"ID3", b"APETAGEX")) for i in (at, at + at % 2))
    return 0, end == at and not is_tag and len(rest) == _LEAST_HIDDEN and any(rest)


def _riff(content: Bytes, name: str) -> Layout | None:
    order = ">" if content[:4] == b"RIFX" else "<"
    parts: dict[bytes, bytes] = {}
    is_usual = content[:4] != b"BW64"
    for tag, start, size in _chunks(content, 12, order):
        is_usual = is_usual and start % 2 == 0
        if tag == b"data":
            return _samples_of_riff(content, start, size, order, parts, is_usual) if b"fmt " in parts else None
        if tag in (b"fmt ", b"fact", b"ds64"):
            parts.setdefault(tag, content[start : start + min(size, 1 << 16)])
    return None


def _samples_of_riff(
    content: Bytes, start: int, size: int, order: str, parts: dict[bytes, bytes], is_usual: bool
) -> Layout:
    promised: int | None = size
    room, joined = len(content) - start, 0
    if size == 2**32 - 1 and len(parts.get(b"ds64", b"")) >= 16:
        promised = struct.unpack_from("<Q", parts[b"ds64"], 8)[0] or None
    elif is_streamed(size):
        promised = None
    if promised is not None and promised <= room:
        joined, is_more = _behind(content, start + promised, order)
        if is_more:
            promised = None
    there = room if promised is None else min(promised, room)

    def header(num_bytes: int) -> bytes:
        return _riff_header(num_bytes, order, parts)

    is_plain = is_usual and promised is not None and not joined
    mpeg = len(parts[b"fmt "]) >= 2 and struct.unpack_from(order + "H", parts[b"fmt "])[0] in _MPEG_IN_WAV
    return Layout(start, there, promised, None if is_plain else header, joined, mpeg)


def _riff_header(size: int, order: str, parts: dict[bytes, bytes]) -> bytes:
    """The chunks that a decoder needs, before that many bytes of samples; beyond 4 GB as RF64."""
    chunks = {tag: part for tag, part in parts.items() if tag != b"ds64"}
    body = b"".join(
        tag + struct.pack(order + "I", len(part)) + part + b"\0" * (len(part) % 2) for tag, part in chunks.items()
    )
    total = 4 + len(body) + 8 + size
    if total < 2**32 - 1:
        form = b"RIFX" if order == ">" else b"RIFF"
        return form + struct.pack(order + "I", total) + b"WAVE" + body + b"data" + struct.pack(order + "I", size)
    large = b"ds64" + struct.pack("<IQQQI", 28, total + 36, size, 0, 0)
    return b"RF64\xff\xff\xff\xffWAVE" + large + body + b"data\xff\xff\xff\xff"


def _patched(content: Bytes, start: int, fields: list[tuple[int, str, int]]) -> Callable[[int], bytes]:
    """A header with sizes written into it: (where, code, what is added to the bytes of samples) each."""

    def header(num_bytes: int) -> bytes:
        head = bytearray(content[:start])
        for at, code, more in fields:
            struct.pack_into(code, head, at, num_bytes + more)
        return bytes(head)

    return header


def _wave64(content: Bytes, name: str) -> Layout | None:
    at = 40
    for _ in range(MAX_CHUNKS):
        if at + 24 > len(content):
            break
        size = _int(content, at + 16, "<Q")
        if content[at : at + 4] == b"data":
            start, room = at + 24, len(content) - at - 24
            known = 24 < size < 2**62 and not is_streamed(size)
            patched = _patched(content, start, [(at + 16, "<Q", 24), (16, "<Q", start)])
            promised = size - 24 if known else None
            return Layout(
                start, room if promised is None else min(promised, room), promised, None if known else patched
            )
        if size < 24:
            return None
        at += -(-size // 8) * 8
    return None


def _aiff(content: Bytes, name: str) -> Layout | None:
    frames_at, frame_bytes = 0, 0
    for tag, start, size in _chunks(content, 12, ">"):
        if tag == b"COMM":
            channels, bits = _int(content, start, ">H"), _int(content, start + 6, ">H")
            coded = content[start + 18 : start + 22] if content[8:12] == b"AIFC" else b"NONE"
            frames_at, frame_bytes = start + 2, _sample_bytes(coded, bits) * channels
        if tag == b"SSND":
            first = start + 8
            room, known = len(content) - first, size > 8 and not is_streamed(size)
            declared = frame_bytes * _int(content, frames_at, ">I") if frame_bytes else 0
            promised = size - 8 if known or (size == 8 and not room) else None
            if promised is None and declared and not is_streamed(declared) and declared <= room:
                promised = declared
            there = room if promised is None else min(promised, room)
            return Layout(
                first, there, promised, None if known else _aiff_header(content, first, frames_at, frame_bytes)
            )
    return None


def _sample_bytes(coded: bytes, bits: int) -> int:
    """Bytes of one sample of a coding of AIFC; 0 where it is packed."""
    return {b"ulaw": 1, b"ULAW": 1, b"alaw": 1, b"ALAW": 1, b"ima4": 0, b"GSM ": 0}.get(coded, -(-bits // 8))


def _aiff_header(content: Bytes, first: int, frames_at: int, frame_bytes: int) -> Callable[[int], bytes]:
    patch = _patched(content, first, [(first - 12, ">I", 8), (4, ">I", first - 8)])

    def header(num_bytes: int) -> bytes:
        head = bytearray(patch(num_bytes))
        if frame_bytes and frames_at:
            struct.pack_into(">I", head, frames_at, num_bytes // frame_bytes)
        return bytes(head)

    return header


def _au(content: Bytes, name: str) -> Layout | None:
    start, size = _int(content, 4, ">I"), _int(content, 8, ">I")
    room = len(content) - start
    if room < 0 or start < 24:
        return None
    known = not is_streamed(size) and not (size == 0 and room)
    there = min(size, room) if known else room
    joined = start + size if known and content[start + size :][:4] == b".snd" else 0
    header = None if known and not joined else _patched(content, start, [(8, ">I", 0)])
    return Layout(start, there, size if known else None, header, joined)


def _sphere(content: Bytes, name: str) -> Layout | None:
    head = content[: 1 << 16]
    fields = dict(re.findall(rb"^(\w+) -\w+ ([^\n;]*)", head.split(b"end_head", 1)[0], re.MULTILINE))
    coding = fields.get(b"sample_coding", b"pcm").decode("ascii", "replace").strip()
    if "," in coding:
        raise AudioError(f"{name} is SPHERE compressed as {coding}, which is not read; convert it with sph2pipe or sox")
    try:
        start = int(head[8:16])
        size = [int(fields.get(key, default)) for key, default in _SPHERE_SIZES]
    except ValueError:
        return None
    room, promised = len(content) - start, size[0] * size[1] * size[2]
    return Layout(start, min(promised, room), promised) if promised > 0 and min(size) > 0 and room >= 0 else None


_SPHERE_SIZES = ((b"sample_count", b"0"), (b"channel_count", b"1"), (b"sample_n_bytes", b"2"))


def _caf(content: Bytes, name: str) -> Layout | None:
    at = 8
    for _ in range(MAX_CHUNKS):
        if at + 12 > len(content):
            break
        tag, size = content[at : at + 4], _int(content, at + 4, ">q")
        if tag == b"data":
            start, room = at + 16, len(content) - at - 16
            known = size > 4 or (size >= 0 and not any(content[start : start + _LEAST_HIDDEN]))
            there = min(max(size - 4, 0), room) if known else room
            patched = _patched(content, start, [(at + 4, ">q", 4)])
            promised = max(size - 4, 0) if known else None
            return Layout(start, there, promised, None if there == promised else patched)
        if size < 0:
            return None
        at += 12 + size
    return None


def _voc(content: Bytes, name: str) -> Layout | None:
    """Blocks of a kind and 24 bits of size; the samples are in those of kinds 1, 2 and 9."""
    at, there, promised = _int(content, 20, "<H"), 0, 0
    start = at
    for _ in range(MAX_CHUNKS):
        kind = content[at : at + 1]
        if at + 4 > len(content) or kind == b"\0":
            break
        size = _int(content, at + 1, "<I") & 0xFFFFFF if at + 5 <= len(content) else 0
        if kind in (b"\1", b"\2", b"\x09"):
            promised += size
            there += min(size, len(content) - at - 4)
        at += 4 + size
    return Layout(start, there, promised) if promised else None


_READERS: dict[str, Callable[[Bytes, str], Layout | None]] = {
    "wav": _riff, "rf64": _riff, "w64": _wave64, "aiff": _aiff, "au": _au, "sphere": _sphere, "caf": _caf, "voc": _voc,
}  # fmt: skip
