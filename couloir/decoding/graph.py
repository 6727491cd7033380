"""Decoding graphs from a lexicon and an ARPA language model, composed with kaldifst."""
# Shapes: M labels of each, N arcs.

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from couloir.decoding.arpa import ArpaFst, read_arpa
from couloir.decoding.extras import graph_package
from couloir.decoding.fsa.graph import FINAL, Graph, make_graph
from couloir.decoding.fsa.ragged import expand, splits_of
from couloir.errors import UserError, must_be
from couloir.files import atomic_write
from couloir.text.tokenizer import Tokenizer
from couloir.texts import iterate_lines, split_fields

EPSILON_WORD = "<eps>"
_FINAL_LINE = re.compile(r"^\d+[ \t]+\S+$", re.MULTILINE)  # of OpenFst's text form: state, weight


@dataclass(frozen=True)
class Lexicon:
    """Words and how they are spelt in tokens; a word may have several spellings.

    Fields:
        words: by word id, ``<eps>`` being 0. entries: (word id, token ids) pairs.
    """

    words: list[str]
    entries: list[tuple[int, list[int]]]

    def save(self, path: str | Path, pieces: Sequence[str]) -> None:
        """Write ``lexicon.txt``: a line ``word token token ...`` for each entry."""
        with atomic_write(path, "w") as out:
            out.writelines(f"{self.words[w]} {' '.join(pieces[t] for t in tokens)}\n" for w, tokens in self.entries)


def make_lexicon(spellings: Iterable[tuple[str, list[int]]]) -> Lexicon:
    """A lexicon of (word, token ids) pairs; equal pairs count once."""
    distinct = sorted({(word, tuple(tokens)) for word, tokens in spellings})
    words = [EPSILON_WORD, *sorted({word for word, _ in distinct})]
    number = {word: i for i, word in enumerate(words)}
    return Lexicon(words, [(number[word], list(tokens)) for word, tokens in distinct])


def read_lexicon(path: str | Path, pieces: Sequence[str]) -> Lexicon:
    """Read ``lexicon.txt``.

    Raises:
        UserError: when the file is missing or empty, or naming a line that has no token or one that the vocabulary
            lacks.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"lexicon {path} does not exist; make it with prepare_lm.py")
    number = {piece: i for i, piece in enumerate(pieces)}
    spellings = []
    for at, line in enumerate(iterate_lines(path), 1):
        word, *tokens = split_fields(line) or [""]
        if not word:
            continue
        unknown = next((token for token in tokens if number.get(token, 0) == 0), None)
        if unknown is not None or not tokens:
            raise must_be(
                f"line {at} of {path}", "`word token token ...` with tokens of the model's vocabulary",
                f"one with `{unknown}`" if unknown else "one without tokens",
            )  # fmt: skip
        spellings.append((word, [number[token] for token in tokens]))
    if not spellings:
        raise must_be(str(path), "a lexicon of lines `word token token ...`", "empty")
    return make_lexicon(spellings)


def spell_words(words: Iterable[str], tokenizer: Tokenizer) -> Lexicon:
    """The lexicon of words as a tokenizer spells them; words that it cannot spell, or by nothing, are left out."""
    distinct = sorted(set(words))
    spelt = ((word, tokenizer.encode(word)) for word in distinct if not tokenizer.unknown_symbols(word))
    return make_lexicon((word, tokens) for word, tokens in spelt if any(tokens))


def build_lg(lexicon: Lexicon, arpa: str | Path, vocab_size: int, max_order: int = -1) -> Graph:
    """Compose a lexicon with a word n-gram: tokens in, word ids out.

    It is determinised with pushed weights, so a word's probability is spread over its tokens. Back-off and other
    epsilons become moves that take no frame.

    Args:
        lexicon: see `Lexicon`. arpa: the word LM. vocab_size: tokens of the model. max_order: n-grams up to this order.

    Raises:
        UserError: when lexicon and LM share no path, or as `read_arpa`.
    """
    kaldifst = graph_package("kaldifst")
    language_model = read_arpa(arpa, lexicon.words, max_order, partial=True)
    spelt = _lexicon_fst(lexicon, vocab_size, language_model.backoff)
    kaldifst.arcsort(spelt, sort_type="olabel")
    grammar = _grammar_fst(language_model)
    kaldifst.arcsort(grammar, sort_type="ilabel")
    composed = kaldifst.compose(spelt, grammar)
    if composed.start < 0:
        raise UserError(f"the lexicon and {arpa} have no word sequence in common; use the lexicon of this LM")
    kaldifst.determinize_star(composed, use_log=True)
    kaldifst.minimize_encoded(composed)
    kaldifst.connect(composed)
    return graph_from_fst(composed, vocab_size, language_model.backoff)


def _lexicon_fst(lexicon: Lexicon, vocab_size: int, backoff: int) -> Any:
    """Spellings as loops at one state. What begins or equals another spelling ends in a symbol #1, #2, ..."""
    times = Counter(tuple(tokens) for _, tokens in lexicon.entries)
    prefixes = {spelling[:n] for spelling in times for n in range(1, len(spelling))}
    used: Counter[tuple[int, ...]] = Counter()
    lines, fresh = [f"0 0 {vocab_size} {backoff} 0"], 1
    for word, tokens in lexicon.entries:
        spelling = tuple(tokens)
        if times[spelling] > 1 or spelling in prefixes:
            used[spelling] += 1
            tokens = [*tokens, vocab_size + used[spelling]]
        here, output = 0, word
        for token in tokens[:-1]:
            lines.append(f"{here} {fresh} {token} {output} 0")
            here, output, fresh = fresh, 0, fresh + 1
        lines.append(f"{here} 0 {tokens[-1]} {output} 0")
    return graph_package("kaldifst").compile("\n".join([*lines, "0 0", ""]))


def _grammar_fst(model: ArpaFst) -> Any:
    # kaldifst takes the first line's state as the start
    order = np.argsort(model.source != model.start, kind="stable")
    lines = [
        f"{s} {t} {label} {label} {-score:.6g}"
        for s, t, label, score in zip(
            model.source[order].tolist(), model.target[order].tolist(), model.label[order].tolist(),
            model.score[order].tolist(),
        )
    ]  # fmt: skip
    finals = [f"{state} {-model.final[state]:.6g}" for state in np.nonzero(np.isfinite(model.final))[0].tolist()]
    return graph_package("kaldifst").compile("\n".join([*lines, *finals, ""]))


def graph_from_fst(fst: Any, vocab_size: int, first_auxiliary_output: int) -> Graph:
    """A `Graph` of a kaldifst transducer.

    Args:
        fst: its weights are costs. vocab_size: input labels from here on are auxiliary symbols, taken as epsilons.
        first_auxiliary_output: as much for output labels.
    """
    text = fst.to_str(show_weight_one=True)
    finals = [(int(line.split()[0]), -float(line.split()[1])) for line in _FINAL_LINE.findall(text)]
    # One parse of millions of lines, all of five fields once the final states' are out.
    table = torch.from_numpy(np.fromstring(_FINAL_LINE.sub("", text), sep=" ")).reshape(-1, 5)
    source, target, label, aux = table[:, :4].long().unbind(1)
    score = -table[:, 4]
    states = int(max(source.max(), target.max())) + 1 if len(table) else 1
    label = torch.where(label >= vocab_size, 0, label)
    aux = torch.where(aux >= first_auxiliary_output, 0, aux)
    swap = _start_first(states, fst.start)
    source, target = swap[source], swap[target]
    ends = swap[torch.tensor([state for state, _ in finals], dtype=torch.int64)]
    end_scores = torch.tensor([score for _, score in finals], dtype=torch.float64)
    moves = _epsilon_moves(source[label == 0], target[label == 0], score[label == 0], aux[label == 0], states)
    takes = label > 0
    return make_graph(
        torch.cat([source[takes], ends]),
        torch.cat([target[takes], torch.full_like(ends, states)]),
        torch.cat([label[takes], torch.full_like(ends, FINAL)]),
        torch.cat([score[takes], end_scores]),
        torch.cat([aux[takes], torch.zeros_like(ends)])[:, None],
        states + 1,
        moves=moves,
    )


def _start_first(states: int, start: int) -> Tensor:
    """New numbers (states,) by which the start state is 0."""
    numbers = torch.arange(states)
    numbers[start], numbers[0] = 0, start
    return numbers


def _epsilon_moves(
    source: Tensor, target: Tensor, score: Tensor, aux: Tensor, states: int
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """All paths of epsilon arcs, that of none included: (splits, next, score, aux) as in `Graph`.

    Raises:
        UserError: when epsilons form a loop.
    """
    if not len(source):
        return None
    if _has_loop(source, target, states):
        raise UserError("the decoding graph has a loop of epsilons; check the lexicon for empty spellings")
    order = torch.sort(source, stable=True).indices
    splits, target, score, aux = splits_of(source[order], states + 1), target[order], score[order], aux[order]
    here = torch.arange(states + 1)
    paths = [
        (here, here, torch.zeros(states + 1, dtype=torch.float64), torch.zeros((states + 1, 1), dtype=torch.int64))
    ]
    while len(paths[-1][0]):
        begin, end, total, outputs = paths[-1]
        owner, arc = expand(splits, end)
        paths.append(
            (begin[owner], target[arc], total[owner] + score[arc], torch.cat([outputs[owner], aux[arc, None]], dim=1))
        )
    paths.pop()
    width = max(int((outputs > 0).sum(1).max()) for _, _, _, outputs in paths)
    begin, end, total = (torch.cat([path[i] for path in paths]) for i in range(3))  # type: ignore[misc]
    outputs = torch.cat([_packed(path[3], width) for path in paths])
    order = torch.sort(begin, stable=True).indices
    return splits_of(begin[order], states + 1), end[order], total[order].float(), outputs[order]


def _has_loop(source: Tensor, target: Tensor, states: int) -> bool:
    """Whether arcs form a loop: those of states that none enters are taken away, until none is left (Kahn 1962)."""
    while len(source):
        entered = torch.zeros(states, dtype=torch.bool)
        entered[target] = True
        kept = entered[source]
        if bool(kept.all()):
            return True
        source, target = source[kept], target[kept]
    return False


def _packed(outputs: Tensor, width: int) -> Tensor:
    """Labels (N, M) above 0 moved to the front, in ``width`` columns."""
    order = torch.sort((outputs == 0).to(torch.int8), dim=1, stable=True).indices
    packed = torch.nn.functional.pad(outputs.gather(1, order), (0, max(0, width - outputs.shape[1])))
    return packed[:, :width]
