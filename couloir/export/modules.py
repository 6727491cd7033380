"""What is traced around the parts of a model: tensors in, tensors out.

Each is put into eval mode: torch's exporter restores the outer module's mode, and with it everyone's, when it is done.
"""
# Shapes: B batch, D model dimension, F feature bins, N samples, S output frames, T frames, V vocabulary.

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from couloir.features.front_end import FrontEndConfig, make_front_end
from couloir.models.common.streaming import Streaming

Module = TypeVar("Module", bound=nn.Module)


def prepared(model: Module) -> Module:
    """A copy on the CPU, in eval mode, that needs no gradients."""
    return copy.deepcopy(model).cpu().float().eval().requires_grad_(False)


class WithoutLengths(nn.Module):
    """An encoder of recordings that all fill their rows.

    Args:
        encoder: in eval mode, (B, T, F) and (B,) -> (B, S, D) and (B,).
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.eval()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F) -> (B, S, D) and (B,)."""
        # Counted rather than read off the shape: a shape would be traced as a constant.
        return self.encoder(x, torch.ones_like(x[:, :, 0], dtype=torch.int64).sum(1))


class Int32Inputs(nn.Module):
    """A part of a model whose integers come as int32, and whose states go so.

    Args:
        module: in eval mode.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.eval()

    def forward(self, *inputs: Any) -> Any:
        """As the module's. Lengths go as int64, which is what sherpa-onnx reads."""
        outputs = self.module(*as_integers(inputs, torch.int64))
        if isinstance(outputs, tuple):
            return tuple(as_integers(out, torch.int32) if isinstance(out, list) else out for out in outputs)
        return outputs


def as_integers(value: Any, kind: torch.dtype) -> Any:
    """The integer tensors in (lists of) tensors as ``kind``."""
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else value.to(kind)
    return type(value)(as_integers(item, kind) for item in value)


class AudioEncoder(nn.Module):
    """(B, N) samples -> (B, S, V) log-probabilities: the features are part of the graph.

    Args:
        encoder: what takes the features. config: of the features.
    """

    def __init__(self, encoder: nn.Module, config: FrontEndConfig) -> None:
        super().__init__()
        self.encoder, self.fbank = encoder, make_front_end(config).exportable()
        self.eval()

    def forward(self, audio: Tensor, audio_lens: Tensor) -> tuple[Tensor, Tensor]:
        """``audio_lens`` (B,) int64 samples. Returns log-probabilities and their lengths (B,)."""
        return self.encoder(*self.fbank(audio, audio_lens))


class StreamingEncoder(nn.Module):
    """One window of features and the states -> outputs and new states.

    Args:
        streaming: of the encoder. head: what stands behind it.
    """

    def __init__(self, streaming: Streaming, head: nn.Module) -> None:
        super().__init__()
        self.model, self.head = streaming.model, head
        self.streaming = streaming
        self.eval()

    def forward(self, x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """(B, T, F) -> (B, S, D), and the new states."""
        encoded, states = self.streaming.step(x, states)
        return self.head(encoded), states
