"""The band of the pruned loss against k2's rules, written down with loops, for all small sizes."""

import itertools

import pytest
import torch

from couloir.losses.rnnt_pruning import get_rnnt_prune_ranges

SIZES = list(itertools.product(range(1, 6), range(7), range(1, 6)))  # rows asked for, symbols, frames


def by_the_rules(px_grad, py_grad, num_symbols, num_frames, width, max_step):
    """First rows: those that hold the most, never falling, no step too long, from row 0 to the last."""
    starts, first = len(py_grad) - width + 1, []
    for t in range(len(py_grad[0])):
        held = [
            sum(py_grad[s][t] for s in range(k, k + width)) - (px_grad[k - 1][t] if k else 0) for k in range(starts)
        ]
        first.append(held.index(max(held)) if t < num_frames - 1 else max(num_symbols - width + 1, 0))
    for t in reversed(range(len(first) - 1)):
        first[t] = min(first[t], first[t + 1])
    for t in reversed(range(len(first) - 1)):
        first[t] = max(first[t], first[t + 1] - max_step)
    return [min(row, max_step * t) for t, row in enumerate(first)]


def reaches_the_end(first, width, num_symbols, num_frames, regular):
    """Whether a path of at most one symbol per frame (any number, if regular) stays in the band."""
    rows = {0}
    for start in first[:num_frames]:
        rows &= set(range(start, start + width))
        if regular and rows:
            rows = set(range(min(rows), start + width))
        elif not regular:
            rows |= {row + 1 for row in rows}
    return num_symbols in rows


@pytest.mark.parametrize("regular", [True, False], ids=["regular", "modified"])
@pytest.mark.parametrize("padded", [False, True])
def test_all_small_sizes(regular, padded):
    generator = torch.Generator().manual_seed(int(regular))
    for s_range, symbols, frames in SIZES:
        rows, columns = symbols + 2 * padded, frames + padded
        px = torch.rand(1, rows, columns + regular, generator=generator, dtype=torch.float64)
        py = torch.rand(1, rows + 1, columns, generator=generator, dtype=torch.float64)
        boundary = torch.tensor([[0, 0, symbols, frames]]) if padded else None
        found = get_rnnt_prune_ranges(px, py, boundary, s_range)[0]
        # As k2 raises it, whose division goes towards 0: with that many rows per frame the last one is reached.
        least = int((symbols - 1) / frames) + 2 if regular else 1
        width = min(max(s_range, least), rows + 1)
        assert found.shape == (columns, width), (s_range, symbols, frames)
        assert torch.equal(found - found[:, :1], torch.arange(width).expand(columns, width))
        first = found[:, 0].tolist()
        step = width - 1 if regular else 1
        assert first == by_the_rules(px[0].tolist(), py[0].tolist(), symbols, frames, width, step)
        if regular or symbols <= frames:
            assert reaches_the_end(first, width, symbols, frames, regular), (s_range, symbols, frames, first)
