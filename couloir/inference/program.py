"""What the programs share that transcribe files: their flags, and the run on ONNX Runtime."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from couloir.inference.file_run import FilesRun, transcribe_files
from couloir.inference.formats import FORMATS
from couloir.inference.inventory import restriction_to
from couloir.inference.onnx_backend import OnnxBackend
from couloir.inference.recognizer import Recognizer
from couloir.inference.recordings import find_audio
from couloir.progress import log_to_screen


def output_place(text: str) -> Path:
    """The path given as ``--output``; an empty one, as of a variable that is not set, is none."""
    if not text:
        raise argparse.ArgumentTypeError("must be a file, a folder or -, but is empty")
    return Path(text)


def output_of_flags(flags: argparse.Namespace) -> Path | None:
    """Where results go: ``--format`` alone asks for standard output."""
    return Path("-") if flags.output is None and flags.format else flags.output


def add_output_flags(parser: argparse.ArgumentParser) -> None:
    """What is written where, and how a model is listened to."""
    parser.add_argument("--inventory", help="phones that may be emitted: a file, or a language such as ru")
    parser.add_argument(
        "--output",
        type=output_place,
        help="file (.jsonl, .tsv, .ctm), folder for TextGrids or srt (all resumable), or - for stdout",
    )
    parser.add_argument(
        "--format", help="what to write: " + ", ".join(FORMATS) + " (default: by --output's suffix); alone: to stdout"
    )
    parser.add_argument("--batch-size", type=int, help="recordings that are read and encoded at a time")
    parser.add_argument(
        "--blank-penalty", type=float, default=0.0, help="taken from blank's score: above 0, fewer phones are missed"
    )
    parser.add_argument(
        "--passes", type=int, default=1, help="mean of so many passes of a CTC model: slower, and fewer errors"
    )
    parser.add_argument(
        "--max-sym-per-frame",
        type=int,
        default=1,
        help="of a transducer: 1 as in ZIPA's published numbers, 3 as in the client of ZIPA's ONNX files",
    )


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Flags that choose an exported model."""
    parser.add_argument("--model-path", type=Path, required=True, help="ONNX file, or folder of a transducer's files")
    parser.add_argument("--model-type", choices=("ctc", "transducer"), help="found out when it is not given")
    parser.add_argument("--tokens", type=Path, help="tokens.txt (default: beside the model)")
    parser.add_argument("--suffix", default=".onnx", help="of the files in a folder: .onnx, .fp16.onnx, .int8.onnx")
    parser.add_argument("--threads", type=int, default=0, help="0 for one per core")


def run_files(flags: argparse.Namespace, places: list[Path]) -> FilesRun:
    """Open the model and transcribe what was named on the command line."""
    log_to_screen(logging.WARNING)
    output = output_of_flags(flags)
    found = find_audio(places, output)
    backend = OnnxBackend(
        flags.model_path, model_type=flags.model_type, tokens=flags.tokens, suffix=flags.suffix, threads=flags.threads
    )
    restriction = restriction_to(flags.inventory, backend.vocabulary) if flags.inventory else None
    recognizer = Recognizer(
        backend,
        restriction,
        batch_size=flags.batch_size,
        blank_penalty=flags.blank_penalty,
        passes=flags.passes,
        max_sym_per_frame=flags.max_sym_per_frame,
    )
    root = places[0] if len(places) == 1 and places[0].is_dir() else None
    return transcribe_files(recognizer, found, output, flags.format, root, flags.inventory)
