"""Speech to IPA, alignments, facts about a model, and the programs of the recipes.

    couloir transcribe MODEL recording.wav recordings/ --output ipa.tsv
    couloir align MODEL recording.wav transcript.txt --output recording.TextGrid
    couloir info MODEL
    couloir train zipformer_crctc --preset tiny --manifest-dir data/shar --exp-dir exp/mine

MODEL is a run directory, a checkpoint, an exported ONNX file or folder, or a hub id (owner/name@revision).
train, decode and export run a recipe's programs, prepare runs prepare.sh, with their flags.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from couloir.commands import PROGRAMS, SUMMARIES, prepare, run_program
from couloir.config import TeachingParser, add_flags, from_mapping, given_flags
from couloir.errors import UserError, must_be, one_line_errors, shown
from couloir.inference.flags import add_output_flags, add_search_flags, output_of_flags, output_place, search_flags
from couloir.progress import log_to_screen
from couloir.training.config import AveragingConfig

if TYPE_CHECKING:
    from couloir.inference.recognizer import Recognizer
    from couloir.inference.transcript import Transcript


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = TeachingParser(prog="couloir", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    transcribe = commands.add_parser("transcribe", help="recordings to IPA, with times and confidences")
    transcribe.add_argument("inputs", nargs="+", metavar="[MODEL] FILE", help="model; then recordings, or folders")
    _add_model_flags(transcribe)
    add_output_flags(transcribe)
    add_search_flags(transcribe)
    transcribe.set_defaults(run=_transcribe)
    align = commands.add_parser("align", help="when the phones and words of a transcript are spoken, as a TextGrid")
    align.add_argument("inputs", nargs="+", metavar="[MODEL] FILE TRANSCRIPT", help="transcript: IPA, or its file")
    _add_model_flags(align)
    align.add_argument("--language", help="the transcript is words in this language (espeak-ng pronounces them)")
    align.add_argument(
        "--output", type=output_place, help="TextGrid to write (default: beside the recording, where none is)"
    )
    align.set_defaults(run=_align)
    info = commands.add_parser("info", help="what a checkpoint or ONNX file is")
    info.add_argument("model", help="run directory, checkpoint, ONNX file or folder, or hub id")
    info.set_defaults(run=_info)
    for name, summary in SUMMARIES.items():  # `main` hands their words on
        commands.add_parser(name, help=summary, add_help=False)
    return parser


def _add_model_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--exp-dir", help="run directory of the model, in place of MODEL")
    parser.add_argument("--tokens", help="tokens.txt or bpe.model, if it is not beside the model")
    parser.add_argument("--model-type", choices=("ctc", "transducer"), help="for a model that is both")
    parser.add_argument("--runtime", default="auto", choices=("auto", "torch", "onnx"), help="where files for both are")
    parser.add_argument("--suffix", default=".onnx", help="of ONNX files, such as .int8.onnx, which are then preferred")
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--chunk-size", type=int, help="of a causal model, in 50 Hz frames (default -1: full context)")
    parser.add_argument("--left-context-frames", type=int, help="before a chunk, in 50 Hz frames (default -1: all)")
    add_flags(parser, AveragingConfig)


def _open(flags: argparse.Namespace, **more: Any) -> tuple[Recognizer, list[str]]:
    """The model that the flags name, and what else was given."""
    inputs = list(flags.inputs)
    source = flags.exp_dir or inputs.pop(0)
    if not inputs:
        raise UserError(f"nothing to {flags.command} was given: couloir {flags.command} MODEL FILE...")
    from couloir.inference.recognizer import Recognizer

    recognizer = Recognizer.from_pretrained(
        source,
        tokens=flags.tokens,
        model_type=flags.model_type,
        runtime=flags.runtime,
        suffix=flags.suffix,
        revision=flags.revision,
        device=flags.device,
        chunk_size=flags.chunk_size,
        left_context_frames=flags.left_context_frames,
        averaging=from_mapping(AveragingConfig, given_flags(flags, AveragingConfig)),
        **more,
    )
    return recognizer, inputs


def _transcribe(flags: argparse.Namespace) -> int:
    from couloir.inference.file_run import transcribe_files
    from couloir.inference.recordings import find_audio

    recognizer, inputs = _open(
        flags,
        inventory=flags.inventory,
        batch_size=flags.batch_size,
        blank_penalty=flags.blank_penalty,
        passes=flags.passes,
        max_sym_per_frame=flags.max_sym_per_frame,
        result=flags.result,
        **search_flags(flags),
    )
    places, output = [Path(place) for place in inputs], output_of_flags(flags)
    root = places[0] if len(places) == 1 and places[0].is_dir() else None
    found = find_audio(places, output)
    run = transcribe_files(recognizer, found, output, flags.format, root, flags.inventory)
    if output is None and run.transcripts:
        print_table(run.transcripts.values())
    elif output is not None:
        print(run.summary(output), file=sys.stderr if run.streamed else sys.stdout)
    return run.exit_code()


def _align(flags: argparse.Namespace) -> None:
    from couloir.inference.align import align
    from couloir.inference.formats import textgrid
    from couloir.inference.known_text import read_words
    from couloir.inference.output import OTHER_SUFFIXES, output_of, writing_one

    recognizer, inputs = _open(flags)
    if len(inputs) != 2:
        raise must_be("the command line", "MODEL FILE TRANSCRIPT", f"{len(inputs)} arguments after the model")
    recording = Path(inputs[0])
    output = output_of(flags.output or recording.with_suffix(".TextGrid"), "TextGrid")
    if Path(output.given).suffix in OTHER_SUFFIXES and not output.is_stream:
        raise must_be("--output", "a TextGrid's name", output.given)
    with writing_one(output, "align") as write:
        words = read_words(inputs[1], flags.language, recognizer.backend.vocabulary)
        aligned = align(recognizer, recording, words)
        write(textgrid(aligned.tiers(), aligned.duration))
    words_found = f"{len(aligned.words)} word" + "s" * (len(aligned.words) != 1)
    done = f"{len(aligned.phones)} phones in {words_found}, {aligned.score:.2f} per frame: {shown(output.given)}"
    print(done, file=sys.stderr if output.is_stream else sys.stdout)


def _info(flags: argparse.Namespace) -> None:
    from couloir.inference.info import describe

    facts = describe(flags.model)
    width = max(len(shown(key)) for key in facts)
    for key, value in facts.items():
        print(f"{shown(key):<{width}}  {shown(value)}")


def print_table(transcripts: Iterable[Transcript]) -> None:
    """File, text and confidence of each recording; no line is broken where the output is no terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("file", "IPA", box=SIMPLE_HEAD)
    table.add_column("confidence", justify="right", no_wrap=True)
    for transcript in transcripts:
        name, text = shown(Path(transcript.name).name), shown(transcript.text)
        table.add_row(Text(name), Text(text), f"{transcript.confidence:.2f}")
    Console(width=None if sys.stdout.isatty() else 10000).print(table)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int | None:
    """Parse the command line and run the command."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["prepare"]:
        prepare(words[1:])
    if words and words[0] in PROGRAMS:
        run_program(words[0], words[1:])
        return 0
    log_to_screen(logging.WARNING)
    flags = make_parser().parse_args(words)
    return flags.run(flags)


if __name__ == "__main__":
    sys.exit(main())
