"""Restriction to an inventory: exact where a phone is spelt with several pieces, in every search and runtime."""

from __future__ import annotations

import re
from itertools import product

import numpy as np
import pytest

from couloir.decoding.hypothesis import Hypothesis
from couloir.inference.inventory import languages, restriction_to
from couloir.inference.recognizer import Recognizer
from couloir.inference.restricted_search import ctc_restricted, transducer_restricted
from couloir.inference.restriction import restrict
from couloir.inference.search import ctc_greedy, token_bias, transducer_greedy
from couloir.inference.transcript import Transcript, timed_tokens
from couloir.inference.vocabulary import Vocabulary
from couloir.text.ipa import normalize, segment

PIECES = ["<blk>", "<sos/eos>", "<unk>", "▁", "a", "t", "s", "ʰ", "͡", "ː", "ⁿ"]
SMALL = Vocabulary(["<blk>", "a", "t", "s", "ʰ"])
SMALL_PHONES = ["a", "tʰ", "ts"]


def phones_of(vocabulary, tokens):
    """As a transcript shows them, and as they stand in its text."""
    spans = Hypothesis(list(tokens), *([list(range(len(tokens)))] * 2), [1.0] * len(tokens))
    timed = timed_tokens(spans, vocabulary, 0.02, 100.0)
    shown = {t.symbol for t in Transcript("", "", timed, 100.0, 1.0, 0.02).phones()}
    words = "".join(map(vocabulary.surface, tokens)).split(" ")
    return shown | {phone for word in words for phone in segment(word)}


@pytest.mark.parametrize("phones", ["a tʰ", "a t tʰ", "aʰ ⁿs s", "tʰː a aː"])
def test_exactly_the_strings_of_permitted_phones_are_accepted(phones):
    vocabulary = Vocabulary(PIECES)
    restriction = restrict(vocabulary, phones.split())
    accepted = 0
    for length in range(5):
        for tokens in product(range(3, len(PIECES)), repeat=length):
            permitted = phones_of(vocabulary, tokens) <= set(phones.split())
            assert restriction.accepts(tokens) == permitted, vocabulary.text(tokens)
            accepted += permitted
    assert accepted > 20
    assert not restriction.allowed[[1, 2]].any() and restriction.allowed[0]


def test_pieces_of_several_phones():
    vocabulary = Vocabulary(["<blk>", "▁", "a", "t", "tʰ", "ʰa", "▁ta", "at͡", "ʰ", "s"])
    phones = ["a", "tʰ", "t͡s"]
    restriction = restrict(vocabulary, phones)
    for length in range(5):
        for tokens in product(range(1, len(vocabulary)), repeat=length):
            words = "".join(map(vocabulary.surface, tokens)).split(" ")
            permitted = {phone for word in words for phone in segment(word)} <= set(phones)
            assert restriction.accepts(tokens) == permitted, words


def test_dead_ends_and_masks():
    lone = restrict(Vocabulary(["<blk>", "a", "t"]), ["a", "tʰ"])
    assert lone.allowed.tolist() == [True, True, False] and lone.is_mask
    assert restrict(SMALL, ["a", "t", "s"]).is_mask and not restrict(SMALL, SMALL_PHONES).is_mask
    digests = {restrict(SMALL, phones).digest() for phones in (["a"], ["t"], ["a", "t"], SMALL_PHONES)}
    assert len(digests) == 4
    initial = restrict(Vocabulary(["<blk>", "a", "ⁿ", "t", "ⁿt"]), ["a", "ⁿt"])  # which ⁿ alone would not show
    assert initial.accepts([1, 4, 1]) and initial.allowed.tolist() == [True, True, False, False, True]


class _Tried:
    """Paths of a restriction, once each. ``collapse``: as CTC does."""

    def __init__(self, restriction, collapse):
        spelt = (
            (lambda p: [t for i, t in enumerate(p) if t and t != (0, *p)[i]])
            if collapse
            else (lambda p: [*filter(None, p)])
        )
        self.paths = np.array([p for p in product(range(len(SMALL)), repeat=5) if restriction.accepts(spelt(p))])
        self.spelt = spelt

    def best(self, scores):
        """Symbols and score of the best path through (5, V) scores."""
        totals = scores[np.arange(5), self.paths].sum(1)
        return self.spelt(tuple(self.paths[totals.argmax()].tolist())), totals.max()


def test_ctc_finds_the_best_of_all_permitted_paths():
    restriction, rng = restrict(SMALL, SMALL_PHONES), np.random.default_rng(0)
    tried, differ = _Tried(restriction, True), 0
    bias = token_bias(len(SMALL), restriction.allowed, 1.0)
    for _ in range(200):
        logits = rng.normal(0, 2, (5, len(SMALL)))
        log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        found = ctc_restricted(log_probs, restriction, bias)
        assert found.tokens == tried.best(log_probs + bias)[0]
        assert restriction.accepts(found.tokens)
        runs = zip(found.tokens, found.starts, found.ends)
        strongest = [np.exp(log_probs[begin:end, token].max()) for token, begin, end in runs]
        assert np.allclose(strongest, found.confidences)
        differ += found.tokens != ctc_greedy(log_probs, bias).tokens
    assert differ > 50, "a mask would do"


def _join(encoded, predicted):
    return encoded + predicted


def test_a_transducer_without_memory_finds_the_best_of_all_permitted_paths():
    restriction, rng = restrict(SMALL, SMALL_PHONES), np.random.default_rng(1)
    tried = _Tried(restriction, False)
    bias = token_bias(len(SMALL), restriction.allowed, 0.5)
    logits = [rng.normal(0, 2, (5, len(SMALL))) for _ in range(100)]
    found = transducer_restricted(logits, lambda h: np.zeros((len(h), len(SMALL))), _join, 2, restriction, bias)
    for rows, spans in zip(logits, found):
        scores = rows + bias
        log_probs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        tokens, _ = tried.best(log_probs)
        assert spans.tokens == tokens
        assert np.allclose(spans.confidences, np.exp(log_probs[spans.starts, tokens]))


def test_a_transducer_with_memory_stays_within_and_equals_greedy_where_a_mask_does():
    rng = np.random.default_rng(2)
    table = rng.normal(0, 2, (len(SMALL) + 1, len(SMALL) + 1, len(SMALL)))
    frames = [rng.normal(0, 2, (n, len(SMALL))) for n in (40, 7, 0, 25)]
    arguments = frames, lambda h: table[h[:, 0], h[:, 1]], _join, 2
    restriction = restrict(SMALL, SMALL_PHONES)
    found = transducer_restricted(*arguments, restriction)
    assert all(restriction.accepts(spans.tokens) for spans in found)
    assert [len(spans.tokens) > len(rows) / 4 for spans, rows in zip(found, frames)] == [True, True, False, True]
    assert found[1] == transducer_restricted(frames[1:2], *arguments[1:], restriction)[0]
    mask = restrict(SMALL, ["a", "t", "s"])
    by_mask = transducer_greedy(*arguments, token_bias(len(SMALL), mask.allowed, 0.0))
    for spans, expected in zip(transducer_restricted(*arguments, mask), by_mask):
        assert (spans.tokens, spans.starts, spans.ends) == (expected.tokens, expected.starts, expected.ends)
        assert np.allclose(spans.confidences, expected.confidences)
    assert transducer_restricted([], *arguments[1:], restriction) == []


@pytest.mark.parametrize(
    "kind, inventory", [("ctc", "k rː m"), pytest.param("transducer", "o ki s ia", marks=pytest.mark.slow)]
)
def test_recognisers_emit_the_inventory_alone(models, speech, kind, inventory, tmp_path):
    (tmp_path / "phones.txt").write_text(inventory, encoding="utf-8")
    permitted = re.compile(f"({'|'.join(inventory.split())})*")
    texts = []
    for runtime, folder in (("torch", "run"), ("onnx", "onnx")):
        options = {"inventory": tmp_path / "phones.txt", "runtime": runtime}
        recognizer = Recognizer.from_pretrained(models(kind) / folder, **options)
        texts.append([t.text for t in recognizer.transcribe(speech)])
        assert texts[-1] == [recognizer.transcribe([path])[0].text for path in speech]
        recognizer.restriction = None  # the mask of the pieces stays
        assert not any(permitted.fullmatch(t.text) for t in recognizer.transcribe(speech))
    assert texts[0] == texts[1] and min(map(len, texts[0])) > 5
    assert all(permitted.fullmatch(text) for text in texts[0])


def test_the_languages_that_come_along_with_the_letters_of_zipa():
    letters = sorted({c for phones in languages().values() for c in normalize("".join(phones))} - {*"͡ᵐⁿᵑ"})
    vocabulary = Vocabulary(["<blk>", "<sos/eos>", "<unk>", "▁", *letters])
    split = 0
    for language in languages():
        restriction = restriction_to(language, vocabulary)
        split += not restriction.is_mask
        assert len(restriction.final) < 10
        phones = [normalize(p).replace("͡", "") for p in languages()[language] if p[0] not in "ᵐⁿᵑ"]
        assert restriction.accepts([3, *(t for phone in phones for t in (*vocabulary.spell(phone), 3))])
        assert not restriction.accepts(vocabulary.spell("aʰ"))
    assert split > 20
