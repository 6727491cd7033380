"""What a checkpoint holds but for the values of its tensors, read without torch, whose import takes seconds.

Names, shapes and plain values of the files that torch.save and safetensors write today. Nothing that is read can run
code: what a pickle names is looked up in the table below and nowhere else. A file that holds anything else is for
`couloir.checkpoint`, which says what is wrong with it.
"""

from __future__ import annotations

import collections
import json
import math
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from couloir.errors import UserError

MAX_HEADER_BYTES = 64 << 20
_STORAGE = re.compile(r"(\w*Storage|UntypedStorage|(b?float|u?int|complex)\d+|bool|device)")


class NotPlain(Exception):
    """A file that is to be read by `couloir.checkpoint`."""


@dataclass(frozen=True)
class TensorHeader:
    """A tensor's shape."""

    shape: tuple[int, ...]

    def numel(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]


class _Value:
    """What stands for a dtype, a storage or a device, of which nothing is asked."""

    def __init__(self, *_: Any) -> None: ...


def _tensor(storage: Any, offset: int, shape: tuple[int, ...], *_: Any) -> TensorHeader:
    return TensorHeader(tuple(map(int, shape)))


def _parameter(tensor: TensorHeader, *_: Any) -> TensorHeader:
    return tensor


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module in ("torch", "torch.storage") and _STORAGE.fullmatch(name):
            return _Value
        raise NotPlain

    def persistent_load(self, pid: Any) -> _Value:
        return _Value()


class HeaderReader:
    """As `couloir.checkpoint.CheckpointReader`, without values. Its methods raise `NotPlain`, too."""

    def __init__(self) -> None:
        self._seen: dict[Path, dict[str, Any]] = {}

    def look(self, path: Path) -> dict[str, Any]:
        """What a file holds, its tensors as `TensorHeader`."""
        if path not in self._seen:
            try:
                content = _of_safetensors(path) if path.suffix == ".safetensors" else _of_archive(path)
            except Exception:  # of a foreign file's content; torch's reader tells what it is
                raise NotPlain from None
            self._seen[path] = content
        return self._seen[path]

    def weights(self, path: Path) -> dict[str, TensorHeader]:
        """The headers of a file's state dict."""
        content = self.look(path)
        found = content.get("model", content)
        if not isinstance(found, Mapping) or not found:
            raise NotPlain
        if not all(isinstance(name, str) and isinstance(value, TensorHeader) for name, value in found.items()):
            raise NotPlain
        return {name.removeprefix("module."): tensor for name, tensor in found.items()}


def _of_archive(path: Path) -> dict[str, Any]:
    if is_torchscript(path):
        raise NotPlain
    with zipfile.ZipFile(path) as archive:
        (entry,) = (info for info in archive.infolist() if re.fullmatch(r"[^/]+/data\.pkl", info.filename))
        if entry.file_size > MAX_HEADER_BYTES:
            raise NotPlain
        with archive.open(entry) as file:
            content = _Unpickler(file).load()
    if not isinstance(content, dict):
        raise NotPlain
    return content


def _of_safetensors(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        header = json.loads(_exactly(file, int.from_bytes(_exactly(file, 8), "little")))
    metadata = header.pop("__metadata__", {})
    content: dict[str, Any] = {"model": {name: TensorHeader(tuple(entry["shape"])) for name, entry in header.items()}}
    try:
        return {**content, "config": json.loads(metadata.get("config", ""))}
    except (ValueError, RecursionError):
        return content


def _exactly(file: IO[bytes], size: int) -> bytes:
    if size > MAX_HEADER_BYTES or len(data := file.read(size)) != size:
        raise NotPlain
    return data


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript program, which holds code beside its weights."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = {name.partition("/")[2].partition("/")[0] for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return False
    return {"constants.pkl", "code"} <= parts


def number(checkpoint: Mapping[str, Any], entry: str, origin: object, default: float | None = None) -> float:
    """A number that a checkpoint holds. Raises `UserError` where it holds none and there is no ``default``."""
    value = checkpoint.get(entry, default)
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise UserError(f"checkpoint {origin} holds no number `{entry}`; use another")
    return found
