"""Forced alignment and time stamps against gold phone boundaries of held-out speech.

    python benchmarks/alignment.py --model demo/exp/festvox-ru --data demo/festvox-ru/shar/test-heldout [--write]

Two measurements. Alignment: the gold phones are aligned, and every boundary between two of them is compared with the
gold one. Transcription: what `transcribe` finds is paired with the gold phones by edit distance, and the boundaries
between neighbours that are both right are compared. Errors are absolute, in ms; the bias is ours minus gold.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from kaldialign import align as edit_alignment
from result_file import write_result

from couloir.data.shar import iterate_shar
from couloir.inference.align import Word, align
from couloir.inference.recognizer import Recognizer
from couloir.inference.transcript import Token

Pairs = list[tuple[float, float]]


class Gold(NamedTuple):
    """A recording with its phones and their times in s."""

    name: str
    samples: np.ndarray
    phones: list[Token]


def gold_recordings(folder: Path) -> Iterator[Gold]:
    """The utterances of a Shar folder whose phones are timed."""
    for utterance in iterate_shar(folder):
        timed = utterance.alignment or ()
        phones = [Token(symbol, start, start + duration, 1.0) for symbol, start, duration in timed]
        yield Gold(utterance.id, np.asarray(utterance.audio), phones)


def boundaries(found: Sequence[Token], gold: Sequence[Token], right: Sequence[bool]) -> Pairs:
    """(ours, gold) times of the boundaries between neighbours that touch in the gold labels and are both right."""
    pairs: Pairs = []
    for i in range(1, len(gold)):
        if right[i - 1] and right[i] and abs(gold[i - 1].end - gold[i].start) < 1e-3:
            pairs.append(((found[i - 1].end + found[i].start) / 2, gold[i].start))
    return pairs


def of_transcript(found: Sequence[Token], gold: Sequence[Token]) -> Pairs:
    """`boundaries` of a recognised string, paired with the gold one by edit distance."""
    rows = edit_alignment([t.symbol for t in gold], [t.symbol for t in found], "<eps>")
    paired: list[Token] = []
    right: list[bool] = []
    place = 0
    for expected, recognised in rows:
        if expected != "<eps>":
            right.append(expected == recognised)
            paired.append(found[place] if recognised != "<eps>" else gold[len(paired)])
        place += recognised != "<eps>"
    return boundaries(paired, gold, right)


def summary(pairs: Pairs) -> dict[str, float]:
    """Median and mean absolute error and median bias in ms, and the share within 20 ms."""
    difference = 1000 * np.array([ours - gold for ours, gold in pairs])
    error = np.abs(difference)
    return {
        "boundaries": len(pairs),
        "median_ms": round(float(np.median(error)), 1),
        "mean_ms": round(float(error.mean()), 1),
        "within_20_ms_percent": round(100 * float((error <= 20).mean()), 1),
        "bias_ms": round(float(np.median(difference)), 1),
    }


def measure(recognizer: Recognizer, folder: Path) -> dict[str, Any]:
    """Both measurements over a folder."""
    aligned: Pairs = []
    recognised: Pairs = []
    for gold in gold_recordings(folder):
        tiers = align(recognizer, gold.samples, [Word(gold.name, [phone.symbol for phone in gold.phones])])
        aligned += boundaries(tiers.phones, gold.phones, [True] * len(gold.phones))
        recognised += of_transcript(recognizer.transcribe([gold.samples])[0].phones(), gold.phones)
    return {"alignment": summary(aligned), "transcription": summary(recognised)}


def main() -> None:
    """Print the table; with --write keep it as a dated file beside this program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--write", action="store_true", help="write results/alignment-DATE.json")
    args = parser.parse_args()
    result = measure(Recognizer.from_pretrained(args.model), args.data)
    for name, row in result.items():
        print(name, *(f"  {key}: {value:g}" for key, value in row.items()))
    if args.write:
        write_result("alignment", result | {"model": args.model, "data": str(args.data)})


if __name__ == "__main__":
    main()
