"""Does a confidence of 0.9 mean that nine in ten are right? A reliability table on held-out speech.

    python benchmarks/confidence.py --model demo/exp/festvox-ru --data demo/festvox-ru/shar/test-heldout [--write]

A recognised phone is right when edit distance pairs it with the same phone of the reference. ECE is the expected
calibration error: the mean gap between confidence and accuracy over the bins, weighted by their size. For utterances
the rank correlation of confidence with accuracy (1 - phone error rate) is given.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from kaldialign import align as edit_alignment
from result_file import write_result

from couloir.data.shar import iterate_shar
from couloir.inference.recognizer import Recognizer
from couloir.text.ipa import segment

BINS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


def measure(recognizer: Recognizer, folder: Path) -> dict[str, Any]:
    """The table of phones and the correlation of utterances."""
    phones: list[tuple[float, bool]] = []
    utterances: list[tuple[float, float]] = []
    for utterance in iterate_shar(folder):
        transcript = recognizer.transcribe([utterance.audio])[0]
        found = transcript.phones()
        reference = segment(utterance.text)
        rows = edit_alignment(reference, [phone.symbol for phone in found], "<eps>")
        right = [expected == given for expected, given in rows if given != "<eps>"]
        phones += [(phone.confidence, ok) for phone, ok in zip(found, right)]
        errors = sum(expected != given for expected, given in rows)
        utterances.append((transcript.confidence, 1 - errors / max(len(reference), 1)))
    return {"phones": table(np.array(phones)), "ece": calibration_error(np.array(phones)), **correlation(utterances)}


def table(rows: np.ndarray) -> list[dict[str, float]]:
    """Number, mean confidence and accuracy of the phones in each of `BINS`; rows are (confidence, right)."""
    result = []
    for low, high in pairwise(BINS):
        inside = rows[(rows[:, 0] > low) & (rows[:, 0] <= high)]
        if len(inside):
            confidence, accuracy = (round(float(value), 4) for value in inside.mean(0))
            result.append(
                {"above": low, "to": high, "phones": len(inside), "confidence": confidence, "accuracy": accuracy}
            )
    return result


def calibration_error(rows: np.ndarray) -> float:
    """Expected calibration error over the bins."""
    parts = table(rows)
    gaps = sum(part["phones"] * abs(part["confidence"] - part["accuracy"]) for part in parts)
    return round(gaps / max(len(rows), 1), 4)


def correlation(utterances: list[tuple[float, float]]) -> dict[str, float]:
    """Spearman's correlation of the utterances' confidence and accuracy."""
    from scipy.stats import spearmanr

    return {"utterances": len(utterances), "spearman": round(float(spearmanr(*zip(*utterances)).statistic), 3)}


def main() -> None:
    """Print the table; with --write keep it as a dated file beside this program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--write", action="store_true", help="write results/confidence-DATE.json")
    args = parser.parse_args()
    result = measure(Recognizer.from_pretrained(args.model), args.data)
    for row in result["phones"]:
        print(f"{row['above']:5.2f} to {row['to']:4.2f}  {row['phones']:6d} phones", end="")
        print(f"  confidence {row['confidence']:.3f}  accuracy {row['accuracy']:.3f}")
    print(f"ECE {result['ece']}, {result['utterances']} utterances: rank correlation {result['spearman']}")
    if args.write:
        write_result("confidence", result | {"model": args.model, "data": str(args.data)})


if __name__ == "__main__":
    main()
