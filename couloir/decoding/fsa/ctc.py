"""CTC over graphs: token graph, LG (what icefall does with HLG), n-best, and rescoring of either.

The CTC topology is not composed with the graph: a row of the search carries the label of its last frame, so that the
same LG graph serves transducers and CTC. At most one arc of the graph is taken per frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from couloir.decoding.fsa.graph import Graph
from couloir.decoding.fsa.lattice import Lattice, PathAutomaton, Paths, follow, make_lattice, prune, sample_paths
from couloir.decoding.fsa.nbest import oracle
from couloir.decoding.fsa.result import WordHypothesis, read_best_paths, read_followed, unsorted
from couloir.decoding.fsa.search import Bias, GraphSearch, SearchLimits, SearchResult
from couloir.decoding.ngram import NgramLm

LIMITS = SearchLimits(beam=20.0, max_contexts=1 << 30, max_states=1000)
OUTPUT_BEAM = 8.0
LM_SCALES = (*(0.1 * i for i in range(1, 21)),)
ATTENTION_SCALES = (
    0.01, 0.05, 0.08, 0.1, 0.3, 0.5, 0.6, 0.7, 0.9, 1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 1.9, 2.0, 2.1, 2.2, 2.3, 2.5, 3.0,
    4.0, 5.0,
)  # fmt: skip


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

    def log_probs(self, frame: int, utterance: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """As `Emissions.log_probs`."""
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
) -> list[WordHypothesis]:
    """Best path: icefall's ``ctc-decoding`` on `trivial_graph`, its ``1best`` on an LG graph.

    Args:
        log_probs: (B, S, V). lens: (B,) valid frames. graph: scaled beforehand (``--hlg-scale``).
        limits: pruning. bias: hotwords.
    """
    result, order = _search(log_probs, lens, graph, limits, False, bias)
    return unsorted(read_best_paths(result), order)


@torch.no_grad()
def ctc_graph_nbest(
    log_probs: Tensor,
    lens: Tensor,
    graph: Graph,
    limits: SearchLimits = LIMITS,
    num_paths: int = 100,
    nbest_scale: float = 1.0,
) -> list[list[WordHypothesis]]:
    """Distinct output sequences of sampled paths, each with its best path, best first (icefall's ``nbest``).

    Args:
        num_paths: paths sampled per utterance; nbest_scale: flattens the posterior that they are sampled from.
        The rest as in `ctc_graph_search`.
    """
    result, order = _search(log_probs, lens, graph, limits, True)
    lattice = prune(make_lattice(result), OUTPUT_BEAM)
    paths = sample_paths(lattice, num_paths, nbest_scale)
    return unsorted(_aligned(lattice, paths, lattice.score), order)


def _aligned(lattice: Lattice, paths: Paths, score: Tensor) -> list[list[WordHypothesis]]:
    """For each sorted utterance its paths, aligned and sorted by their best path under ``score`` (A,)."""
    found = follow(lattice, paths.utterance, PathAutomaton(paths), score)
    by_utterance: list[list[WordHypothesis]] = [[] for _ in range(len(lattice.start))]
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
    num_paths: int = 100,
    nbest_scale: float = 1.0,
) -> list[WordHypothesis]:
    """The sampled sequence with the fewest errors against ``references`` (icefall's ``nbest-oracle``)."""
    result, order = _search(log_probs, lens, graph, limits, True)
    return unsorted(oracle(result, [references[i] for i in order.tolist()], num_paths, nbest_scale), order)


class NgramAutomaton:
    """A word n-gram as an `Automaton`, its log-probabilities times ``scale``."""

    def __init__(self, lm: NgramLm, scale: float) -> None:
        self.lm, self.scale, self.num_states = lm, scale, lm.num_states + 1

    def advance(self, item: Tensor, state: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `Automaton.advance`. State 0 is the start, state s + 1 the model's s."""
        score, after = self.lm.advance(self._own(state), label)
        return score * self.scale, after + 1, torch.ones_like(label, dtype=torch.bool)

    def final(self, item: Tensor, state: Tensor) -> Tensor:
        """As `Automaton.final`."""
        return self.lm.end_scores(self._own(state)) * self.scale

    def _own(self, state: Tensor) -> Tensor:
        return torch.where(state > 0, state - 1, self.lm.start_state)


@torch.no_grad()
def whole_lattice_rescoring(
    log_probs: Tensor,
    lens: Tensor,
    graph: Graph,
    lm: NgramLm,
    lm_scales: Sequence[float] = LM_SCALES,
    limits: SearchLimits = LIMITS,
) -> dict[str, list[WordHypothesis]]:
    """Search with the graph's LM, then replace its scores on the whole lattice by those of a larger one.

    Args:
        lm: over the graph's words. lm_scales: one result each. The rest as in `ctc_graph_search`.

    Returns:
        icefall's key of each setting, ``lm_scale_0.1``, -> best paths, scored acoustic + scale * lm.
    """
    result, order = _search(log_probs, lens, graph, limits, True)
    lattice = prune(make_lattice(result), OUTPUT_BEAM)
    utterances = torch.arange(len(lattice.start), device=lattice.start.device)
    results = {}
    for scale in lm_scales:
        found = follow(lattice, utterances, NgramAutomaton(lm, scale), lattice.log_prob)
        results[f"lm_scale_{scale:.1f}"] = unsorted(read_followed(found, lattice, found.total), order)
    return results


def rescore_nbest(
    nbest: Sequence[Sequence[WordHypothesis]],
    scorer: Callable[[list[WordHypothesis], list[int]], Tensor],
    scales: Sequence[float] = ATTENTION_SCALES,
    name: str = "attention_scale",
) -> dict[str, list[WordHypothesis]]:
    """Re-rank n-best lists by score + scale * (another model's log-probability).

    Args:
        nbest: for each utterance its hypotheses.
        scorer: hypotheses and the utterance of each -> (N,) log-probabilities: an attention decoder on their tokens, an
            n-gram on their words. scales: one result each.
        name: of the result's keys: ``attention_scale_0.5``.

    Returns:
        Key -> the best hypothesis of each utterance, with its own score.
    """
    owner = [i for i, hypotheses in enumerate(nbest) for _ in hypotheses]
    flat = [hypothesis for hypotheses in nbest for hypothesis in hypotheses]
    extra = iter(scorer(flat, owner).tolist() if flat else [])
    other = [[next(extra) for _ in hypotheses] for hypotheses in nbest]
    empty = WordHypothesis(score=-torch.inf)
    return {
        f"{name}_{scale}": [
            max(zip(hypotheses, scores), key=lambda pair: pair[0].score + scale * pair[1], default=(empty, 0.0))[0]
            for hypotheses, scores in zip(nbest, other)
        ]
        for scale in scales
    }
