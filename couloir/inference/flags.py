"""The flags of the programs that transcribe. Needs neither torch nor numpy, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from couloir.config import add_flags, flag_name
from couloir.decoding.ctc_config import CTC_METHODS, CtcSearchConfig
from couloir.decoding.transducer.config import METHODS, TransducerSearchConfig

FORMATS = ("jsonl", "tsv", "ctm", "TextGrid", "srt")
ONE_EACH = ("TextGrid", "srt")
"""Formats with a file for each recording."""
CONFIGS: dict[str, type] = {"ctc": CtcSearchConfig, "transducer": TransducerSearchConfig}
METHOD_NAMES = {"ctc": CTC_METHODS, "transducer": METHODS}
SETTINGS = frozenset(field.name for cls in CONFIGS.values() for field in dataclasses.fields(cls))
"""The names of all settings of all methods."""
_OF_RECOGNIZER = ("blank_penalty", "max_sym_per_frame")
"""Settings that a recogniser has whatever the method."""
_SHOWN = {
    "decoding_method": "how to search, as of decode.py or ctc_decode.py (default: greedily)",
    "beam_size": "hypotheses kept by beam searches",
    "context_file": "hotwords: a phrase per line, `:score` behind it where it has its own",
    "context_score": "reward per token of a hotword",
    "lang_dir": "folder of LG.npz and words.txt, for the methods on a graph of words",
    "lm_exp_dir": "folder of a neural language model's epoch-N.pt",
    "lm_scale": "scale of that language model, for a transducer",
    "nnlm_scale": "scale of that language model, for a CTC model",
}


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
        "--passes", type=int, default=1, help="mean of that many passes of a CTC model: slower, and fewer errors"
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


def add_search_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of all methods; --help shows the main ones, --help-all every one."""
    group = parser.add_argument_group("how to search", "The flags of decode.py and ctc_decode.py.")
    for name, text in _SHOWN.items():
        group.add_argument(flag_name(name), dest=name, default=argparse.SUPPRESS, help=text)
    group.add_argument("--result", default="", help="of a method with several results (rescoring), which: its key")
    add_flags(parser, CtcSearchConfig, TransducerSearchConfig, rare=True)


def search_flags(flags: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given, but for those that a recogniser has anyway."""
    return {name: value for name, value in vars(flags).items() if name in SETTINGS and name not in _OF_RECOGNIZER}
