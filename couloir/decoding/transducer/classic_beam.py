"""Beam search after Graves (2012): any number of tokens per frame; a batch's utterances ask the model together.

Which prefixes are extended by which tokens, and when a frame is done, is icefall's rule (``beam_search``): of the open
prefixes the likeliest is taken; it is kept with a blank, and opened with each token that is among the model's
``beam + 1`` likeliest, blank counting as one of them; the frame is done when ``beam`` kept prefixes are likelier than
every open one.
"""
# Shapes: B batch, D model dimension, S output frames.

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from couloir.decoding.hypothesis import Hypothesis
from couloir.decoding.transducer.frames import PLAIN, FrameScorer, Scoring, TransducerModel
from couloir.errors import must_be

TAKEN_PER_BEAM = 250
"""Prefixes that one frame takes at most, times the beam. A trained model needs a few; one whose blank is hardly ever
likely, as an untrained one's, would take millions. icefall sets no bound and hardly ends there."""
ASKED_TOGETHER = 32
"""Of the prefixes that are likely to be taken next, this many are computed by the model at once."""
History = tuple[int, ...]


class Trail(NamedTuple):
    """Where the last token of a prefix was emitted, how likely it was, and the trail of those before it."""

    frame: int
    log_prob: float
    before: Trail | None


class Prefix(NamedTuple):
    """A token sequence, by its number in `_Tree`, with the log of its summed probability.

    The trail is that of the likeliest addend.
    """

    node: int
    log_prob: float
    trail: Trail | None = None

    def joined(self, other: Prefix | None) -> Prefix:
        """With the probability of an equal prefix added."""
        if other is None or other.log_prob == -math.inf:
            return self
        low, high = (self, other) if self.log_prob < other.log_prob else (other, self)
        return Prefix(high.node, high.log_prob + math.log1p(math.exp(low.log_prob - high.log_prob)), high.trail)


class _Tree:
    """Token sequences by number, 0 being the empty one, with the history that each gives to the predictor."""

    def __init__(self, start: History) -> None:
        self.histories, self.lengths = [start], [0]
        self._ways: list[tuple[int, int]] = [(0, 0)]
        self._children: dict[tuple[int, int], int] = {}

    def child(self, node: int, token: int) -> int:
        """The sequence with one more token."""
        way = (node, token)
        found = self._children.get(way)
        if found is None:
            found = self._children[way] = len(self._ways)
            self._ways.append(way)
            self.histories.append((*self.histories[node][1:], token))
            self.lengths.append(self.lengths[node] + 1)
        return found

    def tokens(self, node: int) -> list[int]:
        """A sequence."""
        found = []
        while node:
            node, token = self._ways[node]
            found.append(token)
        return found[::-1]


class _Open:
    """Prefixes that are still to be taken, the likeliest first; of equal ones the one that came first."""

    def __init__(self, prefixes: Iterable[Prefix]) -> None:
        self._known: dict[int, tuple[int, Prefix]] = {}
        self._heap: list[tuple[float, int, int]] = []
        self._count = itertools.count()
        for prefix in prefixes:
            self.add(prefix)

    def add(self, prefix: Prefix) -> None:
        """Put a prefix in; an equal one's probability is added."""
        number, known = self._known.get(prefix.node) or (next(self._count), None)
        prefix = prefix.joined(known)
        self._known[prefix.node] = number, prefix
        heapq.heappush(self._heap, (-prefix.log_prob, number, prefix.node))

    def best(self) -> Prefix:
        """The likeliest."""
        while True:
            score, number, node = self._heap[0]
            known = self._known.get(node)
            if known is not None and known[0] == number and known[1].log_prob == -score:
                return known[1]
            heapq.heappop(self._heap)  # it was taken, or its probability has grown since

    def take(self, prefix: Prefix) -> None:
        """Take a prefix out."""
        del self._known[prefix.node]

    def near(self) -> list[int]:
        """Some of the likeliest, the best among them."""
        return [node for _, _, node in self._heap[:ASKED_TOGETHER] if node in self._known]

    def __iter__(self) -> Iterator[Prefix]:
        return (prefix for _, prefix in self._known.values())


class _Answer(NamedTuple):
    """What the model says of a frame after a history: log-probabilities of blank and of the likeliest tokens."""

    blank: float
    tokens: list[tuple[int, float]]


@dataclass
class _Utterance:
    """The search of one utterance. In a frame, prefixes are taken from ``open`` until enough of ``kept`` beat them."""

    tree: _Tree
    beam: int
    kept: dict[int, Prefix] = field(default_factory=lambda: {0: Prefix(0, 0.0)})
    open: _Open = field(default_factory=lambda: _Open(()))
    known: dict[History, _Answer] = field(default_factory=dict)
    leading: dict[int, float] = field(default_factory=dict)
    taken: int = 0

    def begin(self) -> set[History]:
        """Go to the next frame; the histories that it asks for at least."""
        self.open, self.kept, self.known, self.leading, self.taken = _Open(self.kept.values()), {}, {}, {}, 0
        return {self.tree.histories[prefix.node] for prefix in self.open}

    def advance(self, frame: int) -> set[History]:
        """Go on until the frame is done, or a history is needed that is not known yet: that and likely others."""
        histories, child = self.tree.histories, self.tree.child
        while self.taken < TAKEN_PER_BEAM * self.beam:
            best = self.open.best()
            answer = self.known.get(histories[best.node])
            if answer is None:
                return {histories[node] for node in self.open.near()} - self.known.keys()
            self.taken += 1
            self.open.take(best)
            self._keep(best._replace(log_prob=best.log_prob + answer.blank))
            for token, value in answer.tokens:
                trail = Trail(frame, value, best.trail)
                self.open.add(Prefix(child(best.node, token), best.log_prob + value, trail))
            if len(self.leading) == self.beam and min(self.leading.values()) > self.open.best().log_prob:
                break
        self.kept = {node: self.kept[node] for node in sorted(self.leading, key=lambda n: -self.leading[n])}
        return set()

    def _keep(self, prefix: Prefix) -> None:
        """Put a prefix into ``kept``, whose best are in ``leading``; an equal one's probability is added."""
        prefix = self.kept[prefix.node] = prefix.joined(self.kept.get(prefix.node))
        self.leading[prefix.node] = prefix.log_prob
        if len(self.leading) > self.beam:
            del self.leading[min(reversed(self.leading), key=self.leading.__getitem__)]

    def result(self) -> Hypothesis:
        """The prefix with the highest log-probability per token, icefall's initial history counted in."""
        initial = len(self.tree.histories[0])
        best = max(self.kept.values(), key=lambda p: p.log_prob / (self.tree.lengths[p.node] + initial))
        starts, confidences, trail = list[int](), list[float](), best.trail
        while trail:
            starts.append(trail.frame)
            confidences.append(math.exp(trail.log_prob))
            trail = trail.before
        starts, confidences = starts[::-1], confidences[::-1]
        ends = [frame + 1 for frame in starts]
        return Hypothesis(self.tree.tokens(best.node), starts, ends, confidences, best.log_prob)


@torch.no_grad()
def beam_search(
    model: TransducerModel, encoder_out: Tensor, lens: Tensor, beam: int = 4, scoring: Scoring = PLAIN
) -> list[Hypothesis]:
    """The token sequence with the highest log-probability per token.

    Args:
        model: its decoder and joiner are used. encoder_out: (B, S, D). lens: (B,) valid frames.
        beam: prefixes kept from frame to frame. scoring: blank penalty and temperature.
    """
    if beam < 1:
        raise must_be("--beam-size", "at least 1", beam)
    scorer = FrameScorer(model, encoder_out, lens, scoring)
    start = tuple(scorer.start(1)[0].tolist())
    utterances = [_Utterance(_Tree(start), beam) for _ in range(scorer.batch)]
    for frame in range(scorer.num_frames):
        here = utterances[: scorer.active[frame]]
        wanted = {(i, history) for i, utterance in enumerate(here) for history in utterance.begin()}
        while wanted:
            _ask(scorer, frame, utterances, sorted(wanted), beam)
            asking = sorted({i for i, _ in wanted})
            wanted = {(i, history) for i in asking for history in utterances[i].advance(frame)}
    results = [Hypothesis() for _ in range(scorer.batch)]
    for utterance, original in zip(utterances, scorer.order.tolist()):
        results[original] = utterance.result()
    return results


def _ask(
    scorer: FrameScorer, frame: int, utterances: list[_Utterance], wanted: list[tuple[int, History]], beam: int
) -> None:
    """Tell utterances (numbers in sorted order) what the model says of a frame after the histories that they want."""
    device = scorer.lens.device
    rows, histories = (torch.tensor(part, device=device) for part in zip(*wanted))
    log_probs = scorer.log_probs(frame, rows, scorer.predictions(histories)).double()
    likeliest = log_probs.topk(min(beam + 1, log_probs.shape[1]), dim=1)
    found = zip(log_probs[:, 0].tolist(), likeliest.indices.tolist(), likeliest.values.tolist())
    for (i, history), (blank, tokens, values) in zip(wanted, found):
        utterances[i].known[history] = _Answer(blank, [pair for pair in zip(tokens, values) if pair[0]])
