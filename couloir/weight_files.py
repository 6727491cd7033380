"""Files of a model in a folder. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from couloir.config import read_yaml
from couloir.errors import UserError

CONFIG_FILE = "config.yaml"
"""The resolved configuration of a run, in its directory."""
WEIGHT_SUFFIXES = (".pt", ".pth", ".safetensors")
PRETRAINED, SAFETENSORS = "pretrained.pt", "model.safetensors"
LAST = "last.pt"
"""A run's newest checkpoint."""
EXPORTED = (SAFETENSORS, PRETRAINED)
"""The copies that exporting leaves, the one that holds its configuration first."""


def weight_files(folder: Path) -> list[Path]:
    """Files that may be loaded as a model, by name; TorchScript, and what a run puts aside, are none."""
    return sorted(
        path
        for path in folder.glob("*")
        if path.suffix in WEIGHT_SUFFIXES
        and "jit" not in path.stem.split("_")
        and not path.name.startswith(("aside-", "bad-", "batch-"))
    )


def likeliest(files: list[Path]) -> Path | None:
    """The one file that is not a copy of another's weights, or of copies alone the best; None where several are."""
    originals = [path for path in files if path.name not in EXPORTED]
    copies = sorted((path for path in files if path.name in EXPORTED), key=lambda path: EXPORTED.index(path.name))
    chosen = originals or copies[:1]
    return chosen[0] if len(chosen) == 1 else None


def epoch_path(exp_dir: Path, epoch: int) -> Path:
    """The checkpoint written at the end of ``epoch`` (from 1)."""
    return exp_dir / f"epoch-{epoch}.pt"


def batch_path(exp_dir: Path, batch: int) -> Path:
    """The checkpoint written after ``batch`` batches of the run."""
    return exp_dir / f"checkpoint-{batch}.pt"


def numbered(exp_dir: Path, kind: str) -> list[int]:
    """The numbers N of the files ``KIND-N.pt`` (kind: "checkpoint" or "epoch"), descending."""
    pattern = re.compile(rf"{kind}-(\d+)\.pt")
    found = (pattern.fullmatch(path.name) for path in exp_dir.glob(f"{kind}-*.pt"))
    return sorted((int(match.group(1)) for match in found if match), reverse=True)


def single_file(folder: Path) -> Path:
    """The weights in a folder without numbered checkpoints. Raises `UserError` when there are none, or several."""
    files = weight_files(folder)
    found = folder / LAST if folder / LAST in files else likeliest(files)
    if found is None:
        raise UserError(
            f"`--exp-dir` must hold checkpoints (epoch-N.pt or checkpoint-N.pt), but {folder} holds "
            + (f"{len(files)} other files; name one of them" if files else "none")
        )
    return found


def saved_mapping(source: Path, look: Callable[[Path], Mapping[str, Any]]) -> dict[str, Any]:
    """The configuration that lies with weights, as plain values; empty where there is none. Whose it is, is not said.

    Args:
        source: a file, which may hold its own, or a folder: a run directory, or that of a single file.
        look: reads a checkpoint, whose tensors are not asked for.
    """
    folder = source if source.is_dir() else source.parent
    kept, file = folder / CONFIG_FILE, source
    if source.is_dir() and not kept.is_file() and not numbered(folder, "epoch") + numbered(folder, "checkpoint"):
        file = likeliest(weight_files(folder)) or source
    values = look(file).get("config") if file.is_file() else None
    if not isinstance(values, Mapping):
        values = read_yaml(kept) if kept.is_file() else {}
    return dict(values)
