"""The parts of a model as they are traced: tensors in, tensors out.

Each is put into eval mode: torch's exporter restores the outer module's mode, and with it everyone's, when it is done.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from couloir.errors import must_be
from couloir.features.front_end import FrontEndConfig, make_front_end
from couloir.models.zipformer.model import AsrModel


def prepared(model: AsrModel, full_context: bool = True) -> AsrModel:
    """A copy on the CPU, in eval mode, that needs no gradients; with ``full_context`` a causal one is not chunked."""
    ready = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    if full_context and ready.zipformer_config.causal:
        config = dataclasses.replace(ready.zipformer_config, chunk_size=(-1,), left_context_frames=(-1,))
        ready.zipformer_config = ready.encoder.config = config
    return ready


def chunk_and_left_context(model: AsrModel) -> tuple[int, int]:
    """The one chunk size and left context (50 Hz frames) of a streaming export. Raises `UserError`."""
    config = model.zipformer_config
    if not config.causal:
        raise must_be("--causal", "True for a streaming export", "False", "use export_onnx.py")
    for flag, values in (("--chunk-size", config.chunk_size), ("--left-context-frames", config.left_context_frames)):
        if len(values) != 1 or values[0] <= 0:
            raise must_be(flag, "one positive number for a streaming export", ",".join(map(str, values)))
    return config.chunk_size[0], config.left_context_frames[0]


def head_of(model: AsrModel, kind: str) -> nn.Module:
    """What stands behind the encoder in a ``kind`` ("ctc" or "transducer") file. Raises `UserError`."""
    heads = model.heads_config
    if not (heads.use_ctc if kind == "ctc" else heads.use_transducer):
        raise must_be(f"--use-{kind}", f"True to export a {kind} model", "False")
    return model.ctc_output if kind == "ctc" else model.joiner.encoder_proj


class OfflineEncoder(nn.Module):
    """(B, T, F) features -> (B, S, D) log-probabilities, or the encoder's part of a joiner's input.

    Batched items get what they would get alone.

    Args:
        model: prepared. kind: "ctc" or "transducer".
    """

    def __init__(self, model: AsrModel, kind: str) -> None:
        super().__init__()
        self.model, self.head = model, head_of(model, kind)
        self.eval()

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        """``x_lens`` (B,) int64. Returns the outputs and their lengths (B,)."""
        encoded, lens = self.model.forward_encoder(x, x_lens, padding="exact")
        return self.head(encoded), lens


class WithoutLengths(nn.Module):
    """An encoder of recordings that all fill their rows.

    Args:
        encoder: in eval mode.
    """

    def __init__(self, encoder: OfflineEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.eval()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F) -> as `OfflineEncoder.forward`."""
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

    def __init__(self, encoder: OfflineEncoder, config: FrontEndConfig) -> None:
        super().__init__()
        self.encoder, self.fbank = encoder, make_front_end(config).exportable()
        self.eval()

    def forward(self, audio: Tensor, audio_lens: Tensor) -> tuple[Tensor, Tensor]:
        """``audio_lens`` (B,) int64 samples. Returns log-probabilities and their lengths (B,)."""
        return self.encoder(*self.fbank(audio, audio_lens))


class StreamingEncoder(nn.Module):
    """One chunk of features and the states -> outputs and new states.

    Args:
        model: prepared. kind: "ctc" or "transducer".
    """

    def __init__(self, model: AsrModel, kind: str = "") -> None:
        super().__init__()
        self.model, self.head = model, head_of(model, kind) if kind else nn.Identity()
        self.eval()

    def forward(self, x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """(B, 2 c + 13, F) -> (B, S, D), and the new states."""
        encoded, states = self.model.streaming_forward(x, states)
        return self.head(encoded), states


class Predictor(nn.Module):
    """Token histories (B, context) -> the predictor's part of a joiner's input (B, J).

    Args:
        model: prepared.
    """

    def __init__(self, model: AsrModel) -> None:
        super().__init__()
        self.decoder, self.projection = model.decoder, model.joiner.decoder_proj
        self.eval()

    def forward(self, y: Tensor) -> Tensor:
        """``y``: (B, context) int64; a negative id is no token."""
        return self.projection(self.decoder(y, need_pad=False).squeeze(1))


class ProjectedJoiner(nn.Module):
    """Projected encoder and predictor outputs (B, J) -> logits (B, V).

    Args:
        model: prepared.
    """

    def __init__(self, model: AsrModel) -> None:
        super().__init__()
        self.joiner = model.joiner
        self.eval()

    def forward(self, encoder_out: Tensor, decoder_out: Tensor) -> Tensor:
        """(B, J), (B, J) -> (B, V)."""
        return self.joiner(encoder_out, decoder_out, project_input=False)
