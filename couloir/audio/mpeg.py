"""MPEG audio (MP3) counted frame by frame.

What an MP3 file says of its length is a guess: without a count of frames in its first one (Xing, Info, VBRI) a decoder
takes the size of the file over the first frame's bit rate, and a file joined to another is behind the count of the
first. Here the frames are counted, and each file of a joined one gets a first frame that says how many there are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from couloir.audio.chunks import Bytes

_KBITS = {  # (MPEG-1?, layer) -> by the header's four bits
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44100, 48000, 32000)
_HALVINGS = {3: 0, 2: 1, 0: 2}  # the two bits of the version: MPEG-1, 2, 2.5
_VBRI_AT = 36
_LEAST_FRAMES = 3


@dataclass(frozen=True)
class Frame:
    """A frame's header: size in bytes, samples of each channel, rate in Hz; where its side information ends."""

    size: int
    samples: int
    rate: int
    layer: int
    channels: int
    side_end: int

    def form(self) -> tuple[int, int, int]:
        """What does not change within a file."""
        return self.rate, self.layer, self.channels


@lru_cache(maxsize=4096)
def _frame(kind: int, rates: int, mode: int) -> Frame | None:
    """By the three bytes behind a frame's 0xFF; None where they are no header, or say nothing of the size."""
    version, layer = (kind >> 3) & 3, 4 - ((kind >> 1) & 3)
    bits, rate_index, padding = rates >> 4, (rates >> 2) & 3, (rates >> 1) & 1
    if kind < 0xE0 or version == 1 or layer == 4 or bits in (0, 15) or rate_index == 3:
        return None
    first = version == 3
    rate = _RATES[rate_index] >> _HALVINGS[version]
    bit_rate = 1000 * _KBITS[first, layer][bits]
    samples = 384 if layer == 1 else 576 if layer == 3 and not first else 1152
    size = 4 * (12 * bit_rate // rate + padding) if layer == 1 else samples // 8 * bit_rate // rate + padding
    channels = 1 if mode >> 6 == 3 else 2
    side = (17 if channels == 1 else 32) if first else (9 if channels == 1 else 17)
    return Frame(size, samples, rate, layer, channels, 4 + side)


def _frame_at(content: bytes, at: int) -> Frame | None:
    if not 0 <= at <= len(content) - 4 or content[at] != 0xFF:
        return None
    return _frame(content[at + 1], content[at + 2], content[at + 3] & 0xC0)


def after_id3(content: Bytes, at: int = 0) -> int:
    """Where the ID3v2 tags that begin here end: seven bits of each of four bytes are a tag's size."""
    while content[at : at + 3] == b"ID3" and len(content) >= at + 10:
        size = 0
        for byte in content[at + 6 : at + 10]:
            size = size * 128 + (byte & 127)
        at += 10 + size
    return at


def _after_tag(content: bytes, at: int) -> int:
    """Where a tag that begins here ends; ``at`` where none does."""
    if content[at : at + 3] == b"TAG":
        return at + 128
    if content[at : at + 8] == b"APETAGEX" and len(content) >= at + 16:
        return at + 32 + int(struct.unpack_from("<I", content, at + 12)[0])
    return after_id3(content, at)


def _continues(content: bytes, at: int) -> bool:
    """Whether a frame can end here: another follows, or a tag, or the end."""
    return at + 4 > len(content) or _frame_at(content, at) is not None or _after_tag(content, at) > at


def begins(head: bytes) -> bool:
    """Whether the first bytes of a recording are MPEG audio: frames up to their end, or several in a row later on."""
    start = at = next(_frame_starts(head), -1)
    for _ in range(_LEAST_FRAMES):
        frame = _frame_at(head, at)
        if frame is None:
            return start == 0 and at + 4 > len(head)
        at += frame.size
    return True


def _frame_starts(content: bytes, at: int = 0) -> Iterator[int]:
    """Where frames begin that another follows, or the end, skipping tags and what is none."""
    while at < len(content):
        after = _after_tag(content, at)
        if after > at:
            at = after
            continue
        frame = _frame_at(content, at)
        if frame and _continues(content, at + frame.size):
            yield at
            at += 1
        else:
            at = content.find(b"\xff", at + 1)
            if at < 0:
                return


@dataclass
class Run:
    """A file within a joined one: its frames, and how many of them it says there are (0: it does not)."""

    content: bytes
    first: Frame
    head: bytes = b""
    promised: int = 0
    count: int = 0
    spans: list[tuple[int, int]] = field(default_factory=list)

    def add(self, start: int, stop: int) -> None:
        """One more frame."""
        self.count += 1
        if self.spans and self.spans[-1][1] == start:
            start, _ = self.spans.pop()
        self.spans.append((start, stop))

    def lacking_s(self) -> float:
        """Seconds of the frames that are promised and not there."""
        return max(0, self.promised - self.count) * self.first.samples / self.first.rate

    def counted(self) -> bytes:
        """As a file whose first frame says how many there are; layers I and II have no such frames."""
        audio = b"".join(self.content[start:stop] for start, stop in self.spans)
        return _head(self, audio) + audio if self.first.layer == 3 else audio


def runs(content: bytes) -> list[Run]:
    """The files that a content of MPEG audio is joined of: one at each count, and where rate or channels change."""
    found: list[Run] = []
    for at, frame in _frames(content):
        promised = _promised(content, at, frame)
        if promised is not None:
            found.append(Run(content, frame, content[at : at + frame.size], promised))
            continue
        if not found or found[-1].first.form() != frame.form():
            found.append(Run(content, frame))
        found[-1].add(at, at + frame.size)
    return found


def _frames(content: bytes) -> Iterator[tuple[int, Frame]]:
    """The whole frames, each with where it begins; what a file was cut within is none."""
    at = next(_frame_starts(content), len(content))
    while at + 4 <= len(content):
        frame = _frame_at(content, at)
        if frame is None:
            at = next(_frame_starts(content, at), len(content))
            continue
        stop = at + frame.size
        if stop > len(content):
            return
        if not _continues(content, stop):
            inner = next(_frame_starts(content, at + 1), stop)
            if inner < stop:  # this one was cut, and another file begins within what it should have been
                at = inner
                continue
        yield at, frame
        at = stop


def _count_at(content: bytes, at: int, frame: Frame) -> int:
    """Where the count of Xing or Info is in a frame; -1 where there is none. Some write it behind a checksum."""
    start = at + frame.side_end
    return next((i for i in (start, start + 2) if content[i : i + 4] in (b"Xing", b"Info")), -1)


def _promised(content: bytes, at: int, frame: Frame) -> int | None:
    """The frames that a file's first one says there are, 0 where it leaves that out; None where it is sound itself."""
    if frame.layer != 3:
        return None
    found = _count_at(content, at, frame)
    if found >= 0 and len(content) >= found + 12:
        flags, count = struct.unpack_from(">II", content, found + 4)
        return int(count) if flags & 1 else 0
    found = at + _VBRI_AT
    if content[found : found + 4] == b"VBRI" and len(content) >= found + 18:
        return int(struct.unpack_from(">I", content, found + 14)[0])
    return None


def _head(run: Run, audio: bytes) -> bytes:
    """A first frame with the count of frames and bytes; what else the run's own says (encoder's delay) stays."""
    at = _count_at(run.head, 0, run.first)
    if at >= 0 and len(run.head) >= at + 16:
        head = bytearray(run.head)
        flags, total = struct.unpack_from(">I", head, at + 4)[0], (len(head) + len(audio)) & 0xFFFFFFFF
        if flags & 1:
            struct.pack_into(">I", head, at + 8, run.count)
            if flags & 2:
                struct.pack_into(">I", head, at + 12, total)
            return bytes(head)
    return _new_head(run, audio)


def _new_head(run: Run, audio: bytes) -> bytes:
    """A frame that holds nothing but the count, in the smallest size that it fits in, without a checksum."""
    _, kind, rates, mode = audio[:4] if audio else run.head[:4]
    for bits in range(1, 15):
        frame = _frame(kind | 1, (bits << 4) | (rates & 0x0C), mode & 0xC0)
        if frame and frame.size >= frame.side_end + 16:
            head = bytearray(frame.size)
            head[:4] = bytes([0xFF, kind | 1, (bits << 4) | (rates & 0x0C), mode])
            total = (len(head) + len(audio)) & 0xFFFFFFFF
            struct.pack_into(">4sIII", head, frame.side_end, b"Xing", 3, run.count, total)
            return bytes(head)
    return b""
