"""Beam search after Graves (2012): any number of tokens per frame; a batch's utterances ask the model together."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from couloir.decoding.hypothesis import Hypothesis
from couloir.decoding.transducer.frames import PLAIN, FrameScorer, Scoring, TransducerModel
from couloir.errors import must_be

MAX_SYMBOLS = 20000
Prefixes = dict[tuple[int, ...], "Prefix"]
History = tuple[int, ...]


@dataclass(frozen=True)
class Prefix:
    """Tokens with the log of their summed probability; frames and confidences are those of the best addend."""

    tokens: tuple[int, ...]
    log_prob: float
    frames: tuple[int, ...] = ()
    confidences: tuple[float, ...] = ()

    def extended(self, token: int, log_prob: float, frame: int) -> Prefix:
        """With one more token."""
        confidence = float(np.exp(log_prob))
        return Prefix(
            (*self.tokens, token), self.log_prob + log_prob, (*self.frames, frame), (*self.confidences, confidence)
        )


def _add(prefixes: Prefixes, prefix: Prefix) -> None:
    """Put a prefix in; an equal one's probability is added."""
    known = prefixes.get(prefix.tokens)
    if known is not None:
        better = max(known, prefix, key=lambda p: p.log_prob)
        total = float(np.logaddexp(known.log_prob, prefix.log_prob))
        prefix = Prefix(prefix.tokens, total, better.frames, better.confidences)
    prefixes[prefix.tokens] = prefix


@dataclass
class _Answer:
    """What the model says of a frame after a history: log-probabilities of blank and of the likeliest tokens."""

    blank: float
    tokens: list[int]
    log_probs: list[float]


@dataclass
class _Utterance:
    """The search of one utterance. In a frame, prefixes are taken from ``open`` until enough of ``kept`` beat them."""

    start: History
    beam: int
    kept: Prefixes = field(default_factory=lambda: {(): Prefix((), 0.0)})
    open: Prefixes = field(default_factory=dict)
    known: dict[History, _Answer] = field(default_factory=dict)
    taken: int = 0

    def begin(self) -> set[History]:
        """Go to the next frame; the histories that it asks for at least."""
        self.open, self.kept, self.known, self.taken = self.kept, {}, {}, 0
        return {self._history(tokens) for tokens in self.open}

    def advance(self, frame: int) -> History | None:
        """Go on until the frame is done, None, or a history is needed that is not known yet."""
        while self.taken < MAX_SYMBOLS:
            best = max(self.open.values(), key=lambda p: p.log_prob)
            history = self._history(best.tokens)
            answer = self.known.get(history)
            if answer is None:
                return history
            self.taken += 1
            del self.open[best.tokens]
            _add(self.kept, Prefix(best.tokens, best.log_prob + answer.blank, best.frames, best.confidences))
            for token, log_prob in zip(answer.tokens, answer.log_probs):
                _add(self.open, best.extended(token, log_prob, frame))
            bar = max(prefix.log_prob for prefix in self.open.values())
            if sum(prefix.log_prob > bar for prefix in self.kept.values()) >= self.beam:
                break
        self.kept = {p.tokens: p for p in sorted(self.kept.values(), key=lambda p: -p.log_prob)[: self.beam]}
        return None

    def best(self) -> Prefix:
        """The prefix with the highest log-probability per token, icefall's initial history counted in."""
        return max(self.kept.values(), key=lambda p: p.log_prob / (len(p.tokens) + len(self.start)))

    def _history(self, tokens: tuple[int, ...]) -> History:
        size = len(self.start)
        return tokens[-size:] if len(tokens) >= size else (*self.start[len(tokens) :], *tokens)


@torch.no_grad()
def beam_search(
    model: TransducerModel, encoder_out: Tensor, lens: Tensor, beam: int = 4, scoring: Scoring = PLAIN
) -> list[Hypothesis]:
    """The token sequence with the highest log-probability per token.

    Args:
        model: its decoder and joiner are used. encoder_out: (B, S, D). lens: (B,) valid frames.
        beam: prefixes kept from frame to frame. scoring: blank penalty and temperature.
    """
    if beam < 1:
        raise must_be("--beam-size", "at least 1", beam)
    scorer = FrameScorer(model, encoder_out, lens, scoring)
    start = tuple(scorer.start(1)[0].tolist())
    utterances = [_Utterance(start, beam) for _ in range(scorer.batch)]
    for frame in range(scorer.num_frames):
        here = utterances[: scorer.active[frame]]
        wanted = {(i, history) for i, utterance in enumerate(here) for history in utterance.begin()}
        while wanted:
            _ask(scorer, frame, utterances, sorted(wanted), beam)
            found = ((i, utterances[i].advance(frame)) for i in sorted({i for i, _ in wanted}))
            wanted = {(i, history) for i, history in found if history is not None}
    results = [Hypothesis() for _ in range(scorer.batch)]
    for utterance, original in zip(utterances, scorer.order.tolist()):
        best = utterance.best()
        results[original] = Hypothesis(list(best.tokens), list(best.frames), best.log_prob, list(best.confidences))
    return results


def _ask(
    scorer: FrameScorer, frame: int, utterances: list[_Utterance], wanted: list[tuple[int, History]], beam: int
) -> None:
    """Tell utterances (numbers in sorted order) what the model says of a frame after the histories that they want."""
    device = scorer.lens.device
    rows, histories = (torch.tensor(part, device=device) for part in zip(*wanted))
    log_probs = scorer.log_probs(frame, rows, scorer.predictions(histories)).double()
    top, token = log_probs[:, 1:].sort(dim=1, descending=True, stable=True)
    likeliest = zip(log_probs[:, 0].tolist(), (token[:, : beam + 1] + 1).tolist(), top[:, : beam + 1].tolist())
    for (i, history), answer in zip(wanted, likeliest):
        utterances[i].known[history] = _Answer(*answer)
