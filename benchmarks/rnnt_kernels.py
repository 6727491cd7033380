"""The Triton kernels of the transducer losses against their torch form, on the same device: differences and times.

    python benchmarks/rnnt_kernels.py --device cuda --write
    python benchmarks/rnnt_kernels.py --device cpu --shape 2,9,4,11       # under Triton's interpreter, for their values

The lattice is compared in its scores and occupations, the logits in their log-probabilities and gradients, in float32
and bfloat16. The torch form is what tests compare with brute force.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from result_file import save_result, write_result
from rnnt_loss import PUBLISHED_SHAPE, alternately, parse_shape
from torch import Tensor

from couloir.losses import rnnt_lattice, rnnt_logprobs

Calls = dict[str, Callable[[], list[Tensor]]]


def lattice_calls(shape: tuple[int, int, int, int], device: str) -> Calls:
    """Scores and occupations of whole lattices."""
    from couloir.losses.kernels.lattice import walk

    batch, frames, symbols, _ = shape
    px = torch.randn(batch, symbols, frames + 1, device=device)
    py = torch.randn(batch, symbols + 1, frames, device=device)
    boundary = torch.tensor([[0, 0, symbols, frames]], device=device).repeat(batch, 1)

    def flat(found: tuple[Tensor, Any]) -> list[Tensor]:
        return [found[0], *found[1]]

    return {
        "kernel": lambda: flat(walk(px, py, boundary, True)),
        "torch": lambda: flat(rnnt_lattice.walk(px, py, boundary, True)),
    }


def logits_calls(shape: tuple[int, int, int, int], device: str, dtype: torch.dtype) -> Calls:
    """Log-probabilities and gradients of the rows that the pruned loss has: five a frame."""
    from couloir.losses.kernels import logits

    batch, frames, _, vocab = shape
    rows = torch.randn(batch * frames * 5, vocab, device=device).to(dtype)
    symbols = torch.randint(1, vocab, (len(rows),), device=device)
    incoming = torch.rand(2, len(rows), device=device)
    norms = rnnt_logprobs._row_logprobs(rows, symbols, 0)[2]

    def calls(logprobs: Callable, gradients: Callable) -> Callable[[], list[Tensor]]:
        return lambda: [*logprobs(rows, symbols, 0), gradients(rows, symbols, 0, norms, *incoming)]

    return {
        "kernel": calls(logits.row_logprobs, logits.row_gradients),
        "torch": calls(rnnt_logprobs._row_logprobs, rnnt_logprobs._row_gradients),
    }


def largest_difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest absolute difference where both are finite; infinite where only one is."""
    worst = 0.0
    for ours, theirs in zip(found, expected, strict=True):
        ours, theirs = ours.double(), theirs.double()
        if not torch.equal(torch.isfinite(ours), torch.isfinite(theirs)):
            return float("inf")
        finite = torch.isfinite(ours)
        worst = max(worst, float((ours[finite] - theirs[finite]).abs().max()) if finite.any() else 0.0)
    return worst


def compare(calls: Calls, repeats: int, device: str) -> dict[str, Any]:
    """Difference, times and their ratio."""

    def waited(call: Callable[[], list[Tensor]]) -> Callable[[], None]:
        def step() -> None:
            call()
            if device == "cuda":
                torch.cuda.synchronize()

        return step

    difference = largest_difference(calls["kernel"](), calls["torch"]())
    times = alternately({name: waited(call) for name, call in calls.items()}, repeats)
    ratio = times["kernel"]["median_ms"] / max(1e-9, times["torch"]["median_ms"])
    return {"largest_difference": difference, **times, "ratio": round(ratio, 3)}


def main() -> None:
    """Print the table; keep it where it is asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--shape", type=parse_shape, default=PUBLISHED_SHAPE, help="B,T,U,V")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--save", type=Path, help="write the result to this JSON file")
    parser.add_argument("--write", action="store_true", help="write results/rnnt_kernels-DEVICE-DATE.json")
    args = parser.parse_args()
    if args.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    torch.manual_seed(0)
    cases = {"lattice, float32": lattice_calls(args.shape, args.device)}
    for dtype in (torch.float32, torch.bfloat16):
        cases[f"logits, {str(dtype).removeprefix('torch.')}"] = logits_calls(args.shape, args.device, dtype)
    rows = {}
    for name, calls in cases.items():
        rows[name] = compare(calls, args.repeats, args.device)
        print(name, rows[name], flush=True)
    result = {"shape": list(args.shape), "rows": rows}
    if args.save:
        save_result(args.save, result, args.device)
    if args.write:
        write_result(f"rnnt_kernels-{args.device}", result, args.device)


if __name__ == "__main__":
    main()
