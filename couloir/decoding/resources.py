"""What decoding methods read from disk: graphs with their words, and language models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from couloir.decoding.fsa.graph import Graph, reaches_end
from couloir.decoding.lm import NeuralLm
from couloir.decoding.lm_checkpoint import load_lm
from couloir.decoding.lm_config import NeuralLmConfig
from couloir.decoding.ngram import NgramLm
from couloir.errors import UserError, must_be
from couloir.text.tokenizer import TABLE_NAME, Tokenizer, check_same_pieces, read_tokens

WORD_NGRAMS = ("G_{}_gram.fst.txt", "G_{}_gram.arpa", "words.{}gram.arpa")
GRAPH, WORDS = "LG.npz", "words.txt"


def read_words(path: str | Path) -> list[str]:
    """Words of ``words.txt`` (lines ``word id``) by id. Raises `UserError` when it is missing or no such table."""
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist; make it with the graph, by prepare_lm.py")
    table: dict[int, str] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        word, _, index = line.rpartition(" ")
        if not index.isdigit():
            raise must_be(f"line {number} of {path}", "`word id`", repr(line))
        table[int(index)] = word
    return [table.get(i, "") for i in range(max(table, default=-1) + 1)]


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
    if graph.highest_output() >= len(words):
        raise must_be(str(path.with_name(WORDS)), f"the word table of {GRAPH} beside it", "shorter")
    if not reaches_end(graph):
        raise UserError(f"{path} has no path from its start to its end; make it anew with prepare_lm.py")
    return graph, words


def read_neural_lm(config: NeuralLmConfig, kind: str, tokenizer: Tokenizer) -> NeuralLm:
    """The LM of ``--lm-exp-dir``, averaged over ``--lm-avg`` epochs. Raises `UserError` as `load_lm`."""
    if config.lm_vocab_size not in (0, tokenizer.vocab_size):
        wanted = f"the model's vocabulary size {tokenizer.vocab_size}"
        raise must_be("--lm-vocab-size", wanted, config.lm_vocab_size)
    checkpoints = config.lm_checkpoints(kind)
    lms = [load_lm(kind, path, tokenizer.pieces, **config.lm_sizes(kind)) for path in checkpoints]
    average = lms[0]
    for others in zip(*(lm.parameters() for lm in lms)):
        others[0].data = sum(other.data for other in others) / len(others)
    return average


def read_token_ngram(folder: str | Path, order: int, tokenizer: Tokenizer, backoff_id: int) -> NgramLm:
    """The n-gram over tokens of ``folder``: icefall's ``2gram.fst.txt``, or ``2gram.arpa``. Raises `UserError`."""
    compiled, table = Path(folder) / f"{order}gram.fst.txt", Path(folder) / TABLE_NAME
    if compiled.is_file():
        if table.is_file():  # its labels are numbers alone
            check_same_pieces(read_tokens(table), tokenizer.pieces, str(table))
        return NgramLm(compiled, tokenizer.pieces, backoff_id=backoff_id)
    return NgramLm(Path(folder) / f"{order}gram.arpa", tokenizer.pieces)


def read_word_ngram(folder: str | Path, words: Sequence[str]) -> NgramLm:
    """The word n-gram of the highest order in ``folder``: icefall's ``G_4_gram.fst.txt``, or an ARPA file.

    Raises:
        UserError: when there is none, or it is over other words than the graph's.
    """
    path = _highest_order(Path(folder))
    if path is None:
        names = ", ".join(name.format("N") for name in WORD_NGRAMS)
        raise UserError(f"--lm-dir {folder} has none of {names}; make one with prepare_lm.py")
    backoff = words.index("#0") if "#0" in words else len(words)
    return NgramLm(path, words, backoff_id=backoff)


def _highest_order(folder: Path) -> Path | None:
    found: list[tuple[int, int, Path]] = []
    for rank, name in enumerate(WORD_NGRAMS):
        before, after = name.split("{}")
        for path in folder.glob(name.format("*")):
            order = path.name.removeprefix(before).removesuffix(after)
            if order.isdigit():
                found.append((-int(order), rank, path))
    return min(found)[2] if found else None
