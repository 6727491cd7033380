"""Ogg (Vorbis, Opus, FLAC, Speex) page by page (RFC 3533): where joined streams begin, and whether they end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

_FIRST, _LAST = 2, 4
_HEADER = 27


@dataclass
class Link:
    """One of the files that a content is joined of.

    Attributes:
        start, stop: where it is. heads: how each of its streams begins, which names its codec.
        ends: whether it says that it ends.
    """

    start: int
    stop: int
    heads: list[bytes] = field(default_factory=list)
    ends: bool = False

    def is_plain(self) -> bool:
        """Whether it is one stream of Vorbis or Opus."""
        return len(self.heads) == 1 and self.heads[0].startswith((b"\x01vorbis", b"OpusHead"))


@dataclass(frozen=True)
class _Page:
    start: int
    stop: int
    flags: int
    head: bytes


def _pages(content: bytes) -> Iterator[_Page]:
    """The pages, the last of which may reach beyond the end."""
    at = content.find(b"OggS")
    while at >= 0 and at + _HEADER <= len(content):
        segments = content[at + 26]
        sizes = content[at + _HEADER : at + _HEADER + segments]
        stop = at + _HEADER + segments + sum(sizes)
        first = at + _HEADER + segments
        yield _Page(at, stop, content[at + 5], content[first : first + 8])
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
        if first:
            found[-1].heads.append(page.head)
        in_head = first
        if found and page.flags & _LAST and page.stop <= len(content):
            found[-1].ends = True
        whole, stop = page.stop <= len(content), page.stop
    rest = content[stop:] if whole else b""
    return found, whole and not rest.startswith(b"OggS")
