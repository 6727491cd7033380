"""One door to every model: a run directory, a checkpoint, a folder, ONNX files, a hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from couloir.errors import UserError
from couloir.inference.backend import Backend


def open_model(source: str | Path, **options: Any) -> Backend:
    """Open a model in the runtime that its files are for.

    Args:
        source: a run directory, a checkpoint file, a folder of checkpoints.
        options: as of `checkpoints.open_checkpoint`.

    Raises:
        UserError: there is no model.
    """
    path = Path(source)
    if not path.exists():
        raise UserError(f"model {source} does not exist")
    from couloir.inference.checkpoints import open_checkpoint

    return open_checkpoint(path, **options)
