"""Decode a test set with every method of both programs, for one or more runs: the table of error rates by method.

    python benchmarks/method_table.py --exp-dir demo/exp/ctc demo/exp/transducer demo/exp/both --name festvox-ru \\
        --lm-dir demo/exp/lm --write

The graph, the n-grams and the RNN LM are made from the training transcripts of the first run (runs share a vocabulary)
into --lm-dir, if they are not there. Of a method with a result for each scale, the scale that is best on --dev-set is
shown, with the number of scales. Hotwords are stretches of the test set's own references with as many of training: they
show that the bias works, not what a user would gain. Times are of searches on speech that was encoded once.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from decoding_methods import (
    ENCODER,
    Measured,
    measure,
    prepare_hotwords,
    prepare_language,
    searches,
    trained_run,
)
from result_file import write_result

from couloir.errors import must_be, one_line_errors
from couloir.evaluation.alignment import align, count, units_of
from couloir.evaluation.evaluate import Result, evaluate
from couloir.progress import log_to_screen
from couloir.recipes.run import LoadedRun


def heads_of(run: LoadedRun) -> str:
    """The run's heads in words."""
    heads = run.config.heads
    known = (heads.use_transducer, "transducer"), (heads.use_ctc, "CTC"), (heads.use_attention_decoder, "attention")
    return " + ".join(name for there, name in known if there)


def best_key(by_key: dict[str, list[Result]]) -> str:
    """The result with the fewest errors."""
    errors = {
        key: sum(count(align(units_of(row.ref, "phone"), units_of(row.hyp, "phone"))).errors for row in rows)
        for key, rows in by_key.items()
    }
    return min(errors, key=lambda name: errors[name])


def chosen_result(by_key: dict[str, list[Result]], key: str) -> dict[str, Any]:
    """The error rate of one of a method's results."""
    overall = evaluate(by_key[key]).overall
    return {
        "per": round(overall.counts.rate, 2),
        "low": round(overall.low, 1),
        "high": round(overall.high, 1),
        "result": key,
        "chosen_from": len(by_key),
    }


def summary(run: LoadedRun, found: Measured, keys: dict[str, str]) -> dict[str, Any]:
    """A run's part of the result file; ``keys`` names the result of each method that has several."""
    rows = {}
    for method, by_key in found.results.items():
        rtf = {"rtf_search": round(found.seconds[method] / found.speech_s, 5)}
        rows[method] = chosen_result(by_key, keys.get(method) or next(iter(by_key))) | rtf
    return {
        "exp_dir": str(run.exp_dir),
        "recipe": run.config.recipe,
        "heads": heads_of(run),
        "checkpoints": run.suffix,
        "speech_s": round(found.speech_s, 1),
        "rtf_encoder": round(found.seconds[ENCODER] / found.speech_s, 5),
        "methods": rows,
    }


@one_line_errors
def main() -> None:
    """Decode, print the table; with --write keep it as a dated file beside this program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--exp-dir", type=Path, nargs="+", required=True, help="run directories")
    parser.add_argument("--name", required=True, help="what to call the result, such as the corpus")
    parser.add_argument("--lm-dir", type=Path, required=True, help="where language models are, or are made")
    parser.add_argument("--test-set", default="test-heldout")
    parser.add_argument("--dev-set", default="dev", help="where the scales of language models are chosen")
    parser.add_argument("--methods", default="", help="names, separated by `;`; empty: all")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--max-duration", type=float, default=200.0, help="seconds of speech in a batch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write results/decoding_methods-NAME-DATE.json")
    args = parser.parse_args()
    log_to_screen()
    torch.set_num_threads(args.threads)
    chosen = [name.strip() for name in args.methods.split(";") if name.strip()]
    parts, pieces = [], None
    for exp_dir in args.exp_dir:
        run = trained_run(exp_dir, args.device)
        if pieces not in (None, run.tokenizer.pieces):
            raise must_be(f"the vocabulary of {exp_dir}", f"that of {args.exp_dir[0]}", "another")
        pieces = run.tokenizer.pieces
        prepare_language(run, args.lm_dir)
        prepare_hotwords(run, args.lm_dir, args.test_set)
        methods, speech = dict(searches(run, args.lm_dir, chosen)), run.data(args.max_duration)
        found = measure(run, methods, speech.test_loader(args.test_set), args.test_set)
        tuned = {name: search for name, search in methods.items() if len(found.results[name]) > 1}
        tuning = measure(run, tuned, speech.test_loader(args.dev_set), args.dev_set).results
        parts.append(summary(run, found, {name: best_key(by_key) for name, by_key in tuning.items()}))
        for name, row in parts[-1]["methods"].items():
            print(f"{parts[-1]['heads']:20} {name:55} PER {row['per']:6.2f}  search RTF {row['rtf_search']:.5f}")
    if args.write:
        result = {"name": args.name, "test_set": args.test_set, "runs": parts}
        write_result(f"decoding_methods-{args.name}", result, run.device.type)


if __name__ == "__main__":
    raise SystemExit(main())
