"""The result of recognition: symbols with times and confidences."""
# Shapes: S output frames, V vocabulary.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from couloir.decoding.hypothesis import Hypothesis
from couloir.inference.frame_times import USUAL, FrameTimes
from couloir.inference.vocabulary import Vocabulary

FRONT_END_DELAY_S = USUAL.first
"""Where the first output frame begins, if a model says nothing else: it sees feature frames 0 to 8, whose middle is
45 ms, and stands for 20 ms. At 25 frames/s it is the mean of two such frames and begins at the same time."""
# A CTC model emits a phone after it has seen some of it, in a frame or two, and blanks around. What the frames say
# about the phone's extent was measured on the development split of festvox-ru (gold boundaries, 1,500 phones).
LONGEST_BRIDGE_S = 0.2
"""Neighbours that are no further apart touch: 99.7 % of those that do are, and 5 % of those with silence between."""
BLANKS_OF_FIRST = 1 / 3
"""Share of the blank frames between two that touch which belongs to the first."""
REACH_BEFORE_S, REACH_AFTER_S = 0.05, 0.1
"""How far a symbol beside silence reaches beyond its frames."""


@dataclass(frozen=True)
class Token:
    """A recognised symbol.

    Attributes:
        symbol: its text; a leading space where a word begins.
        start, end: in s from the beginning of the recording.
        confidence: the model's probability for it, 0 to 1.
    """

    symbol: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class Transcript:
    """What was recognised in one recording.

    Attributes:
        name: the file's path, or "" for an array.
        text: the tokens' text. tokens: with times and confidences.
        duration: length of the recording in s.
        confidence: mean over the tokens, 0 to 1; of an empty transcript, the mean probability of silence.
        frame_shift: distance of the model's output frames in s.
        log_probs: (S, V) log-probabilities of a CTC model where they were asked for.
        said: the words, where a search over a graph of words found them.
    """

    name: str
    text: str
    tokens: list[Token]
    duration: float
    confidence: float
    frame_shift: float
    log_probs: np.ndarray | None = None
    said: list[Token] | None = None

    def phones(self) -> list[Token]:
        """The tokens with diacritics and length marks joined to the letter before them, and word boundaries dropped."""
        joined: list[Token] = []
        for token in self.tokens:
            symbol = token.symbol.strip()
            if not symbol:
                continue
            if joined and _is_mark(symbol):
                joined[-1] = _merged([joined[-1], token], joined[-1].symbol + symbol)
            else:
                joined.append(replace(token, symbol=symbol))
        return joined

    def words(self) -> list[Token]:
        """The words of a graph, or of a model whose pieces mark where a word begins; otherwise none."""
        if self.said is not None:
            return self.said
        if not any(token.symbol.startswith(" ") for token in self.tokens):
            return []
        groups: list[list[Token]] = []
        for token in self.tokens:
            if token.symbol.startswith(" ") or (token.symbol and not groups):
                groups.append([])
            if token.symbol:
                groups[-1].append(token)
        texts = ["".join(token.symbol for token in group).strip() for group in groups]
        return [_merged(group, text) for group, text in zip(groups, texts) if text]


def _is_mark(symbol: str) -> bool:
    """Modifier letters, length marks and combining diacritics, which belong to the letter before them."""
    return all("\u02b0" <= c <= "\u036f" or "\u1d2c" <= c <= "\u1d6a" or "\u1d9b" <= c <= "\u1dff" for c in symbol)


def _merged(tokens: Sequence[Token], symbol: str) -> Token:
    confidence = min(token.confidence for token in tokens)
    return Token(symbol, tokens[0].start, tokens[-1].end, confidence)


def _shared_frames(found: Hypothesis) -> tuple[np.ndarray, np.ndarray]:
    """First frames and those after the last; tokens that a transducer emits in one frame share it evenly."""
    starts, ends = np.array(found.starts, float), np.array(found.ends, float)
    _, first, group, counts = np.unique(starts, return_index=True, return_inverse=True, return_counts=True)
    share = 1 / counts[group]
    starts = starts + (np.arange(len(starts)) - first[group]) * share
    return starts, np.where(share < 1, starts + share, ends)


def timed_tokens(
    found: Hypothesis, vocabulary: Vocabulary, frame_shift: float, duration: float, first: float = FRONT_END_DELAY_S
) -> list[Token]:
    """Tokens with times from frames.

    Args:
        found: by a search. vocabulary: for the symbols. frame_shift: in s. duration: in s, the latest time.
        first: where the first frame begins, in s.
    """
    start, end = (first + frame_shift * frames for frames in _shared_frames(found))
    if len(start):
        gap = np.maximum(start[1:] - end[:-1], 0.0)
        touching = gap <= LONGEST_BRIDGE_S
        end[:-1] += np.where(touching, BLANKS_OF_FIRST * gap, REACH_AFTER_S)
        start[1:] = np.where(touching, end[:-1], start[1:] - REACH_BEFORE_S)
        start[0] -= REACH_BEFORE_S
        end[-1] += REACH_AFTER_S
    start, end = (np.clip(times, 0.0, duration).round(3) for times in (start, end))
    return [
        Token(symbol, float(a), float(b), round(confidence, 4))
        for symbol, a, b, confidence in zip(vocabulary.surfaces(found.tokens), start, end, found.confidences)
    ]


def timed_words(tokens: Sequence[Token], words: Sequence[str], lengths: Sequence[int]) -> list[Token]:
    """Words that a graph found, of that many tokens each; one without any stands between its neighbours."""
    timed, at = list[Token](), 0
    for word, length in zip(words, lengths):
        group = tokens[at : at + length]
        here = timed[-1].end if timed else 0.0
        timed.append(_merged(group, word) if group else Token(word, here, here, 0.0))
        at += length
    return timed


def transcript_of(
    name: str,
    found: Hypothesis,
    vocabulary: Vocabulary,
    times: FrameTimes,
    duration: float,
    words: tuple[Sequence[str], Sequence[int]] | None = None,
) -> Transcript:
    """What a search found in a recording of ``duration`` s.

    Args:
        vocabulary, times: of the model.
        words: of a search over a graph of words: which, and how many tokens each has.
    """
    tokens = timed_tokens(found, vocabulary, times.shift, duration, times.first)
    return Transcript(
        name=name,
        text=vocabulary.text(found.tokens) if words is None else " ".join(words[0]),
        tokens=tokens,
        duration=round(duration, 3),
        confidence=round(float(np.mean(found.confidences)), 4) if found.tokens else 1.0,
        frame_shift=times.shift,
        said=None if words is None else timed_words(tokens, *words),
    )
