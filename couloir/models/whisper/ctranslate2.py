"""Weights in CTranslate2's binary format, version 6, as the Whisper files of faster-whisper are.

Little endian: version, name and revision of the specification, number of variables; of each variable its name, rank,
shape, kind, number of bytes and values; number of aliases, and of each its own and another's name. A text is its number
of bytes, with a closing zero, and they.

Shapes: D channels.
"""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from couloir.checkpoint import Weights, reading
from couloir.integrity import Damaged

VERSION, SPECIFICATION = 6, "WhisperSpec"
KINDS = (np.dtype("<f4"), np.dtype("i1"), np.dtype("<i2"), np.dtype("<i4"), np.dtype("<f2"))
MAX_NAME, MAX_RANK, MAX_VARIABLES = 1024, 8, 100_000
"""Bytes of a name, axes of a shape, and variables: real files have 60, 3 and 1,300."""
_TOP = {
    "encoder/conv1": "encoder.conv1",
    "encoder/conv2": "encoder.conv2",
    "encoder/layer_norm": "encoder.ln_post",
    "decoder/layer_norm": "decoder.ln",
}
_WHOLE = {
    "encoder/position_encodings/encodings": "encoder.positional_embedding",
    "decoder/position_encodings/encodings": "decoder.positional_embedding",
    "decoder/embeddings/weight": "decoder.token_embedding.weight",
}
# What a layer's variables are; those with several names are stacked along the first axis.
_LAYER = {
    "self_attention/layer_norm": ("attn_ln",),
    "self_attention/linear_0": ("attn.query", "attn.key", "attn.value"),
    "self_attention/linear_1": ("attn.out",),
    "attention/layer_norm": ("cross_attn_ln",),
    "attention/linear_0": ("cross_attn.query",),
    "attention/linear_1": ("cross_attn.key", "cross_attn.value"),
    "attention/linear_2": ("cross_attn.out",),
    "ffn/layer_norm": ("mlp_ln",),
    "ffn/linear_0": ("mlp.0",),
    "ffn/linear_1": ("mlp.2",),
}
_LAYER_NAME = re.compile(r"(encoder|decoder)/layer_(\d{1,3})/(.+)/(\w+)")
_LAST = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}


def is_ctranslate2(path: Path) -> bool:
    """Whether a file begins as this format's files of a Whisper do."""
    name = SPECIFICATION.encode() + b"\0"
    try:
        with path.open("rb") as file:
            return file.read(6 + len(name))[4:] == struct.pack("<H", len(name)) + name
    except OSError:
        return False


def read_ctranslate2(path: Path) -> Weights:
    """The weights under OpenAI's names, as float32.

    Raises:
        UserError: the file is of another version, damaged, or ends early or late.
    """
    with reading(path), path.open("rb") as file:
        return _renamed(_dequantised(_Reader(file, path.stat().st_size).variables()))


class _Reader:
    """Reads fields in turn and never beyond the file's end, whatever they claim.

    Args:
        file: at its begin. size: of it, bytes.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.left = file, size

    def variables(self) -> dict[str, np.ndarray]:
        """All of the file's, by name."""
        version = self._number("<I")
        if version != VERSION:
            raise Damaged(f"its format is version {version}, and {VERSION} is read")
        specification, _ = self._text(), self._number("<I")
        if specification != SPECIFICATION:
            raise Damaged(f"it is no Whisper but a {specification[:60]}")
        found: dict[str, np.ndarray] = {}
        for _ in range(self._count("variables")):
            name, values = self._text(), self._values()
            if name in found:
                raise Damaged(f"it holds {name} twice")
            found[name] = values
        for _ in range(self._count("aliases")):
            self._text(), self._text()
        if self.left:
            raise Damaged(f"{self.left} bytes follow its end")
        return found

    def _bytes(self, count: int) -> bytes:
        if count > self.left:
            raise Damaged("it ends early")
        self.left -= count
        return self.file.read(count)

    def _number(self, form: str) -> int:
        return struct.unpack(form, self._bytes(struct.calcsize(form)))[0]

    def _count(self, what: str) -> int:
        count = self._number("<I")
        if count > MAX_VARIABLES:
            raise Damaged(f"it claims {count} {what}")
        return count

    def _text(self) -> str:
        count = self._number("<H")
        raw = self._bytes(count) if count <= MAX_NAME else b""
        if not raw.endswith(b"\0") or b"\0" in raw[:-1]:
            raise Damaged("a name in it does not end where it says")
        return raw[:-1].decode("utf-8")

    def _values(self) -> np.ndarray:
        rank = self._number("<B")
        if rank > MAX_RANK:
            raise Damaged(f"a shape in it has {rank} axes")
        shape = [self._number("<I") for _ in range(rank)]
        code, size = self._number("<B"), self._number("<I")
        if code >= len(KINDS):
            raise Damaged(f"it holds values of an unknown kind, {code}")
        if math.prod(shape) * KINDS[code].itemsize != size:
            raise Damaged(f"{size} bytes do not fill a shape in it")
        return np.frombuffer(self._bytes(size), KINDS[code]).reshape(shape)


def _dequantised(variables: dict[str, np.ndarray]) -> Weights:
    """Float32 tensors; whole numbers are divided by the scale that stands beside them, one a row or one in all."""
    weights = {}
    for name, values in variables.items():
        if values.ndim == 0 or name.endswith("_scale"):  # settings such as the activation's, and scales
            continue
        scale = variables.get(f"{name}_scale")
        found = values.astype(np.float32)
        if scale is not None:
            found /= scale.astype(np.float32).reshape([-1] + [1] * (values.ndim - 1))
        weights[name] = torch.from_numpy(found)
    return weights


def _renamed(weights: Weights) -> Weights:
    """Under OpenAI's names. What the format has beside a Whisper's weights is left out."""
    found: Weights = {}
    for name, tensor in weights.items():
        parent, _, last = name.rpartition("/")
        if name in _WHOLE:
            found[_WHOLE[name]] = tensor
        elif parent in _TOP and last in _LAST:
            found[f"{_TOP[parent]}.{_LAST[last]}"] = tensor
        elif (layer := _LAYER_NAME.fullmatch(name)) and layer[3] in _LAYER and layer[4] in _LAST:
            found.update(_unstacked(f"{layer[1]}.blocks.{int(layer[2])}", _LAYER[layer[3]], _LAST[layer[4]], tensor))
    return found


def _unstacked(block: str, parts: tuple[str, ...], last: str, tensor: Tensor) -> Weights:
    """A layer's variable, of one part or of several."""
    if tensor.shape[0] % len(parts):
        raise Damaged(f"the {parts[0]} of {block} cannot be divided by {len(parts)}")
    found = {}
    for part, piece in zip(parts, tensor.chunk(len(parts))):
        if not (last == "bias" and part.endswith(".key")):
            found[f"{block}.{part}.{last}"] = piece
        elif piece.any():
            raise Damaged(f"the keys of {block} have a bias, which a Whisper's have not")
    return found
