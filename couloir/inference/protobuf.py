"""Protobuf's wire format as its C++ library reads it, which is what ONNX Runtime sees of a file. Needs no package."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

VARINT, FIXED64, BYTES, GROUP, GROUP_END, FIXED32 = range(6)
DEEPEST = 100
"""Messages and groups inside one another, at most; protobuf refuses deeper ones."""
_FIXED = {FIXED64: 8, FIXED32: 4}
_LONGEST_NUMBER, _LONGEST_TAG = 10, 5
_UINT32 = 0xFFFFFFFF
Content = bytes | mmap.mmap
Field = tuple[int, int, int, int]
"""Number, kind, first byte of the value, and the one behind it."""


def fields(content: Content, at: int, stop: int) -> Iterator[Field]:
    """The fields of the message between two places, in their order; groups are passed over, as no message here has one.

    Raises:
        ValueError: the message is damaged.
    """
    while at < stop:
        tag, start = _number(content, at, stop, _LONGEST_TAG)
        number, kind = (tag & _UINT32) >> 3, tag & 7  # what stands above 32 bits is lost
        if number == 0:
            raise ValueError("no field has the number 0")
        if kind == GROUP:
            at = _behind_group(content, start, stop, number)
            continue
        start, at = _extent(content, start, stop, kind)
        yield number, kind, start, at


def number_at(content: Content, start: int, stop: int) -> int:
    """The value of a field of the kind `VARINT`, of an enumeration or another type of 32 bits."""
    return _number(content, start, stop, _LONGEST_NUMBER)[0] & _UINT32


def _behind_group(content: Content, at: int, stop: int, number: int) -> int:
    opened = [number]
    while opened:
        tag, at = _number(content, at, stop, _LONGEST_TAG)
        number, kind = (tag & _UINT32) >> 3, tag & 7
        if number == 0 or (kind == GROUP and len(opened) == DEEPEST) or (kind == GROUP_END and number != opened[-1]):
            raise ValueError("a group has no end, or another one's")
        if kind == GROUP:
            opened.append(number)
        elif kind == GROUP_END:
            opened.pop()
        else:
            at = _extent(content, at, stop, kind)[1]
    return at


def _extent(content: Content, at: int, stop: int, kind: int) -> tuple[int, int]:
    """First byte and end of a value."""
    if kind == VARINT:
        end = _number(content, at, stop, _LONGEST_NUMBER)[1]
    elif kind == BYTES:
        size, at = _number(content, at, stop, _LONGEST_TAG)
        end = at + size
    elif kind in _FIXED:
        end = at + _FIXED[kind]
    else:
        raise ValueError("there is no such kind of field")
    if end > stop:
        raise ValueError("a field is longer than its message")
    return at, end


def _number(content: Content, at: int, stop: int, longest: int) -> tuple[int, int]:
    """A number of seven bits per byte, the lowest first, and the place behind it; zeros on top are allowed."""
    value = 0
    for shift in range(0, 7 * longest, 7):
        if at >= stop:
            break
        byte = content[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
    raise ValueError("a number is longer than its message, or than there are")
