import itertools
import math

import pytest
import torch
from stub_transducer import StubTransducer, batch

from couloir.decoding.context_graph import ContextGraph
from couloir.decoding.fsa.graph import trivial_graph
from couloir.decoding.fsa.search import SearchLimits
from couloir.decoding.lm import RnnLm, TransformerLm
from couloir.decoding.transducer.beam import modified_beam_search, modified_beam_search_nbest
from couloir.decoding.transducer.classic_beam import beam_search
from couloir.decoding.transducer.frames import PLAIN, Scoring
from couloir.decoding.transducer.graph_search import (
    fast_beam_search,
    fast_beam_search_nbest,
    fast_beam_search_nbest_oracle,
)
from couloir.decoding.transducer.greedy import greedy_search
from couloir.errors import UserError

VOCAB = 12
MODEL, DOUBLE = StubTransducer(VOCAB), StubTransducer(VOCAB).double()
GRAPH = trivial_graph(VOCAB)
FUSED = [(0.4, RnnLm(VOCAB, 8, 8, 1).eval()), (-0.2, TransformerLm(VOCAB, 8, 16, 2, 1).eval())]
SEARCHES = {
    "greedy": greedy_search,
    "beam": beam_search,
    "greedy_3": lambda *args: greedy_search(*args, max_sym_per_frame=3),
    "modified_beam": modified_beam_search,
    "fused": lambda *args: modified_beam_search(*args, scorers=FUSED),
    "hotwords": lambda *args: modified_beam_search(*args, scorers=[(1.0, ContextGraph([[3, 4], [5]], 2.0))]),
    "fast": lambda *args: fast_beam_search(*args, GRAPH),
    "fast_hotwords": lambda *args: fast_beam_search(*args, GRAPH, bias=ContextGraph([[3, 4], [5]], 2.0)),
    "fast_nbest": lambda *args: fast_beam_search_nbest(*args, GRAPH, num_paths=20),
}


def log_probs_after(model, frame, history, scoring=PLAIN):
    """(V,) log-probabilities of one frame after one history, straight from the model."""
    size = model.decoder.context_size
    context = torch.tensor([([-1] * (size - 1) + [0] + list(history))[-size:]])
    logits = model.joiner(frame[None], model.decoder(context, need_pad=False)[:, 0])[0]
    logits[0] -= scoring.blank_penalty
    return (logits / scoring.temperature).log_softmax(-1)


def path_score(model, encoded, hypothesis):
    """Log-probability of a hypothesis' own alignment, at most one token per frame."""
    emitted = dict(zip(hypothesis.starts, hypothesis.tokens))
    total, history = 0.0, []
    for t, frame in enumerate(encoded):
        token = emitted.get(t, 0)
        total += log_probs_after(model, frame, history)[token].item()
        history += [token] if token else []
    return total


@pytest.mark.parametrize("name", SEARCHES)
def test_a_batch_gives_what_each_utterance_gives_alone(name):
    encoded, lens = batch()
    # Sampling divides by probabilities at every frame: float32 rounding of a batched product would change deep choices.
    model, encoded = (DOUBLE, encoded.double()) if name == "fast_nbest" else (MODEL, encoded)
    together = SEARCHES[name](model, encoded, lens)
    for i, found in enumerate(together):
        alone = SEARCHES[name](model, encoded[i : i + 1, : lens[i]], lens[i : i + 1])[0]
        assert (alone.tokens, alone.starts) == (found.tokens, found.starts)
        assert alone.score == pytest.approx(found.score, abs=1e-4)
        assert len(found.starts) == len(found.confidences) == len(found.tokens)
        assert all(0 <= frame < lens[i] for frame in found.starts)
        assert all(0 <= confidence <= 1.0001 for confidence in found.confidences)


@pytest.mark.parametrize("name", SEARCHES)
def test_no_utterances_and_no_frames(name):
    assert SEARCHES[name](MODEL, torch.zeros(0, 5, 16), torch.zeros(0, dtype=torch.int64)) == []
    encoded, lens = batch((4, 0))
    found = SEARCHES[name](MODEL, encoded, lens)
    assert (found[1].tokens, found[1].score) == ([], 0.0)


def test_greedy_takes_the_best_token_of_every_frame():
    encoded, lens = batch()
    for i, found in enumerate(greedy_search(MODEL, encoded, lens)):
        history, frames, total = [], [], 0.0
        for t in range(lens[i]):
            log_probs = log_probs_after(MODEL, encoded[i, t], history)
            token = int(log_probs.argmax())
            total += log_probs[token].item()
            if token:
                history.append(token)
                frames.append(t)
        assert (found.tokens, found.starts) == (history, frames)
        assert found.score == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize("most", [2, 3])
def test_greedy_with_several_tokens_per_frame(most):
    encoded, lens = batch()
    for i, found in enumerate(greedy_search(MODEL, encoded, lens, max_sym_per_frame=most)):
        history = []
        for t in range(lens[i]):
            for _ in range(most):
                token = int(log_probs_after(MODEL, encoded[i, t], history).argmax())
                if token == 0:
                    break
                history.append(token)
        assert found.tokens == history


def test_greedy_ends_at_a_thousand_tokens():
    encoded, lens = batch((400,))
    model = StubTransducer(VOCAB)
    with torch.no_grad():
        model.joiner.output_linear.bias[0] -= 100
    assert len(greedy_search(model, encoded, lens, max_sym_per_frame=3)[0].tokens) == 1000


def all_alignments(model, encoded, vocab):
    """Token sequence -> log of its probability over all alignments, at most one token per frame."""
    totals = {}
    for path in itertools.product(range(vocab), repeat=len(encoded)):
        score, history = 0.0, []
        for frame, token in zip(encoded, path):
            score += log_probs_after(model, frame, history)[token].item()
            history += [token] if token else []
        totals.setdefault(tuple(history), []).append(score)
    return {key: torch.tensor(scores).logsumexp(0).item() for key, scores in totals.items()}


def test_modified_beam_search_with_a_wide_beam_equals_enumeration():
    model = StubTransducer(4, peak=2.0)
    encoded, lens = batch((4, 3))
    found = modified_beam_search_nbest(model, encoded, lens, beam=300)
    for i, hypotheses in enumerate(found):
        truth = all_alignments(model, encoded[i, : lens[i]], 4)
        assert {tuple(h.tokens) for h in hypotheses} == set(truth)
        for hypothesis in hypotheses:
            assert hypothesis.score == pytest.approx(truth[tuple(hypothesis.tokens)], abs=1e-4)
        best = max(truth, key=lambda tokens: truth[tokens] / (len(tokens) + 2))
        assert tuple(hypotheses[0].tokens) == best


@pytest.mark.parametrize("seed", range(5))
def test_modified_beam_search_is_no_worse_than_greedy(seed):
    model = StubTransducer(VOCAB, seed=seed)
    encoded, lens = batch((40, 35, 20, 28, 33, 12, 25, 40), seed=seed + 10)
    greedy = greedy_search(model, encoded, lens)
    beam = modified_beam_search(model, encoded, lens, beam=4)
    assert sum(h.score for h in beam) >= sum(h.score for h in greedy) - 1e-6
    average = lambda found: sum(h.score / (len(h.tokens) + 2) for h in found)  # noqa: E731
    assert average(beam) >= average(greedy) - 1e-6


def test_hypotheses_of_an_nbest_list_differ():
    encoded, lens = batch()
    for hypotheses in modified_beam_search_nbest(MODEL, encoded, lens, beam=6):
        assert len({tuple(h.tokens) for h in hypotheses}) == len(hypotheses) >= 1


def test_blank_penalty_and_temperature():
    encoded, lens = batch()
    plain = modified_beam_search(MODEL, encoded, lens)
    eager = modified_beam_search(MODEL, encoded, lens, scoring=Scoring(blank_penalty=4.0))
    assert sum(len(h.tokens) for h in eager) > sum(len(h.tokens) for h in plain)
    warm = greedy_search(MODEL, encoded, lens, scoring=Scoring(temperature=2.0))
    first = log_probs_after(MODEL, encoded[4, 0], [], Scoring(temperature=2.0))
    assert warm[4].score == pytest.approx(first.max().item(), abs=1e-5)
    with pytest.raises(UserError, match="--temperature"):
        Scoring(temperature=0.0)


def test_fusion_scores_are_those_of_the_language_models():
    """With one frame per token and a beam that keeps everything, the score is acoustic + scaled LM."""
    encoded, lens = batch((3,))
    model = StubTransducer(5, peak=2.0)
    lm = RnnLm(5, 8, 8, 1).eval()
    plain = {tuple(h.tokens): h.score for h in modified_beam_search_nbest(model, encoded, lens, beam=500)[0]}
    fused = modified_beam_search_nbest(model, encoded, lens, beam=500, scorers=[(0.7, lm)])[0]
    for hypothesis in fused:
        losses, _ = lm.token_losses([hypothesis.tokens])
        without_end = -losses[0, : len(hypothesis.tokens)].sum().item()
        expected = plain[tuple(hypothesis.tokens)] + 0.7 * without_end
        assert hypothesis.score == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("search", ["beam", "fast"])
def test_hotwords_bring_a_phrase_in(search):
    encoded, lens = batch((30,))
    phrase = [7, 8, 9]
    hotwords = ContextGraph([phrase], 0.0, [30.0])
    if search == "beam":
        found = modified_beam_search(MODEL, encoded, lens, scorers=[(1.0, hotwords)])[0].tokens
    else:
        found = fast_beam_search(MODEL, encoded, lens, GRAPH, bias=hotwords)[0].tokens
    assert any(found[i : i + 3] == phrase for i in range(len(found)))


def test_hotwords_add_their_reward_to_the_path():
    encoded, lens = batch((20,))
    hotwords = ContextGraph([[3, 4], [5]], 1.5)
    found = fast_beam_search(MODEL, encoded, lens, GRAPH, bias=hotwords)[0]
    state, reward = hotwords.start(1, torch.device("cpu")), 0.0
    for token in found.tokens:
        gain, state = hotwords.step(state, torch.tensor([token]))
        reward += gain.item()
    plain = path_score_from_zeros(encoded[0, :19], found)
    assert found.score == pytest.approx(plain + reward + hotwords.final(state).item(), abs=1e-3)


def path_score_from_zeros(encoded, hypothesis):
    """As `path_score`, but starting after blanks, as the graph search does."""
    emitted = dict(zip(hypothesis.starts, hypothesis.tokens))
    total, history = 0.0, [0, 0]
    for t, frame in enumerate(encoded):
        token = emitted.get(t, 0)
        total += log_probs_after(MODEL, frame, history)[token].item()
        history += [token] if token else []
    return total


def test_greedy_score_is_its_paths_log_probability():
    encoded, lens = batch()
    for i, found in enumerate(greedy_search(MODEL, encoded, lens)):
        assert found.score == pytest.approx(path_score(MODEL, encoded[i, : lens[i]], found), abs=1e-4)


def test_fast_beam_search_finds_the_best_of_all_paths():
    model, graph = StubTransducer(4, peak=2.0), trivial_graph(4)
    encoded, lens = batch((5, 4))
    found = fast_beam_search(model, encoded, lens, graph, SearchLimits(beam=100.0, max_contexts=99, max_states=999))
    for i, hypothesis in enumerate(found):
        best = -math.inf
        for path in itertools.product(range(4), repeat=int(lens[i]) - 1):  # the last frame is not scored
            history, score = [0, 0], 0.0
            for frame, token in zip(encoded[i], path):
                score += log_probs_after(model, frame, history)[token].item()
                history += [token] if token else []
            best = max(best, score)
        assert hypothesis.score == pytest.approx(best, abs=1e-4)


def test_oracle_has_no_more_errors_than_the_nbest_choice():
    from kaldialign import edit_distance

    encoded, lens = batch()
    references = [[3, 4, 5]] * len(lens)
    oracle = fast_beam_search_nbest_oracle(MODEL, encoded, lens, GRAPH, references, num_paths=50)
    chosen = fast_beam_search_nbest(MODEL, encoded, lens, GRAPH, num_paths=50)
    for best, other, reference in zip(oracle, chosen, references):
        assert edit_distance(reference, best.words)["total"] <= edit_distance(reference, other.words)["total"]


def test_a_graph_of_another_vocabulary_is_refused():
    encoded, lens = batch()
    with pytest.raises(UserError, match="vocabulary size 12"):
        fast_beam_search(MODEL, encoded, lens, trivial_graph(VOCAB + 1))


@pytest.mark.parametrize(
    ("call", "flag"),
    [
        (lambda *a: greedy_search(*a, max_sym_per_frame=0), "--max-sym-per-frame"),
        (lambda *a: modified_beam_search(*a, beam=0), "--beam-size"),
        (lambda *a: fast_beam_search(*a, GRAPH, SearchLimits(max_states=0)), "--max-states"),
    ],
)
def test_impossible_settings_are_named(call, flag):
    with pytest.raises(UserError, match=flag):
        call(MODEL, *batch())


def test_beam_search_sums_alignments_with_several_tokens_per_frame():
    """With a beam that prunes nothing in reach, a short sequence's score nears its sum over all alignments."""
    model = StubTransducer(3, peak=2.0)
    encoded, lens = batch((3,))
    with torch.no_grad():
        model.joiner.output_linear.bias[0] += 3.0
    found = beam_search(model, encoded, lens, beam=200)[0]

    def total(t, history, rest):
        if t == 3:
            return torch.tensor(0.0 if not rest else -math.inf)
        log_probs = log_probs_after(model, encoded[0, t], history)
        ways = [log_probs[0] + total(t + 1, history, rest)]
        if rest:
            ways.append(log_probs[rest[0]] + total(t, [*history, rest[0]], rest[1:]))
        return torch.stack(ways).logsumexp(0)

    assert found.score == pytest.approx(total(0, [], found.tokens).item(), abs=1e-4)


def test_beam_search_asks_the_joiner_for_a_batch_at_once(monkeypatch):
    """Eight utterances take hardly more calls than the one that takes most, not the sum over all."""
    model = StubTransducer(peak=8.0)
    with torch.no_grad():
        model.joiner.output_linear.bias[0] += 5.0
    encoded, lens = batch((6,) * 8)
    calls, joiner = [], model.joiner.forward
    monkeypatch.setattr(model.joiner, "forward", lambda *a, **kw: (calls.append(len(a[0])), joiner(*a, **kw))[1])

    def count(rows):
        calls.clear()
        found = beam_search(model, encoded[rows], lens[rows])
        return len(calls), [hypothesis.tokens for hypothesis in found]

    together, tokens = count(list(range(8)))
    alone = [count([i]) for i in range(8)]
    assert [own for _, (own,) in alone] == tokens and any(tokens)
    assert together < 0.3 * sum(number for number, _ in alone)
