"""Forced alignment."""

from __future__ import annotations

import pytest

from couloir.errors import UserError
from couloir.inference.align import _spelt, align, nearest
from couloir.inference.known_text import words_of_ipa
from couloir.inference.recognizer import Recognizer
from couloir.inference.vocabulary import Vocabulary
from couloir.text.tokenizer import TokenTable


@pytest.fixture(scope="module")
def recognizer(models):
    return Recognizer.from_pretrained(models() / "run")


def test_words_of_a_phone_transcript():
    assert [(w.label, w.phones) for w in words_of_ipa("tʰa  t͡so")] == [("tʰa", ["tʰ", "a"]), ("t͡so", ["t͡s", "o"])]
    assert [(w.label, w.phones) for w in words_of_ipa("tʰ a t͡s")] == [("tʰat͡s", ["tʰ", "a", "t͡s"])]
    with pytest.raises(UserError):
        words_of_ipa(" ˈ ")


def test_aligning_what_was_recognised_gives_its_own_times(recognizer, speech):
    heard = recognizer.transcribe(speech[:1])[0]
    aligned = align(recognizer, speech[0], words_of_ipa(heard.text))
    assert "".join(p.symbol for p in aligned.phones) == heard.text
    assert [(p.start, p.end) for p in aligned.phones] == [(p.start, p.end) for p in heard.phones()]
    assert len(aligned.words) == 1
    assert aligned.words[0].start == aligned.phones[0].start and aligned.words[0].end == aligned.phones[-1].end


def test_words_hold_their_phones_in_order(recognizer, speech):
    aligned = align(recognizer, speech[0], words_of_ipa("krː kak tʰoː sil"))
    assert [w.symbol for w in aligned.words] == ["krː", "kak", "tʰoː", "sil"]
    assert [p.symbol for p in aligned.phones] == ["k", "rː", "k", "a", "k", "tʰ", "oː", "s", "i", "l"]
    edges = [t for p in aligned.phones for t in (p.start, p.end)]
    assert edges == sorted(edges) and edges[-1] <= aligned.duration
    assert aligned.words[1].end <= aligned.words[2].start
    wrong = align(recognizer, speech[0], words_of_ipa("ooooooo"))
    heard = recognizer.transcribe(speech[:1])[0].text
    assert wrong.score < align(recognizer, speech[0], words_of_ipa(heard)).score


def test_a_phone_that_the_model_lacks_is_aligned_as_the_nearest(recognizer, speech, caplog):
    table = TokenTable(recognizer.backend.vocabulary.pieces)
    assert nearest(table, "d") == "t" and nearest(table, "ɛ") == "e"
    aligned = align(recognizer, speech[0], words_of_ipa("dak"))
    assert [p.symbol for p in aligned.phones] == ["d", "a", "k"]
    assert "d as t" in caplog.text


def test_only_a_words_first_phone_is_spelt_with_the_boundary(caplog):
    pieces = ["<blk>", "▁", "t", "▁t", "a", "▁a", "▁k"]

    def spelt(text):
        tokens, owners = _spelt(Vocabulary(pieces), words_of_ipa(text))
        assert [number for _, number in owners] == list(range(len(tokens)))
        return [pieces[i] for i in tokens]

    assert spelt("ata tat") == ["▁a", "t", "a", "▁t", "a", "t"]
    assert spelt("ak") == ["▁a", "▁k"], "no other piece has it"
    assert spelt("dat") == ["▁t", "a", "t"] and "d as t" in caplog.text, "without <unk>, too"
