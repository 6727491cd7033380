"""From a model's weights to exported files: what the export programs of all recipes share."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from torch import Tensor

from couloir.config import as_plain, from_mapping, given_flags
from couloir.errors import UserError, must_be
from couloir.export.config import OFFLINE_ONNX, STREAMING_ONNX, OutputConfig, TorchExportConfig
from couloir.export.onnx import export_offline, export_streaming
from couloir.export.selfcheck import check_waves
from couloir.export.torchscript import export_script, export_trace
from couloir.export.weights import save_weights
from couloir.families.registry import DEFAULT
from couloir.inference.hub import parse_hub_id
from couloir.progress import log_to_screen
from couloir.recipes.run import LoadedRun, load_run
from couloir.recipes.run_config import Overrides
from couloir.text.tokenizer import Tokenizer, read_tokens
from couloir.training.config import AveragingConfig


def load_for_export(
    namespace: argparse.Namespace, recipe: str, defaults: Overrides, family: str = DEFAULT
) -> tuple[LoadedRun, Path, list[Tensor]]:
    """The averaged model on the CPU, the folder of the files (--out-dir, or that of the weights), waves for the check.

    Raises `UserError` as `load_run`; for a model on the hub without --out-dir; for --check-wav that cannot be used.
    """
    log_to_screen()
    output = from_mapping(OutputConfig, given_flags(namespace, OutputConfig))
    name = str(getattr(namespace, "exp_dir", ""))
    if not output.out_dir and parse_hub_id(name) and not Path(name).exists():
        remedy = "for a model on the hub give a folder for the files, --out-dir"
        raise must_be("--exp-dir", "a run directory or a checkpoint", f"{name}, which does not exist", remedy)
    if output.tokens and not hasattr(namespace, "bpe_model"):
        namespace.bpe_model = output.tokens
    averaging = from_mapping(AveragingConfig, given_flags(namespace, AveragingConfig))
    waves = check_waves(output.check_wav)
    run = load_run(namespace, averaging, recipe, defaults, "cpu", hub=hasattr(namespace, "exp_dir"), family=family)
    return run, Path(output.out_dir) if output.out_dir else run.exp_dir, waves


def check_full_context(run: LoadedRun, namespace: argparse.Namespace, remedy: str) -> None:
    """Refuse one context that is asked for where files take whole recordings: these have full context.

    Several chunk sizes, among the flags of a training, ask for nothing. Raises `UserError`.
    """
    run.family.check_full_context(run.config, vars(namespace).keys(), remedy)


def save_tokens(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokens.txt; one that says the same, and has icefall's disambiguation symbols perhaps, stays."""
    path = folder / "tokens.txt"
    try:
        if path.is_file() and read_tokens(path) == tokenizer.pieces:
            return
    except UserError:
        logging.warning("%s was no table of tokens and is written again", path)
    tokenizer.save_tokens(path)


def export_torch(namespace: argparse.Namespace, recipe: str, defaults: Overrides, family: str = DEFAULT) -> None:
    """pretrained.pt, model.safetensors and the TorchScript files that are asked for."""
    config = from_mapping(TorchExportConfig, given_flags(namespace, TorchExportConfig))
    run, folder, waves = load_for_export(namespace, recipe, defaults, family)
    if config.jit_trace:
        check_full_context(run, namespace, "leave it out, or leave --jit-trace to another call")
    save_weights(run.model, as_plain(run.as_trained()), folder)
    save_tokens(run.tokenizer, folder)
    if config.jit:
        export_script(run.family.scripted_part(run.model), run.fbank.config, folder, waves)
    if config.jit_trace:
        export_trace(run.family.export_parts(run.model), run.fbank.config, folder, waves)


def export_offline_onnx(
    namespace: argparse.Namespace, recipe: str, defaults: Overrides, kind: str, family: str = DEFAULT
) -> None:
    """ONNX files that take whole recordings.

    Args:
        namespace: the flags. recipe: whose runs are exported. defaults: of the recipe. kind: "ctc" or "transducer"; a
            transducer's runs may be exported as CTC models by --head. family: whose models the recipe makes.
    """
    config = from_mapping(OFFLINE_ONNX[kind], given_flags(namespace, OFFLINE_ONNX[kind]))
    run, folder, waves = load_for_export(namespace, recipe, defaults, family)
    check_full_context(run, namespace, "leave it out, or use export_onnx_streaming.py")
    parts = run.family.export_parts(run.model, getattr(config, "head", kind))
    export_offline(parts, run.fbank.config, config, folder, waves, run.suffix)
    save_tokens(run.tokenizer, folder)


def export_streaming_onnx(
    namespace: argparse.Namespace, recipe: str, defaults: Overrides, kind: str, family: str = DEFAULT
) -> None:
    """ONNX files that take chunk after chunk. Arguments as of `export_offline_onnx`."""
    config = from_mapping(STREAMING_ONNX[kind], given_flags(namespace, STREAMING_ONNX[kind]))
    run, folder, waves = load_for_export(namespace, recipe, defaults, family)
    parts = run.family.export_parts(run.model, getattr(config, "head", kind), streaming=True)
    export_streaming(parts, run.fbank.config, config, folder, waves, run.suffix)
    save_tokens(run.tokenizer, folder)
