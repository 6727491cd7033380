"""The best path is among the n best: no method that samples scores below the one best path without a language model."""

import itertools
import math

import pytest
import torch
from kaldialign import edit_distance
from stub_transducer import StubTransducer, batch

from couloir.decoding.fsa.ctc import ctc_graph_nbest, ctc_graph_nbest_oracle, ctc_graph_search
from couloir.decoding.fsa.graph import make_graph, trivial_graph
from couloir.decoding.fsa.nbest import paths_of
from couloir.decoding.fsa.rescoring import rescore_nbest
from couloir.decoding.fsa.search import SearchLimits
from couloir.decoding.hypothesis import Hypothesis
from couloir.decoding.transducer.graph_search import (
    fast_beam_search,
    fast_beam_search_nbest,
    fast_beam_search_nbest_oracle,
)

VOCAB = 5
TOKENS = trivial_graph(VOCAB)
WIDE = SearchLimits(beam=1e9, max_contexts=10**9, max_states=10**6)


def random_log_probs(sizes, seed, peak=1.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(sizes), max(sizes), VOCAB, generator=generator) * peak
    return logits.log_softmax(-1), torch.tensor(sizes)


def random_graph(seed, states=4, arcs=14):
    """Arcs drawn at random among states, every state final at some weight."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda high, low=0: torch.randint(low, high, (arcs,), generator=generator)  # noqa: E731
    source, target, label = draw(states), draw(states), draw(VOCAB, 1)
    ends = torch.arange(states)
    weight = -torch.rand(arcs + states, generator=generator) * 2
    return make_graph(
        torch.cat([source, ends]),
        torch.cat([target, torch.full_like(ends, states)]),
        torch.cat([label, torch.full_like(ends, -1)]),
        weight,
        torch.cat([draw(9, 1), torch.zeros_like(ends)])[:, None],
        states + 1,
    )


def best_by_enumeration(log_probs, graph):
    """Score of the best path of CTC through a graph, trying all token strings and all their alignments."""
    strings = {}
    for path in itertools.product(range(VOCAB), repeat=len(log_probs)):
        tokens = tuple(token for token, _ in itertools.groupby(path) if token)
        score = sum(log_probs[t, token].item() for t, token in enumerate(path))
        strings[tokens] = max(strings.get(tokens, -math.inf), score)
    arcs = [
        (state, graph.label[a].item(), graph.next[a].item(), graph.score[a].item())
        for state in range(graph.num_states)
        for a in range(graph.splits[state], graph.splits[state + 1])
    ]

    def through(state, tokens):
        wanted = tokens[0] if tokens else -1
        ways = [(score, after) for s, label, after, score in arcs if (s, label) == (state, wanted)]
        if not tokens:
            return max((score for score, _ in ways), default=-math.inf)
        return max((score + through(after, tokens[1:]) for score, after in ways), default=-math.inf)

    return max(score + through(0, tokens) for tokens, score in strings.items())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("num_paths", [1, 3])
def test_nbest_has_the_best_path_that_enumeration_finds(seed, num_paths):
    log_probs, lens = random_log_probs((5, 4, 1), seed)
    graph = random_graph(seed)
    nbest = ctc_graph_nbest(log_probs, lens, graph, WIDE, num_paths, 0.3)
    for i, hypotheses in enumerate(nbest):
        assert hypotheses[0].score == pytest.approx(best_by_enumeration(log_probs[i, : lens[i]], graph), abs=1e-4)
        sequences = [tuple(h.words) for h in hypotheses]
        assert len(set(sequences)) == len(sequences) <= num_paths + 1


@pytest.mark.parametrize("scale", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("graph", [TOKENS, random_graph(3)], ids=["tokens", "random"])
def test_a_long_utterance_is_no_worse_than_one_best(graph, scale):
    """Whose best path a sample does not meet: the reference's choice is worse there."""
    log_probs, lens = random_log_probs((120, 80, 37, 1), 4)
    best = ctc_graph_search(log_probs, lens, graph)
    found = ctc_graph_nbest(log_probs, lens, graph, num_paths=20, nbest_scale=scale)
    sampled = ctc_graph_nbest(log_probs, lens, graph, num_paths=20, nbest_scale=scale, with_best=False)
    for one, hypotheses, reference in zip(best, found, sampled):
        assert (hypotheses[0].words, hypotheses[0].tokens, hypotheses[0].starts) == (one.words, one.tokens, one.starts)
        assert hypotheses[0].score == pytest.approx(one.score, abs=1e-3)
        sequences = {tuple(h.words) for h in hypotheses}
        assert sequences == {tuple(h.words) for h in reference} | {tuple(one.words)}
    assert sampled[0][0].score < best[0].score - 1


@pytest.mark.parametrize("method", ["ctc", "transducer"])
def test_the_oracle_has_no_more_errors_than_one_best(method):
    generator = torch.Generator().manual_seed(2)
    references = [torch.randint(1, VOCAB, (n,), generator=generator).tolist() for n in (30, 12, 0)]
    if method == "ctc":
        arguments = (*random_log_probs((100, 60, 20), 7), TOKENS)
        best, oracle = ctc_graph_search(*arguments), ctc_graph_nbest_oracle(*arguments, references, num_paths=5)
        sampled = ctc_graph_nbest_oracle(*arguments, references, num_paths=5, with_best=False)
    else:
        arguments = (StubTransducer(VOCAB, peak=1.0), *batch((100, 60, 20)), TOKENS)
        best = fast_beam_search(*arguments)
        oracle = fast_beam_search_nbest_oracle(*arguments, references, num_paths=5)
        sampled = fast_beam_search_nbest_oracle(*arguments, references, num_paths=5, with_best=False)
    errors = lambda found: [edit_distance(r, h.words)["total"] for r, h in zip(references, found)]  # noqa: E731
    for ours, one, without in zip(errors(oracle), errors(best), errors(sampled)):
        assert ours == min(one, without)
    # Beside the words of the best path themselves nothing has no errors.
    exact = [h.words for h in best]
    if method == "ctc":
        again = ctc_graph_nbest_oracle(*arguments, exact, num_paths=5)
    else:
        again = fast_beam_search_nbest_oracle(*arguments, exact, num_paths=5)
    assert [h.words for h in again] == exact


@pytest.mark.parametrize("scale", [0.05, 0.5, 2.0])
def test_fast_beam_search_nbest_is_fast_beam_search_where_nothing_is_added(scale):
    model = StubTransducer(VOCAB, peak=1.5)
    encoded, lens = batch((90, 40, 7, 1))
    one = fast_beam_search(model, encoded, lens, TOKENS)
    found = fast_beam_search_nbest(model, encoded, lens, TOKENS, num_paths=10, nbest_scale=scale)
    for a, b in zip(one, found):
        assert (a.words, a.tokens) == (b.words, b.tokens)
        assert a.score == pytest.approx(b.score, abs=1e-3)
    sampled = fast_beam_search_nbest(model, encoded, lens, TOKENS, num_paths=10, nbest_scale=scale, with_best=False)
    assert sampled[0].score < one[0].score


def test_a_sequence_summed_over_its_paths_is_no_worse_than_the_best_paths():
    """fast_beam_search_nbest_LG compares sums: the chosen sequence has at least the best path's own probability."""
    model = StubTransducer(VOCAB, peak=1.5)
    encoded, lens = batch((60, 25))
    one = fast_beam_search(model, encoded, lens, TOKENS)
    chosen = fast_beam_search_nbest(model, encoded, lens, TOKENS, num_paths=10, log_sum=True)
    sampled = fast_beam_search_nbest(model, encoded, lens, TOKENS, num_paths=10, log_sum=True, with_best=False)
    for best, ours, reference in zip(one, chosen, sampled):
        assert ours.words in (best.words, reference.words)


def test_rescoring_without_weight_gives_the_best_path():
    log_probs, lens = random_log_probs((100, 50), 9)
    nbest = ctc_graph_nbest(log_probs, lens, TOKENS, num_paths=10)
    noise = lambda found, owner: torch.arange(len(found)).double()  # noqa: E731
    found = rescore_nbest(nbest, [("lm_scale", noise, [0.0])], Hypothesis())["lm_scale_0.0"]
    assert [h.words for h in found] == [h.words for h in ctc_graph_search(log_probs, lens, TOKENS)]


def test_what_has_no_frame_or_no_token():
    log_probs = torch.full((2, 4, VOCAB), -9.0)
    log_probs[:, :, 0] = -0.001
    nbest = ctc_graph_nbest(log_probs, torch.tensor([4, 0]), TOKENS, num_paths=3)
    assert nbest[0][0].words == [] and len(nbest[0]) == 1
    assert [h.words for h in nbest[1]] in ([], [[]])


def test_paths_are_in_order_of_their_utterances():
    from couloir.decoding.fsa.ctc import _search
    from couloir.decoding.fsa.lattice import make_lattice

    log_probs, lens = random_log_probs((30, 20, 10), 1)
    result, _ = _search(log_probs, lens, TOKENS, WIDE, True)
    paths = paths_of(result, make_lattice(result, 8.0), 7, 0.5, True)
    assert paths.utterance.tolist() == sorted(paths.utterance.tolist())
    firsts = [paths.utterance.tolist().index(i) for i in range(3)]
    best = ctc_graph_search(log_probs, lens, TOKENS)
    assert [paths.lists()[i] for i in firsts] == [h.words for h in best]
    assert all(0 not in sequence for sequence in paths.lists())


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_ties_give_each_sequence_once(scale):
    """Where all paths are equally likely, the one that the best-path search takes is among the n best."""
    log_probs, lens = torch.full((2, 5, VOCAB), -math.log(VOCAB)), torch.tensor([5, 3])
    best = ctc_graph_search(log_probs, lens, TOKENS)
    for one, hypotheses in zip(best, ctc_graph_nbest(log_probs, lens, TOKENS, num_paths=40, nbest_scale=scale)):
        words = [tuple(h.words) for h in hypotheses]
        assert tuple(one.words) in words and len(set(words)) == len(words)
        assert [h.score for h in hypotheses] == pytest.approx([one.score] * len(words))


def test_a_graph_of_one_path():
    """That path is all there is, with and without the best one among the others; without frames there is none."""
    only = make_graph(
        torch.tensor([0, 1]), torch.tensor([1, 2]), torch.tensor([2, -1]), torch.tensor([-0.5, -0.25]),
        torch.tensor([[7], [0]]), 3,
    )  # fmt: skip
    log_probs, lens = random_log_probs((3, 1, 0), seed=4)
    for with_best in (True, False):
        first, second, third = ctc_graph_nbest(log_probs, lens, only, WIDE, with_best=with_best)
        assert [h.words for h in first] == [h.words for h in second] == [[7]] and not third
        assert second[0].score == pytest.approx(log_probs[1, 0, 2].item() - 0.75)
