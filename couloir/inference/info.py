"""What a model is: read off its files, without a flag."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from couloir.models.zipformer.config import ZipformerConfig

Facts = dict[str, Any]
_SIZES = (
    "num_encoder_layers",
    "downsampling_factor",
    "encoder_dim",
    "feedforward_dim",
    "num_heads",
    "cnn_module_kernel",
)


def describe(source: str | Path) -> Facts:
    """Facts about a run directory, a checkpoint, an ONNX file, a folder of them, a hub id. Raises `UserError`."""
    from couloir.inference.pretrained import is_onnx, locate

    path, _ = locate(source)
    if not is_onnx(path):
        return _torchscript_facts(path) or _checkpoint_facts(path)
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


def _checkpoint_facts(path: Path) -> Facts:
    from couloir.models.heads.sizes import heads_config
    from couloir.models.zipformer.architecture import preset_name, zipformer_config
    from couloir.training.averaging import load_averaged
    from couloir.training.config import AveragingConfig
    from couloir.training.run_dir import CONFIG_FILE

    folder = path if path.is_dir() else path.parent
    weights, suffix = load_averaged(path, AveragingConfig())
    zipformer, heads = zipformer_config(weights, str(path)), heads_config(weights, str(path))
    heads_present = [name for name, there in (("CTC", heads.use_ctc), ("transducer", heads.use_transducer)) if there]
    facts: Facts = {
        "path": str(path),
        "is": "run directory" if (folder / CONFIG_FILE).is_file() else "checkpoint" + "s" * path.is_dir(),
        "weights": suffix,
        "heads": ", ".join(heads_present),
        "size": preset_name(zipformer) or "none of the presets",
        "parameters": f"{sum(tensor.numel() for tensor in weights.values()) / 1e6:.2f} M",
        "vocabulary": f"{heads.vocab_size} symbols",
        "output rate": f"{50 // zipformer.output_downsampling_factor} frames/s",
        "streaming": "yes (chunk-causal)" if zipformer.causal else "no",
    }
    facts |= _context_facts(path, zipformer) if zipformer.causal else {}
    facts |= {name.replace("_", "-"): _comma(getattr(zipformer, name)) for name in _SIZES}
    return facts | _run_facts(path)


def _context_facts(path: Path, sizes: ZipformerConfig) -> Facts:
    """What a causal model was trained to see, and what it sees here, in 50 Hz frames."""
    from couloir.training.run_dir import saved_values

    saved = saved_values(path).get("zipformer", {})
    chunks, lefts = (tuple(saved.get(name, getattr(sizes, name))) for name in ("chunk_size", "left_context_frames"))
    chunk, left = replace(sizes, chunk_size=chunks, left_context_frames=lefts).fixed_context
    context = "full" if chunk < 0 else f"chunks of {chunk} frames (20 ms each), {left} before (-1: all)"
    facts: Facts = {"context": f"{context}; another with --chunk-size and --left-context-frames"}
    if saved:
        facts |= {"trained with chunk-size": _comma(chunks), "trained with left-context-frames": _comma(lefts)}
    return facts


def _comma(values: tuple[int, ...]) -> str:
    return ",".join(map(str, values))


def _run_facts(path: Path) -> Facts:
    """Of weights with a configuration of this project: the recipe, and how far the run is."""
    from couloir.training.run_dir import numbered, saved_values

    config = saved_values(path)
    if not config:
        return {}
    data: Mapping[str, Any] = config.get("data", {})
    facts = {"recipe": config.get("recipe", ""), "trained on": data.get("manifest_dir", "")}
    folder = path if path.is_dir() else path.parent
    epochs, batches = numbered(folder, "epoch"), numbered(folder, "checkpoint")
    if epochs or batches:
        last = f", the last after {batches[0]}" if batches else ""
        facts["checkpoints"] = f"{len(epochs)} of epochs, {len(batches)} of batches{last}"
    return facts
