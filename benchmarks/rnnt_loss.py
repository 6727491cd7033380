"""Time and memory of the transducer losses, forward and backward, against fast_rnnt where it can be imported.

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
from collections.abc import Callable
from functools import partial
from types import ModuleType

import torch
from torch import Tensor

from couloir.losses import rnnt

BLANK = 0
S_RANGE = 5
CPU_SHAPES = ((8, 400, 80, 500), (16, 250, 60, 128))  # B, T, S, V
CUDA_SHAPE = (30, 500, 100, 500)


class Inputs:
    """Random scores of one shape, and the losses as closures over a system that has k2's names."""

    def __init__(self, shape: tuple[int, int, int, int], device: str) -> None:
        batch, frames, symbols, vocab = shape
        torch.manual_seed(0)
        self.lm = torch.randn(batch, symbols + 1, vocab, device=device, requires_grad=True)
        self.am = torch.randn(batch, frames, vocab, device=device, requires_grad=True)
        self.symbols = torch.randint(1, vocab, (batch, symbols), device=device)
        self.boundary = torch.tensor([[0, 0, symbols, frames]], device=device).repeat(batch, 1)

    def smoothed(self, system: ModuleType) -> tuple[Tensor, Tensor]:
        """Forward and backward of the smoothed loss; its occupations."""
        loss, occupations = system.rnnt_loss_smoothed(
            self.lm, self.am, self.symbols, BLANK, 0.25, 0.0, self.boundary, reduction="sum", return_grad=True
        )
        loss.backward()
        return occupations

    def pipeline(self, system: ModuleType) -> None:
        """Smoothed, ranges, pruning, adding joiner, pruned: forward and backward."""
        ranges = system.get_rnnt_prune_ranges(*self.smoothed(system), self.boundary, S_RANGE)
        am, lm = system.do_rnnt_pruning(self.am, self.lm, ranges)
        loss = system.rnnt_loss_pruned(am + lm, self.symbols, ranges, BLANK, self.boundary, reduction="sum")
        loss.backward()

    def pruned(self, system: ModuleType) -> Callable[[], None]:
        """Forward and backward of the pruned loss alone, on given logits."""
        ranges = system.get_rnnt_prune_ranges(*self.smoothed(system), self.boundary, S_RANGE)
        logits = torch.randn(*ranges.shape, self.lm.shape[2], device=self.lm.device, requires_grad=True)

        def step() -> None:
            logits.grad = None
            loss = system.rnnt_loss_pruned(logits, self.symbols, ranges, BLANK, self.boundary, reduction="sum")
            loss.backward()

        return step


def compare_on_cpu(shape: tuple[int, int, int, int], systems: dict[str, ModuleType], repeats: int) -> None:
    """Print one row per loss: median and best time of each system, and the ratio of ours to the peer's."""
    inputs = Inputs(shape, "cpu")
    steps: dict[str, dict[str, Callable[[], object]]] = {
        "smoothed": {name: partial(inputs.smoothed, system) for name, system in systems.items()},
        "smoothed + ranges + pruned": {name: partial(inputs.pipeline, system) for name, system in systems.items()},
        "pruned alone": {name: inputs.pruned(system) for name, system in systems.items()},
    }
    for title, by_system in steps.items():
        times: dict[str, list[float]] = {name: [] for name in by_system}
        for _ in range(repeats + 1):
            for name, step in by_system.items():
                begin = time.perf_counter()
                step()
                times[name].append(1e3 * (time.perf_counter() - begin))
        found = {name: (statistics.median(each[1:]), min(each[1:])) for name, each in times.items()}
        shown = ", ".join(f"{name} {median:.1f} (best {best:.1f}) ms" for name, (median, best) in found.items())
        ours, *others = found.values()
        ratio = "".join(f"; ratio {ours[0] / peer[0]:.2f} (best {ours[1] / peer[1]:.2f})" for peer in others)
        print("B {} T {} S {} V {}".format(*shape), f"{title}: {shown}{ratio}", flush=True)


def measure_on_cuda(repeats: int) -> None:
    """Print time and peak memory of the pruned loss in float32 and of the unpruned one in bfloat16."""
    inputs = Inputs(CUDA_SHAPE, "cuda")
    batch, frames, symbols, vocab = CUDA_SHAPE
    full = torch.randn(batch, frames, symbols + 1, vocab, device="cuda", dtype=torch.bfloat16, requires_grad=True)

    def unpruned() -> None:
        full.grad = None
        rnnt.rnnt_loss(full, inputs.symbols, BLANK, inputs.boundary, reduction="sum").backward()

    for title, step in {"pruned": inputs.pruned(rnnt), "unpruned bfloat16": unpruned}.items():
        step()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        times = []
        for _ in range(repeats):
            begin = time.perf_counter()
            step()
            torch.cuda.synchronize()
            times.append(1e3 * (time.perf_counter() - begin))
        peak = torch.cuda.max_memory_allocated()
        print(
            f"{title}: {statistics.median(times):.2f} ms, peak {peak / 2**20:.0f} MiB, "
            f"{(peak - before) / 2**20:.0f} MiB above what was held before the step"
        )


def main() -> None:
    """Parse the flags and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--peer", default="fast_rnnt", help="module with k2's names to compare with on CPU")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads")
    if options.device == "cuda":
        measure_on_cuda(options.repeats)
        return
    systems = {"couloir": rnnt}
    try:
        systems[options.peer] = importlib.import_module(options.peer)
    except ImportError as error:
        print(f"{options.peer} is not compared with: {error}")
    for shape in CPU_SHAPES:
        compare_on_cpu(shape, systems, options.repeats)


if __name__ == "__main__":
    main()
