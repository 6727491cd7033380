"""What a transducer says to the graph search."""
# Shapes: J joiner dimension, N hypotheses.

from __future__ import annotations

import torch
from torch import Tensor

from couloir.decoding.transducer.frames import FrameScorer


class TransducerEmissions:
    """At most one token per frame; blank is a self-loop that every state has; the last frame only ends.

    A history is the number that the last ``context_size`` tokens make in base V; all of them are blank at the start.
    """

    ends_on_last_frame = True
    rivals: int | None = None

    def __init__(self, scorer: FrameScorer) -> None:
        self.scorer = scorer
        self.lens, self.vocab_size = scorer.lens, scorer.predictions.vocab_size
        self.num_histories = self.vocab_size**scorer.predictions.context_size
        self._keep = self.num_histories // self.vocab_size
        exponents = torch.arange(scorer.predictions.context_size - 1, -1, -1, device=self.lens.device)
        self._powers = self.vocab_size**exponents

    def predict(self, history: Tensor) -> Tensor:
        """The predictor's projected output (N, J) for histories (N,)."""
        return self.scorer.predictions(history[:, None] // self._powers % self.vocab_size)

    def log_probs(self, frame: int | Tensor, utterance: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """As `Emissions.log_probs`: one joiner row for each distinct history of an utterance."""
        pairs, own = torch.unique_consecutive(utterance * self.num_histories + history, return_inverse=True)
        utterances = torch.div(pairs, self.num_histories, rounding_mode="floor")
        at = frame[utterances] if isinstance(frame, Tensor) else frame
        return self.scorer.log_probs(at, utterances, self.predict(pairs % self.num_histories)), own

    def implicit(self, history: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Blank."""
        rows = torch.arange(len(history), device=history.device)
        return [(rows, torch.zeros_like(rows), history)]

    def advance(self, history: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Append a token; blank and the end change nothing."""
        after = torch.where(label > 0, history % self._keep * self.vocab_size + label, history)
        return after, torch.ones_like(label, dtype=torch.bool)
