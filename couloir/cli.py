"""The `couloir` command: transcribe, align, info."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from couloir.config import TeachingParser, add_flags, from_mapping, given_flags
from couloir.errors import UserError, one_line_errors
from couloir.training.config import AveragingConfig

if TYPE_CHECKING:
    from couloir.inference.transcript import Transcript


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = TeachingParser(prog="couloir", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    transcribe = commands.add_parser("transcribe", help="recordings to IPA")
    transcribe.add_argument("inputs", nargs="+", metavar="[MODEL] FILE", help="model, then recordings")
    transcribe.add_argument("--exp-dir", type=Path, help="run directory of the model, in place of MODEL")
    transcribe.add_argument("--tokens", type=Path, help="tokens.txt or bpe.model, if it is not beside the model")
    transcribe.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add_flags(transcribe, AveragingConfig)
    transcribe.set_defaults(run=_transcribe)
    return parser


def _transcribe(flags: argparse.Namespace) -> None:
    inputs = list(flags.inputs)
    source = flags.exp_dir or inputs.pop(0)
    if not inputs:
        raise UserError("no recording was given: couloir transcribe MODEL FILE...")
    from couloir.inference.recognizer import Recognizer

    averaging = from_mapping(AveragingConfig, given_flags(flags, AveragingConfig))
    recognizer = Recognizer.from_pretrained(source, tokens=flags.tokens, device=flags.device, averaging=averaging)
    print_table(recognizer.transcribe(inputs))


def print_table(transcripts: Sequence[Transcript]) -> None:
    """File, text and confidence of each recording; no line is broken where the output is no terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("file", "IPA", box=SIMPLE_HEAD)
    table.add_column("confidence", justify="right", no_wrap=True)
    for transcript in transcripts:
        table.add_row(Text(Path(transcript.name).name), Text(transcript.text), f"{transcript.confidence:.2f}")
    Console(width=None if sys.stdout.isatty() else 10000).print(table)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int | None:
    """Parse the command line and run the command."""
    flags = make_parser().parse_args(argv)
    return flags.run(flags)


if __name__ == "__main__":
    sys.exit(main())
