"""n-gram language models: scored for many hypotheses at once, and estimated."""
# Shapes: G states, N hypotheses.

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from couloir.decoding.arpa import BACKOFF, BOS, EOS, ZERO, ArpaFst, other_symbols, read_arpa
from couloir.decoding.fsa.ragged import find
from couloir.errors import UserError, must_be
from couloir.files import atomic_write
from couloir.limits import MAX_GAPS
from couloir.texts import iterate_lines, natural, split_fields

COMPILED = ".fst.txt"
Gram = tuple[str, ...]


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
        fst = _parse_fst(path, backoff)
    except FileNotFoundError:
        raise UserError(f"language model {path} does not exist; make it with prepare_lm.py or give another") from None
    used, place = np.unique(fst.label, return_inverse=True)
    strange = next((label for label in used.tolist() if label not in labels), None)
    if strange is not None:
        raise must_be(f"labels of {path}", f"of the table beside it, or {BACKOFF}", strange)
    label = np.array([number.get(labels[label], -1) for label in used.tolist()])[place]
    kept = label >= 0
    if not (kept & (label != backoff)).any():
        raise other_symbols(path, [labels[label] for label in used.tolist()])
    return replace(fst, source=fst.source[kept], target=fst.target[kept], label=label[kept], score=fst.score[kept])


def _parse_fst(path: str | Path, backoff: int) -> ArpaFst:
    arcs, finals = list[tuple[float, ...]](), dict[int, float]()
    for number, line in enumerate(iterate_lines(path), 1):
        fields = split_fields(line)
        try:
            if len(fields) in (4, 5):
                arcs.append((*map(natural, fields[:3]), -float(fields[4]) if len(fields) > 4 else 0.0))
            elif fields:
                state, *weight = fields
                finals[natural(state)] = -float(*weight) if weight else 0.0
        except (ValueError, TypeError):
            expected = "an arc or final state in OpenFst's text form"
            raise must_be(f"line {number} of {path}", expected, repr(line[:80])) from None
    if not arcs:
        raise must_be(str(path), "an acceptor in OpenFst's text form", "without any arc")
    table = np.array(arcs)
    source, target, label = (table[:, i].astype(np.int64) for i in range(3))
    last = max(int(source.max()), int(target.max()), *finals)
    if last > MAX_GAPS + 2 * len(arcs) + len(finals):
        raise must_be(f"states of {path}", "numbered 0, 1, 2, ...", f"{last} among {len(arcs)} arcs")
    if not (np.isfinite(table[:, 3]).all() and all(score < math.inf for score in finals.values())):
        raise must_be(f"weights of {path}", "numbers", "not all")
    final = np.full(last + 1, -np.inf)
    final[list(finals)] = list(finals.values())
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
        if _has_loop(self._back):
            raise must_be(
                str(path), "an n-gram whose back-off arcs lead to shorter histories", "one with a loop of them"
            )
        unigrams = self._score[~torch.isin(torch.from_numpy(source), torch.nonzero(self._back >= 0).squeeze(1))]
        possible = unigrams[unigrams > math.log(10) * (ZERO + 1e-3)]
        self._unknown = float(possible.min()) if len(possible) else 0.0

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


def _has_loop(back: Tensor) -> bool:
    """Whether following ``back`` (G,), where -1 ends, comes round; after n doublings 2^n steps are done."""
    for _ in range(len(back).bit_length()):
        back = torch.where(back >= 0, back[back], back)
    return bool((back >= 0).any())


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
        probabilities[0][(BOS,)] = 10**ZERO
        out.writelines(f"ngram {n}={len(table)}\n" for n, table in enumerate(probabilities, 1))
        for n, table in enumerate(probabilities, 1):
            backoff = weights[n] if n < len(weights) else {}
            out.write(f"\n\\{n}-grams:\n")
            for gram, probability in sorted(table.items()):
                tail = f"\t{math.log10(backoff[gram]):.6f}" if gram in backoff else ""
                out.write(f"{math.log10(probability):.6f}\t{' '.join(gram)}{tail}\n")
        out.write("\n\\end\\\n")
