"""PFER: the vectorised feature edit distance against panphon's own, on strings of 50 phones.

    python benchmarks/pfer.py [--pairs 5000] [--write]

Both read the same random strings of short panphon segments; the results are compared before the times are.
"""

from __future__ import annotations

import argparse
import random
import time

import numpy as np
from result_file import write_result

from couloir.evaluation import pfer

PHONES = 50
PANPHON_PAIRS = 160  # panphon does about 80 a second


def random_texts(number: int, seed: int) -> list[str]:
    """IPA texts of `PHONES` segments of at most two characters, which is what transcripts hold."""
    segments = [name for name in pfer.feature_table().ids if len(name) <= 2]
    draw = random.Random(seed)
    return ["".join(draw.choices(segments, k=PHONES)) for _ in range(number)]


def measure(pairs: int) -> dict[str, float]:
    """Pairs per second of both (segmentation included), the ratio, and the greatest difference."""
    from panphon.distance import Distance

    refs, hyps = random_texts(pairs, 1), random_texts(pairs, 2)
    pfer.feature_edit_distances(refs[:10], hyps[:10])
    start = time.perf_counter()
    ours = pfer.feature_edit_distances(refs, hyps)
    ours_rate = pairs / (time.perf_counter() - start)
    reference = Distance()
    start = time.perf_counter()
    theirs = [reference.feature_edit_distance(a, b) for a, b in zip(refs[:PANPHON_PAIRS], hyps)]
    their_rate = len(theirs) / (time.perf_counter() - start)
    difference = float(np.abs(ours[: len(theirs)] - theirs).max())
    return {"couloir": ours_rate, "panphon": their_rate, "ratio": ours_rate / their_rate, "difference": difference}


def main() -> None:
    """Print the measurement; with --write keep it as a dated file beside this program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5000)
    parser.add_argument("--write", action="store_true", help="write results/pfer-DATE.json")
    args = parser.parse_args()
    result = measure(args.pairs)
    print(f"{'couloir':10}{result['couloir']:10.0f} pairs/s\n{'panphon':10}{result['panphon']:10.1f} pairs/s")
    print(f"{'ratio':10}{result['ratio']:10.1f}   (greatest difference {result['difference']:.1e})")
    if args.write:
        what = f"pairs per second, {PHONES} phones"
        write_result("pfer", {"what": what, **result, "pairs": args.pairs, "numpy": np.__version__})


if __name__ == "__main__":
    main()
