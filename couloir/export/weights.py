"""A model's weights as files: pretrained.pt, and safetensors that hold the configuration too."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from couloir.checkpoint import load_checkpoint, model_weights
from couloir.errors import UserError
from couloir.export.publish import staged
from couloir.integrity import CHECKSUM, checksum
from couloir.weight_files import PRETRAINED, SAFETENSORS


def save_weights(model: nn.Module, config: Any, out_dir: Path) -> None:
    """pretrained.pt, {"model": state dict}, which icefall's and our programs load; and model.safetensors.

    Args:
        model: to save. config: plain values of the run's configuration, the metadata entry ``config`` of the latter.
        out_dir: where to.

    Raises:
        UserError: what is loaded again is not what was saved; nothing is left behind then.
    """
    from safetensors.torch import save_file

    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    text = json.dumps(config, ensure_ascii=False)
    metadata = {"format": "pt", "config": text, CHECKSUM: checksum(weights, text)}
    writers: dict[str, Callable[[Path], None]] = {
        PRETRAINED: lambda path: torch.save({"model": weights}, path),
        SAFETENSORS: lambda path: save_file(weights, path, metadata=metadata),
    }
    with staged(out_dir, list(writers)) as folder:
        for name, write in writers.items():
            write(folder / name)
            # safetensors makes its files readable by their owner alone.
            shutil.copymode(folder / PRETRAINED, folder / name)
            loaded = load_checkpoint(folder / name)
            _refuse_difference(name, weights, model_weights(loaded, name))
            if name == SAFETENSORS and loaded.get("config") != json.loads(metadata["config"]):
                raise UserError(f"{name} does not hold the configuration that was saved, and nothing was written")


def _refuse_difference(name: str, saved: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    differing = [key for key in saved if key not in found or not torch.equal(saved[key], found[key])]
    if differing or len(found) != len(saved):
        what = f"`{differing[0]}` is another tensor" if differing else "there are other tensors"
        raise UserError(f"{name} does not give back what was saved ({what}), and nothing was written")
