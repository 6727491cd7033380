"""What a model is: read off its files, without a flag."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from couloir.inference.source import Source, is_onnx, locate
from couloir.text.units import UNITS

Facts = dict[str, Any]


def describe(source: str | Path) -> Facts:
    """Facts about a run directory, a checkpoint, an ONNX file, a folder of them, a hub id. Raises `UserError`."""
    path, hub_id = locate(source)
    if not is_onnx(path):
        return _torchscript_facts(path) or _checkpoint_facts(Source(path, hub_id))
    files = [path] if path.is_file() else sorted(path.glob("*.onnx"))
    facts: Facts = {"path": str(path), "is": "ONNX model" if len(files) == 1 else f"{len(files)} ONNX files"}
    for file in files:
        facts |= _onnx_facts(file) if len(files) == 1 else {file.name: _one_line(_onnx_facts(file))}
    return facts


def _onnx_facts(path: Path) -> Facts:
    from couloir.inference.onnx_session import load_session
    from couloir.inference.processor import integer_format

    session = load_session(path, threads=1)
    values = {"inputs": session.get_inputs(), "outputs": session.get_outputs()}
    shown = {
        key: ", ".join(f"{v.name} {v.type[7:-1]} ({', '.join(map(str, v.shape))})" for v in listed[:4])
        + (f", and {len(listed) - 4} more" if len(listed) > 4 else "")
        for key, listed in values.items()
    }
    size = {"size": f"{path.stat().st_size / 1e6:.1f} MB"}
    if integers := integer_format(path):
        shown["integer products"] = integers
    return size | shown | dict(session.get_modelmeta().custom_metadata_map)


def _one_line(facts: Facts) -> str:
    return "; ".join(f"{key}: {value}" for key, value in facts.items())


def _torchscript_facts(path: Path) -> Facts:
    """Of an exported program, which is run as it is; none of anything else."""
    from couloir.checkpoint import is_torchscript

    if not is_torchscript(path):
        return {}
    return {"path": str(path), "is": "TorchScript, for torch.jit.load", "size": f"{path.stat().st_size / 1e6:.1f} MB"}


def _checkpoint_facts(source: Source) -> Facts:
    """Of the newest checkpoint's names and shapes, whose values are not read."""
    from couloir.inference.loading import open_source
    from couloir.weight_files import CONFIG_FILE

    opened, path = open_source(source), source.path
    found = opened.look_at_weights()
    saved, family = opened.model_config(), opened.family
    config = family.read_sizes(found.weights, None, source.name)
    model = family.facts(config, saved)
    facts: Facts = {
        "path": str(path),
        "is": "run directory" if (source.folder / CONFIG_FILE).is_file() else "checkpoint" + "s" * path.is_dir(),
        "family": family.spec.name,
        "weights": found.suffix,
        "heads": model.pop("heads"),
        "size": model.pop("size"),
        "parameters": f"{sum(tensor.numel() for tensor in found.weights.values()) / 1e6:.2f} M",
        "vocabulary": f"{family.vocab_size(config)} symbols",
    }
    return facts | model | _run_facts(source, opened.values)


def _run_facts(source: Source, config: Mapping[str, Any]) -> Facts:
    """Of weights with a configuration of this project: the recipe, and how far the run is."""
    from couloir.training.run_dir import numbered

    if not config:
        return {}
    data: Mapping[str, Any] = config.get("data", {})
    facts = {"recipe": config.get("recipe", ""), "trained on": data.get("manifest_dir", "")}
    text: Mapping[str, Any] = config.get("text", {})
    if (unit := text.get("unit")) in UNITS:
        facts["transcripts"] = UNITS[unit].plural
    epochs, batches = numbered(source.folder, "epoch"), numbered(source.folder, "checkpoint")
    if epochs or batches:
        last = f", the last after {batches[0]}" if batches else ""
        facts["checkpoints"] = f"{len(epochs)} of epochs, {len(batches)} of batches{last}"
    return facts
