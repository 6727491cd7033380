"""What an ONNX file says of other files: its weights may lie beside it, and nowhere else. Needs no package.

ONNX Runtime opens the files that a model names. Newer versions keep to the model's folder by themselves.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath

from couloir.errors import UserError, must_be

# Numbers of the fields of onnx.proto that lead to tensors, by message.
_LEADING = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {1: "key", 2: "value"},
}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def external_data(path: Path) -> list[Path]:
    """The files with weights that a model file names.

    Raises:
        UserError: one of them is not in the model's folder, or not there; or the file is damaged.
    """
    if not path.is_file() or not path.stat().st_size:
        return []
    names = _named(path, path.stat().st_mtime_ns)
    for name in names:
        pure = PurePosixPath(name), PureWindowsPath(name)
        if not name or any(part.is_absolute() or part.drive or part.root or ".." in part.parts for part in pure):
            raise must_be(f"the file of weights that {path} names", "in the model's own folder", repr(name))
        if not (path.parent / name).is_file():
            raise UserError(f"{path} has its weights in {name}, which is not beside it; copy or fetch it, too")
    return [path.parent / name for name in names]


@lru_cache
def _named(path: Path, _mtime_ns: int) -> list[str]:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            return sorted(set(_locations(content)))
        except (IndexError, ValueError):
            raise UserError(f"{path} cannot be loaded by ONNX Runtime: it is damaged or no model") from None


def _locations(content: mmap.mmap) -> Iterator[str]:
    """The values of the entries ``location`` of all tensors. Raises `ValueError` or `IndexError` for a damaged file."""
    waiting = [("model", 0, len(content))]
    while waiting:
        message, start, stop = waiting.pop()
        children = [(_LEADING[message].get(number), a, b) for number, a, b in _fields(content, start, stop)]
        if message == "entry":
            entry = {name: content[a:b] for name, a, b in children if name}
            if entry.get("key") == b"location":
                yield entry.get("value", b"").decode("utf-8", "replace")
        else:
            waiting += [(name, a, b) for name, a, b in children if name]


def _fields(content: mmap.mmap, at: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Number, first byte and end of each field of a message that holds bytes; the others are passed over."""
    while at < stop:
        tag, at = _varint(content, at)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(content, at)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            size, at = _varint(content, at)
            yield tag >> 3, at, at + size
            at += size
        else:
            raise ValueError("onnx.proto has no such kind of field")
    if at > stop:
        raise ValueError("a field is longer than its message")


def _varint(content: mmap.mmap, at: int) -> tuple[int, int]:
    """A number of seven bits per byte, the lowest first, and the place after it."""
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
