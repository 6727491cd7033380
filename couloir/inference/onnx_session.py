"""Sessions of ONNX Runtime on the CPU: what is checked before a file is opened, and what it may take while it runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from couloir.errors import UserError, must_be
from couloir.inference.onnx_files import external_data
from couloir.inference.processor import heed_integers
from couloir.inference.watchdog import Ending
from couloir.limits import MAX_RUN_NUMBERS_PER_SECOND, MAX_RUN_SECONDS
from couloir.machine import usable_cores

Names = tuple[str, ...]
MEMORY_BYTES, MEMORY_BYTES_PER_CORE = 4 << 30, 1 << 29
"""What all sessions of a process may hold. A window of 30 s takes the largest model 0.3 GB on one core, its weights
0.3 GB; a small file may ask for any number of gigabytes."""
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}
_INTEGERS = ("tensor(int64)", "tensor(int32)")
_WANTED = re.compile(r"requested bytes of (\d+)")


def load_session(path: Path, threads: int) -> Any:
    """An ONNX Runtime session on the CPU. Raises `UserError` for a file that is no model or a damaged one."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError("ONNX models need onnxruntime; pip install onnxruntime") from None
    if path.exists() and not path.is_file():  # a pipe that nobody writes into would be waited for
        raise must_be(str(path), "an ONNX file", "a folder" if path.is_dir() else "a pipe or a device")
    options = onnxruntime.SessionOptions()
    heed_integers(path, onnxruntime.__version__, options)
    external_data(path)
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # its errors are raised, too
    if _memory_is_bounded():
        options.add_session_config_entry("session.use_env_allocators", "1")
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes have no common base
        raise UserError(
            f"{path} cannot be loaded by ONNX Runtime: it is damaged or no model ({_reason(error)})"
        ) from None


@lru_cache
def _memory_is_bounded() -> bool:
    """Give this process's sessions one allocator that refuses to pass the bound; whether that was possible."""
    import onnxruntime as ort

    kind = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    bound = MEMORY_BYTES + usable_cores() * MEMORY_BYTES_PER_CORE
    try:
        ort.create_and_register_allocator(kind, ort.OrtArenaCfg({"max_mem": bound}))
    except Exception:  # another library of this process has registered one
        return False
    return True


def run_session(session: Any, *arrays: np.ndarray, names: Names, outputs: Sequence[str] | None = None) -> list[Any]:
    """Outputs for inputs, which are cast to what the model declares; half precision comes out as float32.

    Args:
        session: of `load_session`. arrays: of the inputs ``names``. outputs: names, or None for all.

    Raises:
        UserError: the model cannot be run on these, or comes to no end.
    """
    from onnxruntime import RunOptions

    declared = {value.name: _TYPES.get(value.type) for value in session.get_inputs()}
    feed = {name: array.astype(declared[name], copy=False) for name, array in zip(names, arrays)}
    options = RunOptions()
    seconds = MAX_RUN_SECONDS + sum(array.size for array in arrays) // MAX_RUN_NUMBERS_PER_SECOND
    try:
        with Ending(options, seconds):
            found = session.run(outputs, feed, options)
    except Exception as error:  # onnxruntime's own classes have no common base
        why = f"it has no end after {seconds} s" if options.terminate else _reason(error)
        raise UserError(f"{_path(session)} cannot be run by ONNX Runtime ({why})") from None
    return [np.asarray(out, np.float32) if getattr(out, "dtype", None) == np.float16 else out for out in found]


def integer_outputs(session: Any) -> list[str]:
    """Names of the outputs that are declared as integers."""
    return [value.name for value in session.get_outputs() if value.type in _INTEGERS]


def _path(session: Any) -> str:
    return str(getattr(session, "_model_path", "") or "the model")


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    wanted = _WANTED.search(text)
    if wanted:
        return f"it asks for {int(wanted[1]) / 1e9:.1f} GB of memory"
    return text.split("Status Message: ")[-1].split(" : ")[-1].split("failed:")[-1].strip()[:160]
