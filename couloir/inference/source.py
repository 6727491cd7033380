"""What names a model: a run directory, a folder of foreign checkpoints, one file, or a model on the hub."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

from couloir.audio import AUDIO_SUFFIXES
from couloir.errors import UserError, must_be
from couloir.inference.registry import HUB_MODELS
from couloir.weight_files import WEIGHT_SUFFIXES, weight_files


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a model is.

    Attributes:
        path: folder or file. hub_id: of a model on the hub, without its revision; "" for any other.
    """

    path: Path
    hub_id: str = ""

    @property
    def folder(self) -> Path:
        """The path itself, or that of the file."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return self.hub_id or str(self.path)

    @property
    def is_registered(self) -> bool:
        """Whether it is a published model whose size, tokenizer and average are known."""
        return self.hub_id in HUB_MODELS


def locate(
    source: str | Path, revision: str | None = None, runtime: str = "auto", suffix: str = ".onnx"
) -> tuple[Path, str]:
    """The path that a source means, after fetching it if it is a hub id; and that id, or "".

    Raises `UserError` when it is neither, or cannot be fetched.
    """
    from couloir.inference.hub import fetch_model, parse_hub_id

    path = Path(source)
    if path.exists():
        check_kind(path)
        return path, ""
    hub = parse_hub_id(str(source))
    if hub is None or path.suffix in (".onnx", *WEIGHT_SUFFIXES):
        raise UserError(f"model {source} does not exist; give a path, or a hub id such as {next(iter(HUB_MODELS))}")
    repo_id, named = hub
    if runtime != "onnx" and has_torch():
        folder = fetch_model(repo_id, revision or named)
        if runtime == "torch" or weight_files(folder):
            return folder, repo_id
    return fetch_model(repo_id, revision or named, suffix), repo_id


def check_kind(path: Path) -> None:
    """Refuse as a model what is none by its kind or name. Raises `UserError`."""
    if not (path.is_file() or path.is_dir()):
        raise must_be(f"model {path}", "a file or a folder", "a pipe or a device")
    if path.is_file() and path.suffix.lower() in AUDIO_SUFFIXES:
        raise must_be(f"model {path}", "a checkpoint, an ONNX file or a folder", "a recording", "name the model first")


def is_onnx(path: Path) -> bool:
    """Whether a path is to be run by ONNX Runtime: it holds nothing else, or there is no torch."""
    if path.is_file():
        return path.suffix == ".onnx"
    return any(path.glob("*.onnx")) and not (has_torch() and weight_files(path))


def has_torch() -> bool:
    """Whether torch is installed."""
    return importlib.util.find_spec("torch") is not None
