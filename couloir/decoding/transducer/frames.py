"""What every transducer search asks of a model: log-probabilities of (frame, token history) pairs."""
# Shapes: B batch, D model dimension, J joiner dimension, N hypotheses, S output frames, V vocabulary.

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from couloir.decoding.fsa.ragged import find, unique
from couloir.errors import must_be

MAX_CACHED_HISTORIES = 32768


class TransducerModel(Protocol):
    """A model with icefall's transducer heads."""

    decoder: Any
    joiner: Any


class Predictions:
    """The predictor's projected output for token histories, on the CPU each computed once.

    Raises `UserError` when there are more histories than an integer can number.
    """

    def __init__(self, model: TransducerModel, device: torch.device) -> None:
        self.decoder, self.joiner = model.decoder, model.joiner
        self.context_size: int = model.decoder.context_size
        self.vocab_size: int = model.decoder.vocab_size
        if (self.vocab_size + 1) ** self.context_size >= 2**62:
            raise must_be("--context-size", f"smaller for a vocabulary of {self.vocab_size}", self.context_size)
        self._base = (self.vocab_size + 1) ** torch.arange(self.context_size - 1, -1, -1, device=device)
        self._clear_cache()

    def __call__(self, histories: Tensor) -> Tensor:
        """(N, context_size) tokens, a negative one standing for none -> (N, J)."""
        if histories.is_cuda:  # each look-up makes the host wait for the device, which costs more than the predictor
            return self._compute(histories)
        keys = ((histories + 1) * self._base).sum(1)
        at, known = find(self._keys, keys)
        if not bool(known.all()):
            if len(self._keys) > MAX_CACHED_HISTORIES:
                self._clear_cache()
                known = torch.zeros_like(known)
            self._extend_cache(histories[~known], keys[~known])
            at, _ = find(self._keys, keys)
        return self._values[self._rows[at]]

    def _compute(self, histories: Tensor) -> Tensor:
        return self.joiner.decoder_proj(self.decoder(histories, need_pad=False).squeeze(1))

    def _clear_cache(self) -> None:
        self._keys, self._rows = self._base[:0], self._base[:0]
        self._values = self._base.new_zeros((0, 0), dtype=torch.float32)

    def _extend_cache(self, histories: Tensor, keys: Tensor) -> None:
        new_keys, index = unique(keys)
        first = torch.zeros_like(new_keys)
        first[index] = torch.arange(len(keys), device=keys.device)
        values = self._compute(histories[first])
        used, needed = len(self._keys), len(self._keys) + len(values)
        if needed > len(self._values):  # doubled, so that what is known is rarely copied
            grown = values.new_empty((max(2 * needed, 256), values.shape[1]))
            if used:
                grown[:used] = self._values[:used]
            self._values = grown
        self._values[used:needed] = values
        rows = torch.cat([self._rows, torch.arange(used, needed, device=keys.device)])
        self._keys, order = torch.sort(torch.cat([self._keys, new_keys]))
        self._rows = rows[order]


@dataclass(frozen=True)
class Scoring:
    """How logits become log-probabilities.

    Attributes:
        blank_penalty: taken from blank's logit. temperature: logits are divided by it.
        bias: (V,), added to the logits; -inf for a token that may not come out.
    """

    blank_penalty: float = 0.0
    temperature: float = 1.0
    bias: Tensor | None = None

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise must_be("--temperature", "above 0", self.temperature)


PLAIN = Scoring()


class FrameScorer:
    """Log-probabilities of a batch's frames.

    Args:
        model: its decoder and joiner are used. encoder_out: (B, S, D). lens: (B,) valid frames. scoring: how.

    Utterances are sorted by descending length inside: ``order`` (B,) holds the original positions.
    """

    def __init__(self, model: TransducerModel, encoder_out: Tensor, lens: Tensor, scoring: Scoring = PLAIN) -> None:
        self.joiner, self.scoring = model.joiner, scoring
        lens = lens.to(device=encoder_out.device, dtype=torch.int64)
        self.lens, self.order = torch.sort(lens, descending=True, stable=True)
        self.encoded = model.joiner.encoder_proj(encoder_out)[self.order].transpose(0, 1).contiguous()
        self.predictions = Predictions(model, encoder_out.device)
        self.batch = len(lens)
        self.num_frames = int(self.lens[0]) if self.batch else 0
        frames = torch.arange(self.num_frames, device=lens.device)
        self.active: list[int] = (self.lens[:, None] > frames).sum(0).tolist()

    def start(self, rows: int, first: Literal["none", "blanks"] = "none") -> Tensor:
        """The first history (rows, context_size): icefall's, no tokens and then blank, or blanks alone."""
        history = self.order.new_full((rows, self.predictions.context_size), -1 if first == "none" else 0)
        history[:, -1] = 0
        return history

    def log_probs(self, frame: int | Tensor, utterance: Tensor, predicted: Tensor) -> Tensor:
        """Log-probabilities (N, V) in float32.

        Args:
            frame: frame index of all, or (N,) of each. utterance: (N,) sorted position. predicted: (N, J) from
                ``predictions``.
        """
        return self._score(self.encoded[frame, utterance], predicted)

    def leading_log_probs(self, frame: int, predicted: Tensor, each: int) -> Tensor:
        """As `log_probs`, of the first n utterances with ``each`` rows K: (n * K, J) -> (n * K, V)."""
        encoded = self.encoded[frame, : len(predicted) // each]
        return self._score(encoded.repeat_interleave(each, dim=0), predicted)

    def _score(self, encoded: Tensor, predicted: Tensor) -> Tensor:
        scoring = self.scoring
        logits = self.joiner(encoded, predicted, project_input=False).float()
        if scoring.bias is not None:
            logits = logits + scoring.bias
        if scoring.blank_penalty:
            logits[:, 0] -= scoring.blank_penalty
        if scoring.temperature != 1.0:
            logits = logits / scoring.temperature
        return logits.log_softmax(-1)
