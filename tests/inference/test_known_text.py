"""Transcripts that are aligned: the kinds of files that hold them, and what is no transcript of phones."""

from __future__ import annotations

import codecs

import pytest
from tiny_models import PIECES

from couloir.errors import UserError
from couloir.inference.known_text import read_transcript, read_words, words_of_ipa, words_of_text
from couloir.inference.vocabulary import Vocabulary

VOCABULARY = Vocabulary(PIECES)


def _phones(path, language=None):
    return [phone for word in read_words(str(path), language, VOCABULARY) for phone in word.phones]


def _grid(tiers):
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", "xmax = 9", "tiers? <exists>"]
    lines += [f"size = {len(tiers)}", "item []:"]
    for number, (name, labels) in enumerate(tiers.items(), 1):
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f'        name = "{name}"',
            "        xmin = 0",
        ]
        lines += ["        xmax = 9", f"        intervals: size = {len(labels)}"]
        for i, label in enumerate(labels):
            lines += [f"        intervals [{i + 1}]:", f"            xmin = {i}", f"            xmax = {i + 1}"]
            lines.append(f'            text = "{label}"')
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    "name, content",
    {
        "spaces.txt": "m a t a",
        "word.ipa": "mata",
        "crlf.lab": "ma\r\nta\r\n",
        "old-mac.txt": "ma\rta\r",
        "bom.txt": "\ufeffma ta",
        "grid.TextGrid": _grid({"phones": ["", "m", "a", "sil", "t", "a"]}),
        "label.TextGrid": _grid({"phones": ["m a t a"]}),
        "own.TextGrid": _grid({"words": ["mata"], "phones": ["m", "a", "t", "a"]}),
        "mfa.TextGrid": _grid({"speaker - words": ["x"], "speaker - phones": ["m", "a", "sp", "t", "a"]}),
        "any.TextGrid": _grid({"layer 1": ["mata"]}),
        "grid.txt": _grid({"phones": ["m", "a", "t", "a"]}),
        "timit.phn": "0 800 h#\n800 1600 m\n1600 2400 a\n2400 3000 t\n3000 3400 a\n3400 5000 pau\n",
        "htk.lab": "0 800000 sil\n800000 1600000 m\n1600000 2400000 a\n2400000 2500000 t\n2500000 2600000 a\n",
        "audacity.txt": "0.000000\t0.500000\tma\n0.500000\t1.0\tta\n",
        "empty-labels.txt": "0.0\t0.5\tma\n0.5\t0.7\n0.7\t1.0\tta\n",
        "subtitles.srt": "1\n00:00:00,000 --> 00:00:01,000\n<i>ma</i>\n\n2\n00:00:01,000 --> 00:00:02,000\n{\\an8}ta\n",
        "subtitles.vtt": "WEBVTT\n\nNOTE not spoken\n\n00:00.000 --> 00:01.000\nma\n\nc\n00:01.000 --> 00:02.000\nta\n",
    }.items(),
)
@pytest.mark.parametrize("code", ["utf-8", "utf-16"])
def test_kinds_of_files(tmp_path, name, content, code):
    if code == "utf-16" and content.startswith("\ufeff"):
        content = content[1:]
    (tmp_path / name).write_bytes(content.encode(code))
    assert _phones(tmp_path / name) == ["m", "a", "t", "a"]


def test_timits_symbols_are_ipa(tmp_path):
    def phones(*labels):
        rows = "".join(f"{i} {i + 1} {label}\n" for i, label in enumerate(labels))
        (tmp_path / "x.phn").write_text(rows)
        return _phones(tmp_path / "x.phn")

    # "She had", "children", an unreleased stop; closures are one phone with their releases.
    assert phones("h#", "sh", "iy", "hv", "ae", "dcl", "h#") == ["ʃ", "i", "ɦ", "æ", "d"]
    assert phones("tcl", "ch", "ih", "l", "dcl", "d", "r", "ix", "n") == ["t͡ʃ", "ɪ", "l", "d", "ɹ", "ɨ", "n"]
    assert phones("kcl", "tcl", "t") == ["k", "t"] and phones("y", "uw") == ["j", "u"]
    assert phones("y", "a") == ["y", "a"], "not TIMIT's symbols, since none is an a"


@pytest.mark.parametrize(
    "text, named",
    [
        ("мама мыла", "м"),
        ("mama мыла", "м"),
        ("北京", "北"),
        ("かな", "か"),
        ("سلام", "س"),
        ("नमस्ते", "न"),
        ("안녕", ""),
        ("Hello", "H"),
        ("straße", "ß"),
        ("agua por señor Ñ", "Ñ"),
        ("δρόμος", "δ"),
        ("ИПА", "И"),
    ],
)
def test_what_is_no_ipa_asks_for_its_language(tmp_path, text, named):
    (tmp_path / "t.txt").write_text(text, encoding="utf-8")
    for given in (text, tmp_path / "t.txt"):
        with pytest.raises(UserError, match=f"must be IPA, but is with {named}.*--language") as error:
            _phones(given)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["t͡ʃɔɪs", "θɪŋ", "ǃa ǁo", "ɓaɗa", "pʰaː˥˩", "ˈma.ta", "õ ɥ̊ ⱱa", "ç ø œ æ ð", "ãẽ", "kʷʼa", "t’a", "βχ", "ʦa", "ɡ"],
)
def test_ipa_is_taken(text):
    assert _phones(text)


def test_letters_that_the_model_has_are_taken():
    words = read_words("мама", None, Vocabulary(["<blk>", "м", "а"]))
    assert [phone for word in words for phone in word.phones] == ["м", "а", "м", "а"]


def test_a_byte_order_mark_is_no_part_of_the_first_word(tmp_path):
    pytest.importorskip("couloir.text.g2p")
    from couloir.text.g2p import phonemize

    try:
        phonemize({"ru": ["мама"]})
    except UserError as error:
        pytest.skip(str(error))
    for mark, code in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        (tmp_path / "t.txt").write_bytes(mark + "мама мыла".encode(code))
        assert [word.label for word in read_words(str(tmp_path / "t.txt"), "ru", VOCABULARY)] == ["мама", "мыла"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("x.wrd", "0 10 she\n10 20 had\n", "--language"),
        ("x.phn", "0 10 m\n", "left out"),
        ("x.TextGrid", _grid({"a - phones": ["m"], "b - phones": ["t"]}), "one speaker"),
        ("x.TextGrid", _grid({"one": ["m"], "two": ["t"]}), "named phones or words"),
        ("x.TextGrid", _grid({"phones": ["m", "spn", "a"]}), "`spn`"),
        ("x.TextGrid", "File type", "TextGrid"),
        ("x.eaf", "<?xml version='1.0'?>\n<a>m a</a>", "another kind of file"),
        ("x.json", '{"text": "m a"}', "another kind of file"),
        ("x.txt", b"m\xff\xe9", "UTF-8"),
        ("x.docx", b"PK\x03\x04\x00\x00\xff", "UTF-8"),
        ("x.txt", " \n\t\n", "empty"),
        ("x.phn", "0 10 h#\n", "empty"),
        ("x.TextGrid", _grid({"phones": ["", "sil"]}), "empty"),
    ],
)
def test_what_is_no_transcript_is_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as error:
        read_words(str(path), "en" if name == "x.phn" and "m" in str(content) else None, VOCABULARY)
    assert "\n" not in str(error.value)


def test_transcripts_come_from_files_or_the_command_line(tmp_path):
    (tmp_path / "t.txt").write_text("ak", encoding="utf-8")
    assert read_transcript(str(tmp_path / "t.txt")).labels == ["ak"] and read_transcript("ta k").labels == ["ta k"]
    for empty in ("", "  "):
        with pytest.raises(UserError):
            read_transcript(empty)
    for gone in ("gone.txt", "gone.TextGrid", "gone.srt", "a b.ipa", str(tmp_path / "gone"), "..\\gone"):
        with pytest.raises(UserError, match="^transcript .*gone.* does not exist" if "gone" in gone else "not exist"):
            read_transcript(gone)
    for text in ("/ta ka/", "ta / ka", "ta.ka", "ta" * 200, "ta" * 3000, "a\0b"):
        assert read_transcript(text).labels == [text]
    with pytest.raises(UserError, match="a folder"):
        read_transcript(str(tmp_path))


@pytest.mark.parametrize(
    "labels, expected",
    [
        ("HH AH0 L OW1", ["h", "ə", "l", "o", "ʊ"]),  # CMUdict: hello
        ("hh ah0 l ow1", ["h", "ə", "l", "o", "ʊ"]),
        ("S IY2 sil T AA1", ["s", "i", "t", "ɑ"]),
        ("s IY2 T aa1", None),  # letters of two cases are none of its symbols
        ("CH ER1 CH ER0", ["t͡ʃ", "ɝ", "t͡ʃ", "ɚ"]),
        ("DH IH0 S IH1 Z", ["ð", "ɪ", "s", "ɪ", "z"]),
        ("aa1", ["ɑ"]),
        ("QQ AA1", None),
        ("ma1 ta3", ["m", "a", "t", "a"]),  # tones
    ],
)
def test_phones_with_stress_are_cmudicts(tmp_path, caplog, labels, expected):
    (tmp_path / "t.txt").write_text(labels)
    (tmp_path / "t.TextGrid").write_text(_grid({"phones": ["", *labels.split(), "sil"]}))
    for given in (labels, tmp_path / "t.txt", tmp_path / "t.TextGrid"):
        if expected is None:
            with pytest.raises(UserError, match="must be IPA"):
                _phones(given)
        else:
            words = read_words(str(given), None, VOCABULARY)
            assert [phone for word in words for phone in word.phones] == expected
    assert ("the digits 1 3 are taken as tones" in caplog.text) == ("ta3" in labels)


@pytest.mark.parametrize("text", ["<unk>", "ma <unk> na", "ma <UNK>", "[UNK] ma", "ma <noise> na", "<b>ma</b> <i>"])
@pytest.mark.parametrize("language", [None, "ru"])
def test_words_that_are_left_open_are_named(tmp_path, text, language):
    (tmp_path / "t.txt").write_text(text)
    (tmp_path / "t.TextGrid").write_text(_grid({"words": text.split()}))
    for given in (text, tmp_path / "t.txt", tmp_path / "t.TextGrid"):
        with pytest.raises(UserError, match=r"all that is spoken.*with.*`[<\[]"):
            _phones(given, language)


@pytest.mark.parametrize("text", ["sil", "sil sp", "SIL", "h#", "<sil> <p:>", "pau\nepi\n", "#"])
def test_silences_alone_are_no_transcript(tmp_path, text):
    (tmp_path / "t.lab").write_text(text)
    (tmp_path / "t.TextGrid").write_text(_grid({"words": text.split()}))
    for given in (text, tmp_path / "t.lab", tmp_path / "t.TextGrid"):
        for language in (None, "ru"):
            with pytest.raises(UserError, match="holds silences alone|is empty"):
                _phones(given, language)


def test_silences_in_angle_brackets_are_no_phones():
    assert _phones("<sil> ma <p:> ta <eps>") == ["m", "a", "t", "a"]
    assert _phones("ma sil") == ["m", "a", "s", "i", "l"], "a word, too"


@pytest.mark.parametrize("text", ["ma 24", "1 ma", "m a 1", "ma ٣"])
def test_numbers_are_no_ipa(text):
    with pytest.raises(UserError, match="must be IPA, but is with (24|1|٣); name the language"):
        _phones(text)


@pytest.mark.parametrize("name", ["x.tsv", "x.csv", "x.jsonl", "x.json", "x.ctm", "x.mlf", "x.html", "x.CHA", "x.eaf"])
def test_tables_are_no_transcripts(tmp_path, name):
    (tmp_path / name).write_text("ma ta\n")
    with pytest.raises(UserError, match="must be a plain text, .*, but is another kind of file"):
        _phones(tmp_path / name)


def test_phones_of_a_tier_are_one_word():
    words = words_of_ipa("d oʊ n", one_word=True)
    assert [(word.label, word.phones) for word in words] == [("doʊn", ["d", "o", "ʊ", "n"])]


def test_marks_that_stand_alone_are_not_pronounced(monkeypatch):
    g2p = pytest.importorskip("couloir.text.g2p")
    monkeypatch.setattr(g2p, "phonemize", lambda words: {tag: ["a"] * len(found) for tag, found in words.items()})
    for text in ("bonjour !", "« bonjour »", "bonjour — ...", "¿ bonjour ?"):
        assert [word.label for word in words_of_text(text, "fr")] == ["bonjour"]
    assert [word.label for word in words_of_text("50 % & l'an,", "fr")] == ["50", "%", "&", "l'an,"]


@pytest.mark.parametrize(
    ("pieces", "text", "words"),
    [
        (["▁при", "вет", "▁мир", "▁", "а"], "Привет, мир!", {"Привет": ["при", "вет"], "мир": ["мир"]}),
        (["▁IT'S", "▁A", "B"], "it's ab", {"it's": ["IT'S"], "ab": ["A", "B"]}),
        (["<space>", *"abcdefghijklmnopqrstuvwxyz'"], "it's", {"it's": list("it's")}),
        (list("你好世界的是"), "你好，世界。", {"你好": ["你", "好"], "世界": ["世", "界"]}),
        (["yes", "no", "stop"], "Yes no", {"Yes": ["yes"], "no": ["no"]}),
    ],
)
def test_words_are_spelt_by_a_vocabulary_of_words(pieces, text, words):
    """A recogniser of words is aligned by its own pieces; nothing is pronounced, and no language is asked for."""
    found = read_words(text, None, Vocabulary(["<blk>", "<sos/eos>", "<unk>", *pieces]))
    assert {word.label: word.phones for word in found} == words
