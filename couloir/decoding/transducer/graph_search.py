"""fast_beam_search and its n-best forms: a transducer searched over a graph."""
# Shapes: B batch, D model dimension, S output frames.

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from couloir.decoding.fsa.graph import Graph
from couloir.decoding.fsa.nbest import choose, oracle
from couloir.decoding.fsa.result import read_best_paths, unsorted
from couloir.decoding.fsa.search import Bias, GraphSearch, SearchLimits, SearchResult
from couloir.decoding.hypothesis import Hypothesis
from couloir.decoding.transducer.emissions import TransducerEmissions
from couloir.decoding.transducer.frames import PLAIN, FrameScorer, Scoring, TransducerModel
from couloir.decoding.transducer.token_search import TokenSearch, fits_token_search

LIMITS = SearchLimits()


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
    emissions = TransducerEmissions(scorer)
    if not keep_arcs and bias is None and fits_token_search(graph, emissions.vocab_size, limits):
        return TokenSearch(emissions, limits).run(), scorer.order
    return GraphSearch(emissions, graph, limits, keep_arcs, bias).run(), scorer.order


@torch.no_grad()
def fast_beam_search(
    model: TransducerModel,
    encoder_out: Tensor,
    lens: Tensor,
    graph: Graph,
    limits: SearchLimits = LIMITS,
    bias: Bias | None = None,
    scoring: Scoring = PLAIN,
) -> list[Hypothesis]:
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
    *,
    with_best: bool = True,
) -> list[Hypothesis]:
    """Sample paths from the lattice, score each distinct output sequence on the lattice, take the best.

    Args:
        num_paths: paths per utterance; nbest_scale: flattens the posterior that they are taken from.
        log_sum: score a sequence by the sum over its paths, as icefall's ``fast_beam_search_nbest_LG`` does, rather
            than by its best path, as ``fast_beam_search_nbest`` does.
        with_best: take the best path's sequence beside those that are sampled, among which that of a long utterance
            hardly ever is. icefall does not.
        The rest as in `fast_beam_search`.
    """
    result, order = search_graph(model, encoder_out, lens, graph, limits, True, bias, scoring)
    return unsorted(choose(result, num_paths, nbest_scale, log_sum, with_best), order)


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
    *,
    with_best: bool = True,
) -> list[Hypothesis]:
    """Of the sampled sequences the one with the fewest errors against the reference: a bound on what n-best can give.

    Args:
        references: for each utterance its output labels. The rest as in `fast_beam_search_nbest`.
    """
    result, order = search_graph(model, encoder_out, lens, graph, limits, True, scoring=scoring)
    sorted_references = [references[i] for i in order.tolist()]
    return unsorted(oracle(result, sorted_references, num_paths, nbest_scale, with_best=with_best), order)
