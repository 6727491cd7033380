"""What a processor makes of int8 files in ONNX Runtime, and what is done about it (a table of docs/export.md).

| processor | products of uint8 activations with int8 weights |
| x86-64 with VNNI | exact, whatever the weights |
| x86-64 without VNNI: AVX2, AVX-512 | pairs are added in 16 bits: exact up to 7-bit weights, beyond them cut off |
| x86-64 with AMX, ONNX Runtime 1.21 to 1.24 | wrong, whatever the weights (its issue 26324) |
| ARM | exact |
"""

from __future__ import annotations

import logging
import platform
from functools import lru_cache
from pathlib import Path
from typing import Any

from couloir.errors import UserError
from couloir.inference.onnx_files import integer_bits, multiplies_integers

_X86 = ("x86_64", "amd64", "i386", "i686")
_WRONG_WITH_AMX = [["1", str(minor)] for minor in range(21, 25)]
_EXACT = "session.x64quantprecision"
"""An entry of a session's configuration: signed weights are made unsigned, whose kernels are exact and slower."""


def cpu_flags() -> frozenset[str]:
    """What the processor can, by Linux's names; none where it does not say."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text(encoding="utf-8", errors="replace").splitlines() if cpus.is_file() else []
    return frozenset(word for line in lines if line.startswith("flags") for word in line.split())


def cuts_off() -> bool:
    """Whether this processor adds pairs of products in 16 bits."""
    flags = cpu_flags()
    return platform.machine().lower() in _X86 and bool(flags) and not flags & {"avx512_vnni", "avx_vnni"}


def heed_integers(path: Path, version: str, options: Any) -> None:
    """Have a file's integer products computed as they are meant, whatever the processor.

    Args:
        path: of the file. version: of ONNX Runtime. options: of the session to be, which may be changed.

    Raises:
        UserError: this runtime computes them wrongly here; or the file is damaged.
    """
    if not path.is_file() or not multiplies_integers(path):
        return
    if version.split(".")[:2] in _WRONG_WITH_AMX and "amx_int8" in cpu_flags():
        raise UserError(
            f"{path} cannot be run: onnxruntime {version} computes int8 models wrongly on this CPU; "
            "install 1.20, or 1.25 and later, or take the fp32 file"
        )
    if integer_bits(path) == 8:
        options.add_session_config_entry(_EXACT, "1")
        if cuts_off():
            _say(path)


@lru_cache
def _say(path: Path) -> None:
    """Once for each file."""
    logging.warning(
        "%s has int8 weights of 8 bits, and this processor (no VNNI) cuts off their products with activations: couloir "
        "computes them another way, sherpa-onnx and other programs will be wrong; export the model again with couloir, "
        "or take the fp32 file",
        path,
    )


def integer_format(path: Path) -> str:
    """What kind of integer products a file has, and where they are right; "" where there are none."""
    if not multiplies_integers(path):
        return ""
    bits = integer_bits(path)
    if bits < 8:
        return (
            "weights of 7 bits, the same on every processor"
            if bits
            else "unsigned weights, the same on every processor"
        )
    here = ", of which this is one" if cuts_off() else ""
    return f"weights of 8 bits, which x86-64 processors without VNNI{here}, cut off outside couloir"
