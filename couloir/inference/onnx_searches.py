"""Exported heads as what the searches of couloir.decoding ask of a model. Needs torch beside ONNX Runtime."""
# Shapes: J joiner dimension, N hypotheses, V vocabulary.

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

Run = Callable[..., np.ndarray]


def ctc_heads(vocab_size: int) -> Any:
    """A model whose CTC log-probabilities are at hand."""
    heads = SimpleNamespace(use_ctc=True, use_attention_decoder=False, vocab_size=vocab_size)
    return SimpleNamespace(heads_config=heads, attention_decoder=None)


def transducer_heads(predict: Run, join: Run, context_size: int, vocab_size: int) -> Any:
    """A `TransducerModel` of files that hold the projections, too.

    Args:
        predict: histories (N, context_size) -> (N, J). join: encoded (N, J), predicted (N, J) -> logits (N, V).
    """
    return SimpleNamespace(decoder=_Decoder(predict, context_size, vocab_size), joiner=_Joiner(join))


class _Decoder:
    def __init__(self, predict: Run, context_size: int, vocab_size: int) -> None:
        self.predict, self.context_size, self.vocab_size = predict, context_size, vocab_size

    def __call__(self, histories: Tensor, need_pad: bool) -> Tensor:
        """(N, context_size) -> (N, 1, J)"""
        return torch.from_numpy(self.predict(histories.numpy()))[:, None]


class _Joiner:
    def __init__(self, join: Run) -> None:
        self.join = join

    def encoder_proj(self, encoded: Tensor) -> Tensor:
        """Done in the encoder's file."""
        return encoded

    def decoder_proj(self, predicted: Tensor) -> Tensor:
        """Done in the decoder's file."""
        return predicted

    def __call__(self, encoded: Tensor, predicted: Tensor, project_input: bool) -> Tensor:
        """(N, J), (N, J) -> (N, V)"""
        return torch.from_numpy(self.join(encoded.contiguous().numpy(), predicted.contiguous().numpy()))
