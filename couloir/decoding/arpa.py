"""ARPA files: every field is checked, and what they hold becomes an acceptor with back-off arcs."""
# Shapes: A arcs, G states.

from __future__ import annotations

import logging
import math
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from couloir.errors import UserError, must_be
from couloir.files import atomic_write
from couloir.text.tokenizer import BLANKS, SENTENCE_MARKS, UNK
from couloir.texts import iterate_lines, split_fields

BACKOFF = "#0"
BOS, EOS = "<s>", "</s>"
SPECIAL = (*SENTENCE_MARKS, UNK, "<UNK>", *BLANKS, BACKOFF)
ZERO = -99.0
"""What SRILM writes for log10 of 0; other programs write -inf."""
_ROUNDING = 1e-4
_COUNT = re.compile(r"ngram[ \t]+(\d{1,3})[ \t]*=[ \t]*(\d{1,18})")
_SECTION = re.compile(r"\\(\d{1,3})-grams:")
_LN10 = math.log(10)

log = logging.getLogger(__name__)


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


class Ngram(NamedTuple):
    """A line of an ARPA file: its number, the words, and log10 of their probability and of the back-off weight."""

    line: int
    words: list[str]
    score: float
    back: float


class ArpaReader:
    """The n-grams of an ARPA file, in the file's order, each checked.

    Iterating raises `UserError`, naming file and line, for a file that is missing or none such, is cut off, has a field
    that is no log10 of a probability, other counts than its head says, or no ``</s>``.

    Attributes:
        order: the highest order that the file announces, once iteration began. notes: what was taken as something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self.order, self.notes = Path(path), 0, Counter[str]()
        self._counts: dict[int, tuple[int, int, str]] = {}
        self._line = 0

    def __iter__(self) -> Iterator[Ngram]:
        if not self.path.is_file():
            raise UserError(f"language model {self.path} does not exist; make it with prepare_lm.py or give another")
        lines = self._lines()
        section, current, found, has_end = self._head(lines), 0, 0, False
        while section != "\\end\\":
            current = self._next_order(section, current)
            found = 0
            for line in lines:
                if line.startswith("\\"):
                    section = line
                    break
                ngram = self._ngram(line, current)
                has_end |= ngram.words[-1] == EOS
                found += 1
                yield ngram
            else:
                raise must_be(str(self.path), "an ARPA language model, which ends with \\end\\", "another, or cut off")
            self._check_count(current, found)
        for order in range(current + 1, self.order + 1):
            self._check_count(order, 0)
        if not has_end:
            remedy = f"write the sentence's end as {EOS} when the model is made"
            raise must_be(str(self.path), f"an ARPA language model with {EOS}", "one without it", remedy)

    def _lines(self) -> Iterator[str]:
        for number, line in enumerate(iterate_lines(self.path), 1):
            self._line = number
            if text := line.strip(" \t"):
                yield text

    def _error(self, expected: str, found: object, line: int = 0, remedy: str = "") -> UserError:
        return must_be(f"line {line or self._line} of {self.path}", expected, found, remedy)

    def _head(self, lines: Iterator[str]) -> str:
        """Read the counts; the first line behind them."""
        for line in lines:
            if line.lower() in ("iarpa", "qarpa"):
                raise self._error("of an ARPA file", f"IRSTLM's {line}", remedy="convert it by compile-lm --text=yes")
            if line == "\\data\\":
                break
        else:
            raise must_be(str(self.path), "an ARPA language model", "another file, or one that was cut off")
        for line in lines:
            if line.startswith("\\"):
                return line
            found = _COUNT.fullmatch(line)
            if not found or int(found[1]) in self._counts or int(found[1]) < 1:
                raise self._error("`ngram N=COUNT`, once for each N", _shown(line))
            self._counts[int(found[1])] = (int(found[2]), self._line, line)
            self.order = max(self.order, int(found[1]))
        raise must_be(str(self.path), "an ARPA language model", "another file, or one that was cut off")

    def _next_order(self, section: str, last: int) -> int:
        found = _SECTION.fullmatch(section)
        order = int(found[1]) if found else 0
        if order <= last or order not in self._counts:
            raise self._error("the head of the next order that is announced, or \\end\\", _shown(section))
        for skipped in range(last + 1, order):
            self._check_count(skipped, 0)
        return order

    def _check_count(self, order: int, found: int) -> None:
        promised, line, text = self._counts.get(order, (0, self._line, f"ngram {order}=0"))
        if promised != found:
            said = f"{_shown(text)}, so the file was changed or cut off"
            raise self._error(f"`ngram {order}={found}`, the {order}-grams of the file", said, line)

    def _ngram(self, line: str, order: int) -> Ngram:
        fields = split_fields(line)
        if not order + 1 <= len(fields) <= order + 2:
            words = "a word" if order == 1 else f"{order} words"
            raise self._error(f"log10 of a probability, {words} and perhaps a back-off weight", _shown(line))
        score, back = self._number(fields[0], line), 0.0
        if score > 0:
            if score > _ROUNDING:
                raise self._error("log10 of a probability, at most 0", fields[0])
            self.notes["log-probabilities above 0 by rounding are taken as 0"] += 1
            score = 0.0
        if len(fields) == order + 2:
            back = self._number(fields[-1], line)
            if order == self.order and back:
                self.notes["back-off weights of the highest order are left out"] += 1
                back = 0.0
        return Ngram(self._line, fields[1 : order + 1], score, back)

    def _number(self, field: str, line: str) -> float:
        try:
            value = float(field) if field.isascii() and "_" not in field else math.nan
        except ValueError:
            value = math.nan
        if value == -math.inf:
            self.notes[f"-inf is taken as {ZERO:g}"] += 1
            return ZERO
        if not math.isfinite(value):
            expected = "log10 of a probability, words and a back-off weight, numbers with a decimal point"
            raise self._error(expected, f"`{field[:40]}` in {_shown(line)}")
        return value


def read_arpa(path: str | Path, symbols: Sequence[str], max_order: int = -1, partial: bool = False) -> ArpaFst:
    """Read an ARPA file (packed too); a symbol's number is its position in ``symbols``, 0 being blank or epsilon.

    A model without ``<s>`` begins sentences without history. An n-gram whose beginning is not listed gets one at what
    backing off gives it, as SRILM does.

    Args:
        max_order: n-grams up to this order; -1 for all. partial: leave out n-grams of other symbols, as one does with
            words; tokens must all be known.

    Raises:
        UserError: as `ArpaReader`; an n-gram is there twice, or has a symbol that ``symbols`` lack; with ``partial``,
            the file has none in common with them.
    """
    number = _numbers(symbols)
    reader, tree = ArpaReader(path), _Tree(len(symbols))
    strange, known = dict[str, None](), False
    for ngram in reader:
        order = len(ngram.words)
        if max_order > 0 and order > max_order:
            continue
        gram = [number.get(word, -1) for word in ngram.words]
        if min(gram) < 0:
            missing = [word for word, i in zip(ngram.words, gram) if i < 0]
            strange.update(dict.fromkeys(word for word in missing if word not in SPECIAL))
            reader.notes["n-grams of a symbol that is never scored, such as the blank, are left out"] += any(
                word in (*BLANKS, BACKOFF) for word in missing
            )
            continue
        known |= ngram.words[-1] not in SPECIAL
        if BOS in ngram.words[1:] or EOS in ngram.words[:-1]:
            continue  # no sentence comes to these
        if not tree.add(gram, ngram.score, ngram.back if order != max_order else 0.0):
            raise must_be(f"line {ngram.line} of {path}", "a new n-gram", f"`{' '.join(ngram.words)[:80]}` again")
    if not known or (strange and not partial):
        raise other_symbols(path, list(strange))
    reader.notes["beginnings of n-grams that are not listed are added"] = tree.added
    for note, count in sorted((+reader.notes).items()):
        log.warning("%s: %s (%d)", path, note, count)
    return tree.acceptor(symbols.index(BACKOFF) if BACKOFF in symbols else len(symbols))


def arpa_words(path: str | Path) -> tuple[list[str], int]:
    """The words of an ARPA file, special ones aside, and its highest order. Raises `UserError` as `ArpaReader`."""
    reader = ArpaReader(path)
    words = [n.words[0] for n in reader if len(n.words) == 1 and n.words[0] not in SPECIAL]
    if not words:
        raise must_be(str(path), "an ARPA language model with words", "one without any")
    return words, reader.order


def copy_arpa(source: str | Path, target: Path) -> None:
    """The same ARPA file as ``target``, no longer packed."""
    with atomic_write(target, "w") as out:
        out.writelines(line + "\n" for line in iterate_lines(source))


def other_symbols(path: str | Path, strange: Sequence[str]) -> UserError:
    """The error for an LM of other units than are wanted."""
    some = ", ".join(f"`{symbol[:80]}`" for symbol in strange[:3])
    expected, remedy = "symbols of the tokenizer or lexicon", "use the LM that was trained on these units"
    return must_be(f"words of {path}", expected, f"others, such as {some}" if strange else "none at all", remedy)


def _numbers(symbols: Sequence[str]) -> dict[str, int]:
    """Symbol -> number, for those that an n-gram may hold; the sentence's marks come behind all symbols."""
    number = {symbol: i for i, symbol in enumerate(symbols) if i and symbol not in (*BLANKS, BACKOFF)}
    return {**number, BOS: len(symbols), EOS: len(symbols) + 1}


def _shown(line: str) -> str:
    return repr(line if len(line) <= 80 else line[:77] + "...")


class _Tree:
    """Histories as a tree, node 0 the empty one; a node is the last word of an n-gram behind its other words.

    Words are numbers; `width` - 2 begins a sentence and `width` - 1 ends it.
    """

    def __init__(self, symbols: int) -> None:
        self.width, self.added = symbols + 2, 0
        self._child: dict[int, int] = {}
        self._parent, self._word, self._depth = array("q", [0]), array("q", [-1]), array("q", [0])
        self._score, self._back = array("d", [0.0]), array("d", [0.0])

    def add(self, gram: Sequence[int], score: float, back: float) -> bool:
        """Take an n-gram; False where it is there already."""
        node = 0
        for at, word in enumerate(gram[:-1]):
            child = self._child.get(node * self.width + word)
            if child is None:
                child = self._insert(node, word, self._backed_off(gram[: at + 1]), 0.0)
                self.added += word != self.width - 2
            node = child
        if node * self.width + gram[-1] in self._child:
            return False
        self._insert(node, gram[-1], score, back)
        return True

    def _insert(self, parent: int, word: int, score: float, back: float) -> int:
        node = len(self._parent)
        self._child[parent * self.width + word] = node
        self._parent.append(parent)
        self._word.append(word)
        self._depth.append(self._depth[parent] + 1)
        self._score.append(score)
        self._back.append(back)
        return node

    def _find(self, gram: Sequence[int]) -> int:
        node = 0
        for word in gram:
            node = self._child.get(node * self.width + word, -1)
            if node < 0:
                return -1
        return node

    def _backed_off(self, gram: Sequence[int]) -> float:
        """log10 of the probability of a gram's last word behind the others."""
        total = 0.0
        for first in range(len(gram)):
            found = self._find(gram[first:])
            if found > 0:
                return total + self._score[found]
            history = self._find(gram[first:-1])
            total += self._back[history] if history > 0 else 0.0
        return ZERO

    def _shorter(self, by_depth: np.ndarray) -> np.ndarray:
        """For each node the longest proper ending of its n-gram that is a node too."""
        child, width, parent, word = self._child, self.width, self._parent, self._word
        shorter = [0] * len(parent)
        for node in by_depth.tolist():
            if self._depth[node] < 2:
                continue
            history, last = shorter[parent[node]], word[node]
            while history and history * width + last not in child:
                history = shorter[history]
            shorter[node] = child.get(history * width + last, 0)
        return np.array(shorter)

    def acceptor(self, backoff: int) -> ArpaFst:
        """The acceptor whose states are histories that some n-gram goes on from, and the empty one."""
        parent, word, depth = (np.array(part, dtype=np.int64) for part in (self._parent, self._word, self._depth))
        score, back = (np.array(part) * _LN10 for part in (self._score, self._back))
        by_depth = np.argsort(depth, kind="stable")
        shorter = self._shorter(by_depth)
        begin = max(self._find([self.width - 2]), 0)
        is_state = np.zeros(len(parent), dtype=bool)
        is_state[parent[1:]] = is_state[0] = True
        is_state[begin] |= back[begin] != 0
        lands, pays = np.arange(len(parent)), np.zeros(len(parent))  # where a node ends up, and what backing off costs
        for level in np.split(by_depth, np.flatnonzero(np.diff(depth[by_depth])) + 1)[1:]:
            left = level[~is_state[level]]
            lands[left], pays[left] = lands[shorter[left]], back[left] + pays[shorter[left]]
        state = np.cumsum(is_state) - 1
        final = np.full(int(is_state.sum()), -np.inf)
        ends = np.flatnonzero(word == self.width - 1)
        final[state[parent[ends]]] = score[ends]
        arcs = np.flatnonzero((word >= 0) & (word < self.width - 2))
        backs = np.flatnonzero(is_state)[1:]
        onward = shorter[backs]
        return ArpaFst(
            np.concatenate([state[parent[arcs]], state[backs]]),
            np.concatenate([state[lands[arcs]], state[lands[onward]]]),
            np.concatenate([word[arcs], np.full(len(backs), backoff)]),
            np.concatenate([score[arcs] + pays[arcs], back[backs] + pays[onward]]),
            final,
            int(state[lands[begin]]),
            backoff,
        )
