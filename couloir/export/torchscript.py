"""TorchScript files with icefall's methods and attributes.

The encoder of a scripted file is traced inside a scripted shell: the model's own code uses Python that
``torch.jit.script`` does not take (dataclasses, draws of the training schedule), and none of it is left in a trace.
Decoder, joiner and CTC output are scripted as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import List  # noqa: UP035

import torch
from torch import Tensor, nn

from couloir.export.modules import (
    OfflineEncoder,
    Predictor,
    ProjectedJoiner,
    StreamingEncoder,
    chunk_and_left_context,
    prepared,
)
from couloir.export.onnx import TRACED_FRAMES, warn_of_features
from couloir.export.publish import Agreements, Draft, Pair, publish, warn_if_untested
from couloir.export.selfcheck import (
    Probe,
    Runner,
    feature_probe,
    features,
    joiner_probe,
    predictor_probe,
    search_inputs,
    streaming_probe,
)
from couloir.features.front_end import FrontEndConfig
from couloir.models.common.balancer import Balancer
from couloir.models.zipformer.model import AsrModel
from couloir.models.zipformer.streaming import initial_states, state_shapes

TRACED_SCORES = ("jit_trace", "joiner_jit_trace")
"""Traced files whose outputs are scores of tokens."""
PAD_LENGTH = 13
"""Feature frames that a chunk needs beyond what it advances."""


class _Encoder(nn.Module):
    """Front end and encoder of whole recordings."""

    def __init__(self, traced: nn.Module) -> None:
        super().__init__()
        self.traced = traced

    def forward(self, features: Tensor, feature_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F) and (B,) -> (B, S, D) and (B,)."""
        encoded, lens = self.traced(features, feature_lengths)
        return encoded, lens


class _StreamingEncoder(nn.Module):
    """Front end and encoder, chunk by chunk."""

    # TorchScript reads the annotations of attributes from here, as types and not as text.
    __annotations__ = {"state_shapes": List[List[int]], "batch_axes": List[int]}  # noqa: UP006

    def __init__(self, traced: nn.Module, model: AsrModel, sizes: tuple[int, int]) -> None:
        super().__init__()
        self.traced = traced
        self.chunk_size, self.left_context_len = sizes
        self.pad_length = PAD_LENGTH
        self.output_factor = model.zipformer_config.output_downsampling_factor
        named = state_shapes(model.zipformer_config, 1, sizes[1])
        self.state_shapes = [list(shape) for _, shape in named]
        self.batch_axes = [
            1 if name.startswith(("cached_key", "cached_nonlin", "cached_val")) else 0 for name, _ in named
        ]

    def forward(
        self, features: Tensor, feature_lengths: Tensor, states: list[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """(B, 2 c + 13, F), (B,) and states -> (B, S, D), (B,) and new states."""
        encoded, new_states = self.traced(features, states)
        frames = (feature_lengths - 7) // 2 - 3
        return encoded, (frames + self.output_factor - 1) // self.output_factor, new_states

    @torch.jit.export
    def get_init_states(self, batch_size: int = 1, device: torch.device = torch.device("cpu")) -> list[Tensor]:  # noqa: B008
        """States of streams that begin: zeros, processed_lens (B,) last."""
        states: list[Tensor] = []
        for shape, axis in zip(self.state_shapes, self.batch_axes):
            size = list(shape)
            size[axis] = batch_size
            states.append(torch.zeros(size, device=device))
        states.append(torch.zeros([batch_size], dtype=torch.int64, device=device))
        return states


class _Model(nn.Module):
    """What a scripted file holds: the encoder, and those of decoder, joiner and ctc_output that the model has."""

    def __init__(self, encoder: nn.Module, model: AsrModel) -> None:
        super().__init__()
        self.encoder = encoder
        for name in ("decoder", "joiner", "ctc_output"):
            if hasattr(model, name):
                setattr(self, name, _without_balancers(getattr(model, name)))


def _without_balancers(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, Balancer):
            setattr(module, name, nn.Identity())
    return module


def export_script(model: AsrModel, fbank: FrontEndConfig, out_dir: Path, waves: list[Tensor]) -> Agreements:
    """jit_script.pt, or jit_script_chunk_C_left_L.pt for a causal model.

    Args:
        model: to export. fbank: its features. out_dir: where to.
        waves: (N_i,) at least three recordings of different lengths, for the check.

    Returns:
        File name -> how near it is to PyTorch.
    """
    warn_if_untested()
    warn_of_features(fbank)
    items = features(waves, fbank)
    if model.zipformer_config.causal:
        sizes = chunk_and_left_context(model)
        ready = prepared(model, full_context=False)
        name = f"jit_script_chunk_{sizes[0]}_left_{sizes[1]}.pt"
        shell, probe = _scripted_streaming(ready, sizes, items)
    else:
        ready, name = prepared(model), "jit_script.pt"
        traced = _traced(_Embedding(ready), *_example(ready))
        shell, probe = _Encoder(traced), feature_probe(ready, nn.Identity(), items)
    scripted = torch.jit.script(_Model(shell, ready).eval())
    check = lambda path: probe(_runner_of(torch.jit.load(path)))  # noqa: E731
    return publish([Draft(name, "fp32", _saver(scripted), check, scores=False)], out_dir)


class _Embedding(nn.Module):
    """The encoder without a head."""

    def __init__(self, model: AsrModel) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.forward_encoder(x, x_lens, padding="exact")


def _scripted_streaming(model: AsrModel, sizes: tuple[int, int], items: list[Tensor]) -> tuple[nn.Module, Probe]:
    module = StreamingEncoder(model)
    window = 2 * sizes[0] + PAD_LENGTH
    example = torch.randn(1, window, model.zipformer_config.feature_dim)
    traced = _traced(module, example, initial_states(model.zipformer_config, 1, sizes[1]))
    return _StreamingEncoder(traced, model, sizes), streaming_probe(module, model, sizes, items)


def _runner_of(scripted: torch.jit.ScriptModule) -> Runner:
    def run(features: Tensor, *rest: Tensor) -> list[Tensor]:
        with torch.no_grad():
            if len(rest) == 1:
                return list(scripted.encoder(features, rest[0]))
            lens = torch.full((len(features),), features.shape[1])
            encoded, _, states = scripted.encoder(features, lens, list(rest))
        return [encoded, *states]

    return run


def _example(model: AsrModel) -> tuple[Tensor, Tensor]:
    return torch.randn(1, TRACED_FRAMES, model.zipformer_config.feature_dim), torch.tensor([TRACED_FRAMES])


def _traced(module: nn.Module, *example: Tensor | list[Tensor]) -> torch.jit.ScriptModule:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of every Python value; the self-check shows if one matters
        return torch.jit.trace(module, example, check_trace=False, strict=False)


def export_trace(model: AsrModel, fbank: FrontEndConfig, out_dir: Path, waves: list[Tensor]) -> Agreements:
    """jit_trace.pt of a CTC model; encoder_, decoder_ and joiner_jit_trace.pt of a transducer. See `export_script`."""
    warn_if_untested()
    warn_of_features(fbank)
    ready, items = prepared(model), features(waves, fbank)
    parts: dict[str, tuple[nn.Module, tuple[Tensor, ...], Probe]] = {}
    kind = "transducer" if ready.heads_config.use_transducer else "ctc"
    encoder = OfflineEncoder(ready, kind)
    probe = feature_probe(ready, encoder.head, items)
    parts["jit_trace" if kind == "ctc" else "encoder_jit_trace"] = encoder, _example(ready), probe
    if kind == "transducer":
        histories, rows, predicted = search_inputs(ready, items[1])
        parts["decoder_jit_trace"] = Predictor(ready), (histories[:1],), predictor_probe(ready, items[1])
        joined = rows[:1], predicted[:1]
        parts["joiner_jit_trace"] = ProjectedJoiner(ready), joined, joiner_probe(ready, items[1])
    drafts = [
        Draft(f"{name}.pt", "fp32", _saver(_traced(module, *example)), _checker(probe), name in TRACED_SCORES)
        for name, (module, example, probe) in parts.items()
    ]
    return publish(drafts, out_dir)


def _saver(scripted: torch.jit.ScriptModule) -> Callable[[Path], None]:
    return lambda path: scripted.save(str(path))


def _checker(probe: Probe) -> Callable[[Path], list[Pair]]:
    def check(path: Path) -> list[Pair]:
        loaded = torch.jit.load(path)

        def run(*inputs: Tensor) -> list[Tensor]:
            with torch.no_grad():
                outputs = loaded(*inputs)
            return list(outputs) if isinstance(outputs, tuple) else [outputs]

        return probe(run)

    return check
