"""What decoding methods read from disk: graphs with their words, and language models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from couloir.decoding.arpa import BACKOFF
from couloir.decoding.fsa.graph import Graph, digest_of, reaches_end
from couloir.decoding.lm import NeuralLm
from couloir.decoding.lm_checkpoint import load_lm
from couloir.decoding.lm_config import NeuralLmConfig
from couloir.decoding.ngram import COMPILED, NgramLm
from couloir.errors import UserError, must_be
from couloir.files import atomic_write
from couloir.limits import MAX_GAPS
from couloir.text.tokenizer import TABLE_NAME, Tokenizer, check_same_pieces, check_sentence_mark, read_tokens
from couloir.texts import iterate_lines, natural, split_fields

WORD_NGRAMS = ("G_{}_gram.fst.txt", "G_{}_gram.arpa", "words.{}gram.arpa")
GRAPH, WORDS = "LG.npz", "words.txt"


def read_words(path: str | Path) -> list[str]:
    """Words of ``words.txt`` (lines ``word id``) by id. Raises `UserError` when it is missing or no such table."""
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist; make it with the graph, by prepare_lm.py")
    table: dict[int, str] = {}
    for number, line in enumerate(iterate_lines(path), 1):
        fields = split_fields(line)
        if not fields:
            continue
        try:
            word, index = fields[0], natural(fields[1] if len(fields) == 2 else "")
        except ValueError:
            raise must_be(f"line {number} of {path}", "`word id`", repr(line[:80])) from None
        if table.setdefault(index, word) != word:
            raise must_be(f"line {number} of {path}", f"a new id ({index} is taken)", repr(line[:80]))
    highest = max(table, default=-1)
    if highest > 2 * len(table) + MAX_GAPS:
        raise must_be(f"ids of {path}", f"0, 1, 2, ... of its {len(table)} words", f"up to {highest}")
    return [table.get(i, "") for i in range(highest + 1)]


def write_word_graph(folder: Path, graph: Graph, words: Sequence[str], pieces: Sequence[str]) -> None:
    """Write ``words.txt`` and, with what tells its words and tokens, ``LG.npz``."""
    with atomic_write(folder / WORDS, "w") as out:
        out.writelines(f"{word} {i}\n" for i, word in enumerate(words))
    replace(graph, pieces=tuple(pieces), words_digest=digest_of(words)).save(folder / GRAPH)


def read_word_graph(folder: str | Path, tokenizer: Tokenizer, scale: float) -> tuple[Graph, list[str]]:
    """The LG graph of ``folder`` with its scores times ``scale``, and the words that its output labels number.

    Raises:
        UserError: when a file is missing, or the graph has other tokens than the model or other words than the table.
    """
    path = Path(folder) / GRAPH
    graph, words = Graph.load(path).scaled(scale), read_words(Path(folder) / WORDS)
    if graph.pieces:
        check_same_pieces(graph.pieces, tokenizer.pieces, str(path))
    graph.check_vocabulary(tokenizer.vocab_size, str(path))
    if graph.highest_output() >= len(words) or graph.words_digest not in ("", digest_of(words)):
        expected, remedy = f"the word table of {GRAPH} beside it", "make both again with prepare_lm.py"
        raise must_be(str(path.with_name(WORDS)), expected, "another", remedy)
    if not reaches_end(graph):
        raise UserError(f"{path} has no path from its start to its end; make it again with prepare_lm.py")
    return graph, words


def read_neural_lm(config: NeuralLmConfig, kind: str, tokenizer: Tokenizer) -> NeuralLm:
    """The LM of ``--lm-exp-dir``, averaged over ``--lm-avg`` epochs. Raises `UserError` as `load_lm`."""
    if config.lm_vocab_size not in (0, tokenizer.vocab_size):
        wanted = f"the model's vocabulary size {tokenizer.vocab_size}"
        raise must_be("--lm-vocab-size", wanted, config.lm_vocab_size)
    checkpoints = config.lm_checkpoints(kind)
    lms = [load_lm(kind, path, tokenizer.pieces, **config.lm_sizes(kind)) for path in checkpoints]
    average = lms[0]
    check_sentence_mark(tokenizer.pieces, average.sos_eos_id, "a language model")
    for others in zip(*(lm.parameters() for lm in lms)):
        others[0].data = sum(other.data for other in others) / len(others)
    return average


def read_token_ngram(folder: str | Path, order: int, tokenizer: Tokenizer, backoff_id: int) -> NgramLm:
    """The n-gram over tokens of ``folder``: icefall's ``2gram.fst.txt``, or ``2gram.arpa``.

    Raises:
        UserError: as `open_token_ngram`.
    """
    compiled, arpa = (Path(folder) / f"{order}gram{suffix}" for suffix in (COMPILED, ".arpa"))
    return open_token_ngram(compiled if compiled.is_file() else arpa, tokenizer, backoff_id)


def open_token_ngram(path: str | Path, tokenizer: Tokenizer, backoff_id: int) -> NgramLm:
    """An n-gram over tokens: an ARPA file, or a ``.fst.txt`` with the ``tokens.txt`` that its labels number beside it.

    ``backoff_id`` is the label of back-off arcs where that table does not tell it.

    Raises:
        UserError: when it, or the table, is missing or damaged, or is over other tokens than the tokenizer's.
    """
    if not str(path).endswith(COMPILED):
        return NgramLm(path, tokenizer.pieces)
    table = _table_of(Path(path), TABLE_NAME)
    check_same_pieces(read_tokens(table), tokenizer.pieces, str(table))
    symbols = read_words(table)
    backoff = symbols.index(BACKOFF) if BACKOFF in symbols else backoff_id
    if backoff < tokenizer.vocab_size:
        raise must_be("--backoff-id", f"at least the vocabulary size {tokenizer.vocab_size}", backoff)
    return NgramLm(path, tokenizer.pieces, labels={**dict(enumerate(tokenizer.pieces)), backoff: BACKOFF})


def read_word_ngram(folder: str | Path, words: Sequence[str]) -> NgramLm:
    """The word n-gram of the highest order in ``folder``: icefall's ``G_4_gram.fst.txt``, or an ARPA file.

    Raises:
        UserError: when there is none, it is over other words than the graph's, or the ``words.txt`` that a ``.fst.txt``
            numbers is not beside it.
    """
    path = _highest_order(Path(folder))
    if path is None:
        names = ", ".join(name.format("N") for name in WORD_NGRAMS)
        raise UserError(f"--lm-dir {folder} has none of {names}; make one with prepare_lm.py")
    if not path.name.endswith(COMPILED):
        return NgramLm(path, words, partial=True)
    table = _table_of(path, WORDS)
    symbols = read_words(table)
    if BACKOFF not in symbols:
        raise must_be(str(table), f"the word table of {path.name} beside it, with {BACKOFF}", "another")
    return NgramLm(path, words, labels=dict(enumerate(symbols)))


def _table_of(compiled: Path, name: str) -> Path:
    """The table that tells what a ``.fst.txt``, which holds numbers alone, is about."""
    table = compiled.with_name(name)
    if not (compiled.is_file() and table.is_file()):
        found = "without it" if compiled.is_file() else "not there"
        remedy = f"copy icefall's {name} there, or use the ARPA file"
        raise must_be(str(compiled), f"beside the {name} that it was made with", found, remedy)
    return table


def _highest_order(folder: Path) -> Path | None:
    found: list[tuple[int, int, Path]] = []
    for rank, name in enumerate(WORD_NGRAMS):
        before, after = name.split("{}")
        for path in folder.glob(name.format("*")):
            order = path.name.removeprefix(before).removesuffix(after)
            if order.isdigit():
                found.append((-int(order), rank, path))
    return min(found)[2] if found else None
