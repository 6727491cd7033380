"""What the programs share that transcribe files: the run on ONNX Runtime."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from couloir.inference.file_run import FilesRun, transcribe_files
from couloir.inference.flags import output_of_flags
from couloir.inference.inventory import restriction_to
from couloir.inference.onnx_backend import OnnxBackend
from couloir.inference.recognizer import Recognizer
from couloir.inference.recordings import find_audio
from couloir.progress import log_to_screen


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
