from __future__ import annotations

import io
import pickle

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from couloir.errors import UserError
from couloir.text import ipa
from couloir.text.tokenizer import TokenTable, load_tokenizer, train_tokenizer

PHONE_TEXTS = ["ˈt͡ɕaːsta ʧaj ɡo", "hʰa ça ɲĩ aː", "t͜sxx ɨ̞ː", "a ta sa"]
# Appendix I.4 of the facts: 3 special pieces, the boundary, then 123 single symbols.
IPA_BLOCK = "".join(chr(c) for c in range(0x250, 0x2A3) if chr(c) not in "ɡɩɷɼɿʅʆʇʓʖʗʚʞʠɚɝɫ")
ZIPA_SYMBOLS = "abcdefghijklmnopqrstuvwxyzæçðøħŋœǀǁǂǃ" + IPA_BLOCK + "ʰʲʷʼː˞ˠˤ" + "̴̪̺̥̩̃̚" + "βθχᶑⱱ"


@pytest.fixture(scope="module")
def phones(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phones")
    return train_tokenizer(PHONE_TEXTS, folder, kind="phones"), folder


@pytest.fixture(scope="module")
def zipa(tmp_path_factory):
    """A stand-in with the structure of ZIPA's `unigram_127.model`: same pieces, same layout, scores of its own."""
    lines = ["".join(ZIPA_SYMBOLS[:n]) for n in range(1, len(ZIPA_SYMBOLS) + 1)] + ["b"]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="unigram", vocab_size=127, unk_id=2, bos_id=-1,
        eos_id=-1, user_defined_symbols=["<blk>", "<sos/eos>"], character_coverage=1.0, num_threads=1, minloglevel=2,
        normalization_rule_name="identity", max_sentencepiece_length=1,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("ipa_simplified") / "unigram_127.model"
    path.write_bytes(model.getvalue())
    return load_tokenizer(path)


def test_phone_pieces_are_whole_segments_most_frequent_first(phones):
    tokenizer, _ = phones
    assert tokenizer.pieces[:5] == ["<blk>", "<sos/eos>", "<unk>", "a", "aː"]
    assert set(tokenizer.pieces[3:]) == {p for t in PHONE_TEXTS for p in ipa.segment(t)}
    assert (tokenizer.blank_id, tokenizer.unk_id, tokenizer.vocab_size) == (0, 2, len(tokenizer.pieces))
    ids = tokenizer.encode("ʧa aː")
    assert [tokenizer.pieces[i] for i in ids] == ["t͡ʃ", "a", "aː"]


@given(st.lists(st.sampled_from(sorted({p for t in PHONE_TEXTS for p in ipa.segment(t)} | {" ", "ˈ"})), max_size=20))
def test_phones_round_trip(phones, pieces):
    tokenizer, _ = phones
    text = "".join(pieces)
    assert tokenizer.decode(tokenizer.encode(text)) == ipa.normalize(text).replace(" ", "")
    assert not tokenizer.unknown_symbols(text)


@given(st.text(st.sampled_from("t͡ɕaːsʰq7ʙ ˈ"), max_size=12))
def test_model_and_table_agree(phones, text):
    tokenizer, folder = phones
    table = load_tokenizer(folder / "tokens.txt")
    assert table.pieces == tokenizer.pieces
    assert table.encode(text) == tokenizer.encode(text)
    assert table.unknown_symbols(text) == tokenizer.unknown_symbols(text)


def test_unknown_symbols_are_named_and_shown(phones):
    tokenizer, folder = phones
    for one in (tokenizer, load_tokenizer(folder / "tokens.txt")):
        assert one.unknown_symbols("qaʙ") == {"q", "ʙ"}
        assert one.encode("qa") == [2, 3]
        assert one.decode([0, 2, 1, 3, 0]).replace(" ", "") == "⁇a"


def test_a_table_without_unk_names_what_it_lacks():
    table = TokenTable(["<blk>", "a", "b"])
    assert table.unknown_symbols("azqb") == {"zq"} and table.encode("azqb") == [1, 2]


def test_phone_limit_keeps_the_most_frequent(tmp_path):
    assert train_tokenizer(["a a a b b c"], tmp_path, 5, "phones").pieces[3:] == ["a", "b"]


def test_zipa_vocabulary_is_read_as_it_is(zipa):
    assert zipa.vocab_size == 127
    assert zipa.pieces[:4] == ["<blk>", "<sos/eos>", "<unk>", "▁"]
    assert sorted(zipa.pieces[4:]) == sorted(ZIPA_SYMBOLS)
    text = "ðɪskʰæt̪ç"
    ids = zipa.encode(text)
    assert [zipa.pieces[i] for i in ids] == ["▁", *text]
    assert zipa.decode(ids) == text
    assert zipa.encode("t͡sa") == zipa.encode("tsa")  # that vocabulary has no tie
    assert zipa.unknown_symbols("taB") == {"B"}
    assert pickle.loads(pickle.dumps(zipa)).encode(text) == ids


def test_word_pieces_in_the_manner_of_icefall(tmp_path):
    texts = ["THE CAT IT'S ON THE MAT", "A DOG AND A CAT"] * 20
    for kind in ("unigram", "bpe"):
        trained = train_tokenizer(texts, tmp_path / kind, 20, kind)
        assert trained.pieces[:3] == ["<blk>", "<sos/eos>", "<unk>"]
        loaded = load_tokenizer(tmp_path / kind)
        assert loaded.encode("THE DOG IT'S") == trained.encode("THE DOG IT'S")
        assert loaded.decode(loaded.encode("THE  DOG IT'S")) == "THE DOG IT'S"
        table = load_tokenizer(tmp_path / kind / "tokens.txt")
        assert table.decode(table.encode("THE DOG IT'S")) == "THE DOG IT'S"
        again = train_tokenizer(texts, tmp_path / "again", 20, kind)
        assert again.model == trained.model


def test_disambiguation_symbols_of_a_lang_folder_are_left_out(tmp_path):
    (tmp_path / "tokens.txt").write_text("<blk> 0\n<sos/eos> 1\n<unk> 2\na 3\n#0 4\n#1 5\n")
    assert load_tokenizer(tmp_path).pieces == ["<blk>", "<sos/eos>", "<unk>", "a"]


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("bpe.model", b"not a model", "not a sentencepiece model"),
        ("tokens.txt", b"<blk> 0\na b c\n", "line 2"),
        ("tokens.txt", b"<blk> 0\na 2\n", "without id 1"),
        ("tokens.txt", b"<blk> 0\na 0\n", "line 2"),
        ("tokens.txt", b"a 0\nb 1\n", "<blk>"),
        ("tokens.txt", b"\xff\xfe\x00", "UTF-16"),
        ("tokens.txt", b"<blk> 0\n\xe4 1\n", "line 2 of .*UTF-8"),
        ("tokens.txt", b"", "<blk>"),
        ("other.pdf", b"", "holds neither"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, word):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=word) as error:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_missing_file_and_untrainable_texts_are_one_line(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_tokenizer(tmp_path / "no.model")
    for texts, size, kind, word in [
        ([" "], 10, "phones", "no text"),
        (["..."], None, "phones", "no phone"),
        (["A B"], 1000, "unigram", "vocab_size"),
        (["A B"], None, "bpe", "vocab_size"),
        (["A B"], 10, "letters", "one of phones"),
    ]:
        with pytest.raises(UserError, match=word):
            train_tokenizer(texts, tmp_path, size, kind)


def test_a_table_without_unk_skips_what_it_lacks():
    assert TokenTable(["<blk>", "a", "b"]).encode("axb") == [1, 2]
