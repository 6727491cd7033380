"""Phones, words and characters: how transcripts are written, counted and distinguished by their vocabularies."""

from __future__ import annotations

import json
import pickle
import unicodedata
from pathlib import Path

import kaldialign
import pytest

from couloir.errors import UserError
from couloir.inference.vocabulary import Vocabulary
from couloir.text.spelling import as_characters, as_words, has_digits
from couloir.text.tokenizer import SPACE, TokenTable, load_tokenizer, train_tokenizer
from couloir.text.units import CHAR, NAMED_PHONE, PHONE, UNITS, WORD, save_unit, unit_beside, unit_named, unit_of

LATIN = "abcdefghijklmnopqrstuvwxyz"
NFD = unicodedata.normalize("NFD", "Café, Ñandú!")


@pytest.mark.parametrize(
    ("text", "language", "right"),
    [
        ("Ну и что же у вас, с этой, девицей, было?", "ru", "ну и что же у вас с этой девицей было"),
        ("Ну что ж, - перед ним, открыт весь мир.", "ru", "ну что ж перед ним открыт весь мир"),
        ("Это как-то так — да.", "ru", "это как-то так да"),
        ("He said: “it’s an ill-disposed ’phone”", "en", "he said it's an ill-disposed phone"),
        ("ASS: it's", "en", "ass it's"),
        ("dogs' rock 'n' roll", "en", "dogs rock n roll"),
        (NFD, "es", "café ñandú"),
        ("IĞDIR'IN İzmir", "tr", "ığdır'ın izmir"),
        ("IZMIR", "en", "izmir"),
        ("П’ятниця, пʼять", "uk", "п'ятниця п'ять"),
        ("la col·lega l' été", "ca", "la col·lega l été"),
        ("می\u200cخواهم،", "fa", "می\u200cخواهم"),
        ("so\u00adft\u200b \ufeffwords", "en", "soft words"),
        ("हिन्दी। भाषा", "hi", "हिन्दी भाषा"),
        ("你好，世界。", "zh", "你好 世界"),
        ("Ｈｅｌｌｏ！", "", "hello"),
        ("a\tb\nc\u3000d", "", "a b c d"),
        ("... -- !", "", ""),
        ("", "", ""),
    ],
)
def test_words_are_letters_and_what_joins_them(text: str, language: str, right: str) -> None:
    found = as_words(text, language)
    assert found == right == as_words(found, language)
    assert WORD.prepare(text, language, True) == right and WORD.split(right) == right.split()


def test_capitals_stay_where_they_are_wanted() -> None:
    assert as_words("Mister DASHWOOD, sir", "en", lower_case=False) == "Mister DASHWOOD sir"


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("你好， 世 界。", "你好世界"),
        ("你 好 Hello World 中 文", "你好hello world中文"),
        ("今日は、いい 天気 ですね。", "今日はいい天気ですね"),
        ("안녕 하세요", "안녕 하세요"),
        ("wifi 信 号", "wifi信号"),
        ("ab  c", "ab c"),
    ],
)
def test_characters_have_no_blanks_where_their_script_has_none(text: str, right: str) -> None:
    assert as_characters(text) == right == CHAR.prepare(text, "", True) == as_characters(right)
    assert CHAR.split(right) == [c for c in right if c != " "]


def test_a_character_error_rate_is_of_characters_alone() -> None:
    """你好世界 against 你 号世 界: one substitution of four, whatever blanks there are."""
    ref, hyp = CHAR.split("你好世界"), CHAR.split("你 号世 界")
    assert kaldialign.edit_distance(ref, hyp)["total"] == 1 and len(ref) == len(hyp) == 4


def test_digits_are_found() -> None:
    assert has_digits("in 1984") and has_digits("٣") and not has_digits("nineteen")


@pytest.mark.parametrize(("name", "rate"), [("phone", "PER"), ("word", "WER"), ("char", "CER")])
def test_each_unit_has_a_rate_and_limits(name: str, rate: str) -> None:
    unit = unit_named(name)
    assert unit.rate_name == rate and 0 < unit.min_per_second < unit.max_per_second and unit.tokenizers
    assert unit is UNITS[name]


@pytest.mark.parametrize("name", ["letter", "", "phones", "Word"])
def test_another_unit_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="`unit` must be one of phone, word, char, but is"):
        unit_named(name)


CMU = "AA0 AE1 AH0 AO1 AW AY B CH D DH EH1 ER0 EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH SIL"
VOCABULARIES = {
    "IPA": (["p", "a", "ʃ", "t͡s"], PHONE),
    "IPA with stress and tones": (["p", "a", "ʃ", "ˈ", "˥", "ə", "ŋ"], PHONE),
    "ZIPA": (["▁", "p", "a", "ʃ", "ʰ", "ɡ"], PHONE),
    "pieces of IPA": (["▁", "▁pa", "pa", "ʃə", "tʰ", "a", "ŋ"], PHONE),
    "ARPABET": (CMU.split(), NAMED_PHONE),
    "BPE": (["▁the", "▁a", "s", "▁THE", "ing"], WORD),
    "Russian BPE": (["▁п", "ри", "вет", "▁"], WORD),
    "letters with a space": ([*LATIN, "'", SPACE], WORD),
    "words": (["yes", "no", "stop"], WORD),
    "Chinese": (list("的一是不了人我在有他"), CHAR),
    "Chinese and letters": ([*"的一是不了人我在有他", *LATIN], CHAR),
    "kana": (list("あいうえお"), CHAR),
}  # fmt: skip


@pytest.mark.parametrize("name", VOCABULARIES)
def test_the_unit_of_a_vocabulary(name: str) -> None:
    pieces, unit = VOCABULARIES[name]
    assert unit_of(pieces) is unit and unit_of(pieces[::-1]) is unit


TEXTS = ["he's here", "she is there", "it's a cat"]


def test_characters_as_a_table(tmp_path: Path) -> None:
    """icefall's first pieces, then the characters by frequency; counted by hand."""
    table = train_tokenizer(["你好 吗", "你 你们"], tmp_path, kind="chars")
    assert table.pieces == ["<blk>", "<sos/eos>", "<unk>", "你", SPACE, "们", "吗", "好"]
    loaded = load_tokenizer(tmp_path)
    assert (tmp_path / "tokens.txt").read_text().splitlines()[3] == "你 3" and not (tmp_path / "bpe.model").exists()
    assert loaded.encode("你好 吗") == [3, 7, 4, 6] and loaded.decode([3, 7, 4, 6]) == "你好 吗"
    assert loaded.unknown_symbols("我你") == {"我"}


def test_characters_without_blanks(tmp_path: Path) -> None:
    table = train_tokenizer(["你好吗", "你们"], tmp_path, kind="chars")
    assert SPACE not in table.pieces and table.decode(table.encode("你 好")) == "你好"


@pytest.mark.parametrize("kind", ["chars", "unigram", "bpe"])
def test_words_keep_their_blanks_and_apostrophes(tmp_path: Path, kind: str) -> None:
    train_tokenizer(TEXTS * 5, tmp_path, 40, kind, at_most=True)
    (tmp_path / "unit.txt").write_text("word\n")
    for file in ("", "tokens.txt"):
        tokenizer = load_tokenizer(tmp_path / file)
        for text in (*TEXTS, "it's  there"):
            assert tokenizer.decode(tokenizer.encode(text)) == " ".join(text.split())
            assert tokenizer.prepare(text).split() == text.split()
            assert not tokenizer.unknown_symbols(text)


def test_fewer_pieces_where_the_texts_have_no_more(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="vocab_size"):
        train_tokenizer(TEXTS, tmp_path, 500, "unigram")
    assert 10 < train_tokenizer(TEXTS, tmp_path, 500, "unigram", at_most=True).vocab_size < 60
    assert train_tokenizer(["aab"], tmp_path, 4, "chars").pieces == ["<blk>", "<sos/eos>", "<unk>", "a"]
    with pytest.raises(UserError, match="vocab_size"):
        train_tokenizer(["aab"], tmp_path, 3, "chars")


def test_a_model_of_before_does_not_stay_beside_a_table(tmp_path: Path) -> None:
    train_tokenizer(["a ta"], tmp_path)
    train_tokenizer(["a ta"], tmp_path, kind="chars")
    assert load_tokenizer(tmp_path).pieces[3:] == ["a", SPACE, "t"]


@pytest.mark.parametrize("kind", ["phones", "chars", "unigram"])
def test_phones_of_plain_letters_are_phones_where_it_is_written(tmp_path: Path, kind: str) -> None:
    """An inventory of plain letters looks like an alphabet."""
    train_tokenizer([" ".join(LATIN)] * 3, tmp_path, 60 if kind == "unigram" else None, kind, at_most=True)
    save_unit(tmp_path, PHONE)
    for place in {tmp_path, tmp_path / "tokens.txt"}:
        tokenizer = load_tokenizer(place)
        assert tokenizer.is_ipa == (kind != "unigram")
        assert kind == "unigram" or tokenizer.prepare("ˈpa. ta") == "pata"


def test_what_is_written_beside_a_table_decides(tmp_path: Path) -> None:
    """Few plain letters look like phones, whose apostrophe and blanks the normal form would drop."""
    train_tokenizer(["pata"], tmp_path, kind="chars")
    assert load_tokenizer(tmp_path).is_ipa and unit_beside(tmp_path) is None
    (tmp_path / "unit.txt").write_text("char\r\n")
    assert not load_tokenizer(tmp_path).is_ipa and unit_beside(tmp_path / "tokens.txt") is CHAR
    (tmp_path / "unit.txt").write_text("letters\n")
    with pytest.raises(UserError, match=r"the unit in .*unit\.txt. must be one of phone, word, char, but is 'letters'"):
        unit_beside(tmp_path)


CHINESE = ["<blank>", "<s>", "</s>", "<OOV>", "你", "好", "he@@", "llo", "wor@@", "ld", "中", "文", "1", "<unk>"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["tokens.txt", "tokens.json"])
def test_lists_of_characters_without_ids(tmp_path: Path, name: str, end: str) -> None:
    """As FunASR's Paraformer brings them; ids are places."""
    text = json.dumps(CHINESE, ensure_ascii=False) if name.endswith("json") else "".join(c + end for c in CHINESE)
    (tmp_path / name).write_bytes(text.encode())
    for place in (tmp_path, tmp_path / name):
        table = load_tokenizer(place)
        assert table.pieces == CHINESE and table.unk_id == 13 and not table.is_ipa
        assert table.encode("你好 1") == [4, 5, 12] and table.decode([1, 4, 5, 2, 12]) == "你好1"


@pytest.mark.parametrize(
    ("pieces", "right"),
    [
        ("你 好 he@@ llo wor@@ ld 中 文", "你好hello world中文"),
        ("he@@ llo wor@@ ld", "hello world"),
        ("llo ld 你", "llo ld你"),
        ("你 he@@", "你he"),
        ("he@@ 你", "he你"),
        ("你 好", "你好"),
        ("", ""),
    ],
)
def test_words_among_characters(pieces: str, right: str) -> None:
    """The first two are FunASR's own results."""
    ids = [CHINESE.index(piece) for piece in pieces.split()]
    assert TokenTable(CHINESE).decode(ids) == right == Vocabulary(CHINESE).text(ids)


@pytest.mark.parametrize("content", ["{}", "[1]", '["a", ""]', "", "no", "[" * 5000])
def test_another_json_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokens.json").write_text(content)
    with pytest.raises(UserError, match=r"tokens\.json. must be a list of tokens"):
        load_tokenizer(tmp_path)


def test_tokenizers_travel_to_other_processes(tmp_path: Path) -> None:
    for table in (
        TokenTable(CHINESE),
        TokenTable(["<blk>", "aa", "sh"]),
        train_tokenizer(["a b"], tmp_path, kind="chars"),
    ):
        again = pickle.loads(pickle.dumps(table))
        assert again.decode(range(table.vocab_size)) == table.decode(range(table.vocab_size))
