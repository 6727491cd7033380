"""Ogg (Vorbis, Opus, FLAC, Speex) page by page (RFC 3533): where joined streams begin, and whether they end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_FIRST, _LAST = 2, 4
_HEADER = 27


@dataclass
class Link:
    """One of the files that a content is joined of, from ``start`` to ``stop``; whether it says that it ends."""

    start: int
    stop: int
    ends: bool = False


@dataclass(frozen=True)
class _Page:
    start: int
    stop: int
    flags: int


def _pages(content: bytes) -> Iterator[_Page]:
    """The pages, the last of which may reach beyond the end."""
    at = content.find(b"OggS")
    while at >= 0 and at + _HEADER <= len(content):
        segments = content[at + 26]
        sizes = content[at + _HEADER : at + _HEADER + segments]
        stop = at + _HEADER + segments + sum(sizes)
        yield _Page(at, stop, content[at + 5])
        at = content.find(b"OggS", stop if stop <= len(content) else len(content))


def links(content: bytes) -> tuple[list[Link], bool]:
    """The streams that follow one another in a file, and whether its last page is whole."""
    found: list[Link] = []
    in_head, whole, stop = False, True, 0
    for page in _pages(content):
        first = bool(page.flags & _FIRST)
        if first and not in_head:
            if found:
                found[-1].stop = page.start
            found.append(Link(page.start, len(content)))
        in_head = first
        if found and page.flags & _LAST and page.stop <= len(content):
            found[-1].ends = True
        whole, stop = page.stop <= len(content), page.stop
    rest = content[stop:] if whole else b""
    return found, whole and not rest.startswith(b"OggS")
