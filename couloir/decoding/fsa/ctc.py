"""CTC over graphs: token graph, LG (what icefall does with HLG), and n-best of either.

The CTC topology is not composed with the graph: a row of the search carries the label of its last frame, so that the
same LG graph serves transducers and CTC. At most one arc of the graph is taken per frame.
"""
# Shapes: A arcs, B batch, S output frames, V vocabulary.

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from couloir.decoding.ctc_alignment import with_extents
from couloir.decoding.fsa.graph import Graph
from couloir.decoding.fsa.lattice import Lattice, PathAutomaton, Paths, follow, make_lattice
from couloir.decoding.fsa.nbest import oracle, paths_of
from couloir.decoding.fsa.result import read_best_paths, read_followed, unsorted
from couloir.decoding.fsa.search import Bias, GraphSearch, SearchLimits, SearchResult
from couloir.decoding.hypothesis import Hypothesis

LIMITS = SearchLimits(beam=20.0, max_contexts=1 << 30, max_states=10000)  # search_beam and max_active of icefall
OUTPUT_BEAM = 8.0
NUM_PATHS, NBEST_SCALE = 100, 1.0


class CtcEmissions:
    """The history of a row is the label of its last frame, 0 for blank. All frames are scored."""

    ends_on_last_frame = False
    rivals: int | None = (
        2  # an arc leads to the same row whatever the last label was, and only one last label forbids it
    )

    def __init__(self, log_probs: Tensor, lens: Tensor) -> None:
        """Take (B, S, V) log-probabilities and (B,) valid frames; ``order`` (B,) sorts them by descending length."""
        self.lens, self.order = torch.sort(lens.to(log_probs.device, torch.int64), descending=True, stable=True)
        self.vocab_size = self.num_histories = log_probs.shape[2]
        self._log_probs = log_probs[self.order].float().transpose(0, 1).contiguous()

    def log_probs(self, frame: int | Tensor, utterance: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """As `Emissions.log_probs`."""
        assert isinstance(frame, int)
        return self._log_probs[frame], utterance

    def implicit(self, history: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Blank, and the last label again."""
        rows = torch.arange(len(history), device=history.device)
        repeats = torch.nonzero(history > 0).squeeze(1)
        blank = torch.zeros_like(rows)
        return [(rows, blank, blank), (repeats, history[repeats], history[repeats])]

    def advance(self, history: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """A label follows itself only after a blank; ends wait for the last frame."""
        return label.clamp(min=0), (label > 0) & (label != history)


def _search(
    log_probs: Tensor, lens: Tensor, graph: Graph, limits: SearchLimits, keep_arcs: bool, bias: Bias | None = None
) -> tuple[SearchResult, Tensor]:
    emissions = CtcEmissions(log_probs, lens)
    return GraphSearch(emissions, graph, limits, keep_arcs, bias).run(), emissions.order


@torch.no_grad()
def ctc_graph_search(
    log_probs: Tensor, lens: Tensor, graph: Graph, limits: SearchLimits = LIMITS, bias: Bias | None = None
) -> list[Hypothesis]:
    """Best path: icefall's ``ctc-decoding`` on `trivial_graph`, its ``1best`` on an LG graph.

    Args:
        log_probs: (B, S, V). lens: (B,) valid frames. graph: scaled beforehand (``--hlg-scale``).
        limits: pruning. bias: hotwords.
    """
    result, order = _search(log_probs, lens, graph, limits, False, bias)
    return with_extents(log_probs, lens, unsorted(read_best_paths(result), order))


def ctc_lattice(log_probs: Tensor, lens: Tensor, graph: Graph, limits: SearchLimits) -> tuple[Lattice, Tensor]:
    """The lattice of what came within `OUTPUT_BEAM` of the best, and its utterances' positions (B,) in the batch."""
    result, order = _search(log_probs, lens, graph, limits, True)
    return make_lattice(result, OUTPUT_BEAM), order


@torch.no_grad()
def ctc_graph_nbest(
    log_probs: Tensor,
    lens: Tensor,
    graph: Graph,
    limits: SearchLimits = LIMITS,
    num_paths: int = NUM_PATHS,
    nbest_scale: float = NBEST_SCALE,
    *,
    graph_scores: bool = True,
    with_best: bool = True,
) -> list[list[Hypothesis]]:
    """Distinct output sequences of sampled paths, each with its best path, best first (icefall's ``nbest``).

    Args:
        num_paths: paths sampled per utterance; nbest_scale: flattens the posterior that they are sampled from.
        graph_scores: False leaves the graph's LM out of the scores, for another one to take its place.
        with_best: take the sequence of `ctc_graph_search` beside those that are sampled. icefall does not.
        The rest as in `ctc_graph_search`.
    """
    result, order = _search(log_probs, lens, graph, limits, True)
    lattice = make_lattice(result, OUTPUT_BEAM)
    paths = paths_of(result, lattice, num_paths, nbest_scale, with_best)
    found = unsorted(_aligned(lattice, paths, lattice.score if graph_scores else lattice.log_prob), order)
    owner = [i for i, hypotheses in enumerate(found) for _ in hypotheses]
    with_extents(log_probs, lens, [hypothesis for hypotheses in found for hypothesis in hypotheses], owner)
    return found


def _aligned(lattice: Lattice, paths: Paths, score: Tensor) -> list[list[Hypothesis]]:
    """For each sorted utterance its paths, aligned and sorted by their best alignment under ``score`` (A,)."""
    found = follow(lattice, paths.utterance, PathAutomaton(paths), score)
    by_utterance: list[list[Hypothesis]] = [[] for _ in range(len(lattice.start))]
    for utterance, hypothesis in zip(paths.utterance.tolist(), read_followed(found, lattice, found.total)):
        by_utterance[utterance].append(hypothesis)
    return [sorted(hypotheses, key=lambda h: -h.score) for hypotheses in by_utterance]


@torch.no_grad()
def ctc_graph_nbest_oracle(
    log_probs: Tensor,
    lens: Tensor,
    graph: Graph,
    references: Sequence[Sequence[int]],
    limits: SearchLimits = LIMITS,
    num_paths: int = NUM_PATHS,
    nbest_scale: float = NBEST_SCALE,
    *,
    with_best: bool = True,
) -> list[Hypothesis]:
    """The sampled sequence with the fewest errors against ``references`` (icefall's ``nbest-oracle``)."""
    result, order = _search(log_probs, lens, graph, limits, True)
    sorted_references = [references[i] for i in order.tolist()]
    found = oracle(result, sorted_references, num_paths, nbest_scale, OUTPUT_BEAM, with_best)
    return with_extents(log_probs, lens, unsorted(found, order))
