"""Searches for the best among permitted symbol strings alone (see `restriction`), in numpy.

Where the restriction is a mask they find what the searches of `search` find; those are quicker.
"""
# Shapes: N places, Q states, R hypotheses, S output frames, V vocabulary.

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from couloir.decoding.hypothesis import Hypothesis
from couloir.inference.restriction import BLANK, Restriction
from couloir.inference.search import Join, Predict, collapsed, ctc_greedy, transducer_greedy

_FLOOR = -1e9
"""Of a frame's log-probabilities. The path of blanks alone is permitted, so that it must have a finite score."""


def ctc_search(log_probs: np.ndarray, bias: np.ndarray | None, restriction: Restriction | None) -> Hypothesis:
    """The likeliest path, of all or of those that are permitted. log_probs: (S, V)."""
    return ctc_greedy(log_probs, bias) if restriction is None else ctc_restricted(log_probs, restriction, bias)


def transducer_search(
    frames: Sequence[np.ndarray],
    predict: Predict,
    join: Join,
    context_size: int,
    bias: np.ndarray | None,
    restriction: Restriction | None,
    max_sym_per_frame: int = 1,
) -> list[Hypothesis]:
    """`search.transducer_greedy`, or `transducer_restricted` where there is a restriction."""
    if restriction is None:
        return transducer_greedy(frames, predict, join, context_size, bias, max_sym_per_frame)
    return transducer_restricted(frames, predict, join, context_size, restriction, bias)


def ctc_restricted(log_probs: np.ndarray, restriction: Restriction, bias: np.ndarray | None = None) -> Hypothesis:
    """The likeliest of all paths through the frames whose symbols are permitted, as `search.ctc_greedy` gives it.

    Args:
        log_probs: (S, V). restriction: of V pieces. bias: (V,), added to every frame (see `search.token_bias`).
    """
    found = ctc_greedy(np.where(restriction.allowed, log_probs, -np.inf), bias)
    if restriction.accepts(found.tokens):  # the likeliest path of permitted symbols in any order
        return found
    scores = np.maximum(log_probs if bias is None else log_probs + bias, _FLOOR)
    ids = _PathSearch(restriction).best(scores)
    return collapsed(ids, np.take_along_axis(scores, ids[:, None], 1)[:, 0])


class _PathSearch:
    """Viterbi search over places: where a path is in the automaton, and the label of its last frame.

    Places 0 to Q - 1 are the automaton's states after a blank. Each of the others is a state after a certain piece.
    One more, N, stands for none: the tables are filled up with it.
    """

    def __init__(self, restriction: Restriction) -> None:
        self.final, states = restriction.final, len(restriction.final)
        source, label = np.nonzero(restriction.following[:, 1:] >= 0)
        label += 1
        reached = np.column_stack([restriction.following[source, label], label])
        pairs, pair_of_arc = np.unique(reached, axis=0, return_inverse=True)
        self.state = np.concatenate([np.arange(states), pairs[:, 0]])
        self.label = np.concatenate([np.full(states, BLANK), pairs[:, 1], [-1]])
        self.num_states, self.num_places = states, len(self.state)
        arcs = [source[pair_of_arc.reshape(-1) == pair] for pair in range(len(pairs))]
        self.sources = _table(arcs, states)
        self.members = _table([np.flatnonzero(self.state == state) for state in range(states)], self.num_places)

    def best(self, scores: np.ndarray) -> np.ndarray:
        """Labels (S,) of the best path that ends in a final state. scores: (S, V), finite."""
        at = np.full(self.num_places + 1, -np.inf)
        at[0] = 0.0
        back = np.zeros((len(scores), self.num_places), np.min_scalar_type(self.num_places))
        for frame, row in enumerate(scores):
            at, back[frame] = self._step(at, row)
        ends = np.where(self.final[self.state], at[:-1], -np.inf)
        place, labels = int(ends.argmax()), np.zeros(len(scores), np.int64)
        for frame in range(len(scores) - 1, -1, -1):
            labels[frame] = self.label[place]
            place = int(back[frame, place])
        return labels

    def _step(self, at: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores (N + 1,) of the places after one more frame, and the place before each (N,)."""
        states, pairs = np.arange(self.num_states), np.arange(len(self.sources))
        here = at[self.members]
        # Of each state the best place, and the best one with another label: a piece needs a blank before itself.
        first = here.argmax(1)
        best = np.append(self.members[states, first], self.num_places)
        here[states, first] = -np.inf
        other = self.members[states, here.argmax(1)]
        second = np.append(np.where(np.isfinite(here.max(1)), other, self.num_places), self.num_places)
        label = self.label[self.num_states : -1]
        enter = np.where(self.label[best][self.sources] == label[:, None], second[self.sources], best[self.sources])
        enter = enter[pairs, at[enter].argmax(1)]
        stay = np.arange(self.num_states, self.num_places)
        before = np.concatenate([best[:-1], np.where(at[stay] >= at[enter], stay, enter)])
        return np.append(at[before] + row[self.label[:-1]], -np.inf), before


def _table(rows: Sequence[np.ndarray], filling: int) -> np.ndarray:
    """Rows of unequal lengths as one array."""
    table = np.full((len(rows), max(map(len, rows), default=0)), filling)
    for target, row in zip(table, rows):
        target[: len(row)] = row
    return table


def transducer_restricted(
    frames: Sequence[np.ndarray],
    predict: Predict,
    join: Join,
    context_size: int,
    restriction: Restriction,
    bias: np.ndarray | None = None,
) -> list[Hypothesis]:
    """As `search.transducer_greedy`, with one hypothesis for each of the restriction's states Q.

    A greedy search would have to stay with an unfinished phone that its model does not finish. Here the best
    hypothesis without that phone is still there, and takes over.

    Args:
        frames, predict, join, context_size, bias: as of `search.transducer_greedy`. restriction: of V pieces.
    """
    return _Hypotheses(frames, predict, join, context_size, restriction, bias).search()


class _Hypotheses:
    """The best hypothesis of each recording in each state, in the order of the recordings' lengths."""

    def __init__(
        self,
        frames: Sequence[np.ndarray],
        predict: Predict,
        join: Join,
        context_size: int,
        restriction: Restriction,
        bias: np.ndarray | None,
    ) -> None:
        self.order = sorted(range(len(frames)), key=lambda i: -len(frames[i]))
        self.frames, self.predict, self.join = [frames[i] for i in self.order], predict, join
        self.final, (states, self.num_tokens) = restriction.final, restriction.following.shape
        self.bias = np.where(restriction.allowed, 0.0 if bias is None else bias, -np.inf)
        reached = restriction.following.reshape(-1)
        self.arcs = [np.flatnonzero(reached == state) for state in range(states)]
        self.scores = np.full((len(frames), states), -np.inf)
        self.scores[:, 0] = 0.0
        self.histories = np.full((len(frames), states, context_size), -1, np.int64)
        self.histories[:, :, -1] = 0  # icefall's first history: no tokens, then blank

    def search(self) -> list[Hypothesis]:
        """One result per recording, in the order in which they were given."""
        if not self.frames:
            return []
        first = self.predict(self.histories[:1, 0])
        self.predicted = np.broadcast_to(first, (*self.scores.shape, first.shape[-1])).copy()
        steps = [self._step(frame) for frame in range(len(self.frames[0]))]
        found = {recording: self._trace(rank, steps) for rank, recording in enumerate(self.order)}
        return [found[i] for i in range(len(found))]

    def _step(self, frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Take in a frame; the state before each hypothesis, its token and that one's probability, each (R, Q)."""
        count = sum(len(rows) > frame for rows in self.frames)
        before = self.scores[:count]
        row, state = np.nonzero(np.isfinite(before))
        encoded = np.stack([rows[frame] for rows in self.frames[:count]])
        log_probs = np.full((*before.shape, self.num_tokens), -np.inf)
        log_probs[row, state] = _log_softmax(self.join(encoded[row], self.predicted[row, state]) + self.bias)
        log_probs = log_probs.reshape(count, -1)
        total = np.repeat(before, self.num_tokens, axis=1) + log_probs
        choice = np.stack([arcs[total[:, arcs].argmax(1)] for arcs in self.arcs], axis=1)
        source, token = np.divmod(choice, self.num_tokens)
        self._follow(np.take_along_axis(total, choice, 1), source, token)
        return source, token, np.exp(np.take_along_axis(log_probs, choice, 1))

    def _follow(self, scores: np.ndarray, source: np.ndarray, token: np.ndarray) -> None:
        count, rows = len(scores), np.arange(len(scores))[:, None]
        self.scores[:count] = scores
        self.histories[:count] = self.histories[rows, source]
        self.predicted[:count] = self.predicted[rows, source]
        row, state = np.nonzero((token != BLANK) & np.isfinite(scores))
        if len(row):
            new = np.column_stack([self.histories[row, state, 1:], token[row, state]])
            self.histories[row, state], self.predicted[row, state] = new, self.predict(new)

    def _trace(self, rank: int, steps: Sequence[tuple[np.ndarray, ...]]) -> Hypothesis:
        state = int(np.where(self.final, self.scores[rank], -np.inf).argmax())
        path = []
        for frame in range(len(self.frames[rank]) - 1, -1, -1):
            source, token, confidence = (array[rank, state] for array in steps[frame])
            if token != BLANK:
                path.append((int(token), frame, frame + 1, float(confidence)))
            state = int(source)
        if not path:
            return Hypothesis()
        tokens, starts, ends, confidences = (list(values) for values in zip(*path[::-1]))
        return Hypothesis(tokens, starts, ends, confidences)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
