"""Words to IPA, to sentences and to speech, by espeak-ng."""

import itertools

import numpy as np
import pytest

from couloir.data.corpora.sentences import languages, sentences
from couloir.data.corpora.synthetic import SPEAKERS, Synthetic
from couloir.errors import UserError
from couloir.text import g2p
from couloir.text.ipa import normalize

pytest.importorskip("espeakng_loader")
pytest.importorskip("home_assistant_intents")


def test_words_become_ipa_in_normal_form():
    spoken = g2p.phonemize({"en": ["the cat sat", ""], "it": ["gnocchi", "perché no?"], "ru": ["привет"]}, nj=2)
    assert spoken["en"] == ["ðə kæt sæt", ""]
    assert spoken["it"][0] == "ɲokːɪ"
    assert all(normalize(ipa) == ipa for ipas in spoken.values() for ipa in ipas)
    assert len(spoken["it"][1].split()) == 2 and spoken["ru"][0].startswith("prʲ")


def test_unknown_and_unusable_languages_are_named():
    with pytest.raises(UserError, match="no voice `qq`"):
        g2p.phonemize({"qq": ["x"]})
    with pytest.raises(UserError, match="but is `my`"):
        g2p.phonemize({"my": ["x"]})


def test_a_text_on_which_espeak_dies_costs_only_itself(monkeypatch):
    real = g2p.subprocess.run

    def fragile(command, input, **options):
        lines = input.splitlines(keepends=True)
        alive = list(itertools.takewhile(lambda line: "boom" not in line, lines))
        done = real(command, input="".join(alive), **options)
        done.returncode = 0 if len(alive) == len(lines) else -6
        return done

    monkeypatch.setattr(g2p.subprocess, "run", fragile)
    assert g2p.phonemize({"de": ["eins", "boom", "zwei", "boom"]})["de"] == ["aɪns", "", "tsvaɪ", ""]


@pytest.mark.parametrize(
    "voice, text", [("de+f2", "Schalte das Licht ein, bitte."), ("ru", "включи свет"), ("it", "città")]
)
def test_phones_lie_in_the_speech_in_order(voice, text):
    espeak = g2p.Espeak(voice)
    samples, phones = espeak.synthesize(text)
    length = len(samples) / espeak.sample_rate
    assert samples.dtype == np.int16 and np.abs(samples).max() > 3000
    ends = [0.0]
    for phone in phones:
        assert phone.start >= ends[-1] - 2e-4 and phone.duration > 0
        ends.append(phone.start + phone.duration)
    assert ends[-1] <= length + 1e-3
    # The phones that espeak times are those that it writes, but for length marks (Italian doubles consonants there).
    written = espeak.ipa(text).replace(" ", "").replace("ː", "")
    assert "".join(phone.symbol for phone in phones).replace("ː", "") == written


def test_louder_phones_are_where_the_times_say():
    """Independent of espeak's events: vowels carry more energy than the stops around them."""
    espeak = g2p.Espeak("es")
    samples, phones = espeak.synthesize("papa tata kaka")
    energy = {"vowel": [], "stop": []}
    for phone in phones:
        at = slice(int(phone.start * espeak.sample_rate), int((phone.start + phone.duration) * espeak.sample_rate))
        energy["vowel" if phone.symbol == "a" else "stop"].append(float((samples[at].astype(float) ** 2).mean()))
    assert np.median(energy["vowel"]) > 5 * np.median(energy["stop"])


def test_sentences_are_different_complete_and_repeatable():
    for language in ("de", "ru", "tr"):
        first = list(itertools.islice(sentences(language), 300))
        assert first == list(itertools.islice(sentences(language), 300))
        assert len(set(first)) == 300
        assert not any(set("()[]{}<>|;\\:") & set(sentence) for sentence in first)
    assert list(sentences("sw"))  # few templates: it ends
    assert "de" in languages()
    with pytest.raises(UserError, match="unknown language of synthetic sentences `xx`"):
        next(sentences("xx"))


def test_synthetic_speech_is_resumed_and_repeatable(tmp_path):
    corpus = Synthetic(hours=40 / 3600, languages=("de", "fi"))
    corpus.fetch(tmp_path / "one")
    utterances = list(corpus.utterances(tmp_path / "one"))
    assert {u.language for u in utterances} == {"de", "fi"}
    assert len({u.speaker for u in utterances}) > 8 and all(u.speaker.split("-")[1] in SPEAKERS for u in utterances)
    done, lost = corpus.sources(tmp_path / "one")
    times = {path: path.stat().st_mtime_ns for path in done.iterdir()}
    before = {path.name: path.read_bytes() for path in lost.iterdir()}
    for path in lost.iterdir():
        path.unlink()
    lost.rmdir()
    (lost.parent / f".{lost.name}.999999999.tmp").mkdir()  # as a killed process leaves it
    corpus.fetch(tmp_path / "one")
    assert {path.name: path.read_bytes() for path in lost.iterdir()} == before
    assert {path: path.stat().st_mtime_ns for path in done.iterdir()} == times
    assert sorted(path.name for path in lost.parent.iterdir()) == [done.name, lost.name]


def test_a_language_that_cannot_be_spoken_is_named(tmp_path):
    with pytest.raises(UserError, match="synthetic speech in `xx` cannot be made: espeak-ng has no voice"):
        Synthetic(0.01, ("xx",)).fetch(tmp_path)
    assert not list(tmp_path.rglob("xx*"))
