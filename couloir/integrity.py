"""Whether a file of weights is what was written: checksums, and sizes that a file of its length can hold.

PyTorch's reader does not look at the checksums of its archives: one changed bit of a weight loads as another weight.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

CHECKSUM = "crc32"
"""Metadata of our safetensors files, a format that has no checksums of its own."""
_BLOCK = 1 << 20
# torch stores without compression; a file that somebody has packed again comes to less than four times its size.
_MOST_EXPANSION, _SMALL_BYTES = 20, 64 << 20


class Damaged(Exception):
    """What is wrong with a file, in a few words."""


def check_archive(path: Path, whole: bool) -> None:
    """Compare an archive of PyTorch's with its checksums.

    Args:
        path: any file; one that is no zip archive (an old checkpoint) has none. whole: also the tensors, not only what
            says where they are.

    Raises:
        Damaged: an entry differs from its checksum, or they come to more than a file of that size can hold.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        size, most = sum(entry.file_size for entry in entries), path.stat().st_size * _MOST_EXPANSION
        if size > max(most, _SMALL_BYTES):
            raise Damaged(f"its entries come to {size >> 20} MiB")
        for entry in entries:
            if whole or "/data/" not in entry.filename:
                with archive.open(entry) as file:  # which compares at the end
                    while file.read(_BLOCK):
                        pass


def checksum(weights: Mapping[str, Tensor], config: str) -> str:
    """A checksum of names, kinds, shapes and values of ``weights``, and of the text that is written beside them."""
    found = zlib.crc32(config.encode("utf-8", "surrogatepass"))
    for name in sorted(weights):
        tensor = weights[name].detach().contiguous()
        found = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode("utf-8", "surrogatepass"), found)
        found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor's values are all there: not sparse or quantised, and no small memory shown as a large tensor."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_complex():
        return False
    size = tensor.numel() * tensor.element_size()
    return size <= max(_SMALL_BYTES >> 6, tensor.untyped_storage().nbytes())
