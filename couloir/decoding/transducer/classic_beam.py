"""Beam search after Graves (2012): any number of tokens per frame, one utterance at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from couloir.decoding.hypothesis import Hypothesis
from couloir.decoding.transducer.frames import PLAIN, FrameScorer, Scoring, TransducerModel
from couloir.errors import must_be

MAX_SYMBOLS = 20000


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


def _add(prefixes: dict[tuple[int, ...], Prefix], prefix: Prefix) -> None:
    """Put a prefix in; an equal one's probability is added."""
    known = prefixes.get(prefix.tokens)
    if known is not None:
        better = max(known, prefix, key=lambda p: p.log_prob)
        total = float(np.logaddexp(known.log_prob, prefix.log_prob))
        prefix = Prefix(prefix.tokens, total, better.frames, better.confidences)
    prefixes[prefix.tokens] = prefix


class _Utterance:
    """Log-probabilities of one utterance's frames after given prefixes, each computed once per frame."""

    def __init__(self, scorer: FrameScorer, position: int) -> None:
        self.scorer, self.start = scorer, scorer.start(1)[0].tolist()
        self.position = torch.tensor([position], device=scorer.lens.device)
        self.num_frames = int(scorer.lens[position])
        self.frame, self._known = -1, dict[tuple[int, ...], np.ndarray]()

    def log_probs(self, frame: int, tokens: tuple[int, ...]) -> np.ndarray:
        """(V,) log-probabilities."""
        if frame != self.frame:
            self.frame, self._known = frame, {}
        size = len(self.start)
        history = tuple((self.start + list(tokens[-size:]))[-size:])
        if history not in self._known:
            predicted = self.scorer.predictions(torch.tensor([history], device=self.position.device))
            self._known[history] = self.scorer.log_probs(frame, self.position, predicted)[0].double().cpu().numpy()
        return self._known[history]


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
    results = [Hypothesis() for _ in range(scorer.batch)]
    for position, original in enumerate(scorer.order.tolist()):
        best = _search(_Utterance(scorer, position), beam)
        results[original] = Hypothesis(list(best.tokens), list(best.frames), best.log_prob, list(best.confidences))
    return results


def _search(utterance: _Utterance, beam: int) -> Prefix:
    context = len(utterance.start)
    kept: dict[tuple[int, ...], Prefix] = {(): Prefix((), 0.0)}
    for frame in range(utterance.num_frames):
        open_prefixes, kept = kept, {}
        for _ in range(MAX_SYMBOLS):
            best = max(open_prefixes.values(), key=lambda p: p.log_prob)
            del open_prefixes[best.tokens]
            log_probs = utterance.log_probs(frame, best.tokens)
            blank = Prefix(best.tokens, best.log_prob + float(log_probs[0]), best.frames, best.confidences)
            _add(kept, blank)
            for token in np.argsort(-log_probs[1:], kind="stable")[: beam + 1] + 1:
                _add(open_prefixes, best.extended(int(token), float(log_probs[token]), frame))
            bar = max(prefix.log_prob for prefix in open_prefixes.values())
            if sum(prefix.log_prob > bar for prefix in kept.values()) >= beam:
                break
        kept = {p.tokens: p for p in sorted(kept.values(), key=lambda p: -p.log_prob)[:beam]}
    return max(kept.values(), key=lambda p: p.log_prob / (len(p.tokens) + context))
