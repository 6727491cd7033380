from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from couloir.text import ipa

IPA_TEXTS = st.text(
    st.sampled_from("abgɡtsʃʰʲːˑ\u0361\u035c\u0303\u0329\u0325ʦʧçéã ˈˌ.-3˥ʔʁ\u0301\u0327\u0334\t\u200bʅɿxƀ(en)"),
    max_size=25,
)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("ɡato", "gato"),
        ("ˈt\u035cɕaːsˌta", "t\u0361ɕaːsta"),
        ("ʧaj  ʦa\n", "t\u0361ʃaj t\u0361sa"),
        ("ha(en)lo(fr-fr)", "ha lo"),
        ("ni˧˥ hɑu2", "ni hɑu"),
        ("ca\u0301fé", "cafe"),
        ("a\u0303 ã", "a\u0303 a\u0303"),
        ("ça", "ça"),
        ("c\u0327a", "ça"),
        ("a:.b-c_d", "aːbcd"),
        ("ʀ\u00a0ə", "ʀ ə"),
        ("tʼ t’", "tʼ tʼ"),
        ("", ""),
    ],
)
def test_normal_form(text, normal):
    assert ipa.normalize(text) == normal


@pytest.mark.parametrize(
    ("text", "phones"),
    [
        ("t͡ɕaːsta", ["t͡ɕ", "aː", "s", "t", "a"]),
        ("tʲ ĩ u̯o̯ n̩ː", ["tʲ", "i\u0303", "u̯", "o̯", "n̩ː"]),
        ("ⁿdʰa", ["ⁿdʰ", "a"]),
        ("kʷʼqχʼ", ["kʷʼ", "q", "χʼ"]),
        ("k͡p͡mʷa", ["k͡p͡mʷ", "a"]),
        ("əʴ ɚ ə˞", ["əʴ", "ɚ", "ə˞"]),
        ("Ж7☃", ["Ж", "☃"]),
        ("", []),
        ("ː\u0361", ["ː\u0361"]),
    ],
)
def test_segments(text, phones):
    assert ipa.segment(text) == phones


@given(IPA_TEXTS)
def test_normal_form_is_stable_and_segments_lose_nothing(text):
    normal = ipa.normalize(text)
    assert ipa.normalize(normal) == normal
    assert "".join(ipa.segment(text)) == normal.replace(" ", "")
    assert all(ipa.segment(phone) == [phone] for phone in ipa.segment(text)[1:])


def test_remove_diacritics_takes_exactly_the_published_set():
    published = "\u02b0\u02b2\u02b7\u02bc\u02d0\u02de\u02e0\u02e4\u0303\u031a\u0325\u0329\u032a\u0334\u033a"
    dropped = {*published, "\t"}
    everything = [chr(code) for code in range(0x10000) if unicodedata.category(chr(code)) != "Cs"]
    assert {c for c in everything if not ipa.remove_diacritics(c)} == dropped
    assert ipa.remove_diacritics("tʰa\u0303ːn̩ ã͡b\tx̞") == "tan ã͡bx̞"  # a precomposed ã stays as it is
