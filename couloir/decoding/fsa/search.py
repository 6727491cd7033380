"""Frame-synchronous search over (token history, graph state) pairs, batched.

The semantics are those of k2's ``RnntDecodingStreams``. A row of the table is a pair of one utterance, with its
best (Viterbi) score; rows are in ascending order of (utterance, history, graph state).
"""
# Shapes: A arcs, B batch, G states, K indices, M arcs taken, N rows, R rows of scores, V vocabulary.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from couloir.config import flag_name
from couloir.decoding.fsa.graph import FINAL, Graph
from couloir.decoding.fsa.history import History
from couloir.decoding.fsa.ragged import expand, group_first_best, group_max, keep_best, unique
from couloir.errors import must_be

IMPLICIT = -1
ROUNDING = 1e-2  # of float32 scores in the thousands


@dataclass(frozen=True)
class SearchLimits:
    """What the search keeps: rows within ``beam`` of the best, at most that many states and histories.

    ``allow_partial``: where no path reaches the graph's end, take the best that is there (k2's default is to return
    nothing, which happens even on the trivial graph when blank is unlikely in the last frame).
    """

    beam: float = 20.0
    max_contexts: int = 8
    max_states: int = 64
    allow_partial: bool = True

    def __post_init__(self) -> None:
        for name in ("beam", "max_contexts", "max_states"):
            if not getattr(self, name) > 0:
                raise must_be(flag_name(name), "above 0", getattr(self, name))


class Emissions(Protocol):
    """How frames score tokens and what a row remembers of those it emitted."""

    lens: Tensor  # (B,) frames, descending
    vocab_size: int
    num_histories: int
    ends_on_last_frame: bool  # k2's transducer search: the last frame only ends, unscored
    rivals: int | None  # rows of one graph state among which the best path's source is found; None: all of them

    def log_probs(self, frame: int | Tensor, utterance: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """(R, V) log-probabilities, and for each of the N rows which of the R is its own.

        ``frame``: of all, or (B,) that of each utterance.
        """

    def implicit(self, history: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Arcs that every row has beside the graph's, as (rows (M,), label (M,), next history (M,))."""

    def advance(self, history: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """The history after each label (N,), and whether it may be emitted at all."""


class Bias(Protocol):
    """Hotwords as a dense automaton."""

    @property
    def num_nodes(self) -> int:
        """Nodes; 0 is the start."""

    def to(self, device: torch.device | str) -> Bias:
        """The same on a device."""

    def advance(self, node: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        """Gain (N,) and next node (N,)."""

    def backoff_score(self, node: Tensor) -> Tensor:
        """What (N,) ending in a node adds."""


@dataclass
class Table:
    """Rows of the search: utterance (sorted position), token history, graph state, hotword node, score."""

    utterance: Tensor
    history: Tensor
    state: Tensor
    node: Tensor
    score: Tensor

    def select(self, keep: Tensor | slice) -> Table:
        """The rows of a mask or an index."""
        return Table(*(getattr(self, name)[keep] for name in vars(self)))


@dataclass
class Arcs:
    """Arcs (M,) from rows of one table to rows of the next, in order of the source row.

    ``arc`` is the graph's arc or -1 for an implicit one; ``move`` the epsilon move before it or -1.
    """

    source: Tensor
    target: Tensor
    label: Tensor
    arc: Tensor
    move: Tensor
    score: Tensor
    log_prob: Tensor

    def select(self, keep: Tensor) -> Arcs:
        """The arcs of an index (K,)."""
        return Arcs(*(getattr(self, name)[keep] for name in vars(self)))


@dataclass
class SearchResult:
    """Best paths of the B sorted utterances, and for n-best the arcs of every frame.

    Fields:
        score: (B,) float64, -inf without a path; row, step: (B,) where the best path ends in ``history``.
        last_arc, last_move: (B,) the final arc it takes and the epsilon move before that, or -1.
        frames: the arcs that lead into surviving rows, by frame.
        utterances, scores: utterance and best score of each row, before the first frame and after each.
        finals: (frames consumed, final arcs whose target is the utterance) of the paths that end.
    """

    graph: Graph
    history: History
    score: Tensor
    row: Tensor
    step: Tensor
    last_arc: Tensor
    last_move: Tensor
    frames: list[Arcs] = field(default_factory=list)
    utterances: list[Tensor] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)
    finals: list[tuple[int, Arcs]] = field(default_factory=list)


@dataclass(frozen=True)
class Bounds:
    """What the arcs of a graph can gain at best, for pruning before they are looked at one by one.

    Fields:
        tokens, others: (G,) best weight of each state's arcs with a token, and of those without, which gain nothing.
        column: (A,) where an arc's gain stands in a row of V log-probabilities with ``more`` behind them.
        more: (2,) the gain of ends, and of arcs that are always kept.
    """

    tokens: Tensor
    others: Tensor
    column: Tensor
    more: Tensor

    @staticmethod
    def of(graph: Graph, emissions: Emissions) -> Bounds:
        """The bounds of a graph on the device of its tensors."""
        label, score, states = graph.label, graph.score, graph.num_states
        owner = torch.repeat_interleave(graph.splits.diff())
        more = score.new_tensor([0.0 if emissions.ends_on_last_frame else -torch.inf, torch.inf])
        column = torch.where(label > 0, label, emissions.vocab_size + (label == 0).long())
        tokens = group_max(score.where(label > 0, -torch.inf), owner, states)
        others = score + more[(label == 0).long()]
        return Bounds(tokens, group_max(others.where(label <= 0, -torch.inf), owner, states), column, more)


class GraphSearch:
    """The search. One object decodes one batch.

    Args:
        emissions: what frames say. graph, bias (hotwords): moved to its device. limits: pruning.
        keep_arcs: record the lattice.
    """

    def __init__(
        self,
        emissions: Emissions,
        graph: Graph,
        limits: SearchLimits,
        keep_arcs: bool = False,
        bias: Bias | None = None,
    ) -> None:
        graph.check_vocabulary(emissions.vocab_size)
        device = emissions.lens.device
        self.emissions, self.limits = emissions, limits
        self.graph, self.bias = graph.to(device), bias.to(device) if bias else None
        self.keep_arcs, self.trivial = keep_arcs, self.graph.is_trivial(emissions.vocab_size)
        self.nodes = bias.num_nodes if bias else 1
        # Hotwords add to any arc.
        self.bounds = None if bias or self.trivial else Bounds.of(self.graph, emissions)
        self.batch = len(emissions.lens)
        if self.batch * emissions.num_histories * graph.num_states * self.nodes >= 2**62:
            raise must_be("the decoding graph", "smaller for this vocabulary and context size", graph.num_states)
        lens = emissions.lens
        zeros = torch.zeros_like(lens)
        start = Table(torch.arange(self.batch, device=lens.device), zeros, zeros, zeros, zeros.double())
        self.table = start.select(lens > 0)
        nothing = start.score.clone() if limits.allow_partial else start.score - torch.inf
        score = torch.where(lens > 0, -torch.inf, nothing)
        none = zeros - 1
        self.result = SearchResult(
            self.graph,
            History(),
            score,
            zeros.clone(),
            none.clone(),
            none.clone(),
            none.clone(),
            utterances=[self.table.utterance],
            scores=[self.table.score],
        )

    def run(self) -> SearchResult:
        """Decode all frames."""
        lens = self.emissions.lens.tolist()
        for frame in range(max(lens, default=0)):
            if not len(self.table.score):
                break
            self._frame(frame, sum(n == frame + 1 for n in lens) > 0)
        return self.result

    def _frame(self, frame: int, some_end: bool) -> None:
        before, result = self.table, self.result
        arcs, after = self._step(frame)
        going = int((self.emissions.lens > frame + 1).sum())
        rows = int(torch.searchsorted(after.utterance, going)) if some_end else len(after.score)
        if some_end and self.emissions.ends_on_last_frame:
            ending = arcs.select(where(before.utterance[arcs.source] >= going))
            self._end(before, frame - 1, self._final_sources(before, ending))
            arcs, after = arcs.select(where(arcs.target < rows)), after.select(slice(rows))
        first = group_first_best(before.score[arcs.source] + arcs.score, arcs.target, after.score)
        result.history.append(
            frame, arcs.source[first], token=arcs.label[first].clamp(min=0), log_prob=arcs.log_prob[first],
            arc=arcs.arc[first], move=arcs.move[first],
        )  # fmt: skip
        if self.keep_arcs:
            result.frames.append(arcs)
            result.utterances.append(after.utterance)
            result.scores.append(after.score)
        if some_end and not self.emissions.ends_on_last_frame:
            self._end(after, frame, self._final_weights(after, rows))
            after = after.select(slice(rows))
        self.table = after

    def _step(self, frame: int | Tensor) -> tuple[Arcs, Table]:
        """The surviving rows after a frame, and all arcs that lead into them."""
        table, nodes = self.table, self.nodes
        arcs, history, state, node = self._candidates(frame)
        utterance = table.utterance[arcs.source]
        key = ((utterance * self.emissions.num_histories + history) * self.graph.num_states + state) * nodes + node
        keys, arcs.target = unique(key)
        score = group_max(table.score[arcs.source] + arcs.score, arcs.target, len(keys))
        context = torch.div(keys, self.graph.num_states * nodes, rounding_mode="floor")
        keep = self._survivors(score, context)
        arcs = arcs.select(where(keep[arcs.target]))
        arcs.target = (keep.cumsum(0) - 1)[arcs.target]
        keys, context, score = keys[keep], context[keep], score[keep]
        utterance = torch.div(context, self.emissions.num_histories, rounding_mode="floor")
        state = torch.div(keys, nodes, rounding_mode="floor") % self.graph.num_states
        return arcs, Table(utterance, context % self.emissions.num_histories, state, keys % nodes, score)

    def _survivors(self, score: Tensor, context: Tensor) -> Tensor:
        """Mask of the states kept: first pruned as states, then by the histories they belong to."""
        limits, num = self.limits, self.emissions.num_histories
        utterance = torch.div(context, num, rounding_mode="floor")
        keep = keep_best(score, utterance, self.batch, limits.max_states, limits.beam)
        contexts, group = torch.unique_consecutive(context[keep], return_inverse=True)
        best = group_max(score[keep], group, len(contexts))
        utterance = torch.div(contexts, num, rounding_mode="floor")
        keep[keep.clone()] = keep_best(best, utterance, self.batch, limits.max_contexts, limits.beam)[group]
        return keep

    def _candidates(self, frame: int | Tensor) -> tuple[Arcs, Tensor, Tensor, Tensor]:
        """Arcs out of the table that pass the first pruning, with the history, state and node they lead to."""
        table, emissions = self.table, self.emissions
        log_probs, own = emissions.log_probs(frame, table.utterance, table.history)
        floor = self._floor(log_probs, own)
        dense = self.trivial and self.bias is None
        if dense:
            source, arc, move = self._trivial_arcs(log_probs, own, floor)
        else:
            source, arc, move = self._arcs_within_beam(log_probs, own, floor) if self.bounds else self._graph_arcs()
        label, weight = self.graph.label[arc], self._weights(arc, move)
        log_prob = log_probs.flatten()[(own * log_probs.shape[1])[source] + label.clamp(min=0)]
        bias = self._bias(table.node[source], label) if self.bias is not None else None
        if bias is not None:
            weight = weight + bias[0]
        hopeful = table.score[source] + weight + log_prob.where(label != FINAL, 0.0)
        keep = where((label == 0) | (hopeful >= floor[table.utterance[source]]))
        arcs = Arcs(source, source, label, arc, move, weight + log_prob, log_prob).select(keep)
        history, allowed = emissions.advance(table.history[arcs.source], arcs.label)
        node = table.node[arcs.source] if bias is None else bias[1][keep]
        columns = torch.stack([history, self.graph.next[arcs.arc], node])
        if not bool(allowed.all()):
            keep = where(allowed)
            arcs, columns = arcs.select(keep), columns[:, keep]
        implicit, leads_to = self._implicit_arcs(log_probs, own)
        history, state, node = torch.cat([*leads_to, columns], dim=1)
        return joined([*implicit, arcs]), history, state, node

    def _implicit_arcs(self, log_probs: Tensor, own: Tensor) -> tuple[list[Arcs], list[Tensor]]:
        """The arcs that rows have beside the graph's, but for those at the graph's end, and (history, state, node)."""
        table, implicit, leads_to = self.table, [], []
        for rows, label, history in self.emissions.implicit(table.history):
            going = table.state[rows] < self.graph.num_states - 1
            rows, label, history = rows[going], label[going], history[going]
            log_prob, none = log_probs[own[rows], label], torch.full_like(rows, IMPLICIT)
            silent = torch.zeros_like(rows)
            implicit.append(Arcs(rows, rows, silent, none, none, log_prob, log_prob))
            leads_to.append(torch.stack([history, table.state[rows], table.node[rows]]))
        return implicit, leads_to

    def _ways(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(row, epsilon move or -1, state) of every state that ``rows`` reach without a token."""
        graph, state = self.graph, self.table.state[rows]
        if graph.moves is None or graph.move_next is None:
            return rows, torch.full_like(rows, IMPLICIT), state
        owner, move = expand(graph.moves, state)
        return rows[owner], move, graph.move_next[move]

    def _graph_arcs(self) -> tuple[Tensor, Tensor, Tensor]:
        """(source row, arc, epsilon move before it or -1) of every way out of the table."""
        row, move, state = self._ways(self._sources())
        source, arc = expand(self.graph.splits, state)
        return row[source], arc, move[source]

    def _arcs_within_beam(self, log_probs: Tensor, own: Tensor, floor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `_graph_arcs`, without most of what the first pruning would take: first states, then their arcs."""
        assert self.bounds is not None
        row, move, state = self._ways(self._sources())
        room = (self.table.score - floor[self.table.utterance]).float()[row] + ROUNDING
        if self.graph.move_score is not None:
            room = room + self.graph.move_score[move]
        best = log_probs[:, 1:].amax(1)[own][row]
        near = where(room + torch.maximum(self.bounds.tokens[state] + best, self.bounds.others[state]) >= 0)
        if not self.keep_arcs and self.emissions.rivals is not None:
            near = near[self._rivals(row[near], state[near], room[near])]
        row, move, room = row[near], move[near], room[near]
        source, arc = expand(self.graph.splits, state[near])
        gains = torch.cat([log_probs, self.bounds.more.expand(len(log_probs), -1)], dim=1)
        gain = gains.flatten()[(own * gains.shape[1])[row][source] + self.bounds.column[arc]]
        near = where(room[source] + self.graph.score[arc] + gain >= 0)
        source = source[near]
        return row[source], arc[near], move[source]

    def _trivial_arcs(self, log_probs: Tensor, own: Tensor, floor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `_graph_arcs` on the trivial graph, where the first pruning is a comparison of whole rows."""
        table, rows = self.table, self._sources()
        rows = rows[table.state[rows] == 0]
        hopeful = log_probs[own[rows]] >= (floor[table.utterance[rows]] - table.score[rows]).float()[:, None] - 1e-3
        hopeful[:, 0] = False
        row, label = torch.nonzero(hopeful).unbind(1)
        source, arc = (
            torch.cat([rows[row], rows]),
            torch.cat([label - 1, torch.full_like(rows, self.graph.num_arcs - 1)]),
        )
        return source, arc, torch.full_like(arc, IMPLICIT)

    def _sources(self) -> Tensor:
        """The rows whose graph arcs can matter; for a lattice all do."""
        rows = torch.arange(len(self.table.score), device=self.table.score.device)
        if self.keep_arcs or self.emissions.rivals is None:
            return rows
        return self._rivals(rows, self.table.state, self.table.score)

    def _rivals(self, row: Tensor, state: Tensor, score: Tensor) -> Tensor:
        """Positions (K,) of the ways (N,) from rows to states, at a score, that the best path can take.

        Ways to one state lead on to the same, whatever their history was: of those with one history the best counts,
        and of all no more than `Emissions.rivals`.
        """
        table, most, histories = self.table, self.emissions.rivals, self.emissions.num_histories
        assert most is not None
        place = (table.utterance[row] * self.graph.num_states + state) * self.nodes + table.node[row]
        ways, group = unique(place * histories + table.history[row])
        way = group_first_best(score, group, group_max(score, group, len(ways)))
        places, segment = torch.unique_consecutive(
            torch.div(ways, histories, rounding_mode="floor"), return_inverse=True
        )
        return way[keep_best(score[way], segment, len(places), most, torch.inf)].sort().values

    def _weights(self, arc: Tensor, move: Tensor) -> Tensor:
        weight = self.graph.score[arc]
        return weight if self.graph.move_score is None else weight + self.graph.move_score[move]

    def _bias(self, node: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        assert self.bias is not None
        gain, after = self.bias.advance(node, label.clamp(min=0))
        return torch.where(label > 0, gain, 0.0), torch.where(label > 0, after, node)

    def _floor(self, log_probs: Tensor, own: Tensor) -> Tensor:
        """Scores (B,) below which an arc cannot matter."""
        table, most = self.table, self.limits.max_states
        best = group_max(table.score, table.utterance, self.batch)
        floor = best - self.limits.beam
        if self.keep_arcs or self.bias or not self.trivial or log_probs.shape[1] <= most + 1:
            return floor
        # On the trivial graph the best row alone leads to `most` distinct states at least as good as this.
        first = group_first_best(table.score, table.utterance, best[: int(table.utterance[-1]) + 1])
        worst = log_probs[own[first], 1:].topk(most).values[:, -1]
        floor[: len(first)] = torch.maximum(floor[: len(first)], table.score[first] + worst)
        return floor

    def _final_sources(self, before: Table, ending: Arcs) -> Arcs:
        """The surviving final arcs of the ending utterances, at no cost, as k2 has it."""
        free = torch.zeros_like(ending.score)
        ending = Arcs(ending.source, ending.target, ending.label, ending.arc, ending.move, free, free)
        return self._or_partial(before, ending.select(where(ending.label == FINAL)), ending.source.unique())

    def _final_weights(self, after: Table, begin: int) -> Arcs:
        """The graph's final arcs out of the rows from ``begin`` on, at their weights."""
        rows = torch.arange(begin, len(after.score), device=after.score.device)
        self.table = after.select(rows)
        source, arc, move = self._graph_arcs()
        ends = self.graph.label[arc] == FINAL
        row, arc, move = rows[source[ends]], arc[ends], move[ends]
        weight = self._weights(arc, move)
        finals = Arcs(row, row, torch.full_like(row, FINAL), arc, move, weight, torch.zeros_like(weight))
        return self._or_partial(after, finals, rows)

    def _or_partial(self, table: Table, finals: Arcs, rows: Tensor) -> Arcs:
        """The final arcs, and where an utterance has none, if that is allowed, an end at each of its ``rows``."""
        if not self.limits.allow_partial:
            return finals
        missing = torch.ones(self.batch, dtype=torch.bool, device=rows.device)
        missing[table.utterance[finals.source]] = False
        rows = rows[missing[table.utterance[rows]]]
        none, free = torch.full_like(rows, IMPLICIT), finals.score.new_zeros(len(rows))
        return joined([finals, Arcs(rows, rows, none, none, none, free, free)])

    def _end(self, table: Table, step: int | Tensor, finals: Arcs) -> None:
        """Take the best of the ways in which utterances may end, after a ``step`` of all or (B,) one of each."""
        result, row = self.result, finals.source
        finals.target = table.utterance[row]
        if self.bias is not None:
            finals.score = finals.score + self.bias.backoff_score(table.node[row])
        if self.keep_arcs:
            assert isinstance(step, int)
            result.finals.append((step + 1, finals))
        total = table.score[row] + finals.score
        utterances, group = unique(finals.target)
        best = group_max(total, group, len(utterances))
        first = group_first_best(total, group, best)
        result.score[utterances], result.row[utterances] = best, row[first]
        result.step[utterances] = step[utterances] if isinstance(step, Tensor) else step
        result.last_arc[utterances], result.last_move[utterances] = finals.arc[first], finals.move[first]


def where(mask: Tensor) -> Tensor:
    """The positions (K,) at which a mask (N,) holds."""
    return torch.nonzero(mask).squeeze(1)


def joined(parts: Sequence[Arcs]) -> Arcs:
    """All arcs in one."""
    return Arcs(*(torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])))


def output_labels(graph: Graph, arc: Tensor, move: Tensor) -> Tensor:
    """Output labels (A, M) of search arcs, 0 where there is none: those of the epsilon move come first."""
    aux = torch.where((arc >= 0)[:, None], graph.aux[arc], 0)
    if graph.move_aux is None:
        return aux
    return torch.cat([torch.where((move >= 0)[:, None], graph.move_aux[move], 0), aux], dim=1)
