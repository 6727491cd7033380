"""What a penalty on blank and several passes give: PER on dev, where the penalty is chosen, and on a test set.

    python benchmarks/listening.py --model demo/exp/tiny --shar demo/festvox-ru/shar [--write]

One search of the same log-probabilities per penalty. Passes are those of `couloir.Recognizer`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from export_accuracy import error_rate, utterances
from result_file import write_result

from couloir.inference.recognizer import Recognizer
from couloir.inference.search import token_bias

PASSES = (1, 2, 4)
PENALTIES = tuple(0.25 * step for step in range(11))


def rates(recognizer: Recognizer, waves: list[np.ndarray], references: list[list[str]]) -> dict[float, float]:
    """Penalty -> PER in percent."""
    rows = [t.log_probs for t in recognizer.transcribe(waves, log_probs=True) if t.log_probs is not None]
    vocabulary, found = recognizer.backend.vocabulary, {}
    for penalty in PENALTIES:
        spans = recognizer.backend.search(rows, token_bias(len(vocabulary), None, penalty))
        found[penalty] = error_rate(references, [vocabulary.text(each.tokens) for each in spans])
    return found


def measure(model: str, shar: Path, sets: Sequence[str]) -> dict[str, Any]:
    """A row per number of passes; ``sets`` are the folders of dev and test."""
    data = {name: utterances(shar / folder) for name, folder in zip(("dev", "test"), sets)}
    backend, rows = Recognizer.from_pretrained(model).backend, []
    for passes in PASSES:
        recognizer = Recognizer(backend, passes=passes)
        found = {name: rates(recognizer, *each) for name, each in data.items()}
        best = min(PENALTIES, key=lambda penalty: found["dev"][penalty])
        row = {"passes": passes, "penalty": best} | {name: found[name][0.0] for name in data}
        row |= {f"{name}_with_penalty": found[name][best] for name in data}
        print(json.dumps(row))
        rows.append(row)
    return {"utterances": {name: len(waves) for name, (waves, _) in data.items()}, "rows": rows}


def main() -> None:
    """Print the table; with --write keep it as a dated file beside this program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="run directory or CTC model")
    parser.add_argument("--shar", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--sets", nargs=2, default=("dev", "test-heldout"), help="where to choose, where to report")
    parser.add_argument("--write", action="store_true", help="write results/listening-RUN-DATE.json")
    args = parser.parse_args()
    result = measure(args.model, args.shar, args.sets) | {"run": Path(args.model).name}
    if args.write:
        write_result(f"listening-{result['run']}", result)


if __name__ == "__main__":
    main()
