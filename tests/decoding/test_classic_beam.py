"""beam_search against its rule written down with plain dictionaries, one utterance and one prefix at a time."""

import math
import time

import pytest
import torch
from stub_transducer import StubTransducer, batch

from couloir.decoding.transducer import classic_beam
from couloir.decoding.transducer.classic_beam import beam_search
from couloir.decoding.transducer.frames import PLAIN, Scoring


def log_probs_after(model, frame, history, scoring):
    size = model.decoder.context_size
    context = torch.tensor([([-1] * (size - 1) + [0] + list(history))[-size:]])
    logits = model.joiner(frame[None], model.decoder(context, need_pad=False)[:, 0])[0]
    logits[0] -= scoring.blank_penalty
    return (logits / scoring.temperature).log_softmax(-1)


@torch.no_grad()
def by_the_rule(model, encoded, beam, scoring=PLAIN):
    """(tokens, score, prefixes taken) of an utterance."""
    kept, taken, initial = {(): 0.0}, 0, model.decoder.context_size
    for frame in encoded:
        opened, kept = dict(kept), {}
        while True:
            tokens = max(opened, key=opened.__getitem__)
            score, taken = opened.pop(tokens), taken + 1
            log_probs = log_probs_after(model, frame, tokens, scoring)
            kept[tokens] = torch.tensor([kept.get(tokens, -math.inf), score + log_probs[0]]).logsumexp(0).item()
            values, indices = log_probs.topk(min(beam + 1, len(log_probs)))
            for token, value in zip(indices.tolist(), values.tolist()):
                if token:
                    longer = (*tokens, token)
                    both = torch.tensor([opened.get(longer, -math.inf), score + value], dtype=torch.float64)
                    opened[longer] = both.logsumexp(0).item()
            bar = max(opened.values())
            if sum(value > bar for value in kept.values()) >= beam:
                break
        kept = dict(sorted(kept.items(), key=lambda item: -item[1])[:beam])
    best = max(kept, key=lambda tokens: kept[tokens] / (len(tokens) + initial))
    return list(best), kept[best], taken


@pytest.mark.parametrize("beam", [1, 2, 4, 7])
@pytest.mark.parametrize("peak", [1.0, 4.0])
def test_it_takes_the_prefixes_that_the_rule_takes(beam, peak):
    model = StubTransducer(6, peak=peak, seed=beam)
    encoded, lens = batch((7, 4, 1), seed=beam)
    for i, found in enumerate(beam_search(model, encoded, lens, beam)):
        tokens, score, _ = by_the_rule(model, encoded[i, : lens[i]], beam)
        assert found.tokens == tokens
        assert found.score == pytest.approx(score, abs=1e-3)


def test_blank_takes_a_place_among_the_candidates(monkeypatch):
    """With beam 1 there are two places: both are tokens' only where blank is in neither."""
    asked = []
    spy = classic_beam._Answer

    def answer(blank, tokens):
        asked.append((blank, tokens))
        return spy(blank, tokens)

    monkeypatch.setattr(classic_beam, "_Answer", answer)
    model = StubTransducer(6, peak=4.0)
    encoded, lens = batch((10,))
    beam_search(model, encoded, lens, 1)
    assert {len(tokens) for _, tokens in asked} == {1, 2}
    for blank, tokens in asked:
        assert all(token for token, _ in tokens)
        assert len(tokens) == 1 or all(value >= blank for _, value in tokens)


@pytest.mark.parametrize("scoring", [Scoring(blank_penalty=2.0), Scoring(temperature=2.0), Scoring(0.5, 1.5)])
def test_blank_penalty_and_temperature(scoring):
    model = StubTransducer(6, peak=3.0)
    encoded, lens = batch((4,))
    tokens, score, _ = by_the_rule(model, encoded[0], 3, scoring)
    found = beam_search(model, encoded, lens, 3, scoring)[0]
    assert found.tokens == tokens and found.score == pytest.approx(score, abs=1e-3)


def test_frames_and_confidences_are_those_of_the_path():
    model = StubTransducer(6, peak=6.0)
    encoded, lens = batch((20,))
    found = beam_search(model, encoded, lens, 4)[0]
    assert found.starts == sorted(found.starts) and len(found.starts) == len(found.tokens) > 2
    for n, (token, frame, confidence) in enumerate(zip(found.tokens, found.starts, found.confidences)):
        expected = log_probs_after(model, encoded[0, frame], found.tokens[:n], PLAIN)[token].exp()
        assert confidence == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.slow
def test_it_ends_where_blank_is_never_likely():
    """Random weights, sure of a symbol in every frame: the rule alone would take millions of prefixes in each."""
    model = StubTransducer(40, peak=30.0)
    with torch.no_grad():
        model.joiner.output_linear.bias[0] -= 60.0
    encoded, lens = batch((20,))
    began = time.process_time()
    found = beam_search(model, encoded, lens, 4)[0]
    assert time.process_time() - began < 40
    assert math.isfinite(found.score) and all(0 <= frame < 20 for frame in found.starts)
