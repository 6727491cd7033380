"""Reading and writing checkpoints. Nothing that is read may execute code.

Read are this project's files, icefall's (whose pickles hold paths, dtypes and numpy scalars), bare state dicts such as
ZIPA's ``.pth``, ``{"model": state_dict}``, and safetensors.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from couloir.checkpoint_headers import is_torchscript
from couloir.errors import UserError, must_be
from couloir.files import atomic_write
from couloir.integrity import CHECKSUM, Damaged, check_archive, checksum, is_plain

Weights = dict[str, Tensor]

# The functions that numpy's pickles call to make a scalar and an array.
NUMPY_SCALAR, NUMPY_ARRAY = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
# What icefall's pickles name besides tensors. A path is read as a pure path, which touches no file.
ALLOWED: list[Any] = [
    *(
        (PurePosixPath, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "PurePosixPath")
    ),
    *((PureWindowsPath, f"{module}.WindowsPath") for module in ("pathlib", "pathlib._local")),
    np.dtype,
    np.ndarray,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "u4", "bool")),
    *((NUMPY_SCALAR, f"{module}.multiarray.scalar") for module in ("numpy.core", "numpy._core")),
    *((NUMPY_ARRAY, f"{module}.multiarray._reconstruct") for module in ("numpy.core", "numpy._core")),
]
# Tensors whose size follows the vocabulary.
VOCABULARY = re.compile(
    r"^(ctc_output\.|decoder\.embedding|joiner\.output_linear|simple_(am|lm)_proj|attention_decoder)"
)


def load_checkpoint(path: Path, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Args:
        path: the file; of one that ends in ``.safetensors`` the tensors are the entry ``model``, and the configuration
            in its metadata, if any, is ``config``.
        mmap: map it instead of reading it, to look at a few entries.

    Raises:
        UserError: the file is missing, cut off, damaged (of a mapped one the tensors are not looked at), no checkpoint,
            or would run code.
    """
    if not path.is_file():
        if path.exists():
            raise must_be(str(path), "a checkpoint", "no regular file")
        raise UserError(f"checkpoint {path} does not exist")
    with reading(path):
        loaded = _load_safetensors(path) if path.suffix == ".safetensors" else _load_pickled(path, mmap)
    if not isinstance(loaded, dict):
        raise must_be(str(path), "a checkpoint", f"a pickled {type(loaded).__name__}")
    return loaded


def _load_pickled(path: Path, mmap: bool) -> Any:
    if is_torchscript(path):  # torch says so in a warning of several lines
        raise must_be(str(path), "a checkpoint", "TorchScript", "give the one that it was exported from")
    check_archive(path, whole=not mmap)
    # Old files are not in zip form and cannot be mapped.
    mmap = mmap and zipfile.is_zipfile(path)
    try:
        with torch.serialization.safe_globals(ALLOWED), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the unpickler, on how the file was written
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise _unpickling_error(path, str(error)) from None


def verify_checkpoint(path: Path) -> None:
    """Compare all of a file with its checksums. Raises `UserError` where it is damaged."""
    with reading(path):
        check_archive(path, whole=True)


class CheckpointReader:
    """Checkpoints that one program looks into and reads, each of them unpickled once."""

    def __init__(self) -> None:
        self._seen: dict[Path, dict[str, Any]] = {}

    def look(self, path: Path) -> dict[str, Any]:
        """A checkpoint whose tensors are mapped and not compared with their checksums. Raises as `load_checkpoint`."""
        if path not in self._seen:
            self._seen[path] = load_checkpoint(path, mmap=True)
        return self._seen[path]

    def weights(self, path: Path) -> Weights:
        """The state dict of a checkpoint that was looked at. Raises as `model_weights`."""
        return model_weights(self.look(path), str(path))

    def read(self, path: Path) -> dict[str, Any]:
        """A whole checkpoint, which is not kept here any longer. Raises as `load_checkpoint`."""
        if path not in self._seen:
            return load_checkpoint(path)
        verify_checkpoint(path)
        return self._seen.pop(path)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Any exception that the content of a foreign or damaged checkpoint leads to inside is a `UserError` naming it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise _damaged(path, error) from None


def _load_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        # Iterating over the file itself is not possible.
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata() or {}
    config = metadata.get("config", "")
    if CHECKSUM in metadata and metadata[CHECKSUM] != checksum(weights, config):
        raise Damaged("its checksum differs")
    try:
        return {"model": weights, "config": json.loads(config)}
    except (ValueError, RecursionError):
        return {"model": weights}


def _damaged(path: Path, error: Exception) -> UserError:
    reason = str(error).split(". ")[0].split("\n")[0][:200]
    reason = reason or (type(error).__name__ if path.stat().st_size else "it is empty")
    return UserError(f"checkpoint {path} is damaged or cut off ({reason}); fetch it again or use another")


def _unpickling_error(path: Path, text: str) -> UserError:
    # torch names a builtin without its module.
    found = re.search(r"GLOBAL ([\w.]+)|(?:instantiate|reduce for|class) ([a-zA-Z_][\w.]*\.\w+)", text)
    if found:
        name = found[1] or found[2]
        name = name if "." in name else f"builtins.{name}"
        return UserError(f"checkpoint {path} is refused: it asks for `{name}` to be run; only plain values load")
    if "Unsupported operand" in text and zipfile.is_zipfile(path):
        return UserError(
            f"checkpoint {path} is refused: it is pickled by a protocol that is not read; save it by torch.save's own"
        )
    return UserError(f"checkpoint {path} is damaged or no checkpoint; fetch it again or use another")


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint beside its final name and move it into place.

    Raises:
        OSError: it cannot be written, on a full disk for one. What stood at ``path`` is untouched.
    """
    with atomic_write(path) as out:
        try:
            torch.save(dict(content), out)
        except RuntimeError as error:
            # torch's writer reports a failed write as a RuntimeError, which may tell of its own state alone.
            cause = error.__context__
            raise cause if isinstance(cause, OSError) else OSError(str(error).splitlines()[0]) from error


def model_weights(checkpoint: Mapping[str, Any], origin: str, entry: str = "model") -> Weights:
    """The state dict in a checkpoint, or the checkpoint itself if it is one; ``module.`` prefixes are removed.

    Raises:
        UserError: there is none.
    """
    weights = checkpoint.get(entry, checkpoint if entry == "model" else None)
    if not isinstance(weights, Mapping) or not weights or not all(_is_weight(*item) for item in weights.items()):
        raise UserError(f"checkpoint {origin} holds no `{entry}` state dict")
    hollow = next((name for name, tensor in weights.items() if not is_plain(tensor)), None)
    if hollow is not None:
        raise UserError(f"checkpoint {origin} is refused: the values of its `{hollow}` are not all in the file")
    return {name.removeprefix("module."): tensor for name, tensor in weights.items()}


def _is_weight(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], origin: str) -> list[str]:
    """Copy ``weights`` into ``model``, every tensor of which must be there with its shape.

    Heads that the model does not have are left out.

    Args:
        model: the model. weights: a state dict. origin: what to call it in an error.

    Returns:
        The names of the tensors that were left out.

    Raises:
        UserError: the first tensor that is missing, has another shape, or has no place in a part that the model has.
    """
    weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    own = model.state_dict()
    flags = "give the model flags that it was trained with"
    for name, tensor in own.items():
        if name not in weights:
            raise UserError(f"{origin} has no tensor `{name}` {tuple(tensor.shape)}; {flags}")
        if weights[name].shape != tensor.shape:
            remedy = "give the tokenizer (--bpe-model) that it was trained with" if VOCABULARY.match(name) else flags
            raise must_be(f"{origin}: {name}", f"{tuple(tensor.shape)}", tuple(weights[name].shape), remedy)
    parts = {name.split(".")[0] for name in own}
    left_out = [name for name in weights if name not in own]
    for name in left_out:
        if name.split(".")[0] in parts:
            raise UserError(
                f"{origin} holds `{name}` {tuple(weights[name].shape)}, for which the model has no place; {flags}"
            )
    model.load_state_dict({name: weights[name] for name in own})
    return left_out
