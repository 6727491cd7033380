"""Words and characters through the stages, prescribed splits of any name, and prepare.sh of a recipe's own."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from programs import ROOT, assert_one_line, run_program
from user_files import hum, put

from couloir.data.corpora import stages
from couloir.data.corpora.base import Phone, Utterance
from couloir.data.corpora.config import (
    CorporaConfig,
    FilterConfig,
    SharConfig,
    SplitConfig,
    TokenizerConfig,
    is_split,
    split_of,
    split_order,
)
from couloir.data.corpora.manifest import read_dropped, read_manifest, write_manifest
from couloir.data.corpora.spelling import make_spelling
from couloir.data.corpora.splits import assign_splits
from couloir.data.corpora.statistics import collect, shar_splits
from couloir.data.corpora.validation import validate
from couloir.data.folder import find_splits
from couloir.errors import UserError
from couloir.families.registry import spec_of
from couloir.text.tokenizer import train_tokenizer
from couloir.text.units import CHAR, PHONE, WORD, save_unit, unit_beside

STAGES = ("fetch_corpora", "make_manifests", "make_phones", "make_shar", "train_tokenizer", "validate_data")


def cuts(data: Path) -> dict[str, dict]:
    """Id -> the first supervision of its cut, with its split."""
    found = {}
    for path in sorted((data / "shar").glob("*/cuts.*.jsonl.gz")):
        for line in gzip.decompress(path.read_bytes()).splitlines():
            cut = json.loads(line)
            found[cut["id"]] = {**cut["supervisions"][0], "split": path.parent.name}
    return found


def written(folder: Path, texts: list[str], unit=WORD, lower_case: bool = True) -> tuple[list, list]:
    """What the second stage makes of texts: (spelling, id) kept, and what is dropped."""
    items = [Utterance(f"u{i}", "x.wav", text, "en", "", duration=1.0) for i, text in enumerate(texts)]
    write_manifest(folder / "manifests/c.jsonl.gz", items)
    make_spelling("c", folder, unit, lower_case)
    kept = list(read_manifest(folder / f"{unit.plural}/c.jsonl.gz"))
    return [(u.spelling, u.id) for u in kept], read_dropped(folder / f"dropped/{unit.plural}-c.jsonl")


def test_the_second_stage_writes_what_is_learned(tmp_path):
    texts = ["Hello, World!", "...", "he said <unk> twice", "It's 5"]
    kept, dropped = written(tmp_path, texts)
    assert kept == [("hello world", "u0"), ("it's 5", "u3")]
    assert [(d.id, d.reason) for d in dropped] == [("u1", "no words"), ("u2", "a word is not known")]
    kept, _ = written(tmp_path, texts, WORD, lower_case=False)
    assert kept[0] == ("Hello World", "u0")
    kept, dropped = written(tmp_path, ["你 好，Wi-Fi", ""], CHAR)
    assert kept == [("你好wi-fi", "u0")] and dropped[0].reason == "no chars"


def test_a_corpus_of_phones_alone_has_no_words(tmp_path):
    write_manifest(tmp_path / "manifests/c.jsonl.gz", [Utterance("a", "x.wav", "", "ru", "", ipa="pata")])
    with pytest.raises(UserError, match="no utterance of c has words; is it transcribed in phones alone"):
        make_spelling("c", tmp_path, WORD)


@pytest.mark.parametrize(
    ("unit", "text", "seconds", "reason"),
    [
        (WORD, "one two three", 1.5, ""),
        (WORD, "one", 5.0, "fewer than 0.3 words per second"),
        (WORD, "a b c d e f g h i", 1.0, "more than 8 words per second"),
        (CHAR, "你好世界", 1.0, ""),
        (CHAR, "你", 3.0, "fewer than 0.5 chars per second"),
        (CHAR, "a" * 31, 1.0, "more than 30 chars per second"),
        (PHONE, "a" * 21, 1.0, "more than 20 phones per second"),
    ],
)
def test_speaking_rates_are_the_units_own(unit, text, seconds, reason):
    spelt = {"ipa": text} if unit is PHONE else {"spelling": text}
    kept, dropped = stages.apply_filter(
        [Utterance("a", "x", text, "en", "", duration=seconds, **spelt)], FilterConfig(), unit
    )
    assert [d.reason for d in dropped] == ([reason] if reason else []) and len(kept) == (not reason)


def test_rates_are_flags():
    config = FilterConfig(min_words_per_second=2, max_chars_per_second=4)
    assert config.rates(WORD) == (2, 8) and config.rates(CHAR) == (0.5, 4) and config.rates(PHONE) == (3, 20)


@pytest.mark.parametrize(
    ("kind", "unit", "right"),
    [("auto", PHONE, "phones"), ("auto", WORD, "unigram"), ("auto", CHAR, "chars"), ("bpe", WORD, "bpe"),
     ("chars", WORD, "chars"), ("unigram", PHONE, "unigram"), ("phones", WORD, None), ("phones", CHAR, None)],
)  # fmt: skip
def test_vocabularies_suit_their_unit(kind, unit, right):
    if right:
        assert TokenizerConfig(tokenizer=kind).kind(unit) == right
        return
    with pytest.raises(UserError, match=f"`--tokenizer` must be one of .* for {unit.plural}, but is phones"):
        TokenizerConfig(tokenizer=kind).kind(unit)


# Splits


NAMES = {
    "train": "train", "Train": "train", "train-clean-100": "train", "training": "train",
    "dev": "dev", "validation": "dev", "Dev": "dev", "devset": "dev", "valid-other": "dev",
    "dev-clean": "dev-clean", "Dev_Other": "dev_other", "dev2": "dev2", "dev.sw": "dev.sw",
    "test": "test-heldout", "TEST": "test-heldout", "eval": "test-heldout", "eval2000": "test-heldout",
    "testset": "test-heldout", "dev-test": "test-heldout", "held-out": "test-heldout",
    "test-clean": "test-clean", "TEST-Other": "test-other", "test1": "test1", "test_net": "test_net",
    "test-heldout": "test-heldout", "test-unseen-speakers": "test-unseen-speakers", "test-año": "test-año",
    "fold3": "", "": "", "train-test-split": "", "contest-1": "", "device-2": "",
    "test-.": "test-heldout", "test-a/b": "test-heldout", "test-" + "a" * 80: "test-heldout", "test-x.": "test-heldout",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_split_that_a_name_prescribes(name):
    assert split_of(name) == NAMES[name]
    assert not NAMES[name] or is_split(NAMES[name])


@pytest.mark.parametrize("name", ["tset", "Test-clean", "../test-a", "valid", "test", "shar", ".parts"])
def test_what_is_no_name_of_a_split(name):
    assert not is_split(name)


def test_splits_are_in_one_order():
    names = ["test-other", "test-heldout", "dev-other", "test-unseen-languages", "dev", "train", "dev-clean"]
    assert sorted(names, key=split_order) == [
        "train", "dev", "dev-clean", "dev-other", "test-heldout", "test-unseen-languages", "test-other"
    ]  # fmt: skip


def test_prescribed_splits_of_any_name_are_kept():
    rows = [("a", "train"), ("b", "dev-clean"), ("c", "test-other"), ("c", ""), ("d", "")]
    items = [Utterance(f"u{i}", "x", text, "en", "ann", split=split) for i, (text, split) in enumerate(rows)]
    found = assign_splits(items, SplitConfig(dev_share=0, heldout_share=0))
    assert found == ["train", "dev-clean", "test-other", "test-other", "train"]  # a tested sentence is not trained on


LIBRISPEECH = {"train-clean-100/ann/a": "train", "dev-clean/bob/b": "dev-clean", "dev-other/cy/c": "dev-other",
               "test-clean/dan/d": "test-clean", "test-other/eve/e": "test-other"}  # fmt: skip


@pytest.fixture
def corpus(tmp_path) -> Path:
    """A folder as LibriSpeech's is, with texts of its own."""
    for number, place in enumerate(LIBRISPEECH):
        hum(tmp_path / f"speech/{place}.wav", 2)
        put(tmp_path / f"speech/{place}.txt", f"IT'S NUMBER {'ABCDE'[number]}, SIR.")
    return tmp_path / "speech"


def prepare(folder: Path, speech: Path, fetch=(), shar=(), token=()) -> str:
    """All stages, as prepare.sh runs them; what the last one printed."""
    flags = {"fetch_corpora": ["--user-data", speech, *fetch], "make_shar": shar, "train_tokenizer": token}
    for stage in STAGES:
        done = run_program(folder, f"local/{stage}.py", [*flags.get(stage, ()), "--data-dir", "data", "--nj", 1])
    return done.stdout + done.stderr


def test_words_from_a_folder_to_a_report(corpus, tmp_path):
    """In no language: nothing is pronounced."""
    said = prepare(tmp_path, corpus, ["--transcripts", "words"])
    assert "problems: none" in said and "words_per_second" in said
    found = cuts(tmp_path / "data")
    assert {id.removeprefix("user_").replace("-", "/"): s["split"] for id, s in found.items()} == {
        place.replace("-", "/"): split for place, split in LIBRISPEECH.items()
    }
    texts = {s["split"]: s["text"] for s in found.values()}
    assert texts["train"] == "it's number a sir" and texts["test-other"] == "it's number e sir"
    assert all(s["custom"]["orthography"].endswith(", SIR.") for s in found.values())
    assert (tmp_path / "data/lang/unit.txt").read_text() == "word\n" and unit_beside(tmp_path / "data/shar") is WORD
    numbers = json.loads((tmp_path / "data/statistics.json").read_text())
    assert numbers["splits"]["dev-clean"]["words"] == 4 and numbers["words"]["it's"] == 5
    assert shar_splits(tmp_path / "data") == ["train", "dev-clean", "dev-other", "test-clean", "test-other"]
    assert set(find_splits([tmp_path / "data/shar"])) == {*LIBRISPEECH.values()}


def test_characters_have_a_table(corpus, tmp_path):
    prepare(tmp_path, corpus, ["--transcripts", "chars", "--lower-case", "False"])
    lang = tmp_path / "data/lang"
    assert sorted(path.name for path in lang.iterdir() if path.name[0] != ".") == ["tokens.txt", "unit.txt"]
    assert (lang / "unit.txt").read_text() == "char\n" and " 3" in (lang / "tokens.txt").read_text()
    assert {s["text"] for s in cuts(tmp_path / "data").values() if s["split"] == "train"} == {"IT'S NUMBER A SIR"}


def test_the_vocabulary_of_another_unit_is_made_again(corpus, tmp_path):
    for kind, pieces in (("words", "bpe.model"), ("chars", "tokens.txt"), ("words", "bpe.model")):
        prepare(tmp_path, corpus, ["--transcripts", kind])
        assert (tmp_path / "data/lang" / pieces).is_file() and collect(tmp_path / "data").unit.plural == kind
        assert (tmp_path / "data/lang/bpe.model").is_file() == (kind == "words")


def test_a_prescribed_split_that_is_gone_leaves_no_folder(corpus, tmp_path):
    prepare(tmp_path, corpus, ["--transcripts", "words"])
    for path in (corpus / "test-other/eve").iterdir():
        path.unlink()
    prepare(tmp_path, corpus, ["--transcripts", "words"])
    assert "test-other" not in shar_splits(tmp_path / "data") and not (tmp_path / "data/shar/test-other").exists()


def test_digits_are_warned_of(corpus, tmp_path):
    put(corpus / "test-clean/dan/d.txt", "In 1984 it was")
    said = prepare(tmp_path, corpus, ["--transcripts", "words"])
    assert "test-clean: 1 transcripts hold digits, not the words that are spoken" in said and "warnings: 1" in said


def test_a_sentence_in_training_and_in_a_prescribed_test_is_warned_of(corpus, tmp_path):
    put(corpus / "test-clean/dan/d.txt", "IT'S NUMBER A, SIR.")
    said = prepare(tmp_path, corpus, ["--transcripts", "words"])
    assert "test-clean: 1 sentences are in train as well, as the data itself prescribes" in said


def test_words_for_phones_still_need_a_language(corpus, tmp_path):
    run_program(tmp_path, "local/fetch_corpora.py", ["--user-data", corpus, "--data-dir", "data"])
    done = run_program(tmp_path, "local/make_manifests.py", ["--data-dir", "data"], check=False)
    assert_one_line(done, "--user-language", "so that words can be pronounced")


def test_the_tokenizer_of_phones_is_refused_for_words(corpus, tmp_path):
    flags = ["--user-data", corpus, "--transcripts", "words", "--data-dir", "data"]
    run_program(tmp_path, "local/fetch_corpora.py", flags)
    for stage in STAGES[1:4]:
        run_program(tmp_path, f"local/{stage}.py", ["--data-dir", "data", "--nj", 1])
    flags = ["--data-dir", "data", "--tokenizer", "phones"]
    done = run_program(tmp_path, "local/train_tokenizer.py", flags, check=False)
    assert_one_line(done, "--tokenizer", "for words", "but is phones")


def test_timed_phones_are_no_part_of_words(tmp_path):
    wave = tmp_path / "a.wav"
    hum(wave, 1)
    item = Utterance("a", str(wave), "Da da", "ru", "", (Phone("d", 0.1, 0.1),), duration=1.0, spelling="da da")
    write_manifest(tmp_path / "words/c.jsonl.gz", [item])
    splits = SplitConfig(dev_share=0, heldout_share=0)
    stages.make_shar(["c"], tmp_path, FilterConfig(), splits, SharConfig(), 1, unit=WORD)
    (found,) = cuts(tmp_path).values()
    assert found["text"] == "da da" and not found.get("alignment")
    assert validate(tmp_path, 1).problems == []


def test_data_of_before_is_of_phones(tmp_path):
    (tmp_path / "corpora.yaml").write_text("corpora: [festvox-ru]\n")
    from couloir.data.corpora.registry import unit_of_data

    assert unit_of_data(tmp_path) is PHONE and CorporaConfig().unit is PHONE


# prepare.sh


OWN = ROOT / "egs/words_en_ru/prepare.sh"


def shell(program: Path, *words: object, expect: int = 0) -> str:
    done = subprocess.run(
        [program, *map(str, words)], env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True
    )
    assert done.returncode == expect, done.stderr
    return done.stdout + done.stderr


def test_a_recipes_own_prepare_is_short_and_hands_its_flags_on():
    assert len(OWN.read_text().splitlines()) <= 30
    said = shell(OWN, "--python", "echo", "--stop-stage", 2, "--nj", 1, "--data-dir", "d")
    fetch, manifests, transcripts = [line for line in said.splitlines() if ".py" in line]
    assert fetch.split("fetch_corpora.py ")[1] == (
        "--corpora asterisk-en,asterisk-ru,festvox-ru --transcripts words --data-dir d --nj 1"
    )
    assert manifests.endswith("make_manifests.py --data-dir d --nj 1") and "make_phones.py" in transcripts
    said = shell(OWN, "--python", "echo", "--corpora", "user", "--tokenizer=chars", "--nj", 1)
    assert "--corpora asterisk-en,asterisk-ru,festvox-ru --transcripts words --corpora user" in said
    assert "--tokenizer unigram --tokenizer chars" in said


def test_a_recipes_own_flags_do_not_belong_to_stage_0():
    said = shell(OWN, "--python", "echo", "--stage", 4, "--nj", 1)
    assert "train_tokenizer.py --tokenizer unigram" in said and "fetch" not in said
    said = shell(OWN, "--python", "echo", "--stage", 4, "--hours", 2, expect=2)
    assert "`--hours` belongs to stage 0" in said


def test_a_recipes_own_prepare_teaches():
    said = shell(OWN, "--help")
    assert "English and Russian" in said and "--transcripts KIND" in said and "--stop-stage" in said
    assert "unknown flag `--colour`" in shell(OWN, "--colour", "red", expect=2)


@pytest.mark.slow
@pytest.mark.parametrize("transcripts", ["words", "chars"])
def test_a_recogniser_by_commands_alone(tmp_path, transcripts):
    """English and Russian speech, prepared by a recipe's own prepare.sh, trained on, decoded, and transcribed."""
    places = {"train": ["ru_0274", "ru_0683", "english/en_0880"], "dev-clean": ["ru_0308"],
              "test-other": ["english/en_0930", "ru_0308"]}  # fmt: skip
    for split, names in places.items():
        for name in names:
            source = ROOT / f"tests/data/{name}.flac"
            wave = tmp_path / "speech" / split / f"{source.stem}.wav"
            wave.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(wave, *soundfile.read(source))
            put(wave.with_suffix(".txt"), source.with_suffix(".txt").read_text(encoding="utf-8"))
    data = tmp_path / "data"
    shell(OWN, "--corpora", "user", "--user-data", tmp_path / "speech", "--transcripts", transcripts,
          "--tokenizer", "auto", "--data-dir", data, "--nj", 1)  # fmt: skip
    shape = (
        "--num-encoder-layers 1,1 --downsampling-factor 1,2 --feedforward-dim 32,48 --encoder-dim 24,32 "
        "--encoder-unmasked-dim 24,32 --num-heads 2 --query-head-dim 8 --value-head-dim 6 --cnn-module-kernel 7 "
        "--frontend-channels 4,8,8 --num-workers 0 --max-steps 6 --save-every-n 6 --tensorboard False"
    )
    config = ROOT / "egs/words_en_ru/tiny.yaml"
    flags = f"--config {config} --manifest-dir {data}/shar --bpe-model {data}/lang --exp-dir exp {shape}"
    run_program(tmp_path, "zipformer_crctc/train.py", flags)
    unit = {"words": "word", "chars": "char"}[transcripts]
    assert f"unit: {unit}\n" in (tmp_path / "exp/config.yaml").read_text()
    done = run_program(tmp_path, "zipformer_crctc/ctc_decode.py", "--exp-dir exp --manifest-dir data/shar")
    assert f"{unit[0].upper()}ER %" in done.stdout and "PER" not in done.stdout
    recogs = next((tmp_path / "exp/ctc-greedy-search").glob("recogs-test-other-*.txt")).read_text()
    right = "he might even have been made amiable himself"
    assert f"ref={right.split() if unit == 'word' else [c for c in right if c != ' ']}" in recogs
    flags = "--exp-dir exp --manifest-dir data/shar --test-sets dev-clean --unit char"
    done = run_program(tmp_path, "zipformer_crctc/ctc_decode.py", flags)
    assert "CER %" in done.stdout
    facts = run_program(tmp_path, "couloir/cli.py", "info exp").stdout
    assert re.search(rf"^transcripts +{transcripts}$", facts, re.M)
    done = run_program(tmp_path, "couloir/cli.py", "transcribe exp speech/test-other/en_0930.wav")
    assert "en_0930" in done.stdout


TRAIN = "zipformer_crctc/train.py"


def test_another_unit_than_the_vocabularys_is_refused(tmp_path):
    train_tokenizer(["it's a cat"], tmp_path / "words", kind="chars")
    save_unit(tmp_path / "words", WORD)
    train_tokenizer(["pa ta ʃa"], tmp_path / "phones")
    for unit, lang, own in (("phone", "words", "word"), ("char", "words", "word"), ("word", "phones", "phone")):
        flags = f"--preset tiny --bpe-model {lang} --unit {unit} --exp-dir exp"
        done = run_program(tmp_path, TRAIN, flags, check=False)
        assert_one_line(done, f"`--unit` must be {own} or auto, but is {unit}", f"texts of {lang} are {own}s")
    assert_one_line(run_program(tmp_path, TRAIN, "--unit letter", check=False), "`--unit` must be one of auto, phone")


def test_a_unit_that_a_family_does_not_have_is_refused(tmp_path, monkeypatch):
    train_tokenizer(["это как-то так"], tmp_path / "words", 50, "unigram", at_most=True)
    alone = dataclasses.replace(spec_of("zipformer"), units=("phone",))
    monkeypatch.setattr("couloir.recipes.run.spec_of", lambda name: alone)
    flags = "--preset tiny --bpe-model words --exp-dir exp"
    done = run_program(tmp_path, TRAIN, flags, check=False)
    assert_one_line(done, "`--bpe-model` must be a vocabulary of phone for zipformer, but is of words")


def test_transcripts_of_another_unit_are_refused(tmp_path):
    train_tokenizer(["pa ta ʃa"], tmp_path / "phones")
    train_tokenizer(["это как-то так"], tmp_path / "words", 50, "unigram", at_most=True)
    for lang, others in (("phones", WORD), ("words", PHONE)):
        (tmp_path / "shar").mkdir(exist_ok=True)
        save_unit(tmp_path / "shar", others)
        flags = f"--preset tiny --bpe-model {lang} --manifest-dir shar --exp-dir exp"
        done = run_program(tmp_path, TRAIN, flags, check=False)
        assert_one_line(done, f"`transcripts of shar` must be {lang}, as the vocabulary's, but is {others.plural}")
