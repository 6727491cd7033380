"""What a model is: read off its files, without a flag."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from couloir.checkpoint_headers import HeaderReader, NotPlain, is_torchscript
from couloir.inference.opening import open_source
from couloir.inference.source import Source, is_onnx, locate
from couloir.text.units import UNITS
from couloir.training.span import Reader
from couloir.weight_files import CONFIG_FILE, numbered

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
    if not is_torchscript(path):
        return {}
    return {"path": str(path), "is": "TorchScript, for torch.jit.load", "size": f"{path.stat().st_size / 1e6:.1f} MB"}


def _checkpoint_facts(source: Source) -> Facts:
    """Of the newest checkpoint's names and shapes. Values are not read; torch is imported for unusual files alone."""
    try:
        return _facts_by(source, HeaderReader())
    except NotPlain:
        from couloir.checkpoint import CheckpointReader

        return _facts_by(source, CheckpointReader())


def _facts_by(source: Source, reader: Reader) -> Facts:
    opened, path = open_source(source, reader), source.path
    weights, suffix = opened.look_at_weights()
    assert opened.spec is not None
    model = opened.spec.facts(weights, opened.model_config(), source.name)
    facts: Facts = {
        "path": str(path),
        "is": "run directory" if (source.folder / CONFIG_FILE).is_file() else "checkpoint" + "s" * path.is_dir(),
        "family": opened.spec.name,
        "weights": suffix,
        "heads": model.pop("heads"),
        "size": model.pop("size"),
        "parameters": f"{sum(tensor.numel() for tensor in weights.values()) / 1e6:.2f} M",
    }
    return facts | model | _run_facts(source, opened.values)


def _run_facts(source: Source, config: Mapping[str, Any]) -> Facts:
    """Of weights with a configuration of this project: the recipe, and how far the run is."""
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
