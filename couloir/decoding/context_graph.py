"""Hotwords: an Aho-Corasick automaton over tokens that rewards phrases, for beam and graph searches alike.

Every token that continues a phrase earns the phrase's score; a phrase that is completed earns the sum of its tokens
again; what was earned on a phrase that breaks off is taken back. The automaton is made deterministic when it is
built, so that a step is one look-up for all hypotheses at once.
"""
# Shapes: N hypotheses.

from __future__ import annotations

import copy
import math
import re
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from couloir.decoding.fsa.ragged import find
from couloir.errors import UserError, must_be
from couloir.limits import MAX_HOTWORD_SCORE
from couloir.text.tokenizer import Tokenizer
from couloir.texts import read_lines

ROOT = 0
_SCORED = re.compile(r"(.*)[ \t]:(\S*)[ \t]*")


class ContextGraph:
    """Hotword phrases as a scorer of tokens: a `TokenScorer` for beams and a `Bias` for graph searches.

    Args:
        phrases: token ids of each phrase. context_score: reward per token.
        scores: reward per token of each phrase; 0 means ``context_score``. A prefix that phrases share earns the
            largest of theirs.
        strict: every phrase that ends at a token counts, and those that overlap with it go on. Otherwise only the
            longest counts, and the search begins at the root again behind it: of `a b` and `a b c` the second is never
            completed. icefall's CTC search is strict, its modified_beam_search is not.

    Raises:
        UserError: for an empty phrase, blank inside one, or another number of scores than phrases.
    """

    def __init__(
        self,
        phrases: Sequence[Sequence[int]],
        context_score: float,
        scores: Sequence[float] | None = None,
        strict: bool = True,
    ) -> None:
        scores = [0.0] * len(phrases) if scores is None else scores
        if not 0 <= context_score <= MAX_HOTWORD_SCORE:
            raise must_be("--context-score", f"a number from 0 to {MAX_HOTWORD_SCORE}", context_score)
        if len(scores) != len(phrases):
            raise must_be("scores of the hotword phrases", f"{len(phrases)}, one for each", len(scores))
        self.strict = strict
        self._children: list[dict[int, int]] = [{}]
        self._token_score, self._is_end = [0.0], [False]
        for phrase, score in zip(phrases, scores):
            self._insert(phrase, score or context_score)
        self._compile()

    @property
    def num_nodes(self) -> int:
        """Nodes of the automaton; 0 is the root."""
        return len(self._children)

    def _insert(self, phrase: Sequence[int], score: float) -> None:
        if not phrase or min(phrase) < 1:
            raise must_be("a hotword phrase", "one or more tokens other than blank", list(phrase))
        node = ROOT
        for token in phrase:
            if token not in self._children[node]:
                self._children[node][token] = len(self._children)
                self._children.append({})
                self._token_score.append(score)
                self._is_end.append(False)
            node = self._children[node][token]
            self._token_score[node] = max(self._token_score[node], score)
        self._is_end[node] = True

    def _compile(self) -> None:
        """Breadth first: what each node has earned, its longest proper suffix, and all of its transitions."""
        count = len(self._children)
        earned, completed, longest_end = [0.0] * count, [0.0] * count, [ROOT] * count
        transitions: list[dict[int, int]] = [{} for _ in range(count)]
        queue = deque((child, ROOT, ROOT) for child in self._children[ROOT].values())
        while queue:
            node, parent, suffix = queue.popleft()
            earned[node] = earned[parent] + self._token_score[node]
            completed[node] = completed[suffix] + (earned[node] if self._is_end[node] else 0.0)
            longest_end[node] = node if self._is_end[node] else longest_end[suffix]
            transitions[node] = {**transitions[suffix], **self._children[node]}
            for next_token, child in self._children[node].items():
                shorter = transitions[suffix] if suffix else self._children[ROOT]
                onward = shorter.get(next_token, self._children[ROOT].get(next_token, ROOT))
                queue.append((child, node, onward))
        transitions[ROOT] = self._children[ROOT]
        self._base = 2 + max((token for row in transitions for token in row), default=0)
        flat = sorted(
            (node * self._base + token, to) for node, row in enumerate(transitions) for token, to in row.items()
        )
        self._keys = torch.tensor([key for key, _ in flat], dtype=torch.int64)
        self._to = torch.tensor([to for _, to in flat], dtype=torch.int64)
        self._earned = torch.tensor(earned, dtype=torch.float64)
        self._completed = torch.tensor(completed, dtype=torch.float64)
        self._longest_end = torch.tensor(longest_end, dtype=torch.int64)

    def to(self, device: torch.device | str) -> ContextGraph:
        """The same hotwords on a device."""
        moved = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(moved, name, value.to(device))
        return moved

    def advance(self, node: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        """Gain (N,) float64 and next node (N,) of emitting ``token`` (N,) in ``node`` (N,)."""
        token = token.clamp(max=self._base - 1)
        at, known = find(self._keys, node * self._base + token)
        from_root, starts = find(self._keys, token)
        after = (
            torch.where(known, self._to[at], torch.where(starts, self._to[from_root], ROOT)) if len(self._to) else node
        )
        gain = self._earned[after] - self._earned[node]
        end = self._longest_end[after]
        if self.strict:
            return gain + self._completed[after], after
        gain = torch.where(end > ROOT, self._earned[end] - self._earned[node], gain)
        return gain, torch.where(end > ROOT, ROOT, after)

    def backoff_score(self, node: Tensor) -> Tensor:
        """What (N,) ending in ``node`` (N,) adds: the reward of the unfinished phrase, taken back."""
        return -self._earned[node]

    refund = backoff_score  # the first release's name

    def start(self, rows: int, device: torch.device) -> tuple[Tensor, ...]:
        """As `TokenScorer.start`."""
        return (torch.zeros(rows, dtype=torch.int64, device=device),)

    def step(self, state: tuple[Tensor, ...], tokens: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As `TokenScorer.step`."""
        gain, after = self.advance(state[0], tokens)
        return gain, (after,)

    def preview(self, state: tuple[Tensor, ...], tokens: Tensor) -> Tensor:
        """As `TokenScorer.preview`."""
        return self.advance(state[0].repeat_interleave(tokens.shape[1]), tokens.flatten())[0].view(tokens.shape)

    def final(self, state: tuple[Tensor, ...]) -> Tensor:
        """As `TokenScorer.final`."""
        return self.backoff_score(state[0])


def read_context_file(
    path: str | Path, tokenizer: Tokenizer, context_score: float, strict: bool = True
) -> ContextGraph:
    """Hotwords from a text file: a phrase per line, with ``:score`` behind it where it has its own.

    Raises:
        UserError: when the file is missing or holds no phrase, or naming the line whose phrase the vocabulary
            cannot spell or whose score is no number.
    """
    try:
        lines = read_lines(path)
    except FileNotFoundError:
        raise UserError(f"context file {path} does not exist; give --context-file one phrase per line") from None
    phrases, scores = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        found = _SCORED.fullmatch(line)
        text = (found[1] if found else line).strip()
        scores.append(_score(found[2], f"line {number} of {path}", line) if found else 0.0)
        unknown = tokenizer.unknown_symbols(text)
        if unknown:
            shown = ", ".join(sorted(unknown))
            raise UserError(f"line {number} of {path}: the vocabulary has no {shown}; spell the phrase in its tokens")
        phrases.append(tokenizer.encode(text))
        if not phrases[-1]:
            raise must_be(f"line {number} of {path}", "a phrase with a sound or letter", repr(line[:80]))
    if not phrases:
        raise must_be(f"context file {path}", "a text with one phrase per line", "empty")
    return ContextGraph(phrases, context_score, scores, strict)


def _score(text: str, place: str, line: str) -> float:
    try:
        score = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        score = math.nan
    if not 0 <= score <= MAX_HOTWORD_SCORE:
        raise must_be(place, f"`phrase :score` with a score from 0 to {MAX_HOTWORD_SCORE}", repr(line[:80]))
    return score
