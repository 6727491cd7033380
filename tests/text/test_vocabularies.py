"""Vocabularies that are not made here: composed letters, other scripts, byte pieces, forms of tokens.txt."""

from __future__ import annotations

import io
import random
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest
import sentencepiece

from couloir.errors import UserError
from couloir.inference.vocabulary import Vocabulary
from couloir.text.byte_pieces import text_of
from couloir.text.ipa import are_phones
from couloir.text.tokenizer import SentencePieceTokenizer, TokenTable, load_tokenizer, read_tokens

SPECIAL = ["<blk>", "<sos/eos>", "<unk>"]
LATIN = "abcdefghijklmnopqrstuvwxyz"


def forms(text: str) -> list[str]:
    return [unicodedata.normalize(form, text) for form in ("NFC", "NFD")]


SCRIPTS = {  # letters, then a text of them
    "German": (LATIN + "äöüß", "schöne grüße"),
    "German, upper case": (LATIN.upper() + "ÄÖÜ' ", "SCHÖNE GRÜ'E"),
    "French": (LATIN + "éèêëàâçîïôûù' ", "l'été à noël"),
    "Vietnamese": (LATIN + "ăâđêôơưếệốộớợứựảạ", "việt đệ ớt"),
    "Polish": (LATIN + "ąćęłńóśźż", "zażółć gęślą jaźń"),
    "Turkish": (LATIN + "çğıöşü", "çığ öğüş"),
    "Korean syllables": ("한국말사람가각", "한국 사람말각"),
    "Korean jamo": ("한국\u1106\u1161\u11af", "한국말"),
    "kana": ("かがきぎくぐはばぱヴウ", "かがぎぐぱばヴ"),
    "Devanagari": ("कखगजफड़ढ़क़ख़ज़फ़ािी", "क़ाज़ी फ़ड़"),
    "Bengali": ("কখডঢযোৌোয়ড়", "কো ড়ৌ য়"),
    "Tamil": ("கசதொோெோ", "கொ தோ"),
    "Arabic": ("اأآؤإئبتثل ", "آب أئؤ إلا"),
    "Greek": ("αβγδεζηθικλμνξοπρστυφχψωάέήίόύώϊΐς", "ρώς έαρ ΐ"),
    "Cyrillic": ("абвгдеёжзийклмо", "ёж мой"),
    "Hebrew": ("אבגדהו\u05b0\u05b7", "אַב\u05b0ו"),
    "Chinese": ("北京大学的１。", "北京 大学。"),
}


@pytest.mark.parametrize("special", [SPECIAL, ["<blk>"], ["<blank>", "<unk>"]], ids=["icefall", "no unk", "blank"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_text_in_either_form_is_spelt_by_a_vocabulary_in_either(script: str, special: list[str]) -> None:
    letters, text = SCRIPTS[script]
    spaces = " " in letters
    for pieces in (list(letters), *(sorted(set(form)) for form in forms(letters))):
        table = TokenTable([*special, *pieces])
        assert not table.is_ipa
        right = unicodedata.normalize("NFC", text if spaces else text.replace(" ", ""))
        for form in forms(text):
            assert not table.unknown_symbols(form), (form, pieces)
            assert unicodedata.normalize("NFC", table.decode(table.encode(form))) == right
            assert table.prepare(form) == table.decode(table.encode(form))


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("form", [0, 1], ids=["NFC", "NFD"])
def test_a_sentencepiece_model_has_its_texts_in_its_own_form(script: str, form: int) -> None:
    letters, text = SCRIPTS[script]
    model = io.BytesIO()
    lines = [forms(" ".join(letters))[form]] * 3 + [forms(text)[form]] * 3
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="char", vocab_size=400, hard_vocab_limit=False,
        user_defined_symbols=SPECIAL[:2], unk_id=2, bos_id=-1, eos_id=-1, character_coverage=1.0,
        normalization_rule_name="identity", minloglevel=2,
    )  # fmt: skip
    tokenizer = SentencePieceTokenizer(model.getvalue())
    for other in forms(text):
        assert not tokenizer.unknown_symbols(other)
        assert unicodedata.normalize("NFC", tokenizer.decode(tokenizer.encode(other))) == forms(text)[0]


def test_what_a_vocabulary_lacks_is_named_whole() -> None:
    for special, tokens in ((SPECIAL, [3, 2, 3]), (["<blk>"], [1, 1])):
        table = TokenTable([*special, *LATIN, "é"])
        for text in forms("aäa"):
            assert table.unknown_symbols(text) == {"ä"} and table.encode(text) == tokens
    korean = TokenTable([*SPECIAL, "가"])
    assert [korean.unknown_symbols(form) for form in forms("가각")] == [{"각"}] * 2


@pytest.mark.parametrize(
    ("pieces", "ipa"),
    [
        (["p", "a", "t", "k"], True),
        (["p", "ã", "õ", "ʃ"], True),  # composed, and one that only the IPA has
        (["p", "a", "t͡s", "ʰ", "ː", "ŋ", "ʘ", "ǀ"], True),
        (["tʃ", "ɡ", "a"], True),
        (["p", "b", "t", "&", "ʙ"], True),  # what a text of phones brought along
        (list(LATIN + "äöü"), False),
        (list(LATIN + "\u0308"), False),
        (list(LATIN + "'"), False),
        (list(LATIN + " "), False),
        (list(LATIN.upper()), False),
        (["a", "˥", "˧", "ŋ"], False),  # tones, which the normal form would drop
        (["a", "á", "ʃ"], False),
        (["g", "ɡ"], False),
        (["yes", "no", "on", "off", "stop", "go"], False),
        (["aa", "iy", "s", "t", "sh"], False),
        (["a", "i", "s", "t", "ts"], True),
        (list("かきく"), False),
        (list("αβγ"), False),
    ],
)
def test_only_phones_are_brought_to_ipa_normal_form(pieces: list[str], ipa: bool) -> None:
    assert are_phones(pieces) is ipa and TokenTable([*SPECIAL, *pieces]).is_ipa is ipa


NAMES = {
    "ARPABET": "aa ae ah ao aw ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th uh uw v w y z zh",
    "CMU": "AA0 AA1 AA2 AE1 AH0 B CH D DH EH1 ER0 F G HH IH0 IY1 JH K L M N NG OW1 P R S SH T TH UW1 V W Z ZH SIL SPN",
    "TIMIT": "aa ae ax ax-h axr b bcl d dcl dx eh el em en eng epi f g gcl h# hh hv ix k kcl n ng nx p pcl q sh t tcl",
    "pinyin": "a1 zhong1 guo2 ni3 hao3 n i3 g uo2 shi4 nve4 er2",
    "words": "yes no on off stop go onoff",
}
LETTERS = {
    "X-SAMPA": "a e i o u @ E O { 3: N S Z T D p b t d k g n s t_S d_Z p_h a: i: 2 9 y",
    "letters and digraphs": "a b c d e h s i u ü ö ä ß ch sch ei",
    "pinyin without finals": "b p m f d t n l g k h j q x zh ch sh ā á ǎ à ē",
    "tones": "a ə t n ŋ ˥ ˦ ˧",
    "capitals": "A B C D E SIL",
}


@pytest.mark.parametrize("special", [SPECIAL, ["<blk>"]], ids=["icefall", "no unk"])
@pytest.mark.parametrize("name", [*NAMES, *LETTERS])
def test_no_token_reaches_over_a_space(name: str, special: list[str]) -> None:
    """``s hh`` is no ``sh h``, ``n g`` is no ``ng``, and the two read differently."""
    names = {**NAMES, **LETTERS}[name].split()
    table, rng = TokenTable([*special, *names]), random.Random(0)
    assert not table.is_ipa
    for _ in range(50):
        drawn = rng.choices(range(len(names)), k=rng.randrange(1, 9))
        text, ids = "  ".join(names[i] for i in drawn), [len(special) + i for i in drawn]
        assert table.encode(text) == ids and not table.unknown_symbols(text)
        right = (" " if name in NAMES else "").join(text.split())
        assert table.decode(ids) == table.prepare(text) == right


def test_what_names_lack_stays_in_the_text_that_is_scored() -> None:
    for special, unknown in ((SPECIAL, [2]), (["<blk>"], [])):
        table = TokenTable([*special, "aa", "sh", "t", "naïf", "über"])
        at = len(special)
        assert table.encode("sh é u\u0308ber aa") == [at + 1, *unknown, at + 4, at]
        assert table.prepare("sh  é u\u0308ber aa") == "sh é über aa"
        assert table.unknown_symbols("sh é aa") == {"é"}


def test_phones_alone_are_joined_whatever_spaces_say() -> None:
    table = TokenTable([*SPECIAL, "a", "w", "aw", "ə", "ʃ"])
    assert table.is_ipa and table.encode("a w") == table.encode("aw") == [5]


VARIANTS = [  # what a text has, what the letters of the vocabulary are, what it is spelt as
    ("น้ำ", "น\u0e49\u0e4dา", "น\u0e49\u0e4dา"), ("ﬁｎ", "fin", "fin"), ("ｶﾞ", "かガカ", "ガ"), ("Ａ１", "A1", "A1"),
    ("…", ".", "..."),
    ("\ufefb", "لا", "لا"), ("ĳ", "ij", "ij"), ("㍍", "メートル", "メートル"), ("ﬁ", "fiﬁ", "ﬁ"), ("\u1e9b", "sṡ", "ṡ"),
    ("\u2126", "Ω", "Ω"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "letters", "right"), VARIANTS)
def test_variants_are_what_they_stand_for(text: str, letters: str, right: str) -> None:
    """As Unicode's compatibility forms say, which sentencepiece's default rule takes too."""
    for form in forms(letters):
        table = TokenTable([*SPECIAL, "'", *sorted(set(form))])
        assert not table.unknown_symbols(text)
        assert unicodedata.normalize("NFC", table.decode(table.encode(text))) == unicodedata.normalize("NFC", right)
        assert unicodedata.normalize("NFC", table.prepare(text)) == unicodedata.normalize("NFC", right)


@pytest.mark.parametrize("text", ["pʰ", "kʷ", "x²", "xₙ"])
def test_raised_letters_are_no_variants(text: str) -> None:
    table = TokenTable([*SPECIAL, *"hwn2pkx'"])
    assert table.encode(text) == [table.pieces.index(text[0]), 2] and table.unknown_symbols(text) == {text[1]}


@pytest.mark.parametrize("kind", ["unigram", "bpe", "char"])
@pytest.mark.parametrize("byte_fallback", [False, True])
def test_a_table_spells_what_sentencepiece_normalised(kind: str, byte_fallback: bool) -> None:
    lines, model = ["น้ำ ใจ ก่ำ", "ﬁn ｶﾞｷﾞ Ａb"], io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 20), model_writer=model, model_type=kind, hard_vocab_limit=False, unk_id=2,
        vocab_size=(300 if byte_fallback else 60) if kind != "char" else 400, byte_fallback=byte_fallback,
        user_defined_symbols=SPECIAL[:2], bos_id=-1, eos_id=-1, minloglevel=2, character_coverage=1.0,
    )  # fmt: skip
    peer = SentencePieceTokenizer(model.getvalue())
    table = TokenTable(peer.pieces)
    for line in lines:
        right = peer.processor.decode(peer.processor.encode(line))
        for form in (*forms(line), unicodedata.normalize("NFKC", line)):
            assert table.decode(table.encode(form)) == peer.decode(peer.encode(form)) == right
            assert not table.unknown_symbols(form)


def test_phones_match_whatever_form_their_table_has() -> None:
    table = TokenTable([*SPECIAL, "ʧ", "ɡ", "a", "ã", "ç", "ɪ"])
    assert table.is_ipa
    for text in ("t͡ʃɡaãçɪ", "ʧga\u0061\u0303c\u0327ɪ", "ˈʧ.ɡ a ãçɪ"):
        assert table.encode(text) == [3, 4, 5, 6, 7, 8]
        assert table.prepare(text) == table.decode([3, 4, 5, 6, 7, 8]) == "ʧɡaãçɪ"
    assert Vocabulary(table.pieces).spell("ga") == [4, 5] and Vocabulary(table.pieces).spell("t͡ʃ") == [3]


@pytest.fixture(scope="module")
def bytewise() -> SentencePieceTokenizer:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["北 東 西 南"] * 50 + ["ab ba ab"] * 50), model_writer=model, model_type="bpe",
        vocab_size=290, byte_fallback=True, user_defined_symbols=SPECIAL[:2], unk_id=2, bos_id=-1, eos_id=-1,
        hard_vocab_limit=False, minloglevel=2, character_coverage=1.0,
    )  # fmt: skip
    return SentencePieceTokenizer(model.getvalue())


@pytest.mark.parametrize("text", ["北 東爿", "ab", "爿爿 é ab", "a😀b", "ab\u00adb", "é"])
def test_byte_pieces_decode_to_characters(bytewise: SentencePieceTokenizer, text: str) -> None:
    table, ids = TokenTable(bytewise.pieces), bytewise.encode(text)
    assert table.decode(ids) == bytewise.decode(ids) == Vocabulary(bytewise.pieces).text(ids)
    assert bytewise.decode(table.encode(text)) == bytewise.decode(ids)
    assert not table.unknown_symbols(text) and not bytewise.unknown_symbols(text)


def test_parts_of_characters_decode_as_in_sentencepiece(bytewise: SentencePieceTokenizer) -> None:
    rng, table, vocabulary = random.Random(0), TokenTable(bytewise.pieces), Vocabulary(bytewise.pieces)
    first = bytewise.pieces.index("<0x00>")
    letters = [i for i, piece in enumerate(bytewise.pieces) if piece in ("a", "北", "▁b")]
    starts = "爿é😀a".encode()
    for _ in range(300):
        part = [first + rng.choice([*starts, rng.randrange(256)]) for _ in range(rng.randrange(1, 6))]
        ids = [*part, rng.choice(letters), *part[:2]]
        expected = bytewise.decode(ids)
        assert table.decode(ids) == expected.strip() and vocabulary.text(ids) == expected.strip()
        assert len(vocabulary.surfaces(ids)) == len(ids)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xe7\x88", "\ufffd\ufffd"), (b"\xe7\x88\xbf", "爿"), (b"\xff", "\ufffd"),
        (b"\xe7\x88\xc3\xa9", "\ufffd\ufffdé"),
        (b"\xed\xa0\x80", "\ufffd" * 3), (b"\xc0\x80", "\ufffd" * 2), (b"", ""),
    ],
)  # fmt: skip
def test_text_of_bytes(data: bytes, text: str) -> None:
    """As sentencepiece 0.2 decodes them."""
    assert text_of(list(data)) == text


def test_too_few_byte_pieces_spell_nothing(bytewise: SentencePieceTokenizer) -> None:
    table = TokenTable([*SPECIAL, "<0xE7>", "<0x88>", "a", "▁"])
    assert table.encode("a爿") == [6, 5, 2] and table.unknown_symbols("a爿") == {"爿"}
    assert table.decode([5, 3, 4, 5]) == "a\ufffd\ufffda"


def write(path: Path, rows: Sequence[str], end: str = "\n", head: str = "") -> Path:
    path.write_bytes((head + "".join(row + end for row in rows)).encode())
    return path


PIECES = ["<blk>", "<sos/eos>", "<unk>", "a", "1", "\u00a0", "\u3000", "\u2028", "▁ab", "#"]


@pytest.mark.parametrize("head", ["", "\ufeff"], ids=["no mark", "mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("row", ["{p} {i}", "{p}\t{i}", "{p}   {i} ", "{i} {p}", "{i}\t{p}"])
def test_forms_of_a_token_table(tmp_path: Path, row: str, end: str, head: str) -> None:
    rows = [row.format(p=piece, i=i) for i, piece in enumerate(PIECES)]
    assert read_tokens(write(tmp_path / "tokens.txt", rows, end, head)) == PIECES
    shuffled = random.Random(0).sample(rows, len(rows))
    assert read_tokens(write(tmp_path / "tokens.txt", [*shuffled, "", " \t "], end, head)) == PIECES


@pytest.mark.parametrize("row", ["  2", " 2", "2", "   2", "<space> 2"])
def test_a_space_is_a_token(tmp_path: Path, row: str) -> None:
    rows = ["<blk> 0", "<unk> 1", row, "a 3", "b 4", "#0 5", "#1 6"]
    table = load_tokenizer(write(tmp_path / "tokens.txt", rows))
    assert table.vocab_size == 5 and table.encode("a b\u3000a") == [3, 2, 4, 2, 3]
    assert table.decode([3, 2, 4]) == "a b" == Vocabulary(table.pieces).text([3, 2, 4])


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["<blk> 0", "a 1", "b 1"], "line 3 of .*a new id"),
        (["<blk> 0", "a 2"], "without id 1"),
        (["<blk> 0", "a"], "line 2 of .*`piece id`"),
        (["<blk> 0", "a 1 b"], "line 2 of"),
        (["a 0", "<blk> 1"], "piece 0 of .*the blank is at 1"),
        (["a 0", "b 1"], "piece 0 of .*the blank is missing"),
        (["<blk> 0", "a -1"], "line 2 of"),
        (["<blk> 0", "a 1.0"], "line 2 of"),
        (["<blk> 0", "a ١"], "line 2 of"),
        (["<blk> 0", "a " + "9" * 5000], "line 2 of"),
        (["<blk> 0", "a 2000000000"], "line 2 of|without id 1"),
        ([], "piece 0 of"),
    ],
)
def test_other_tables_are_refused_in_one_line(tmp_path: Path, rows: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        load_tokenizer(write(tmp_path / "tokens.txt", rows))
    assert str(tmp_path) in str(error.value) and len(str(error.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize("name", NAMES)
def test_names_have_blanks_between_them_in_transcripts(name: str) -> None:
    names = NAMES[name].split()
    vocabulary, table = Vocabulary([*SPECIAL, *names]), TokenTable([*SPECIAL, *names])
    ids = [3, 0, 4, 1, 5]
    assert vocabulary.text(ids) == " ".join(names[:3]) == table.decode(ids)
    assert Vocabulary([*SPECIAL, "▁ab", "cd", "ef"]).text([3, 4, 5]) == "abcdef"


@pytest.mark.parametrize("space", [" ", "<space>", "▁"])
def test_a_vocabulary_of_letters_keeps_blanks_and_apostrophes(space: str) -> None:
    pieces = [*SPECIAL, space, "'", *LATIN]
    table, vocabulary = TokenTable(pieces), Vocabulary(pieces)
    for text in ("it's a cat", "o'clock", "'tis"):
        ids = table.encode(text)
        assert not table.unknown_symbols(text) and table.decode(ids) == text == vocabulary.text(ids)
        if space != "▁":
            assert vocabulary.spell(text) == ids
