"""Tags of languages, and the voices that pronounce them."""

import pytest

from couloir.errors import UserError
from couloir.text.g2p import phonemize
from couloir.text.languages import language_tag, voices_of


@pytest.mark.parametrize(
    ("text", "tag"),
    [("sv-SE", "sv-se"), ("sv_SE", "sv-se"), (" EN ", "en"), ("en_US.UTF-8", "en-us"), ("ca_ES@valencia", "ca-es"),
     ("zh-Hant-TW", "zh-hant-tw"), ("", ""), ("nan-tw", "nan-tw")],
)  # fmt: skip
def test_one_spelling(text, tag):
    assert language_tag(text) == tag


@pytest.mark.parametrize(
    ("tag", "first"),
    [("sw", "sw"), ("en", "en-us"), ("EN", "en-us"), ("en_US", "en-us"), ("en-GB", "en"), ("en-AU", "en"),
     ("pt", "pt-br"),
     ("pt-BR", "pt-br"), ("pt-PT", "pt"), ("zh-CN", "zh-cn"), ("zh-HK", "yue"), ("es-MX", "es-419"), ("no", "nb")],
)  # fmt: skip
def test_the_best_voice(tag, first):
    assert voices_of(tag)[0] == first


@pytest.mark.parametrize("tag", ["ja", "ja-JP", "th-TH", "my", "fo_FO"])
def test_languages_of_which_espeak_makes_nonsense_have_none(tag):
    assert voices_of(tag) == []


def test_locales_are_pronounced_as_their_languages():
    pytest.importorskip("espeakng_loader")
    tags = {"sv": "sv-SE", "de": "de_AT", "cmn": "zh-CN", "pt": "pt-BR", "en-us": "EN", "hy": "hy-AM"}
    spoken = phonemize({tag: ["taxi 2"] for tag in [*tags, *tags.values()]}, 2)
    for language, locale in tags.items():
        assert spoken[language] == spoken[locale] != [""]
    assert phonemize({"pt-PT": ["taxi 2"]})["pt-PT"] == ["tɐksi doɪʃ"]  # not as in Brazil


@pytest.mark.parametrize("tag", ["nan-tw", "xx", "ja-JP", "$x", "e\ud800", "-", "a" * 5000, "../en"])
def test_a_language_without_a_voice_is_named(tag):
    pytest.importorskip("espeakng_loader")
    with pytest.raises(UserError) as error:
        phonemize({tag: ["x"]})
    assert "\n" not in str(error.value) and len(str(error.value)) < 6000
