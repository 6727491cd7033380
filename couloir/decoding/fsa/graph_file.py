"""A decoding graph's ``.npz`` of any origin: sizes are checked before memory is taken, then every index."""

from __future__ import annotations

import math
import os
import stat
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from couloir.errors import UserError, must_be
from couloir.limits import EXPANSION_SLACK_BYTES, MAX_EXPANSION

ARCS = {"splits": ("i", 1), "label": ("i", 1), "next": ("i", 1), "score": ("f", 1), "aux": ("i", 2)}
MOVES = {"moves": ("i", 1), "move_next": ("i", 1), "move_score": ("f", 1), "move_aux": ("i", 2)}
TEXTS = {"pieces": ("U", 1), "words_digest": ("U", 0)}
_KINDS = {**ARCS, **MOVES, **TEXTS}
_WIDTHS = {"i": np.int64, "f": np.float32}
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_graph_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a graph's file by name, such that every index is within its range.

    Raises:
        UserError: the file is missing, damaged, larger than it may be, no graph, or has an index out of range.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError("no regular file")
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if not ARCS.keys() <= members.keys() <= _KINDS.keys() or len(members) < len(archive.infolist()):
                raise ValueError("arrays of other names")
            content, packed = sum(info.file_size for info in members.values()), Path(path).stat().st_size
            if content > MAX_EXPANSION * packed + EXPANSION_SLACK_BYTES:
                raise ValueError(f"{content} bytes out of {packed}")
            arrays = {}
            for name, info in members.items():
                with archive.open(info) as file:
                    arrays[name] = _array(file, name, info.file_size)
        _check_arcs(arrays)
        _check_moves(arrays)
        return arrays
    except FileNotFoundError:
        raise UserError(f"decoding graph {path} does not exist; build it with prepare_lm.py") from None
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError,
            SyntaxError, OverflowError, zlib.error) as error:  # fmt: skip
        found = f"something else, or damaged ({str(error)[:160]})"
        raise must_be(str(path), "a decoding graph (.npz) written by this program", found) from None


def _array(file: IO[bytes], name: str, size: int) -> np.ndarray:
    """An array, once its header promises no more than its member holds."""
    shape, fortran, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
    kind, dimensions = _KINDS[name]
    if dtype.kind != kind or len(shape) != dimensions or (fortran and dimensions > 1):
        raise ValueError(f"{name} is {dtype} of shape {shape}")
    expected = math.prod(shape) * dtype.itemsize
    if expected != size - file.tell() or min(shape, default=0) < 0:
        raise ValueError(f"{name} says {expected} bytes")
    data = file.read(expected)
    if len(data) != expected or file.read(1):
        raise ValueError(f"{name} is cut off")
    array = np.frombuffer(data, dtype).reshape(shape)
    return array.astype(_WIDTHS.get(kind, dtype))


def _check_arcs(arrays: dict[str, np.ndarray]) -> None:
    splits, label, target = arrays["splits"], arrays["label"], arrays["next"]
    states, arcs = len(splits) - 1, len(label)
    _check_splits("splits", splits, arcs)
    if states < 1 or any(len(arrays[name]) != arcs for name in ("next", "score", "aux")):
        raise ValueError("arrays of other lengths")
    _check_range("next", target, 0, states)
    _check_range("label", label, -1, 1 << 31)
    _check_range("aux", arrays["aux"], 0, 1 << 31)
    if not np.array_equal(label == -1, target == states - 1):
        raise ValueError("the end is entered by another label than -1")
    if splits[-1] != splits[-2] or not np.isfinite(arrays["score"]).all():
        raise ValueError("arcs behind the end, or scores that are no numbers")


def _check_moves(arrays: dict[str, np.ndarray]) -> None:
    given = MOVES.keys() & arrays.keys()
    if not given:
        return
    if given != MOVES.keys() or len(arrays["moves"]) != len(arrays["splits"]):
        raise ValueError("epsilon moves of other states")
    count = len(arrays["move_next"])
    _check_splits("moves", arrays["moves"], count)
    if len(arrays["move_score"]) != count or len(arrays["move_aux"]) != count:
        raise ValueError("epsilon moves of other lengths")
    _check_range("move_next", arrays["move_next"], 0, len(arrays["splits"]) - 1)
    _check_range("move_aux", arrays["move_aux"], 0, 1 << 31)
    if not np.isfinite(arrays["move_score"]).all():
        raise ValueError("scores that are no numbers")


def _check_splits(name: str, splits: np.ndarray, count: int) -> None:
    if not len(splits) or splits[0] != 0 or splits[-1] != count or (np.diff(splits) < 0).any():
        raise ValueError(f"{name} do not divide {count}")


def _check_range(name: str, values: np.ndarray, first: int, end: int) -> None:
    if values.size and not first <= values.min() <= values.max() < end:
        raise ValueError(f"{name} from {values.min()} to {values.max()}, outside {first} to {end - 1}")
