"""Hotwords in every search that takes them, where the beam holds all: the best of all token strings, by enumeration."""

import itertools
import math

import pytest
import torch
from stub_transducer import StubTransducer, batch

from couloir.decoding.context_graph import ContextGraph
from couloir.decoding.ctc import ctc_nbest
from couloir.decoding.fsa.graph import trivial_graph
from couloir.decoding.fsa.search import SearchLimits
from couloir.decoding.transducer.beam import modified_beam_search, modified_beam_search_nbest
from couloir.decoding.transducer.graph_search import fast_beam_search

VOCAB, FRAMES, ALL = 4, 4, 170
WIDE = SearchLimits(beam=1e9, max_contexts=10**9, max_states=10**6)
HOTWORDS = {
    "one token": [[2]],
    "overlapping": [[1, 2], [2, 3]],
    "nested": [[1, 2, 1], [2]],
    "prefix": [[1], [1, 2], [1, 2, 3]],
    "equal": [[1, 2], [1, 2], [3]],
    "repeated token": [[1, 1], [1, 1, 1]],
    "a token that no text has": [[9, 1], [1, 3]],
    "suffix of another that breaks off": [[3, 1, 2, 2], [1, 2]],
}


def strict_reward(phrases, score, text):
    """Every occurrence of every phrase counts."""
    return sum(score * len(p) for p in {*map(tuple, phrases)} for i in range(len(text)) if text[i : i + len(p)] == p)


def loose_reward(phrases, score, text):
    """The longest phrase that ends inside the phrase under way counts, and what is before its end is forgotten."""
    phrases, total, begin = {*map(tuple, phrases)}, 0.0, 0
    prefixes = {p[:n] for p in phrases for n in range(1, len(p) + 1)}
    for end in range(1, len(text) + 1):
        here = [text[i:end] for i in range(begin, end)]
        under_way = next((s for s in here if s in prefixes), ())
        found = next((s for s in here if s in phrases and len(s) <= len(under_way)), None)
        if found:
            total, begin = total + score * len(found), end
    return total


REWARDS = {True: strict_reward, False: loose_reward}


@pytest.fixture(params=[True, False], ids=["strict", "as icefall's beam search"])
def strict(request):
    return request.param


@pytest.fixture(params=HOTWORDS)
def phrases(request):
    return HOTWORDS[request.param]


def test_the_reward_of_every_text(phrases, strict):
    """Whatever was earned on the way, the whole is what the completed phrases are worth."""
    graph, texts = ContextGraph(phrases, 0.7, strict=strict), list(itertools.product(range(1, VOCAB), repeat=5))
    node, total = torch.zeros(len(texts), dtype=torch.int64), torch.zeros(len(texts), dtype=torch.float64)
    for tokens in torch.tensor(texts).unbind(1):
        gain, node = graph.advance(node, tokens)
        total += gain
    expected = [REWARDS[strict](phrases, 0.7, text) for text in texts]
    torch.testing.assert_close(total + graph.backoff_score(node), torch.tensor(expected, dtype=torch.float64))


def after(model, frame, history, first):
    context = torch.tensor([(first + list(history))[-2:]])
    return model.joiner(frame[None], model.decoder(context, need_pad=False)[:, 0])[0].log_softmax(-1).tolist()


@torch.no_grad()
def transducer_paths(model, frames, first):
    """Text -> the scores of its alignments, at most one token per frame."""
    paths = [((), 0.0)]
    for frame in frames:
        rows = {text: after(model, frame, text, first) for text in {text for text, _ in paths}}
        paths = [(text + (k,) * (k > 0), s + rows[text][k]) for text, s in paths for k in range(VOCAB)]
    found = {}
    for text, score in paths:
        found.setdefault(text, []).append(score)
    return found


def summed(scores):
    return torch.tensor(scores, dtype=torch.float64).logsumexp(0).item()


def test_modified_beam_search(phrases, strict):
    """Summed over alignments; the best is that per token, icefall's two tokens of the start counted in."""
    model, (encoded, lens) = StubTransducer(VOCAB, peak=1.5, seed=3), batch((FRAMES, 2), seed=4)
    graph = ContextGraph(phrases, 1.1, strict=strict)
    everything = modified_beam_search_nbest(model, encoded, lens, ALL, [(1.0, graph)])
    best = modified_beam_search(model, encoded, lens, ALL, [(1.0, graph)])
    for i, n in enumerate(lens.tolist()):
        paths = transducer_paths(model, encoded[i, :n], [-1, 0])
        expected = {text: summed(s) + REWARDS[strict](phrases, 1.1, text) for text, s in paths.items()}
        found = {tuple(h.tokens): h.score for h in everything[i]}
        assert found == pytest.approx(expected, abs=1e-4)
        assert tuple(best[i].tokens) == max(expected, key=lambda text: expected[text] / (len(text) + 2))


def test_fast_beam_search(phrases, strict):
    """The best alignment; the last frame only ends."""
    model, (encoded, lens) = StubTransducer(VOCAB, peak=1.5, seed=5), batch((FRAMES + 1, 2), seed=6)
    graph = ContextGraph(phrases, 1.1, strict=strict)
    for i, found in enumerate(fast_beam_search(model, encoded, lens, trivial_graph(VOCAB), WIDE, graph)):
        paths = transducer_paths(model, encoded[i, : lens[i] - 1], [0, 0])
        expected = {text: max(scores) + REWARDS[strict](phrases, 1.1, text) for text, scores in paths.items()}
        best = max(expected, key=expected.__getitem__)
        assert tuple(found.tokens) == best


def test_ctc_prefix_beam_search(phrases, strict):
    log_probs = torch.randn(1, FRAMES, VOCAB, generator=torch.Generator().manual_seed(7)).log_softmax(-1)
    paths = {}
    for path in itertools.product(range(VOCAB), repeat=FRAMES):
        text = tuple(token for token, _ in itertools.groupby(path) if token)
        paths.setdefault(text, []).append(sum(log_probs[0, t, k].item() for t, k in enumerate(path)))
    expected = {text: summed(s) + REWARDS[strict](phrases, 1.1, text) for text, s in paths.items()}
    graph = ContextGraph(phrases, 1.1, strict=strict)
    found = ctc_nbest(log_probs, torch.tensor([FRAMES]), ALL, scorers=[(1.0, graph)])[0]
    assert {tuple(h.tokens): h.score for h in found} == pytest.approx(expected, abs=1e-4)
    assert found[0].score == max(h.score for h in found) and math.isfinite(found[-1].score)
