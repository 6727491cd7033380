"""The order of an epoch: which utterances make each batch, and which rank gets it.

A plan is made whole before the epoch, from durations alone, so a place in the epoch is a number and a resumed run
takes up at exactly that number. It depends on the seed, the epoch and the number of ranks, never on loader processes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class BatchLimits:
    """What a batch may hold: ``max_duration`` s (longest times count), and ``max_utterances`` (0: no bound)."""

    max_duration: float
    max_utterances: int = 0


@dataclass(frozen=True)
class EpochPlan:
    """Batches of utterance numbers.

    Attributes:
        order: (utterances,) int64 numbers; starts, ends: (batches,) int64 bounds of each batch within ``order``.
        num_dropped: utterances that could not be dealt to all ranks evenly.
    """

    order: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    num_dropped: int = 0

    def __len__(self) -> int:
        return len(self.starts)

    def batch(self, index: int) -> np.ndarray:
        """The utterance numbers of one batch."""
        return self.order[self.starts[index] : self.ends[index]]

    def rank_batches(self, rank: int, world_size: int) -> range:
        """The batches of one rank. Every rank has the same number when the plan was dealt for ``world_size``."""
        return range(rank, len(self), world_size)


def epoch_plan(
    durations: np.ndarray,
    shards: np.ndarray,
    limits: BatchLimits,
    rng: np.random.Generator | None,
    *,
    num_buckets: int = 1,
    window: int = 8,
    world_size: int = 1,
    drop_last: bool = False,
) -> EpochPlan:
    """Put utterances into batches, as many for each rank.

    The ranks' batches of one step are neighbours in length, so that no rank waits for another.

    Args:
        durations: (utterances,) s; shards: (utterances,) the shard each lies in.
        rng: source of the order; None keeps the given order within each bucket and window.
        num_buckets: length classes of equal total duration; a batch holds neighbours among them.
        window: how many shards, drawn by lot, are mixed with each other before the next ones are read.
        world_size: ranks; the largest batches are halved until their number is a multiple of it, or, with
            ``drop_last``, or if there are fewer utterances left than ranks, some drawn by lot are dropped.
    """
    windows = _windows(shards, window, rng)
    key = windows.astype(np.int64) * num_buckets + _buckets(durations, num_buckets)
    first = np.arange(len(durations)) if rng is None else rng.permutation(len(durations))
    order = first[np.argsort(key[first], kind="stable")]
    starts = _fill(durations[order], windows[order], limits)
    plan = EpochPlan(order, starts, np.append(starts[1:], len(order)))
    plan = _drop_remainder(plan if drop_last else _halved(plan, world_size), world_size, rng)
    if rng is None:
        return plan
    steps = rng.permutation(len(plan) // world_size)
    steps = steps[np.argsort(windows[order[plan.starts[steps * world_size]]], kind="stable")]
    shuffled = (steps[:, None] * world_size + np.arange(world_size)).ravel()
    return replace(plan, starts=plan.starts[shuffled], ends=plan.ends[shuffled])


def sorted_plan(durations: np.ndarray, limits: BatchLimits) -> EpochPlan:
    """Batches from the longest utterances to the shortest: for validation and tests, where order does not matter."""
    order = np.argsort(-durations, kind="stable")
    starts = _fill(durations[order], np.zeros(len(order), np.int64), limits)
    return EpochPlan(order, starts, np.append(starts[1:], len(order)))


def deal(plan: EpochPlan, world_size: int) -> EpochPlan:
    """As many batches for each rank: the largest are halved, and if need be some ranks get an empty one."""
    plan = _halved(plan, world_size)
    nothing = np.zeros(-len(plan) % world_size, np.int64)
    return replace(plan, starts=np.append(plan.starts, nothing), ends=np.append(plan.ends, nothing))


def _halved(plan: EpochPlan, world_size: int) -> EpochPlan:
    """The largest batches halved until the number of batches is a multiple of ``world_size``, or all hold one."""
    starts, ends = plan.starts.copy(), plan.ends.copy()
    while len(starts) % world_size:
        largest = int(np.argmax(ends - starts))
        middle = int(starts[largest] + ends[largest]) // 2
        if middle == starts[largest]:
            break
        starts, ends = np.insert(starts, largest + 1, middle), np.insert(ends, largest, middle)
    return replace(plan, starts=starts, ends=ends)


def _drop_remainder(plan: EpochPlan, world_size: int, rng: np.random.Generator | None) -> EpochPlan:
    """The plan without as many batches as are too many for a multiple of ``world_size``."""
    surplus = len(plan) % world_size
    last = np.arange(len(plan) - surplus, len(plan))
    gone = last if rng is None else rng.choice(len(plan), surplus, replace=False)
    dropped = int((plan.ends[gone] - plan.starts[gone]).sum())
    return EpochPlan(plan.order, np.delete(plan.starts, gone), np.delete(plan.ends, gone), dropped)


def hardest(plan: EpochPlan, durations: np.ndarray, num_chars: np.ndarray) -> list[int]:
    """The batches likeliest not to fit in memory: the longest utterance, the largest padded area, the most
    utterances, and the most text over the longest audio. Each batch once."""
    if not len(plan):
        return []
    counts = plan.ends - plan.starts
    longest = _reduce(np.maximum, durations[plan.order], plan)
    chars = _reduce(np.maximum, num_chars[plan.order], plan)
    measures = (longest, longest * counts, counts, longest * counts * chars)
    return list(dict.fromkeys(int(np.argmax(measure)) for measure in measures))


def _reduce(ufunc: np.ufunc, values: np.ndarray, plan: EpochPlan) -> np.ndarray:
    by_start = np.argsort(plan.starts)
    result = np.empty(len(plan), values.dtype)
    result[by_start] = ufunc.reduceat(values, plan.starts[by_start])
    return result


def _windows(shards: np.ndarray, window: int, rng: np.random.Generator | None) -> np.ndarray:
    """(utterances,) the window of each: shards in drawn order, ``window`` at a time."""
    count = int(shards.max()) + 1 if len(shards) else 0
    position = np.arange(count) if rng is None else rng.permutation(count)
    return (position // window)[shards]


def _buckets(durations: np.ndarray, num_buckets: int) -> np.ndarray:
    """(utterances,) length class of each. Classes hold equal total duration, so equally many batches."""
    if num_buckets == 1 or not len(durations):
        return np.zeros(len(durations), np.int64)
    by_length = np.sort(durations)
    total = np.cumsum(by_length, dtype=np.float64)
    edges = by_length[np.searchsorted(total, total[-1] * np.arange(1, num_buckets) / num_buckets)]
    return np.searchsorted(edges, durations, side="right")


def _fill(durations: np.ndarray, windows: np.ndarray, limits: BatchLimits) -> np.ndarray:
    """(batches,) first position of each batch: as many utterances as fit, of one window."""
    most = limits.max_utterances or len(durations)
    bounds = [0, *(np.flatnonzero(np.diff(windows)) + 1).tolist(), len(durations)]
    parts = []
    for first, last in pairwise(bounds):
        parts.append(first + _fill_window(durations[first:last].tolist(), limits.max_duration, most))
    return np.concatenate(parts)


def _fill_window(durations: list[float], max_duration: float, most: int) -> np.ndarray:
    # A plain loop, as each batch depends on where the last one ended; a builtin call would take most of its time.
    starts = [0] if durations else []
    begin, longest = 0, 0.0
    for i, duration in enumerate(durations):
        if duration > longest:
            longest = duration
        count = i - begin + 1
        if count > 1 and (longest * count > max_duration or count > most):
            starts.append(i)
            begin, longest = i, duration
    return np.array(starts, np.int64)
