"""Shar reading against lhotse's own iteration, on the same shards in one run.

    python benchmarks/shar_reading.py                      # real speech of tests/data, repeated
    python benchmarks/shar_reading.py --manifest-dir DIR   # your shards; lhotse reads along with --with-lhotse

lhotse runs the commands and opens the addresses that a manifest holds, so it reads nothing that it was not asked to.
Claim: indexing and decoding a folder takes no longer than ``CutSet.from_shar`` with ``load_audio``.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from result_file import write_result

from couloir.audio import SAMPLE_RATE, load_audio
from couloir.data.folder import folder_corpus
from couloir.data.reading import AudioReader
from couloir.data.shar import SharUtterance, write_shar
from couloir.errors import UserError, one_line_errors

ROOT = Path(__file__).resolve().parent.parent


def sample_utterances(count: int) -> Iterator[SharUtterance]:
    """Real speech: the utterances of tests/data again and again, each time from another sample on."""
    paths = sorted((ROOT / "tests" / "data").glob("*.flac"))
    audio = [load_audio(path) for path in paths]
    for i in range(count):
        yield SharUtterance(f"{paths[i % len(paths)].stem}-{i:05d}", np.roll(audio[i % len(paths)], 311 * i), "a b c")


def read_lhotse(folder: Path) -> int:
    """Samples read by lhotse's iteration in the shards' order."""
    from lhotse import CutSet

    return sum(cut.load_audio().shape[1] for cut in CutSet.from_shar(in_dir=folder))


def read_ours(folder: Path, index_dir: Path, *, fresh: bool, shuffled: bool) -> int:
    """Samples read through the index; ``fresh`` makes the index first."""
    if fresh:
        shutil.rmtree(index_dir, ignore_errors=True)
    corpus = folder_corpus([folder], str(index_dir))
    order = np.random.default_rng(0).permutation(len(corpus)) if shuffled else np.arange(len(corpus))
    reader = AudioReader(corpus)
    total = 0
    for number in order:
        samples = reader.read(int(number))[1]
        if isinstance(samples, UserError):
            raise samples
        total += len(samples)
    reader.close()
    return total


def measure(runs: dict[str, Callable[[], int]], rounds: int) -> tuple[dict[str, list[float]], int]:
    """Seconds of each run in each round, the runs taking turns; and the samples that every one of them read."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    totals = {run() for run in runs.values()}  # warm up: imports and the page cache
    if len(totals) != 1:
        raise UserError(f"the readers do not agree on the number of samples: {sorted(totals)}")
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds, totals.pop()


@one_line_errors
def main() -> None:
    """Measure, print a table and write a dated file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest-dir", type=Path, help="folder of Shar shards (default: made from tests/data)")
    parser.add_argument("--with-lhotse", action="store_true", help="of --manifest-dir: you trust what its cuts name")
    parser.add_argument("--utterances", type=int, default=600, help="how many to make without --manifest-dir")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, index_dir = args.manifest_dir, Path(scratch, "index")
        if folder is None:
            folder = Path(scratch, "shar")
            write_shar(sample_utterances(args.utterances), folder, shard_size=200)
        peer = {"lhotse": lambda: read_lhotse(folder)} if args.with_lhotse or not args.manifest_dir else {}
        seconds, samples = measure(
            {
                **peer,
                "couloir, index made": lambda: read_ours(folder, index_dir, fresh=True, shuffled=False),
                "couloir, index there": lambda: read_ours(folder, index_dir, fresh=False, shuffled=False),
                "couloir, shuffled": lambda: read_ours(folder, index_dir, fresh=False, shuffled=True),
            },
            args.rounds,
        )
    report(seconds, samples / SAMPLE_RATE / 3600)


def report(seconds: dict[str, list[float]], hours: float) -> None:
    """Print medians and ratios to lhotse's, and write them to benchmarks/results."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows = {
        name: {
            "median_s": median,
            "hours_per_s": hours / median,
            "of_lhotse": median / medians.get("lhotse", float("nan")),
        }
        for name, median in medians.items()
    }
    for name, row in rows.items():
        print(
            f"{name:22s} {row['median_s']:7.3f} s {row['hours_per_s']:6.2f} audio-h/s {row['of_lhotse']:5.2f} of lhotse"
        )
    write_result("shar_reading", {"audio_hours": hours, "seconds": seconds, "rows": rows})


if __name__ == "__main__":
    raise SystemExit(main())
