"""Rescoring what a search over a graph left: n-best lists and whole lattices, by n-grams and other models."""
# Shapes: N hypotheses, P paths.

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from couloir.decoding.ctc_alignment import with_extents
from couloir.decoding.fsa.ctc import LIMITS, ctc_lattice
from couloir.decoding.fsa.graph import Graph
from couloir.decoding.fsa.lattice import follow
from couloir.decoding.fsa.result import read_followed, unsorted
from couloir.decoding.fsa.search import SearchLimits
from couloir.decoding.hypothesis import Hypothesis
from couloir.decoding.ngram import NgramLm

LM_SCALES = (*(0.1 * i for i in range(1, 21)),)
ATTENTION_SCALES = (
    0.01, 0.05, 0.08, 0.1, 0.3, 0.5, 0.6, 0.7, 0.9, 1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 1.9, 2.0, 2.1, 2.2, 2.3, 2.5, 3.0,
    4.0, 5.0,
)  # fmt: skip

WALKED_ARCS = 1 << 21  # of the lattice, times scales, at once: some 0.4 GB of back-pointers

Scorer = Callable[[Sequence[Hypothesis], Sequence[int]], Tensor]


class NgramAutomaton:
    """A word n-gram as an `Automaton`, its log-probabilities times ``scale`` (P,) of each item."""

    def __init__(self, lm: NgramLm, scale: Tensor) -> None:
        self.lm, self.scale, self.num_states = lm, scale, lm.num_states + 1

    def advance(self, item: Tensor, state: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `Automaton.advance`. State 0 is the start, state s + 1 the model's s."""
        score, after = self.lm.advance(self._own(state), label)
        return score * self.scale[item], after + 1, torch.ones_like(label, dtype=torch.bool)

    def final(self, item: Tensor, state: Tensor) -> Tensor:
        """As `Automaton.final`."""
        return self.lm.end_scores(self._own(state)) * self.scale[item]

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
) -> dict[str, list[Hypothesis]]:
    """Search with the graph's LM, then replace its scores on the whole lattice by those of a larger one.

    Args:
        lm: over the graph's words. lm_scales: one result each. The rest as in `ctc_graph_search`.

    Returns:
        icefall's key of each setting, ``lm_scale_0.1``, -> best paths, scored acoustic + scale * lm.
    """
    lattice, order = ctc_lattice(log_probs, lens, graph, limits)
    batch, device = len(lattice.start), lattice.start.device
    utterances, best = torch.arange(batch, device=device), list[Hypothesis]()
    at_once = max(1, WALKED_ARCS // max(1, len(lattice.target)))
    for scales in torch.tensor(lm_scales, dtype=torch.float64, device=device).split(at_once):
        automaton = NgramAutomaton(lm, scales.repeat_interleave(batch))
        found = follow(lattice, utterances.repeat(len(scales)), automaton, lattice.log_prob)
        best += read_followed(found, lattice, found.total)
    by_scale = [unsorted(best[i * batch : (i + 1) * batch], order) for i in range(len(lm_scales))]
    return {f"lm_scale_{scale:.1f}": with_extents(log_probs, lens, found) for scale, found in zip(lm_scales, by_scale)}


def rescore_nbest(
    nbest: Sequence[Sequence[Hypothesis]], scorers: Sequence[tuple[str, Scorer, Sequence[float]]], empty: Hypothesis
) -> dict[str, list[Hypothesis]]:
    """Re-rank n-best lists by score + scale * (another model's log-probability), summed over the other models.

    Args:
        nbest: for each utterance its hypotheses.
        scorers: (name, scorer, scales). A scorer gives hypotheses, and the utterance of each, (N,) log-probabilities:
            an attention decoder by their tokens, an n-gram by their words. Every combination of scales is a result.
        empty: stands for the best of no hypotheses.

    Returns:
        Key, such as ``ngram_lm_scale_0.5_attention_scale_1.3``, -> the best hypothesis of each utterance, with its own
        score.
    """
    owner = [i for i, hypotheses in enumerate(nbest) for _ in hypotheses]
    flat = [hypothesis for hypotheses in nbest for hypothesis in hypotheses]
    totals = {"": torch.tensor([hypothesis.score for hypothesis in flat], dtype=torch.float64)}
    for name, scorer, scales in scorers:
        extra = scorer(flat, owner).double().cpu() if flat else totals[""]
        totals = {
            f"{key}_{name}_{scale}".lstrip("_"): total + scale * extra
            for key, total in totals.items()
            for scale in scales
        }
    sizes = [len(hypotheses) for hypotheses in nbest]
    return {
        key: [
            hypotheses[int(part.argmax())] if len(hypotheses) else empty
            for hypotheses, part in zip(nbest, total.split(sizes))
        ]
        for key, total in totals.items()
    }


def word_scorer(lm: NgramLm) -> Scorer:
    """A scorer for `rescore_nbest`: the words' log-probability, with the sentence's end."""
    return lambda hypotheses, owner: lm.sequence_scores([hypothesis.words for hypothesis in hypotheses])
