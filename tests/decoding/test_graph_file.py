"""Decoding graphs of anyone: what is loaded has every index in its range; anything else is one line."""

from __future__ import annotations

import pickle
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from couloir.decoding.arpa import BACKOFF
from couloir.decoding.fsa.graph import Graph, make_graph
from couloir.decoding.graph import read_lexicon
from couloir.decoding.ngram import NgramLm
from couloir.decoding.resources import read_words
from couloir.errors import UserError

MOVES = (torch.tensor([0, 2, 3, 4]), torch.tensor([0, 1, 1, 2]), torch.zeros(4), torch.zeros(4, 1, dtype=torch.int64))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A graph of two states and its end, with an epsilon move."""
    source, target, label = (torch.tensor(v) for v in ([0, 0, 1, 1], [0, 1, 0, 2], [3, 4, 5, -1]))
    graph = make_graph(source, target, label, torch.arange(4.0), torch.tensor([[1], [0], [2], [0]]), 3, moves=MOVES)
    Graph(**{**vars(graph), "pieces": ("<blk>", "a", "ɡ")}).save(tmp_path / "LG.npz")
    return tmp_path / "LG.npz"


def changed(path: Path, **arrays: object) -> Path:
    """The file with some arrays replaced, or left out where None."""
    kept = {**np.load(path), **arrays}
    with open(path, "wb") as out:
        np.savez(out, **{name: value for name, value in kept.items() if value is not None})  # type: ignore[arg-type]
    return path


def test_what_is_saved_is_loaded(path: Path) -> None:
    found = Graph.load(path)
    assert found.pieces == ("<blk>", "a", "ɡ") and found.words_digest == ""
    assert found.splits.tolist() == [0, 2, 4, 4] and found.next.tolist() == [0, 1, 2, 0]
    assert found.score.dtype == torch.float32 and torch.equal(found.move_next, MOVES[1])
    assert Graph.load(changed(path, label=np.array([3, 4, -1, 5], np.int32))).label.dtype == torch.int64


@pytest.mark.parametrize(
    "arrays",
    [
        {"next": np.array([0, 1, 2, 99])},
        {"next": np.array([0, -1, 2, 0])},
        {"next": np.array([0, 1, 2, 2**40])},
        {"splits": np.array([0, 2, 5, 4])},
        {"splits": np.array([0, 2, 4, 5])},
        {"splits": np.array([1, 2, 4, 4])},
        {"splits": np.array([0, 2, 3, 4])},
        {"splits": np.array([0])},
        {"splits": np.zeros(0, np.int64)},
        {"label": np.array([3, 4, -2, 5])},
        {"label": np.array([3, -1, 5, -1])},
        {"label": np.array([3, 4, -1, 2**40])},
        {"label": np.array([3, 4, -1])},
        {"label": np.array([3.0, 4.0, -1.0, 5.0])},
        {"label": np.array([[3, 4, -1, 5]])},
        {"score": np.array([0, np.nan, 0, 0], np.float32)},
        {"score": np.full(4, np.inf, np.float32)},
        {"aux": np.array([[1], [0], [-2], [0]])},
        {"aux": np.array([1, 0, 2, 0])},
        {"aux": np.zeros((3, 1), np.int64)},
        {"move_next": np.array([0, 3, 1, 2])},
        {"move_next": np.array([0, -1, 1, 2])},
        {"move_score": None},
        {"moves": np.array([0, 2, 3])},
        {"moves": np.array([0, 4, 3, 4])},
        {"move_aux": np.full((4, 1), -1)},
        {"move_score": np.full(4, np.nan, np.float32)},
        {"label": None},
        {"other": np.zeros(1)},
        {"pieces": np.array([1, 2])},
        {"label": np.array(["a", "b", "c", "d"])},
        {"score": np.zeros(4, np.complex64)},
        {"pieces": np.array([{"a": 1}], dtype=object)},
    ],
    ids=str,
)
def test_indices_out_of_range_are_refused(path: Path, arrays: dict[str, object]) -> None:
    with pytest.raises(UserError, match="LG.npz` must be a decoding graph") as error:
        Graph.load(changed(path, **arrays))
    assert "\n" not in str(error.value) and len(str(error.value)) < 500 + len(str(path))


def with_member(path: Path, data: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path) as old:
        kept = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", compression) as new:
        for name, content in {**kept, "label.npy": data}.items():
            new.writestr(name, content)
    return path


def header(shape: str, descr: str = "'<i8'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "data",
    [
        header("(1000000000000,)"),
        header("(-4,)"),
        header("(4,)") + bytes(31),
        header("(4,)") + bytes(33),
        header("(4,)", "'|O'") + pickle.dumps([1, 2, 3, 4]),
        header("()"),
        header("__import__('os')"),
        b"",
        b"\x93NUMPY\x09\x00",
        header("(4,)", "[('a', '<i8')]") + bytes(32),
        pickle.dumps(print),
    ],
)
def test_headers_that_lie_are_refused_before_memory_is_taken(path: Path, data: bytes) -> None:
    with pytest.raises(UserError, match="must be a decoding graph"):
        Graph.load(with_member(path, data))


def test_a_bomb_is_refused_before_it_is_unpacked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = with_member(path, header("(12000000,)") + bytes(96_000_000), zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 200_000
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(UserError, match="bytes out of"):
        Graph.load(bomb)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x93NUMPY\x01\x00", pickle.dumps(print)])
def test_other_files_are_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(UserError, match="must be a decoding graph"):
        Graph.load(path)


@pytest.mark.parametrize("times", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_graphs_are_whole_or_one_line(path: Path, times: int) -> None:
    rng, good, seen = random.Random(1), path.read_bytes(), {"loaded": 0, "refused": 0}
    whole = Graph.load(path)
    for number in range(times):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data if number % 5 else good[: rng.randrange(len(good))])
        try:
            found = Graph.load(path)
            assert found.num_states == whole.num_states and torch.equal(found.next, whole.next)
            seen["loaded"] += 1
        except UserError as error:
            assert "\n" not in str(error) and str(path) in str(error) and len(str(error)) < 1000
            seen["refused"] += 1
    assert seen["refused"] > times * 0.2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<eps> 0\nab 200000000\n", "ids of .*up to 200000000"),
        ("<eps> 0\nab 5000\n", "up to 5000"),
        ("<eps> 0\nab 99999999999\n", "line 2 of"),
        ("<eps> 0\nab -1\n", "line 2 of"),
        ("<eps> 0\nab\n", "line 2 of"),
        ("<eps> 0\nab 1\ncd 1\n", "line 3 of .*1 is taken"),
        ("<eps> 0\na b 1\n", "line 2 of"),
        ("<eps> 0\nab ١\n", "line 2 of"),
    ],
)
def test_word_tables_of_another_kind_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "words.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=said):
        read_words(tmp_path / "words.txt")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_words_and_spellings_end_at_blanks_and_tabs_alone(tmp_path: Path, end: str) -> None:
    words = ["<eps>", "a\u00a0b", "\u3000", "c\u2028d", "#"]
    (tmp_path / "words.txt").write_bytes(("\ufeff" + "".join(f"{w}\t{i}{end}" for i, w in enumerate(words))).encode())
    assert read_words(tmp_path / "words.txt") == words
    (tmp_path / "lexicon.txt").write_bytes(("\ufeff" + "".join(f"{w} a \t b{end}" for w in words[1:])).encode())
    lexicon = read_lexicon(tmp_path / "lexicon.txt", ["<blk>", "a", "b"])
    assert sorted(lexicon.words[1:]) == sorted(words[1:]) and {tuple(t) for _, t in lexicon.entries} == {(1, 2)}


@pytest.mark.parametrize("times", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_tables_are_read_or_one_line(tmp_path: Path, times: int) -> None:
    rng, pieces = random.Random(1), ["<blk>", "a", "b"]
    for number in range(times):
        name, read = (("words.txt", read_words), ("lexicon.txt", lambda p: read_lexicon(p, pieces)))[number % 2]
        good = b"<eps> 0\nab 1\nba 2\nb 3\n#0 4\n" if name == "words.txt" else b"ab a b\nba b a\nb b\n"
        data = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(2)] = rng.choice(
                [b"", b"9", b" ", b"\n", b"\xff", b"\0", b"\t", b"\x1c", b"99999999"]
            )
        (tmp_path / name).write_bytes(data)
        try:
            found = read(tmp_path / name)
            assert len(found if isinstance(found, list) else found.words) < 2100
        except UserError as error:
            assert "\n" not in str(error) and str(tmp_path / name) in str(error)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 200000000 3 3 1.5\n1 0.5\n", "states of"),
        ("0 1 3 3 nan\n1 0.5\n", "weights of"),
        ("0 1 3 3 inf\n1\n", "weights of"),
        ("0 1 -3 3 1.5\n1\n", "line 1 of"),
        ("0 1 3 3 x\n1\n", "line 1 of"),
        ("0 1 3 3 1,5\n1\n", "line 1 of"),
        ("0 1 3 3 1.5 7 8\n", "line 1 of"),
        ("1 2\n", "without any arc"),
        ("0 1 9 9 1\n1\n", "labels of"),
        ("0 1 6 6 1\n1 0 6 6 1\n0 1 3 3 1\n1 0\n", "loop of them"),
    ],
)
def test_compiled_ngrams_of_another_kind_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "2gram.fst.txt").write_text(text)
    pieces = ["<blk>", "<sos/eos>", "<unk>", "a", "b", "c"]
    with pytest.raises(UserError, match=said):
        NgramLm(tmp_path / "2gram.fst.txt", pieces, labels={**dict(enumerate(pieces)), 6: BACKOFF})
