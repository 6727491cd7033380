"""prepare_lm.py: graphs and n-grams from a text, or from n-grams that are there already."""

import gzip
import os
import shutil
import sys
from pathlib import Path

import kaldilm
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from programs import assert_one_line, run_program

from couloir.decoding.fsa.graph import Graph
from couloir.decoding.lm_config import NeuralLmConfig
from couloir.decoding.ngram import NgramLm
from couloir.decoding.resources import read_token_ngram, read_word_graph, read_word_ngram, read_words
from couloir.errors import UserError
from couloir.locks import locked
from couloir.recipes import lm
from couloir.recipes.lm import prepare_graphs, train_neural_lm
from couloir.recipes.lm_config import GraphConfig, LmTrainConfig
from couloir.text.tokenizer import TokenTable, load_tokenizer
from couloir.training import run_dir
from couloir.training.run_dir import LOCK

PROGRAM = "zipformer_transducer/local/prepare_lm.py"
PIECES = ["<blk>", "<sos/eos>", "<unk>", *"abcd"]
TEXT = "ab cd ab\ncd ab ab cd\nad ab cd\nab ad cd ab\nba cd\n" * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A text, its vocabulary, and what is made of both with 4-grams."""
    folder = tmp_path_factory.mktemp("lm")
    (folder / "text").write_text(TEXT)
    TokenTable(PIECES).save_tokens(folder / "tokens.txt")
    run_program(folder, PROGRAM, "--lm-text text --bpe-model tokens.txt --lang-dir made --ngram-order 4")
    arpa = (folder / "made/words.4gram.arpa").read_bytes()
    (folder / "four.arpa.gz").write_bytes(gzip.compress(arpa))
    return folder


def write_words(folder, words):
    (folder / "words.txt").write_text("".join(f"{word} {i}\n" for i, word in enumerate(words)))


def arrays(path):
    with np.load(path) as stored:
        return {name: stored[name].tolist() for name in stored.files}


def test_an_ngram_that_is_there_makes_the_graph_without_a_text(folder):
    flags = "--bpe-model tokens.txt --arpa four.arpa.gz"
    run_program(folder, PROGRAM, f"{flags} --lang-dir given --ngram-order 4")
    assert sorted(path.name for path in (folder / "given").iterdir()) == [
        "LG.npz", "lexicon.txt", "tokens.txt", "words.4gram.arpa", "words.txt",
    ]  # fmt: skip
    for name in ("words.4gram.arpa", "words.txt", "lexicon.txt", "tokens.txt"):
        assert (folder / "given" / name).read_bytes() == (folder / "made" / name).read_bytes(), name
    assert arrays(folder / "given/LG.npz") == arrays(folder / "made/LG.npz")


def test_the_graph_takes_lower_orders_and_rescoring_the_whole(folder):
    flags = "--bpe-model tokens.txt --arpa four.arpa.gz --lexicon made/lexicon.txt --tokens-arpa made/2gram.arpa"
    run_program(folder, PROGRAM, f"{flags} --lang-dir lower --ngram-order 1")
    assert Graph.load(folder / "lower/LG.npz").num_arcs < Graph.load(folder / "made/LG.npz").num_arcs
    words, tokenizer = read_words(folder / "lower/words.txt"), load_tokenizer(folder / "tokens.txt")
    whole, made = (read_word_ngram(folder / name, words) for name in ("lower", "made"))
    ids = [[words.index(word) for word in ["ab", "ad", "cd", "ab"]]]
    assert whole.num_states == made.num_states > 5 and whole.sequence_scores(ids) == made.sequence_scores(ids)
    pair = [read_token_ngram(folder / name, 2, tokenizer, 0).sequence_scores([[3, 4]]) for name in ("lower", "made")]
    assert torch.equal(*pair)


@pytest.mark.parametrize("order", [2, 5])
def test_rescoring_finds_an_ngram_of_any_order(folder, order):
    lang = f"--lang-dir order-{order} --ngram-order {order}"
    run_program(folder, PROGRAM, f"--lm-text text --bpe-model tokens.txt {lang}")
    words = read_words(folder / f"order-{order}/words.txt")
    assert read_word_ngram(folder / f"order-{order}", words).num_states > 1


def test_the_highest_order_is_rescored_with(folder, tmp_path):
    words = read_words(folder / "made/words.txt")
    for order in (2, 10):
        flags = f"--lm-text text --bpe-model tokens.txt --lang-dir {tmp_path} --ngram-order {order}"
        run_program(folder, PROGRAM, flags)
    (tmp_path / "words.bestgram.arpa").write_text("no number")
    sequence = [[words.index(word) for word in ["ab", "ab", "ab", "cd"]]]
    ten = read_word_ngram(tmp_path, words).sequence_scores(sequence)
    (tmp_path / "words.10gram.arpa").unlink()
    assert ten != read_word_ngram(tmp_path, words).sequence_scores(sequence)


def test_a_graph_of_other_tokens_is_refused(folder):
    """The same number of tokens, of which two have changed places."""
    read_word_graph(folder / "made", TokenTable(PIECES), 1.0)
    with pytest.raises(UserError, match="tokens of .*LG.npz.*token 3 is `a`, not `b`"):
        read_word_graph(folder / "made", TokenTable([*PIECES[:3], *"bacd"]), 1.0)
    (folder / "made/2gram.fst.txt").write_text("0 1 3 3 0.5\n1 0.2\n")
    with pytest.raises(UserError, match="tokens of .*tokens.txt.*token 3"):
        read_token_ngram(folder / "made", 2, TokenTable([*PIECES[:3], *"bacd"]), 500)
    (folder / "made/2gram.fst.txt").unlink()


def test_punctuation_is_left_out(folder, tmp_path, caplog):
    """Between phones it is spelt as nothing; the sentences that have it stay."""
    texts = {"plain": TEXT, "dotted": TEXT.replace(" ", " , ").replace("\n", " . —\n") + ",\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        prepare_graphs(GraphConfig(tmp_path / name, str(folder / "tokens.txt"), tmp_path / f"lang-{name}"))
    for name in ("LG.npz", "words.txt", "words.3gram.arpa", "2gram.arpa"):
        plain, dotted = ((tmp_path / f"lang-{text}" / name).read_bytes() for text in texts)
        assert plain == dotted, name
    assert "3 words, such as `,`, are not in the lexicon" in caplog.text


def test_an_interrupted_build_leaves_no_mixture(folder, tmp_path, monkeypatch):
    """Of the graph of one text and the words of another, whose numbers are in the same range."""
    shutil.copytree(folder / "made", tmp_path / "made")
    (tmp_path / "text").write_text(TEXT.replace("b", "d"))
    config = GraphConfig(tmp_path / "text", str(folder / "tokens.txt"), tmp_path / "made")
    monkeypatch.setattr(lm, "build_lg", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare_graphs(config)
    tokenizer = TokenTable(PIECES)
    assert read_word_graph(tmp_path / "made", tokenizer, 1.0)[1] == read_words(folder / "made/words.txt")
    write_words(tmp_path / "made", ["<eps>", "cd", "ab", "ad", "ba"])
    with pytest.raises(UserError, match="words.txt` must be the word table of LG.npz .*again"):
        read_word_graph(tmp_path / "made", tokenizer, 1.0)


def test_one_process_at_a_time_makes_a_folder_or_a_language_model(folder, tmp_path, monkeypatch):
    """The second names who has it, and what is there stays."""
    monkeypatch.setattr(run_dir, "SHORT_WAIT_S", 0.0)
    text, tokens = folder / "text", str(folder / "tokens.txt")
    shutil.copytree(folder / "made", tmp_path / "made")
    before = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    (tmp_path / "linked").symlink_to("made")
    owner = f"is used by process {os.getpid()} on "
    with locked(tmp_path / ".made.lock", "the graphs"):
        for name in ("made", "linked"):
            with pytest.raises(UserError, match=f"{name}` must be used by one process at a time, but {owner}"):
                prepare_graphs(GraphConfig(text, tokens, tmp_path / name))
    assert {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["linked", "made"]
    config = LmTrainConfig(text, tokens, lm_exp_dir=str(tmp_path / "lm"), num_epochs=1, device="cpu")
    sizes = NeuralLmConfig(rnn_lm_embedding_dim=4, rnn_lm_hidden_dim=4, rnn_lm_num_layers=1)
    with locked(tmp_path / "lm" / LOCK, "the LM"):
        with pytest.raises(UserError, match=f"lm` must be used by one process at a time, but {owner}"):
            train_neural_lm(config, sizes)
        assert [path.name for path in (tmp_path / "lm").iterdir()] == [LOCK]
    assert len(train_neural_lm(config, sizes)) == 1
    assert (tmp_path / "lm/epoch-1.pt").is_file() and not (tmp_path / "lm" / LOCK).exists()


def test_a_compiled_word_ngram_is_read_through_its_own_table(folder, tmp_path):
    """icefall's has the numbers of its own words.txt, which has words that the graph lacks, #0 and more."""
    words = read_words(folder / "made/words.txt")
    theirs = ["<eps>", "zz", *reversed(words[1:]), "#0", "<s>", "</s>"]
    write_words(tmp_path, theirs)
    arpa = str(folder / "made/words.4gram.arpa")
    table = {"disambig_symbol": "#0", "read_symbol_table": str(tmp_path / "words.txt")}
    (tmp_path / "G_4_gram.fst.txt").write_text(kaldilm.arpa2fst(arpa, "", **table))
    sequences = [[words.index(word) for word in line.split()] for line in ("ab cd ab", "ba ba", "")]
    expected = NgramLm(arpa, words).sequence_scores(sequences)
    found = read_word_ngram(tmp_path, words).sequence_scores(sequences)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)  # kaldilm prints six digits
    with pytest.raises(UserError, match="others, such as `"):
        read_word_ngram(tmp_path, ["<eps>", "other"])
    write_words(tmp_path, [word for word in theirs if word != "#0"])
    with pytest.raises(UserError, match="words.txt` must be the word table of G_4_gram.fst.txt .*#0"):
        read_word_ngram(tmp_path, words)
    (tmp_path / "words.txt").unlink()
    with pytest.raises(UserError, match="G_4_gram.fst.txt` must be beside the words.txt"):
        read_word_ngram(tmp_path, words)


@pytest.mark.parametrize("name", ["text", "words.txt"])
def test_texts_that_are_no_utf8_are_named(folder, tmp_path, name):
    (tmp_path / name).write_text("ab\xe9 1\n", encoding="latin-1")
    read = {"text": lambda path: lm.read_sentences(path, TokenTable(PIECES)), "words.txt": read_words}[name]
    with pytest.raises(UserError, match=f"{name}` must be UTF-8"):
        read(tmp_path / name)


def test_a_missing_package_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "kaldifst", None)
    flags = "--bpe-model tokens.txt --arpa four.arpa.gz --lang-dir never"
    assert_one_line(run_program(folder, PROGRAM, flags, check=False), "kaldifst", "pip install 'couloir[graph]'")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("", ["--lm-text"]),
        ("--arpa none.arpa", ["--arpa", "none.arpa"]),
        ("--arpa tokens.txt", ["tokens.txt", "an ARPA language model"]),
        ("--arpa four.arpa.gz --tokens-arpa made/words.4gram.arpa", ["symbols of the tokenizer"]),
        ("--arpa made/words.4gram.arpa --bpe-model other.txt", ["no word of", "--lexicon"]),
    ],
)
def test_mistakes_end_with_one_line(folder, flags, words):
    TokenTable([*PIECES[:3], "x"]).save_tokens(folder / "other.txt")
    done = run_program(folder, PROGRAM, f"--bpe-model tokens.txt --lang-dir wrong {flags}", check=False)
    assert_one_line(done, *words)
    assert not [path.name for path in folder.iterdir() if "wrong" in path.name]


def test_a_mistake_leaves_the_graph_that_is_there(folder):
    """The second ARPA file is bad in its last n-gram, which is read when the rest is made."""
    run_program(folder, PROGRAM, "--bpe-model tokens.txt --arpa four.arpa.gz --lang-dir kept")
    before = {path.name: path.read_bytes() for path in (folder / "kept").iterdir()}
    text = (folder / "made/words.4gram.arpa").read_text()
    ngram = text.split("\n\n\\end")[0].rsplit("\n", 1)[1]
    (folder / "twice.arpa").write_text(text.replace(ngram, f"{ngram}\t7,5"))
    done = run_program(folder, PROGRAM, "--bpe-model tokens.txt --arpa twice.arpa --lang-dir kept", check=False)
    assert_one_line(done, "twice.arpa", "line ")
    assert {path.name: path.read_bytes() for path in (folder / "kept").iterdir()} == before
