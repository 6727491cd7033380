"""From a run directory to exported files: what the export programs of all recipes share."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from couloir.config import as_plain, from_mapping, given_flags
from couloir.export.config import CtcOnnxConfig, OnnxConfig, OutputConfig, StreamingOnnxConfig, TorchExportConfig
from couloir.export.onnx import export_ctc, export_streaming, export_transducer
from couloir.export.selfcheck import check_waves
from couloir.export.torchscript import export_script, export_trace, save_pretrained, save_safetensors
from couloir.recipes.run import LoadedRun, load_run
from couloir.recipes.run_config import Overrides
from couloir.training.config import AveragingConfig


def load_for_export(namespace: argparse.Namespace, recipe: str, defaults: Overrides) -> tuple[LoadedRun, OutputConfig]:
    """The averaged model on the CPU; its tokens.txt is written into the output folder."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    output = from_mapping(OutputConfig, given_flags(namespace, OutputConfig))
    if output.tokens and not hasattr(namespace, "bpe_model"):
        namespace.bpe_model = output.tokens
    averaging = from_mapping(AveragingConfig, given_flags(namespace, AveragingConfig))
    run = load_run(namespace, averaging, recipe, defaults, "cpu")
    run.tokenizer.save_tokens(out_dir_of(run, output) / "tokens.txt")
    return run, output


def out_dir_of(run: LoadedRun, output: OutputConfig) -> Path:
    """--out-dir, or the run directory."""
    return Path(output.out_dir) if output.out_dir else run.exp_dir


def export_torch(namespace: argparse.Namespace, recipe: str, defaults: Overrides) -> None:
    """pretrained.pt, model.safetensors and the TorchScript files that are asked for."""
    run, output = load_for_export(namespace, recipe, defaults)
    config = from_mapping(TorchExportConfig, given_flags(namespace, TorchExportConfig))
    folder = out_dir_of(run, output)
    save_pretrained(run.model, folder / "pretrained.pt")
    save_safetensors(run.model, as_plain(run.config), folder / "model.safetensors")
    waves = check_waves(output.check_wav)
    if config.jit:
        export_script(run.model, run.config.fbank, folder, waves)
    if config.jit_trace:
        export_trace(run.model, run.config.fbank, folder, waves)


def export_offline_onnx(namespace: argparse.Namespace, recipe: str, defaults: Overrides, kind: str) -> None:
    """ONNX files of a ``kind`` ("ctc" or "transducer") that take whole recordings."""
    run, output = load_for_export(namespace, recipe, defaults)
    folder, waves, fbank = out_dir_of(run, output), check_waves(output.check_wav), run.config.fbank
    if kind == "ctc":
        ctc = from_mapping(CtcOnnxConfig, given_flags(namespace, CtcOnnxConfig))
        export_ctc(run.model, fbank, ctc, folder, waves)
    else:
        transducer = from_mapping(OnnxConfig, given_flags(namespace, OnnxConfig))
        export_transducer(run.model, fbank, transducer, folder, waves, run.suffix)


def export_streaming_onnx(namespace: argparse.Namespace, recipe: str, defaults: Overrides, kind: str) -> None:
    """ONNX files of a ``kind`` ("ctc" or "transducer") that take chunk after chunk."""
    run, output = load_for_export(namespace, recipe, defaults)
    config = from_mapping(StreamingOnnxConfig, given_flags(namespace, StreamingOnnxConfig))
    waves = check_waves(output.check_wav)
    export_streaming(run.model, kind, run.config.fbank, config, out_dir_of(run, output), waves, run.suffix)
