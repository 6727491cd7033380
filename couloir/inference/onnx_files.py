"""What an ONNX file says of other files, whose weights may lie beside it and nowhere else; and of its integer products.

ONNX Runtime opens the files that a model names. Newer versions keep to the model's folder by themselves. Needs numpy.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from couloir.errors import UserError, must_be
from couloir.inference.protobuf import BYTES, DEEPEST, VARINT, Content, fields, number_at

# Numbers of the fields of onnx.proto that lead to tensors, by message.
LEADING = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_DATA, _KEY, _VALUE = 13, 1, 2
_OP_TYPE, _INPUT = 4, 1
_NAME, _DATA_TYPE, _RAW_DATA, _INT8 = 8, 2, 9, 3
_PRODUCTS = (b"MatMulInteger", b"ConvInteger", b"DynamicQuantizeMatMul", b"MatMulIntegerToFloat")
"""Operators that multiply integers, weights being their second input."""
# ONNX Runtime takes a location of this name for an address in its own memory.
_MEMORY = "_ORT_MEM_ADDR_"
LARGEST_SAFE = 64
"""Of a signed weight: two products with 255, the largest activation, then fit the 16 bits in which they are added."""


@dataclass(frozen=True)
class _Weight:
    """An int8 tensor: its name, the first byte and the end of its values, and where they are if not here."""

    name: bytes
    extent: tuple[int, int]
    external: dict[str, str]


@dataclass
class _Contents:
    locations: set[str] = field(default_factory=set)
    multiplied: set[bytes] = field(default_factory=set)
    weights: list[_Weight] = field(default_factory=list)


def external_data(path: Path) -> list[Path]:
    """The files with weights that a model file names.

    Raises:
        UserError: one of them is not in the model's folder, or not there; or the file is damaged.
    """
    names = sorted(_contents(path).locations)
    for name in names:
        if not _is_inside(path, name):
            raise must_be(f"the file of weights that {path} names", "in the model's own folder", repr(name))
        if not os.path.isfile(path.parent / name):
            raise UserError(f"{path} has its weights in {name}, which is not beside it; copy or fetch it, too")
    return [path.parent / name for name in names]


def _is_inside(path: Path, name: str) -> bool:
    """Whether a location is below the model's folder, by every system's rules, and links lead to nowhere else.

    The folder in which the model really is counts too: a hub's cache holds links to both files.
    """
    for pure in (PurePosixPath(name), PureWindowsPath(name)):
        if pure.is_absolute() or pure.drive or pure.root or ".." in pure.parts:
            return False
    if not name or "\0" in name or _MEMORY in name:
        return False
    found = Path(os.path.realpath(path.parent / name))
    homes = Path(os.path.realpath(path.parent)), Path(os.path.realpath(path)).parent
    return any(found.is_relative_to(home) for home in homes)


def integer_bits(path: Path) -> int:
    """How many bits the signed weights have that a file multiplies as integers: 7 or 8; 0 without such weights.

    Raises `UserError` for a damaged file.
    """
    found = _contents(path)
    largest = [_largest(path, weight) for weight in found.weights if weight.name in found.multiplied]
    return (7 if max(largest) <= LARGEST_SAFE else 8) if largest else 0


def multiplies_integers(path: Path) -> bool:
    """Whether there are products of integers in a file. Raises `UserError` for a damaged one."""
    return bool(_contents(path).multiplied)


def _largest(path: Path, weight: _Weight) -> int:
    """The largest absolute value of a tensor; 128, which is the largest of all, where its values are not found."""
    (start, stop), place = weight.extent, path
    try:
        if weight.external:
            place, start = path.parent / weight.external["location"], int(weight.external.get("offset", "0"))
            stop = start + int(weight.external.get("length", place.stat().st_size - start))
        values = np.fromfile(place, np.int8, max(stop - start, 0), offset=start)
    except (KeyError, ValueError, OSError):
        return 128
    return max(int(values.max()), -int(values.min())) if values.size else 128


def _contents(path: Path) -> _Contents:
    is_there = path.is_file() and path.stat().st_size
    return _read(path, path.stat().st_mtime_ns) if is_there else _Contents()


@lru_cache
def _read(path: Path, _mtime_ns: int) -> _Contents:
    found = _Contents()
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            _collect(content, "model", 0, len(content), found)
        except ValueError:
            raise UserError(f"{path} cannot be loaded by ONNX Runtime: it is damaged or no model") from None
    return found


def _collect(content: Content, message: str, start: int, stop: int, found: _Contents, depth: int = 0) -> None:
    """What a message holds, and those in it. One that is given twice is one message, in which all of both is."""
    if depth > DEEPEST:
        raise ValueError("messages are nested too deeply")
    operator, inputs = b"", []
    for number, kind, first, end in fields(content, start, stop):
        if kind != BYTES:
            continue
        inner = LEADING[message].get(number)
        if inner == "tensor":
            _add_tensor(content, first, end, found)
        elif inner:
            _collect(content, inner, first, end, found, depth + 1)
        elif message == "node" and number == _OP_TYPE:
            operator = content[first:end]
        elif message == "node" and number == _INPUT:
            inputs.append(content[first:end])
    if operator in _PRODUCTS:
        found.multiplied.update(inputs[1:2])  # the weights; activations stand before them, zero points behind


def _add_tensor(content: Content, start: int, stop: int, found: _Contents) -> None:
    name, data_type, extent, external = b"", 0, (0, 0), {}
    for number, kind, first, end in fields(content, start, stop):
        if kind == VARINT and number == _DATA_TYPE:
            data_type = number_at(content, first, end)
        elif kind == BYTES and number == _NAME:
            name = content[first:end]
        elif kind == BYTES and number == _RAW_DATA:
            extent = first, end
        elif kind == BYTES and number == _EXTERNAL_DATA:
            key, value = _entry(content, first, end)
            external[key] = value
            if key == "location":
                found.locations.add(value)
    if data_type == _INT8 and name:
        found.weights.append(_Weight(name, extent, external))


def _entry(content: Content, start: int, stop: int) -> tuple[str, str]:
    parts = {number: content[first:end] for number, kind, first, end in fields(content, start, stop) if kind == BYTES}
    return os.fsdecode(parts.get(_KEY, b"")), os.fsdecode(parts.get(_VALUE, b""))
