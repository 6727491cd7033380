"""Everything that waits for a GPU, in one unattended run of at most 8 minutes, most important first.

    python benchmarks/gpu.py                        # on a machine with a GPU; nothing is asked, nothing is fetched
    python benchmarks/gpu.py --parts pruned,train-medium --minutes 3
    python benchmarks/gpu.py --dry-run              # the same commands at tiny sizes on a CPU

Each part is a separate program, which may fail or run out of time without harm to the others; what it printed is
kept in DIR/NAME.txt (--out DIR), its table in DIR/NAME.json, and after each part all of it in DIR/gpu-DATE.json, the
file that `results_page.py` shows from benchmarks/results/. A part begins only while time is left.

Python 3.10 or newer with torch, Triton, numpy and sentencepiece is enough. Two things more are used where they are
found in --carry, a folder that is made where there is a network and travels with the checkout; without them their part
is left out and named:

    pip download --no-deps -d wheels pytest pluggy iniconfig packaging pygments zipformer==0.1.3
    for wheel in wheels/*.whl; do python -m zipfile -e "$wheel" carried; done
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from result_file import RESULTS, save_result

from couloir.errors import UserError, one_line_errors, unknown_name

HERE = Path(__file__).resolve().parent
TRAIN = ("train_step.py", "--amp", "bf16", "--seconds", "20")
INFERENCE = ("torch_inference.py", "--preset", "zipa_large", "--amp", "fp16")


@dataclass(frozen=True)
class Part:
    """One question that only a GPU answers.

    Attributes:
        name: what it is called in --parts. what: what it measures, with the mark to reach.
        command: a program of benchmarks/ with its arguments, or ``-m`` and a module.
        tiny: arguments that --dry-run adds. limit_s: its share of the time.
        needs: a package of the carried folder. saves: whether the program takes ``--save``.
    """

    name: str
    what: str
    command: tuple[str, ...]
    tiny: tuple[str, ...]
    limit_s: int
    needs: str = ""
    saves: bool = True


SHORT_STEP = ("--utterances", "1", "--seconds", "1", "--steps", "1", "--batch-counts", "1000")
SHORT_SOUND = ("--preset", "tiny", "--seconds", "0.5", "--batches", "1", "--rounds", "1", "--modes", "eager")
PARTS = (
    Part(
        "tests",
        "the tests that need a GPU",
        (
            "-m",
            "pytest",
            "-q",
            "-o",
            "addopts=",
            "-p",
            "no:cacheprovider",
            "-m",
            "gpu",
            "tests/losses",
            "tests/features",
        ),
        ("--collect-only",),
        60,
        needs="pytest",
        saves=False,
    ),
    Part(
        "kernels",
        "Triton kernels of the transducer losses against their torch form: largest difference, time",
        ("rnnt_kernels.py",),
        ("--shape", "1,3,2,5", "--repeats", "1"),
        40,
    ),
    Part(
        "train-medium",
        "a bf16 training step of medium against the `zipformer` package (goal: 0.6 of its time)",
        (*TRAIN, "--preset", "medium", "--utterances", "30"),
        ("--preset", "tiny", *SHORT_STEP),
        70,
    ),
    Part(
        "pruned",
        "pruned loss at B 30, T 500, U 100, V 500 (mark: 10 ms, 1.5 GB)",
        ("rnnt_loss.py",),
        ("--shape", "2,9,4,11", "--repeats", "1"),
        40,
    ),
    Part(
        "inference",
        "zipa_large CTC, samples to tokens: batch 1 (mark: 578 x real time) and the best batch (10,000 x)",
        (*INFERENCE, "--batches", "1,64,256", "--rounds", "5"),
        SHORT_SOUND,
        100,
    ),
    Part(
        "train-zipa-large",
        "a bf16 training step of zipa_large against the `zipformer` package (goal: 0.6 of its time)",
        (*TRAIN, "--preset", "zipa_large", "--utterances", "15", "--steps", "8"),
        ("--preset", "tiny", *SHORT_STEP),
        80,
    ),
    Part(
        "where-training",
        "where the time of medium's training step goes",
        (*TRAIN, "--preset", "medium", "--utterances", "30", "--steps", "2", "--profile"),
        ("--preset", "tiny", *SHORT_STEP),
        40,
    ),
    Part(
        "where-inference",
        "where the time of zipa_large's inference goes",
        (*INFERENCE, "--batches", "1,64", "--modes", "eager", "--rounds", "3", "--profile"),
        SHORT_SOUND,
        40,
    ),
)


@dataclass(frozen=True)
class Plan:
    """How the parts are run: where to, on what, with what beside the checkout, until when (a monotonic time)."""

    out: Path
    device: str
    carried: Path | None
    deadline: float


def program(part: Part, plan: Plan) -> list[str]:
    """The command line of a part."""
    module = part.command[0] == "-m"
    command = [sys.executable, *(part.command if module else (str(HERE / part.command[0]), *part.command[1:]))]
    if plan.device == "cpu":
        command += part.tiny
    if not module:
        command += ["--device", plan.device]
    if part.command[0] == "train_step.py" and plan.carried and (plan.carried / "zipformer").is_dir():
        command += ["--peer", str(plan.carried)]
    return command + (["--save", str(plan.out / f"{part.name}.json")] if part.saves else [])


def left_out(part: Part, plan: Plan) -> str:
    """Why a part is not run; empty where it is."""
    carried = plan.carried is not None and (plan.carried / part.needs).is_dir()
    if part.needs and not carried and importlib.util.find_spec(part.needs) is None:
        return f"{part.needs} is not installed here, nor in --carry"
    if time.monotonic() >= plan.deadline:
        return "no time was left"
    return ""


def run_part(part: Part, plan: Plan) -> dict[str, Any]:
    """Run one part and say how it ended; its output is in OUT/NAME.txt."""
    print(f"\n== {part.name}: {part.what}", flush=True)
    if reason := left_out(part, plan):
        print(f"left out: {reason}", flush=True)
        return {"ended": f"left out: {reason}"}
    env = dict(os.environ, PYTHONUNBUFFERED="1")
    env["PYTHONPATH"] = os.pathsep.join(
        str(path) for path in (HERE.parent, plan.carried, env.get("PYTHONPATH")) if path
    )
    begin, log = time.monotonic(), plan.out / f"{part.name}.txt"
    # A dry run is about commands, on any machine.
    limit = plan.deadline - begin if plan.device == "cpu" else min(float(part.limit_s), plan.deadline - begin)
    with open(log, "w", encoding="utf-8") as out:
        try:
            code: int | None = subprocess.run(
                program(part, plan), cwd=HERE.parent, env=env, stdout=out, stderr=subprocess.STDOUT, timeout=limit
            ).returncode
        except subprocess.TimeoutExpired:
            code = None
    text = log.read_text(encoding="utf-8", errors="replace")
    print(text, end="", flush=True)
    ended = "ran out of time" if code is None else "ok" if code == 0 else f"failed with code {code}"
    row: dict[str, Any] = {"ended": ended, "seconds": round(time.monotonic() - begin, 1)}
    table = plan.out / f"{part.name}.json"
    if table.is_file():
        row["result"] = json.loads(table.read_text(encoding="utf-8"))
    if code != 0:
        row["last_lines"] = text.splitlines()[-5:]
    print(f"== {part.name}: {ended} after {row['seconds']} s", flush=True)
    return row


def run_all(parts: Sequence[Part], plan: Plan) -> dict[str, Any]:
    """Run the parts in order; after each, all that is known so far is written."""
    rows: dict[str, Any] = {}
    for part in parts:
        rows[part.name] = {"what": part.what, **run_part(part, plan)}
        save_result(plan.out / f"gpu-{datetime.date.today()}.json", {"rows": rows, "device": plan.device}, plan.device)
    return rows


def chosen(names: str) -> list[Part]:
    """The parts that are named, in their own order; all of them for an empty text. Raises `UserError` otherwise."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    known = [part.name for part in PARTS]
    for name in wanted:
        if name not in known:
            raise unknown_name("part", name, known)
    return [part for part in PARTS if not wanted or part.name in wanted]


@one_line_errors
def main() -> int:
    """Run the parts; 1 where one failed or had no time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, at tiny sizes: do all commands work?")
    parser.add_argument("--parts", default="", help="some of: " + ", ".join(part.name for part in PARTS))
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all parts")
    parser.add_argument("--carry", type=Path, help="folder with pytest and the zipformer package")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    args = parser.parse_args()
    parts = chosen(args.parts)
    if args.minutes <= 0:
        raise UserError(f"`--minutes` must be more than 0, but is {args.minutes}")
    if args.carry and not args.carry.is_dir():
        raise UserError(f"`--carry` must be a folder, but {args.carry} is none")
    if not args.dry_run:
        import torch

        if not torch.cuda.is_available():
            raise UserError("no GPU is found here; `--dry-run` tries the commands on a CPU")
    args.out.mkdir(parents=True, exist_ok=True)
    carried = args.carry.resolve() if args.carry else None
    plan = Plan(args.out.resolve(), "cpu" if args.dry_run else "cuda", carried, time.monotonic() + 60 * args.minutes)
    rows = run_all(parts, plan)
    print("\n" + "\n".join(f"{name:18s} {row['ended']}" for name, row in rows.items()))
    return int(any("failed" in row["ended"] or "time" in row["ended"] for row in rows.values()))


if __name__ == "__main__":
    raise SystemExit(main())
