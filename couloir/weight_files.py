"""Files of a model in a folder. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

CONFIG_FILE = "config.yaml"
"""The resolved configuration of a run, in its directory."""
WEIGHT_SUFFIXES = (".pt", ".pth", ".safetensors")
PRETRAINED, SAFETENSORS = "pretrained.pt", "model.safetensors"
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
