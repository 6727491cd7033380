"""Lattices of a graph search: totals, deterministic path samples, and scores of given word sequences."""
# Shapes: A arcs, B batch, M output labels of an arc, N rows, P paths, U labels.

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from couloir.decoding.fsa.history import History
from couloir.decoding.fsa.ragged import expand, group_first_best, group_logsumexp, group_max, splits_of, unique
from couloir.decoding.fsa.search import Arcs, SearchResult, joined, output_labels, where

HASH_FACTOR = 6364136223846793005
Reduce = Callable[[Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Lattice:
    """All arcs that a search kept, for B utterances (sorted positions) at once.

    Fields (N rows in order of frame, A arcs in order of source; row N + b is the end of utterance b):
        levels: first row of each frame, and N. start: (B,) first row of each utterance, -1 without frames.
        splits: (N+B+1,) first arc of each row and end. target, label: (A,) next row and token; -1 for an end.
        score: (A,) float64 log-weight; log_prob: (A,) float64 the model's share of it. aux: (A, M) output labels.
    """

    levels: list[int]
    start: Tensor
    splits: Tensor
    target: Tensor
    label: Tensor
    score: Tensor
    log_prob: Tensor
    aux: Tensor

    @property
    def num_rows(self) -> int:
        """Rows, without the ends."""
        return self.levels[-1]

    def arcs_by_level(self) -> list[slice]:
        """The arcs that leave each frame's rows."""
        bounds = self.splits[torch.tensor(self.levels, device=self.splits.device)].tolist()
        return [slice(begin, end) for begin, end in itertools.pairwise(bounds)]

    def backward_scores(self, scale: float = 1.0) -> Tensor:
        """log of the summed weight (N + B,) of all paths from each row to its end, all scores times ``scale``."""
        total = self.score.new_full((self.num_rows + len(self.start),), -torch.inf)
        total[self.num_rows :] = 0.0
        source = torch.repeat_interleave(self.splits[1:] - self.splits[:-1])
        for level, arcs in reversed(list(enumerate(self.arcs_by_level()))):
            rows = slice(self.levels[level], self.levels[level + 1])
            onward = self.score[arcs] * scale + total[self.target[arcs]]
            total[rows] = group_logsumexp(onward, source[arcs] - rows.start, rows.stop - rows.start)
        return total


def make_lattice(result: SearchResult, beam: float | None = None) -> Lattice:
    """The lattice of a search that kept its arcs.

    With a ``beam`` without the arcs whose best path is more than that worse than the best, or leads nowhere; rows all
    stay. Frames are pruned one by one from the last on, so that the arcs of all are never held together.
    """
    begin = [0]
    for utterances in result.utterances:
        begin.append(begin[-1] + len(utterances))
    rows, device = begin[-1], result.score.device
    bar, onward, kept = result.score - (beam or 0.0), torch.zeros_like(result.score), list[Arcs]()
    for level in reversed(range(len(result.utterances))):
        so_far, enough = result.scores[level], bar[result.utterances[level]]
        # What leaves this frame's rows: the way on to those of the next, and to the ends.
        leaving = [
            (replace(arcs, label=arcs.label.clamp(min=0)), onward[arcs.target], begin[level + 1])
            for arcs in result.frames[level : level + 1]
        ]
        leaving += [(arcs, onward.new_zeros(len(arcs.score)), rows) for at, arcs in result.finals if at == level]
        onward = torch.full_like(so_far, -torch.inf)
        for arcs, rest, shift in leaving:
            through = arcs.score + rest
            onward = torch.maximum(onward, group_max(through, arcs.source, len(so_far)))
            if beam is not None:
                total = so_far[arcs.source] + through
                arcs = arcs.select(where(total.isfinite() & (total >= enough[arcs.source])))
            kept.append(replace(arcs, source=arcs.source + begin[level], target=arcs.target + shift))
    start = torch.full_like(result.row, -1)
    start[result.utterances[0]] = torch.arange(begin[1], device=device)
    if not kept:
        none, nothing = start[:0], result.score[:0]
        aux = none.new_zeros((0, 1))
        return Lattice(begin, start, none.new_zeros(1 + rows + len(start)), none, none, nothing, nothing, aux)
    arcs = joined(kept)
    arcs = arcs.select(torch.sort(arcs.source, stable=True).indices)
    return Lattice(
        begin, start, splits_of(arcs.source, rows + len(start)), arcs.target, arcs.label,
        arcs.score.double(), arcs.log_prob.double(), output_labels(result.graph, arcs.arc, arcs.move),
    )  # fmt: skip


@dataclass(frozen=True)
class Paths:
    """P distinct output-label sequences: utterance (P,) ascending; labels (P, U), 0 behind the length (P,)."""

    utterance: Tensor
    labels: Tensor
    length: Tensor

    def lists(self) -> list[list[int]]:
        """The sequences as lists."""
        return [row[:n] for row, n in zip(self.labels.tolist(), self.length.tolist())]


def sample_paths(lattice: Lattice, num_paths: int, scale: float) -> Paths:
    """Distinct output sequences of ``num_paths`` paths per utterance, spread evenly over the posterior.

    As k2's ``random_paths`` no chance is involved: path i sits at (i + 0.5) / num_paths of the cumulated arc
    probabilities under scores times ``scale``.
    """
    backward = lattice.backward_scores(scale)
    utterance = torch.nonzero((lattice.start >= 0) & backward[lattice.start].isfinite()).squeeze(1)
    row = lattice.start[utterance].repeat_interleave(num_paths)
    utterance = utterance.repeat_interleave(num_paths)
    position = (torch.arange(len(row), device=row.device) % num_paths + 0.5).double() / num_paths
    source = torch.repeat_interleave(lattice.splits[1:] - lattice.splits[:-1])
    share = (lattice.score * scale + backward[lattice.target] - backward[source]).exp().nan_to_num(0.0)
    begin = share.cumsum(0) - share
    begin = begin - begin[lattice.splits[source]]
    ends = source + begin + share
    walked, digest = [], torch.zeros_like(row)
    for _ in range(len(lattice.levels) - 1):
        going = row < lattice.num_rows
        at = torch.where(going, row, 0)
        arc = torch.searchsorted(ends, at + position, right=True)
        arc = torch.minimum(torch.maximum(arc, lattice.splits[at]), lattice.splits[at + 1] - 1)
        position = torch.where(going, (position - begin[arc]) / share[arc], position).clamp(0.0, 1.0)
        arc = torch.where(going, arc, -1)
        row = torch.where(going, lattice.target[arc], row)
        walked.append(arc)
        for column in range(lattice.aux.shape[1]):
            label = torch.where(going, lattice.aux[arc, column], 0)
            digest = torch.where(label > 0, digest * HASH_FACTOR + label, digest)
    if not walked or not len(row):
        return Paths(utterance[:0], utterance.new_zeros((0, 0)), utterance[:0])
    return _distinct(lattice, utterance, digest, torch.stack(walked, dim=1))


def _distinct(lattice: Lattice, utterance: Tensor, digest: Tensor, arcs: Tensor) -> Paths:
    """The first path of each distinct (utterance, digest), as label sequences."""
    _, group = torch.unique(torch.stack([utterance, digest], dim=1), dim=0, return_inverse=True)
    number = torch.arange(len(group), device=group.device)
    first = torch.full_like(number, len(group)).scatter_reduce_(0, group, number, "amin")
    first = first[first < len(group)].sort().values
    labels = torch.where((arcs[first] >= 0)[:, :, None], lattice.aux[arcs[first]], 0).flatten(1).clamp(min=0)
    empty, order = torch.sort((labels == 0).to(torch.int8), dim=1, stable=True)
    length = (empty == 0).sum(1)
    longest = int(length.max())
    return Paths(utterance[first], labels.gather(1, order)[:, :longest], length)


class Automaton(Protocol):
    """A deterministic scorer of output labels. ``item`` numbers the thing that is followed (a path, an utterance)."""

    num_states: int

    def advance(self, item: Tensor, state: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(gain (N,), next state (N,), whether it may be (N,)) for labels (N,) above 0."""

    def final(self, item: Tensor, state: Tensor) -> Tensor:
        """What (N,) ending adds; -inf where it may not end."""


class PathAutomaton:
    """Accepts for each item its own sequence, at no cost. The state is how many labels were read."""

    def __init__(self, paths: Paths) -> None:
        self.length, self.num_states = paths.length, paths.labels.shape[1] + 1
        self.labels = torch.nn.functional.pad(paths.labels, (0, 1))

    def advance(self, item: Tensor, state: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `Automaton.advance`."""
        fits = self.labels[item, state] == label
        return torch.zeros(len(state), dtype=torch.float64, device=state.device), state + fits, fits

    def final(self, item: Tensor, state: Tensor) -> Tensor:
        """As `Automaton.final`."""
        return torch.where(state == self.length[item], 0.0, -torch.inf).double()


@dataclass
class Followed:
    """What `follow` found: total (P,) scores; row, step (P,) of the best path's end in ``history``."""

    total: Tensor
    row: Tensor
    step: Tensor
    history: History


def follow(lattice: Lattice, utterance: Tensor, automaton: Automaton, score: Tensor, log_sum: bool = False) -> Followed:
    """Intersect lattices with automata, frame by frame, all items at once.

    Args:
        lattice: see `make_lattice`. utterance: (P,) the utterance of each item. automaton: scores output labels.
        score: (A,) the lattice's arc scores to use. log_sum: sum over all paths rather than take the best.

    Returns:
        The totals; without ``log_sum`` a history with columns ``token``, ``log_prob`` and ``arc`` (the lattice's).
    """
    items = len(utterance)
    item = torch.arange(items, device=utterance.device)[lattice.start[utterance] >= 0]
    row, state = lattice.start[utterance[item]], torch.zeros_like(item)
    value = torch.zeros(len(item), dtype=torch.float64, device=item.device)
    found = Followed(
        value.new_full((items,), -torch.inf), item.new_zeros(items), item.new_full((items,), -1), History()
    )
    reduce = group_logsumexp if log_sum else group_max
    rows = lattice.num_rows + len(lattice.start)
    for step in range(len(lattice.levels)):
        owner, arc = expand(lattice.splits, row)
        gained, after, fits = _read(automaton, item[owner], state[owner], lattice.aux[arc])
        owner, arc, after, gained = owner[fits], arc[fits], after[fits], gained[fits]
        onward = value[owner] + gained + score[arc]
        keys, group = unique((item[owner] * rows + lattice.target[arc]) * automaton.num_states + after)
        best = reduce(onward, group, len(keys))
        if not log_sum:
            first = group_first_best(onward, group, best)
            found.history.append(
                step, owner[first], token=lattice.label[arc[first]], arc=arc[first],
                log_prob=lattice.log_prob[arc[first]],
            )  # fmt: skip
        state, row = keys % automaton.num_states, torch.div(keys, automaton.num_states, rounding_mode="floor")
        item, row, value = torch.div(row, rows, rounding_mode="floor"), row % rows, best
        _end(found, step, item, value + automaton.final(item, state), row >= lattice.num_rows, reduce)
    return found


def _read(automaton: Automaton, item: Tensor, state: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Let the automaton read the columns of ``labels`` (N, M), 0 being none."""
    gained = torch.zeros(len(item), dtype=torch.float64, device=item.device)
    fits = torch.ones_like(item, dtype=torch.bool)
    for label in labels.unbind(1):
        reads = torch.nonzero(label > 0).squeeze(1)
        gain, after, allowed = automaton.advance(item[reads], state[reads], label[reads])
        gained = gained.index_add(0, reads, gain)
        state, fits = state.index_copy(0, reads, after), fits.index_copy(0, reads, fits[reads] & allowed)
    return gained, state, fits


def _end(found: Followed, step: int, item: Tensor, value: Tensor, ended: Tensor, reduce: Reduce) -> None:
    """Note the items that end in this step; each ends in one step only."""
    rows = torch.nonzero(ended & value.isfinite()).squeeze(1)
    if not len(rows):
        return
    items, group = unique(item[rows])
    found.total[items] = reduce(value[rows], group, len(items))
    best = group_first_best(value[rows], group, group_max(value[rows], group, len(items)))
    found.row[items], found.step[items] = rows[best], step
