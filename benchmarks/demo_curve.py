"""What the demo's model reaches after how many batches, and what that makes of one run of the demo.

    python benchmarks/demo_curve.py --data-dir demo/festvox-ru --batches 500,1000,2200 --write   # train and decode each
    python benchmarks/demo_curve.py --data-dir demo/festvox-ru --batches 450 --plain --write     # --quick's loss
    python benchmarks/demo_curve.py --show demo/exp/festvox-ru                                   # found and expected

A machine that is slow, or busy with other work, gets through fewer batches in the demo's minutes. The decay of its
learning rate follows that number, so the error rate depends on the number and not on the machine. Error rates between
two measured numbers are interpolated over the logarithm of the batches. Fitting the other schedules too
(``--schedule-batches 2200``) was tried and is worse: 41.1 % in place of 31.8 % after 500 batches (greedy search).
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from result_file import RESULTS, write_result

from couloir.config import read_yaml
from couloir.errors import UserError, one_line_errors

ROOT = Path(__file__).resolve().parents[1]
NAME = "demo_curve"
SEARCHES = ("ctc-greedy-search", "ctc-prefix-beam-search")
LOSSES = {True: "CR-CTC", False: "CTC"}
Curve = Mapping[int, Mapping[str, float]]


def measured() -> dict[str, dict[int, dict[str, float]]]:
    """Loss -> batches -> search -> PER %, of the newest result file; empty without one."""
    files = sorted(RESULTS.glob(f"{NAME}-*.json"))
    rows = json.loads(files[-1].read_text(encoding="utf-8"))["rows"] if files else {}
    return {loss: {int(batches): rates for batches, rates in curve.items()} for loss, curve in rows.items()}


def expected(curve: Curve, batches: int, search: str) -> float | None:
    """The error rate after a number of batches; None outside of what was measured."""
    points = sorted((count, rates[search]) for count, rates in curve.items() if search in rates)
    for (count, rate), (next_count, next_rate) in pairwise([*points, *points[-1:]]):
        if count <= batches <= next_count:
            span = math.log(next_count / count)
            return rate + (next_rate - rate) * (math.log(batches / count) / span if span else 0.0)
    return None


def of_run(exp_dir: Path) -> dict[str, Any]:
    """Batches, loss, intended batches and error rates of a run directory. Raises `UserError` where one is missing."""
    config = read_yaml(exp_dir / "config.yaml")
    metrics, reports = exp_dir / "metrics.jsonl", sorted(exp_dir.glob("*/report.json"))
    if not metrics.is_file() or not reports:
        raise UserError(f"`--show` must be a run that was trained and decoded, but {exp_dir} holds no reports")
    last = json.loads(metrics.read_text(encoding="utf-8").splitlines()[-1])
    rates = {path.parent.name: json.loads(path.read_text(encoding="utf-8"))["overall"]["rate"] for path in reports}
    return {
        "batches": last["step"],
        "loss": LOSSES[config["loss"]["use_cr_ctc"]],
        "intended": config["trainer"]["schedule_batches"],
        "rates": rates,
    }


def comparison(run: Mapping[str, Any], curves: Mapping[str, Curve]) -> list[str]:
    """A table of what a run reached beside what is expected of its number of batches, and what to do about it."""
    curve, batches = curves.get(run["loss"], {}), run["batches"]
    lines = [f"{'search':26s} PER %   expected after {batches} batches"]
    for search in (name for name in SEARCHES if name in run["rates"]):
        rate = expected(curve, batches, search)
        shown = "not measured" if rate is None else f"{rate:.1f}"
        lines.append(f"{search:26s} {run['rates'][search]:5.1f}   {shown}")
    best = max(curve, default=0)
    if curve and batches < 0.75 * best:
        lines.append(
            f"On an idle machine of two cores {best} batches are reached, and {curve[best][SEARCHES[0]]:.1f} %. This "
            f"run had fewer: the lines `at ... batches a second` of its log say why. More time: MINUTES=60 ./demo.sh"
        )
    return lines


def train_and_decode(data_dir: Path, batches: int, cr_ctc: bool, work: Path) -> dict[str, float]:
    """Search -> PER % of a model trained for a number of batches with the demo's settings."""
    exp_dir = work / f"{LOSSES[cr_ctc]}-{batches}"
    train = [sys.executable, "zipformer_crctc/train.py", "--config", "egs/festvox_ru/tiny.yaml"]
    train += ["--manifest-dir", f"{data_dir}/shar", "--bpe-model", f"{data_dir}/lang/bpe.model"]
    train += ["--exp-dir", str(exp_dir), "--max-steps", str(batches), "--save-every-n", str(max(20, batches // 10))]
    train += ["--use-cr-ctc", str(cr_ctc), "--world-size", "2", "--num-threads", "1"]
    subprocess.run(train, cwd=ROOT, check=True)
    for search in SEARCHES:
        decode = [sys.executable, "zipformer_crctc/ctc_decode.py", "--exp-dir", str(exp_dir)]
        subprocess.run([*decode, "--decoding-method", search], cwd=ROOT, check=True)
    return {search: round(rate, 2) for search, rate in of_run(exp_dir)["rates"].items()}


@one_line_errors
def main() -> None:
    """Measure, or show one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--show", type=Path, help="run directory of the demo: print what it reached and what is expected"
    )
    parser.add_argument("--data-dir", type=Path, default=Path("demo/festvox-ru"), help="what prepare.sh made")
    parser.add_argument("--batches", default="500,1000,2200", help="numbers of batches to train for")
    parser.add_argument("--plain", action="store_true", help="CTC without consistency, as ./demo.sh --quick")
    parser.add_argument("--write", action="store_true", help=f"keep the rows in results/{NAME}-DATE.json")
    args = parser.parse_args()
    curves = measured()
    if args.show:
        print("\n".join(comparison(of_run(args.show), curves)))
        return
    curve = curves.setdefault(LOSSES[not args.plain], {})
    for batches in map(int, args.batches.split(",")):
        with tempfile.TemporaryDirectory() as work:
            curve[batches] = train_and_decode(args.data_dir.resolve(), batches, not args.plain, Path(work))
        print(batches, curve[batches], flush=True)
        if args.write:
            write_result(NAME, {"what": "PER % on festvox-ru's 60 held-out utterances", "rows": curves})


if __name__ == "__main__":
    raise SystemExit(main())
