"""fast_beam_search and its n-best forms: a transducer searched over a graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from couloir.decoding.fsa.graph import Graph
from couloir.decoding.fsa.nbest import choose, oracle
from couloir.decoding.fsa.result import WordHypothesis, read_best_paths, unsorted
from couloir.decoding.fsa.search import Bias, GraphSearch, SearchLimits, SearchResult
from couloir.decoding.transducer.frames import PLAIN, FrameScorer, Scoring, TransducerModel

LIMITS = SearchLimits()


class TransducerEmissions:
    """At most one token per frame; blank is a self-loop that every state has; the last frame only ends.

    A history is the number that the last ``context_size`` tokens make in base V; all of them are blank at the start.
    """

    ends_on_last_frame = True
    rivals: int | None = None

    def __init__(self, scorer: FrameScorer) -> None:
        self.scorer = scorer
        self.lens, self.vocab_size = scorer.lens, scorer.predictions.vocab_size
        self.num_histories = self.vocab_size**scorer.predictions.context_size
        self._keep = self.num_histories // self.vocab_size
        exponents = torch.arange(scorer.predictions.context_size - 1, -1, -1, device=self.lens.device)
        self._powers = self.vocab_size**exponents

    def log_probs(self, frame: int, utterance: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """As `Emissions.log_probs`: one joiner row for each distinct history of an utterance."""
        pairs, own = torch.unique_consecutive(utterance * self.num_histories + history, return_inverse=True)
        tokens = (pairs % self.num_histories)[:, None] // self._powers % self.vocab_size
        utterances = torch.div(pairs, self.num_histories, rounding_mode="floor")
        return self.scorer.log_probs(frame, utterances, self.scorer.predictions(tokens)), own

    def implicit(self, history: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Blank."""
        rows = torch.arange(len(history), device=history.device)
        return [(rows, torch.zeros_like(rows), history)]

    def advance(self, history: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Append a token; blank and the end change nothing."""
        after = torch.where(label > 0, history % self._keep * self.vocab_size + label, history)
        return after, torch.ones_like(label, dtype=torch.bool)


def search_graph(
    model: TransducerModel,
    encoder_out: Tensor,
    lens: Tensor,
    graph: Graph,
    limits: SearchLimits,
    keep_arcs: bool = False,
    bias: Bias | None = None,
    scoring: Scoring = PLAIN,
) -> tuple[SearchResult, Tensor]:
    """The search's result over sorted utterances, and their positions (B,) in the batch."""
    scorer = FrameScorer(model, encoder_out, lens, scoring)
    search = GraphSearch(TransducerEmissions(scorer), graph, limits, keep_arcs, bias)
    return search.run(), scorer.order


@torch.no_grad()
def fast_beam_search(
    model: TransducerModel,
    encoder_out: Tensor,
    lens: Tensor,
    graph: Graph,
    limits: SearchLimits = LIMITS,
    bias: Bias | None = None,
    scoring: Scoring = PLAIN,
) -> list[WordHypothesis]:
    """Best path. On `trivial_graph` this is icefall's ``fast_beam_search``, on an LG graph ``fast_beam_search_LG``.

    Args:
        model: its decoder and joiner are used. encoder_out: (B, S, D). lens: (B,) valid frames.
        graph: its labels are tokens. limits: pruning. bias: hotwords.
        scoring: blank penalty and temperature.

    Returns:
        One hypothesis per utterance with the path's score; empty with score -inf when no path survived.
    """
    result, order = search_graph(model, encoder_out, lens, graph, limits, bias=bias, scoring=scoring)
    return unsorted(read_best_paths(result), order)


@torch.no_grad()
def fast_beam_search_nbest(
    model: TransducerModel,
    encoder_out: Tensor,
    lens: Tensor,
    graph: Graph,
    limits: SearchLimits = LIMITS,
    num_paths: int = 200,
    nbest_scale: float = 0.5,
    log_sum: bool = False,
    bias: Bias | None = None,
    scoring: Scoring = PLAIN,
) -> list[WordHypothesis]:
    """Sample paths from the lattice, score each distinct output sequence on the lattice, take the best.

    Args:
        num_paths: paths per utterance; nbest_scale: flattens the posterior that they are taken from.
        log_sum: score a sequence by the sum over its paths, as icefall's ``fast_beam_search_nbest_LG`` does, rather
            than by its best path, as ``fast_beam_search_nbest`` does.
        The rest as in `fast_beam_search`. icefall's nbest and nbest_oracle run with ``ilme_scale`` 0.1 by oversight.
    """
    result, order = search_graph(model, encoder_out, lens, graph, limits, True, bias, scoring)
    return unsorted(choose(result, num_paths, nbest_scale, log_sum), order)


@torch.no_grad()
def fast_beam_search_nbest_oracle(
    model: TransducerModel,
    encoder_out: Tensor,
    lens: Tensor,
    graph: Graph,
    references: Sequence[Sequence[int]],
    limits: SearchLimits = LIMITS,
    num_paths: int = 200,
    nbest_scale: float = 0.5,
    scoring: Scoring = PLAIN,
) -> list[WordHypothesis]:
    """Of the sampled sequences the one with the fewest errors against the reference: a bound on what n-best can give.

    Args:
        references: for each utterance its output labels. The rest as in `fast_beam_search_nbest`.
    """
    result, order = search_graph(model, encoder_out, lens, graph, limits, True, scoring=scoring)
    sorted_references = [references[i] for i in order.tolist()]
    return unsorted(oracle(result, sorted_references, num_paths, nbest_scale), order)
