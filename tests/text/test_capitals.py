"""Texts in capitals alone, as LibriSpeech has them, are words and no abbreviations."""

import pytest

from couloir.errors import UserError
from couloir.text.languages import in_small_letters

CASES = [
    (["GO ON", "IT IS US"], "en", ["go on", "it is us"]), (["GO ON", "It is the US"], "en", None),
    (["US"], "en", None), (["北京", "IT"], "zh", ["北京", "it"]), (["IŞIK", "İYİ"], "tr-TR", ["ışık", "iyi"]),
    (["ICH", "STRASSE 5"], "de", ["ich", "strasse 5"]), (["ΛΟΓΟΣ", "ΝΑΙ"], "el", ["λογος", "ναι"]),
    (["МАМА", "5"], "ru", ["мама", "5"]), (["5", "6"], "en", None), ([], "en", None), (["go", "on"], "en", None),
    (["THE ß", "GO"], "de", None),
]  # fmt: skip


@pytest.mark.parametrize(("texts", "language", "wanted"), CASES)
def test_texts_in_capitals(texts, language, wanted):
    assert in_small_letters(texts, language) == (texts if wanted is None else wanted)


def test_one_line_in_a_thousand_with_small_letters_changes_nothing():
    texts = ["IT IS"] * 999 + ["McX"]
    assert in_small_letters(texts, "en") == ["it is"] * 999 + ["McX"]
    assert in_small_letters(["IT IS"] * 98 + ["no"] * 2, "en")[0] == "IT IS"


def test_espeak_spells_capitals():
    from couloir.text.g2p import phonemize

    try:
        small, capitals = (
            phonemize({"en": in_small_letters(["IT IS", "US"], "en")})["en"],
            phonemize({"en": ["IT IS", "US"]})["en"],
        )
    except UserError as error:
        pytest.skip(str(error))
    assert capitals != small == phonemize({"en": ["it is", "us"]})["en"]
