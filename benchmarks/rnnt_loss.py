"""Time and memory of the transducer losses, forward and backward, against fast_rnnt where it can be imported.

The unpruned loss is compared with torchaudio's, where that can be imported.

    python benchmarks/rnnt_loss.py --threads 2                   # CPU; put fast_rnnt on PYTHONPATH for the ratio
    python benchmarks/rnnt_loss.py --device cuda                 # pruned and unpruned at B 30, T 500, U 100, V 500

Claims: on CPU at most 1.0 of fast_rnnt's time; on a GPU the pruned loss in at most 10 ms and 1.5 GB. Both systems run
in turn within one process, because the machine's load moves both; medians are compared, and the best times beside them.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from result_file import save_result, write_result
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from couloir.losses import rnnt

BLANK = 0
S_RANGE = 5
CPU_SHAPES = ((8, 400, 80, 500), (16, 250, 60, 128))  # B, T, S, V
PUBLISHED_SHAPE = (30, 500, 100, 500)


class Inputs:
    """Random scores of one shape, and the losses as closures over a system that has k2's names."""

    def __init__(self, shape: tuple[int, int, int, int], device: str) -> None:
        batch, frames, symbols, vocab = shape
        torch.manual_seed(0)
        self.lm = torch.randn(batch, symbols + 1, vocab, device=device, requires_grad=True)
        self.am = torch.randn(batch, frames, vocab, device=device, requires_grad=True)
        self.symbols = torch.randint(1, vocab, (batch, symbols), device=device)
        self.boundary = torch.tensor([[0, 0, symbols, frames]], device=device).repeat(batch, 1)

    def _smoothed_loss(self, system: ModuleType) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return system.rnnt_loss_smoothed(
            self.lm, self.am, self.symbols, BLANK, 0.25, 0.0, self.boundary, reduction="sum", return_grad=True
        )

    def smoothed(self, system: ModuleType) -> None:
        """Forward and backward of the smoothed loss."""
        loss, _ = self._smoothed_loss(system)
        loss.backward()

    def pipeline(self, system: ModuleType) -> None:
        """Smoothed, ranges, pruning, adding joiner, pruned: forward and backward."""
        smoothed, occupations = self._smoothed_loss(system)
        # Before the backward pass: fast_rnnt's multiplies the occupations by the incoming gradient in place.
        ranges = system.get_rnnt_prune_ranges(*occupations, self.boundary, S_RANGE)
        am, lm = system.do_rnnt_pruning(self.am, self.lm, ranges)
        pruned = system.rnnt_loss_pruned(am + lm, self.symbols, ranges, BLANK, self.boundary, reduction="sum")
        (smoothed + pruned).backward()

    def pruned(self, system: ModuleType) -> Callable[[], None]:
        """Forward and backward of the pruned loss alone, on given logits."""
        ranges = system.get_rnnt_prune_ranges(*self._smoothed_loss(system)[1], self.boundary, S_RANGE)
        logits = torch.randn(*ranges.shape, self.lm.shape[2], device=self.lm.device, requires_grad=True)

        def step() -> None:
            logits.grad = None
            loss = system.rnnt_loss_pruned(logits, self.symbols, ranges, BLANK, self.boundary, reduction="sum")
            loss.backward()

        return step

    def unpruned(self, dtype: torch.dtype) -> dict[str, Callable[[], None]]:
        """Forward and backward of the unpruned loss on given logits, of this project and, if it is there, torchaudio.

        torchaudio's has no bfloat16: it is left out then.
        """
        shape = (self.am.shape[0], self.am.shape[1], self.lm.shape[1], self.lm.shape[2])
        logits = torch.randn(shape, device=self.lm.device, dtype=dtype, requires_grad=True)
        peer = torchaudio_loss() if dtype == torch.float32 else None

        def ours() -> None:
            logits.grad = None
            rnnt.rnnt_loss(logits, self.symbols, BLANK, self.boundary, reduction="sum").backward()

        def theirs() -> None:
            assert peer is not None
            logits.grad = None
            ends = self.boundary.int()
            symbols = self.symbols.int()
            peer(logits, symbols, ends[:, 3].contiguous(), ends[:, 2].contiguous(), BLANK, reduction="sum").backward()

        return {"couloir": ours, "torchaudio": theirs} if peer else {"couloir": ours}


def parse_shape(text: str) -> tuple[int, int, int, int]:
    """``B,T,U,V`` as numbers. Raises `argparse.ArgumentTypeError` for anything else."""
    try:
        batch, frames, symbols, vocab = map(int, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be four whole numbers, B,T,U,V, but is {text}") from None
    return batch, frames, symbols, vocab


def torchaudio_loss() -> Callable[..., Tensor] | None:
    """torchaudio's loss; None where it is not installed, or is without one."""
    try:
        return importlib.import_module("torchaudio.functional").rnnt_loss
    except (ImportError, OSError, AttributeError) as error:
        print(f"torchaudio is not compared with: {error}")
        return None


def alternately(steps: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, dict[str, float]]:
    """Median and best time in ms of each step, all of them run in turn."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats + 1):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            times[name].append(1e3 * (time.perf_counter() - begin))
    return {
        name: {"median_ms": round(statistics.median(each[1:]), 1), "best_ms": round(min(each[1:]), 1)}
        for name, each in times.items()
    }


def peak_bytes(step: Callable[[], object]) -> int:
    """Most bytes that ``step`` holds at a time beyond what was there before, as the CPU's allocator reports them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        step()
    held = peak = 0
    for event in trace.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def memory_on_cpu(systems: dict[str, ModuleType], shape: tuple[int, int, int, int]) -> dict[str, object]:
    """Peak memory of the pruned loss, beyond the logits."""
    inputs = Inputs(shape, "cpu")
    row = {name: {"peak_mb": round(peak_bytes(inputs.pruned(system)) / 1e6)} for name, system in systems.items()}
    title = "B {} T {} S {} V {}, pruned alone".format(*shape)
    print(title, row, flush=True)
    return {title: row}


def compare_on_cpu(
    systems: dict[str, ModuleType], repeats: int, only: tuple[int, int, int, int] | None
) -> dict[str, object]:
    """One row per shape and loss: each system's times, and the ratio of the first system's to the last one's."""
    rows: dict[str, object] = {}
    shapes = (only,) if only else CPU_SHAPES
    for shape in shapes:
        inputs = Inputs(shape, "cpu")
        steps: dict[str, dict[str, Callable[[], object]]] = {
            "smoothed": {name: partial(inputs.smoothed, system) for name, system in systems.items()},
            "smoothed + ranges + pruned": {name: partial(inputs.pipeline, system) for name, system in systems.items()},
            "pruned alone": {name: inputs.pruned(system) for name, system in systems.items()},
        }
        for title, by_system in steps.items():
            found = alternately(by_system, repeats)
            every = list(found.values())
            ours, peer = every[0], every[-1]
            ratios = {f"ratio of {key}": round(ours[key] / peer[key], 2) for key in ours} if ours is not peer else {}
            row = "B {} T {} S {} V {}, ".format(*shape) + title
            rows[row] = {**found, **ratios}
            print(row, rows[row], flush=True)
    row = "B {} T {} S {} V {}, unpruned".format(*shapes[-1])
    rows[row] = alternately(Inputs(shapes[-1], "cpu").unpruned(torch.float32), repeats)
    print(row, rows[row], flush=True)
    # The shape of k2's published figures.
    return rows | memory_on_cpu(systems, only or PUBLISHED_SHAPE)


def measure_on_cuda(repeats: int, shape: tuple[int, int, int, int]) -> dict[str, object]:
    """Time and peak memory of the pruned loss in float32 and of the unpruned one in bfloat16 and float32."""
    inputs = Inputs(shape, "cuda")

    def waited(step: Callable[[], None]) -> None:
        step()
        torch.cuda.synchronize()

    rows: dict[str, object] = {}
    steps = {"pruned": inputs.pruned(rnnt), "unpruned bfloat16": inputs.unpruned(torch.bfloat16)["couloir"]}
    steps |= {f"unpruned float32, {name}": step for name, step in inputs.unpruned(torch.float32).items()}
    for title, step in steps.items():
        waited(step)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        times = alternately({title: partial(waited, step)}, repeats)[title]
        peak = torch.cuda.max_memory_allocated()
        rows[title] = {**times, "peak_MiB": peak >> 20, "above_what_was_held_MiB": (peak - before) >> 20}
        print(title, rows[title], flush=True)
    return rows


def main() -> None:
    """Print the table; with --write keep it as a dated file beside this program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--peer", default="fast_rnnt", help="module with k2's names to compare with on CPU")
    parser.add_argument("--shape", type=parse_shape, help="B,T,U,V in place of the usual ones")
    parser.add_argument("--save", type=Path, help="write the result to this JSON file")
    parser.add_argument("--write", action="store_true", help="write results/rnnt_loss-DEVICE-DATE.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    systems = {"couloir": rnnt}
    if options.device == "cpu":
        try:
            systems[options.peer] = importlib.import_module(options.peer)
        except ImportError as error:
            print(f"{options.peer} is not compared with: {error}")
    if options.device == "cuda":
        rows = measure_on_cuda(options.repeats, options.shape or PUBLISHED_SHAPE)
    else:
        rows = compare_on_cpu(systems, options.repeats, options.shape)
    result = {"what": "ms, forward and backward, random scores", "repeats": options.repeats, **rows}
    if options.save:
        save_result(options.save, result, options.device)
    if options.write:
        write_result(f"rnnt_loss-{options.device}", result, options.device)


if __name__ == "__main__":
    main()
