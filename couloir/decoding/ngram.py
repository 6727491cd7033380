"""n-gram language models: ARPA files read through kaldilm, scored for many hypotheses at once, and estimated."""

from __future__ import annotations

import gzip
import math
import os
import re
import sys
import tempfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from couloir.decoding.extras import graph_package
from couloir.decoding.fsa.ragged import find
from couloir.errors import UserError, must_be
from couloir.files import atomic_write
from couloir.text.tokenizer import BLANK, SENTENCE_MARKS, UNK

BACKOFF = "#0"
BOS, EOS = "<s>", "</s>"
SPECIAL = (*SENTENCE_MARKS, UNK, "<UNK>", BLANK, "<eps>")
COMPILED = ".fst.txt"
Gram = tuple[str, ...]


@dataclass(frozen=True)
class ArpaFst:
    """An n-gram model as an acceptor: arcs (A,) source, target, label (a symbol's number) and score; final scores.

    ``backoff`` is the label of back-off arcs; ``final`` (G,) is -inf where a sentence may not end at once.
    """

    source: np.ndarray
    target: np.ndarray
    label: np.ndarray
    score: np.ndarray
    final: np.ndarray
    start: int
    backoff: int


def read_arpa(path: str | Path, symbols: Sequence[str], max_order: int = -1, partial: bool = False) -> ArpaFst:
    """Read an ARPA file (``.gz`` too); a symbol's number is its position in ``symbols``, 0 being blank or epsilon.

    Args:
        max_order: n-grams up to this order; -1 for all. partial: leave out n-grams of other symbols, as one does with
            words; tokens must all be known.

    Raises:
        UserError: when the file is missing, is no ARPA file, or has a symbol that ``symbols`` lack; with ``partial``,
            none in common with them.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"language model {path} does not exist; make it with prepare_lm.py or give another")
    _check(path, symbols, partial)
    kaldilm = graph_package("kaldilm")
    with tempfile.TemporaryDirectory() as folder:
        arpa, table = Path(folder) / "lm.arpa", Path(folder) / "symbols.txt"
        with open(arpa, "w", encoding="utf-8") as out:
            out.writelines(_up_to_order(read_lines(path), max_order))
        known = [*symbols, BACKOFF] if BACKOFF not in symbols else list(symbols)
        table.write_text("".join(f"{symbol} {i}\n" for i, symbol in enumerate(known)), encoding="utf-8")
        with _quiet():
            text = kaldilm.arpa2fst(str(arpa), "", disambig_symbol=BACKOFF, read_symbol_table=str(table))
    return _parse_fst(text, known.index(BACKOFF))


def arpa_words(path: str | Path) -> tuple[list[str], int]:
    """The words of an ARPA file, special ones aside, and its highest order. Raises `UserError` as `read_arpa`."""
    path, words, order = Path(path), list[str](), 0
    if not path.is_file():
        raise UserError(f"language model {path} does not exist; make it with prepare_lm.py or give another")
    section = ""
    for line in read_lines(path):
        fields = line.split()
        if line.startswith("\\"):
            section = line.strip()
            found = re.fullmatch(r"\\(\d+)-grams:", section)
            order = max(order, int(found[1])) if found else order
        elif section == "\\1-grams:" and len(fields) > 1 and fields[1] not in SPECIAL:
            words.append(fields[1])
    if section != "\\end\\" or not words:
        raise must_be(str(path), "an ARPA language model", "another file, or one that was cut off")
    return words, order


def copy_arpa(source: str | Path, target: Path) -> None:
    """The same ARPA file as ``target``, no longer packed."""
    with atomic_write(target, "w") as out:
        out.writelines(read_lines(source))


def read_lines(path: str | Path) -> Iterator[str]:
    """The lines of a text, a packed one (``.gz``) too. Raises `UserError` naming the file when it is not that."""
    packed = Path(path).suffix == ".gz"
    opener: Callable[..., IO[str]] = gzip.open if packed else open
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            yield from lines
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error):
        raise must_be(str(path), "a UTF-8 text" + " packed by gzip" * packed, "another file, or damaged") from None


def read_fst_text(path: str | Path, labels: Mapping[int, str], symbols: Sequence[str]) -> ArpaFst:
    """Read what kaldilm printed (icefall's ``2gram.fst.txt``); arcs of other symbols are left out.

    Args:
        labels: what the file's labels stand for, ``#0`` among them. symbols: by the numbers that they are to have.

    Raises:
        UserError: when the file is missing or no such text, has labels without a symbol, or has no symbol in common
            with ``symbols``.
    """
    number = {symbol: i for i, symbol in enumerate(symbols)}
    backoff = number.setdefault(BACKOFF, len(symbols))
    try:
        fst = _parse_fst(Path(path).read_text(encoding="utf-8"), backoff)
    except FileNotFoundError:
        raise UserError(f"language model {path} does not exist; make it with prepare_lm.py or give another") from None
    except (ValueError, IndexError):
        raise must_be(str(path), "an acceptor in OpenFst's text form", "something else") from None
    used, place = np.unique(fst.label, return_inverse=True)
    strange = next((label for label in used.tolist() if label not in labels), None)
    if strange is not None:
        raise must_be(f"labels of {path}", f"of the table beside it, or {BACKOFF}", strange)
    label = np.array([number.get(labels[label], -1) for label in used.tolist()])[place]
    kept = label >= 0
    if not (kept & (label != backoff)).any():
        raise _other_symbols(path, [labels[label] for label in used.tolist()])
    return replace(fst, source=fst.source[kept], target=fst.target[kept], label=label[kept], score=fst.score[kept])


def _up_to_order(lines: Iterable[str], max_order: int) -> Iterator[str]:
    """The lines of an ARPA file without higher orders; kaldilm itself would leave the last one its back-off weights."""
    order = 0
    for line in lines:
        words = line.split()
        if line.startswith("\\"):
            order = int(line[1 : line.index("-")]) if line.strip().endswith("-grams:") else 0
        elif line.startswith("ngram ") and max_order > 0 and int(line[len("ngram ") :].split("=")[0]) > max_order:
            continue
        if max_order > 0 and order > max_order:
            continue
        if order == max_order and len(words) == order + 2:
            line = " ".join(words[:-1]) + "\n"
        yield line


def _check(path: Path, symbols: Sequence[str], partial: bool) -> None:
    """Refuse what kaldilm would end the process on, and a model of other units than ``symbols``."""
    known, strange, words = {*symbols, *SPECIAL}, [], 0
    promised: dict[str, int] = {}
    found: Counter[str] = Counter()
    section = ""
    for line in read_lines(path):
        line = line.strip()
        if line.startswith("\\"):
            section = line
        elif section == "\\data\\" and line.startswith("ngram "):
            order, _, count = line[len("ngram ") :].partition("=")
            promised[f"\\{order.strip()}-grams:"] = int(count) if count.strip().isdigit() else -1
        elif line and section:
            found[section] += 1
            if section == "\\1-grams:":
                word = [*line.split(), ""][1]
                words += word not in SPECIAL
                if word not in known:
                    strange.append(word)
    if not promised or section != "\\end\\" or promised != {name: found[name] for name in promised}:
        raise must_be(str(path), "an ARPA language model", "another file, or one that was cut off")
    if strange and (len(strange) == words or not partial):
        raise _other_symbols(path, strange)


def _other_symbols(path: str | Path, strange: Sequence[str]) -> UserError:
    some = ", ".join(f"`{symbol}`" for symbol in strange[:3])
    expected, remedy = "symbols of the tokenizer or lexicon", "use the LM that was trained on these units"
    return must_be(f"words of {path}", expected, f"others, such as {some}", remedy)


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop what a C++ library logs to stderr."""
    sys.stderr.flush()
    saved = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _parse_fst(text: str, backoff: int) -> ArpaFst:
    arcs, finals = [], []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 4:
            arcs.append((int(fields[0]), int(fields[1]), int(fields[2]), -float(fields[4]) if len(fields) > 4 else 0.0))
        elif fields:
            finals.append((int(fields[0]), -float(fields[1]) if len(fields) > 1 else 0.0))
    if not arcs:
        raise UserError("the language model has no n-gram over these symbols; use the LM that was trained on them")
    table = np.array(arcs)
    source, target, label = (table[:, i].astype(np.int64) for i in range(3))
    final = np.full(max(source.max(), target.max()) + 1, -np.inf)
    for state, score in finals:
        final[state] = score
    return ArpaFst(source, target, label, table[:, 3], final, int(source[0]), backoff)


class NgramLm:
    """An n-gram over tokens, as a `TokenScorer`: shallow fusion, or LODR with a negative scale.

    Args:
        path: ARPA file, or kaldilm's ``.fst.txt`` of one. pieces: the tokenizer's pieces, by id.
        max_order, partial: as `read_arpa` takes them. labels: as `read_fst_text` takes them; None: the pieces, then #0.

    A token that the model lacks costs as much as its rarest unigram. Raises `UserError` as `read_arpa`.
    """

    def __init__(
        self, path: str | Path, pieces: Sequence[str], max_order: int = -1, partial: bool = False,
        labels: Mapping[int, str] | None = None,
    ) -> None:  # fmt: skip
        if str(path).endswith(COMPILED):
            fst = read_fst_text(path, labels or dict(enumerate([*pieces, BACKOFF])), pieces)
        else:
            fst = read_arpa(path, pieces, max_order, partial)
        self.vocab_size = len(pieces)
        backs = fst.label == fst.backoff
        order = np.lexsort((fst.label[~backs], fst.source[~backs]))
        source, label = fst.source[~backs][order], fst.label[~backs][order]
        self._keys = torch.from_numpy(source * self.vocab_size + label)
        self._target = torch.from_numpy(fst.target[~backs][order])
        self._score = torch.from_numpy(fst.score[~backs][order])
        self._back = torch.full((len(fst.final),), -1, dtype=torch.int64)
        self._back_score = torch.zeros(len(fst.final), dtype=torch.float64)
        self._back[torch.from_numpy(fst.source[backs])] = torch.from_numpy(fst.target[backs])
        self._back_score[torch.from_numpy(fst.source[backs])] = torch.from_numpy(fst.score[backs])
        self._final = torch.from_numpy(fst.final)
        self.start_state = fst.start
        unigrams = ~torch.isin(torch.from_numpy(source), torch.nonzero(self._back >= 0).squeeze(1))
        self._unknown = float(self._score[unigrams].min()) if bool(unigrams.any()) else 0.0

    @property
    def num_states(self) -> int:
        """Histories that the model tells apart."""
        return len(self._back)

    def to(self, device: torch.device | str) -> NgramLm:
        """Move to a device, in place."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        return self

    def start(self, rows: int, device: torch.device) -> tuple[Tensor, ...]:
        """As `TokenScorer.start`: after the sentence's begin."""
        return (torch.full((rows,), self.start_state, dtype=torch.int64, device=device),)

    def step(self, state: tuple[Tensor, ...], tokens: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As `TokenScorer.step`; natural log."""
        score, after = self.advance(state[0], tokens)
        return score, (after,)

    def preview(self, state: tuple[Tensor, ...], tokens: Tensor) -> Tensor:
        """As `TokenScorer.preview`."""
        return self.advance(state[0].repeat_interleave(tokens.shape[1]), tokens.flatten())[0].view(tokens.shape)

    def advance(self, state: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability (N,) float64 of ``token`` (N,) in ``state`` (N,), and the next state (N,)."""
        total = torch.zeros(state.shape, dtype=torch.float64, device=state.device)
        after, pending = torch.full_like(state, -1), torch.arange(len(state), device=state.device)
        while len(pending):
            here = state[pending]
            at, known = find(self._keys, here * self.vocab_size + token[pending])
            found = pending[known]
            total[found] += self._score[at[known]]
            after[found] = self._target[at[known]]
            back = self._back[here]
            lost = ~known & (back < 0)
            total[pending[lost]] += self._unknown
            after[pending[lost]] = here[lost]
            onward = ~known & (back >= 0)
            pending, here = pending[onward], here[onward]
            total[pending] += self._back_score[here]
            state = state.index_copy(0, pending, self._back[here])
        return total, after

    def final(self, state: tuple[Tensor, ...]) -> Tensor:
        """As `TokenScorer.final`: nothing, since icefall's fusion does not count the sentence's end."""
        return torch.zeros(state[0].shape, dtype=torch.float64, device=state[0].device)

    def end_scores(self, state: Tensor) -> Tensor:
        """Log-probability (N,) that the sentence ends in ``state`` (N,)."""
        total = torch.zeros(state.shape, dtype=torch.float64, device=state.device)
        for _ in range(self.num_states):
            onward = ~self._final[state].isfinite() & (self._back[state] >= 0)
            if not bool(onward.any()):
                break
            total = torch.where(onward, total + self._back_score[state], total)
            state = torch.where(onward, self._back[state], state)
        return total + self._final[state]

    def sequence_scores(self, sequences: Sequence[Sequence[int]], end: bool = True) -> Tensor:
        """Log-probability (N,) of whole sequences, with the sentence's end unless ``end`` is False."""
        device = self._keys.device
        state = self.start(len(sequences), device)[0]
        total = torch.zeros(len(sequences), dtype=torch.float64, device=device)
        longest = max(map(len, sequences), default=0)
        steps = [[(n, tokens[i]) for n, tokens in enumerate(sequences) if len(tokens) > i] for i in range(longest)]
        pairs = torch.tensor([pair for step in steps for pair in step], dtype=torch.int64).view(-1, 2)
        for pair in pairs.to(device).split([len(step) for step in steps]):  # moved once, not once per step
            at, token = pair.unbind(1)
            score, after = self.advance(state[at], token)
            total[at] += score
            state = state.index_copy(0, at, after)
        return total + self.end_scores(state) if end else total


def estimate_arpa(sentences: Iterable[Sequence[str]], order: int, path: str | Path) -> None:
    """Write an interpolated Kneser-Ney n-gram model (Chen and Goodman 1999, one discount per order) as ARPA.

    Args:
        sentences: the units of each. order: 1 or more. path: where the ARPA file goes.

    Raises:
        UserError: when there is no sentence.
    """
    counts: list[Counter[Gram]] = [Counter() for _ in range(order)]
    for sentence in sentences:
        units = (BOS, *sentence, EOS)
        for n in range(1, order + 1):
            counts[n - 1].update(units[i : i + n] for i in range(len(units) - n + 1))
    if not counts[0]:
        raise UserError("the text for the language model must have a sentence, but is empty")
    del counts[0][(BOS,)]
    adjusted = [_continuations(counts, n) for n in range(order)]
    probabilities, weights = [], []
    lower: dict[Gram, float] = {(): 1.0 / len(adjusted[0])}
    for table in adjusted:
        now, weight = _interpolate(table, lower)
        probabilities.append(now)
        weights.append(weight)
        lower = now
    _write_arpa(path, probabilities, weights)


def _continuations(counts: list[Counter[Gram]], n: int) -> Counter[Gram]:
    """Counts of order n+1: of the highest order, and of grams that begin a sentence, as they are; else of contexts."""
    if n == len(counts) - 1:
        return counts[n]
    seen: Counter[Gram] = Counter(gram[1:] for gram in counts[n + 1])
    for gram, count in counts[n].items():
        if gram[0] == BOS:
            seen[gram] = count
    return seen


def _interpolate(table: Counter[Gram], lower: dict[Gram, float]) -> tuple[dict[Gram, float], dict[Gram, float]]:
    """Probabilities of one order and the back-off weights of its histories."""
    ones, twos = (sum(count == k for count in table.values()) for k in (1, 2))
    discount = ones / (ones + 2 * twos) if ones and twos else 0.5
    total: dict[Gram, int] = defaultdict(int)
    kinds: dict[Gram, int] = defaultdict(int)
    for gram, count in table.items():
        total[gram[:-1]] += count
        kinds[gram[:-1]] += 1
    weight = {history: discount * kinds[history] / total[history] for history in total}
    backed = lower if () not in lower else None
    uniform = lower.get((), 0.0)
    return {
        gram: (count - discount) / total[gram[:-1]]
        + weight[gram[:-1]] * (uniform if backed is None else backed[gram[1:]])
        for gram, count in table.items()
    }, weight


def _write_arpa(path: str | Path, probabilities: list[dict[Gram, float]], weights: list[dict[Gram, float]]) -> None:
    with atomic_write(path, "w") as out:
        out.write("\n\\data\\\n")
        probabilities[0][(BOS,)] = 10**-99.0
        out.writelines(f"ngram {n}={len(table)}\n" for n, table in enumerate(probabilities, 1))
        for n, table in enumerate(probabilities, 1):
            backoff = weights[n] if n < len(weights) else {}
            out.write(f"\n\\{n}-grams:\n")
            for gram, probability in sorted(table.items()):
                tail = f"\t{math.log10(backoff[gram]):.6f}" if gram in backoff else ""
                out.write(f"{math.log10(probability):.6f}\t{' '.join(gram)}{tail}\n")
        out.write("\n\\end\\\n")
