"""The dense search of the trivial graph finds what the general one finds, whatever the model and the limits."""

import pytest
import torch
from stub_transducer import StubTransducer, batch

from couloir.decoding.fsa.graph import trivial_graph
from couloir.decoding.fsa.result import read_best_paths
from couloir.decoding.fsa.search import GraphSearch, SearchLimits
from couloir.decoding.transducer import token_search
from couloir.decoding.transducer.emissions import TransducerEmissions
from couloir.decoding.transducer.frames import FrameScorer
from couloir.decoding.transducer.token_search import TokenSearch, fits_token_search

LIMITS = [
    SearchLimits(20.0, 8, 64),
    SearchLimits(3.0, 4, 8),
    SearchLimits(8.0, 1, 2, allow_partial=False),
    SearchLimits(50.0, 16, 32, allow_partial=False),
]


@pytest.mark.parametrize("limits", LIMITS, ids=lambda limits: f"beam{limits.beam:.0f}")
@pytest.mark.parametrize(("vocab_size", "context_size", "peak"), [(3, 2, 1.0), (5, 3, 4.0), (40, 1, 9.0), (12, 2, 4.0)])
@torch.no_grad()
def test_equals_the_general_search(monkeypatch, vocab_size, context_size, peak, limits):
    monkeypatch.setattr(token_search, "SPARE", 6)  # so that the second look is taken too
    graph = trivial_graph(vocab_size)
    assert fits_token_search(graph, vocab_size, limits)
    for seed in range(3):
        model = StubTransducer(vocab_size, context_size=context_size, peak=peak, seed=seed)
        encoded, lens = batch((9, 1, 17, 4, 0, 2, 17), seed=seed)
        emissions = [TransducerEmissions(FrameScorer(model, encoded, lens)) for _ in range(2)]
        general = read_best_paths(GraphSearch(emissions[0], graph, limits).run())
        dense = read_best_paths(TokenSearch(emissions[1], limits).run())
        for one, other in zip(general, dense):
            assert (one.tokens, one.starts, one.words, one.word_frames) == (
                other.tokens, other.starts, other.words, other.word_frames,
            )  # fmt: skip
            assert one.score == pytest.approx(other.score, abs=1e-5)


def test_is_left_to_the_general_search_where_ends_take_places():
    assert not fits_token_search(trivial_graph(5), 5, SearchLimits(max_contexts=8, max_states=15))
    assert not fits_token_search(trivial_graph(5), 6, SearchLimits())
