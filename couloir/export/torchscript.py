"""TorchScript files with icefall's methods and attributes.

The encoder of a scripted file is traced inside a scripted shell: the model's own code uses Python that
``torch.jit.script`` does not take (dataclasses, draws of the training schedule), and none of it is left in a trace.
The modules beside it, such as decoder, joiner and CTC output, are scripted as they are.

Shapes: B items or streams, T feature frames, F feature bins, S output frames, D model dimension.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import List  # noqa: UP035

import torch
from torch import Tensor, nn

from couloir.export.modules import StreamingEncoder
from couloir.export.onnx import TRACED_FRAMES, warn_of_features
from couloir.export.parts import ExportPart, OfflinePart, RowsPart, ScriptedPart, StreamingPart
from couloir.export.publish import Agreements, Draft, Pair, publish, warn_if_untested
from couloir.export.selfcheck import Probe, Runner, feature_probe, features, rows_probe, streaming_probe
from couloir.features.front_end import FrontEndConfig
from couloir.models.common.balancer import Balancer
from couloir.models.common.streaming import Streaming


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
    __annotations__ = {
        "state_shapes": List[List[int]],  # noqa: UP006
        "batch_axes": List[int],  # noqa: UP006
        "counters": List[bool],  # noqa: UP006
    }

    def __init__(self, traced: nn.Module, streaming: Streaming) -> None:
        super().__init__()
        self.traced = traced
        for name, number in streaming.attributes.items():
            setattr(self, name, number)
        geometry, states = streaming.geometry, streaming.initial(1)
        self.look_ahead = streaming.window_frames - streaming.chunk_frames
        self.embedding_factor, self.output_factor = geometry.embedding_factor, geometry.output_factor
        self.state_shapes = [list(state.shape) for state in states]
        self.batch_axes = [streaming.batch_axis(name) for name in streaming.names]
        self.counters = [not state.is_floating_point() for state in states]

    def forward(
        self, features: Tensor, feature_lengths: Tensor, states: list[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """(B, T, F), (B,) and states -> (B, S, D), (B,) and new states."""
        encoded, new_states = self.traced(features, states)
        frames = (feature_lengths - self.look_ahead) // self.embedding_factor
        return encoded, (frames + self.output_factor - 1) // self.output_factor, new_states

    @torch.jit.export
    def get_init_states(self, batch_size: int = 1, device: torch.device = torch.device("cpu")) -> list[Tensor]:  # noqa: B008
        """States of streams that begin: zeros, counters as int64."""
        states: list[Tensor] = []
        for shape, axis, counter in zip(self.state_shapes, self.batch_axes, self.counters):
            size = list(shape)
            size[axis] = batch_size
            kind = torch.int64 if counter else torch.float32
            states.append(torch.zeros(size, dtype=kind, device=device))
        return states


class _Model(nn.Module):
    """What a scripted file holds: the encoder, and the modules beside it."""

    def __init__(self, encoder: nn.Module, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.encoder = encoder
        for name, module in modules.items():
            setattr(self, name, _without_balancers(module))


def _without_balancers(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, Balancer):
            setattr(module, name, nn.Identity())
    return module


def export_script(part: ScriptedPart, front_end: FrontEndConfig, out_dir: Path, waves: list[Tensor]) -> Agreements:
    """jit_script.pt, or jit_script_chunk_C_left_L.pt for a model that takes chunks.

    Args:
        part: to export. front_end: its features. out_dir: where to.
        waves: (N_i,) at least three recordings of different lengths, for the check.

    Returns:
        File name -> how near it is to PyTorch.
    """
    warn_if_untested()
    warn_of_features(front_end)
    items, encoder = features(waves, front_end), part.encoder
    shell: nn.Module
    if isinstance(encoder, StreamingPart):
        streaming = encoder.streaming
        module = StreamingEncoder(streaming, encoder.head)
        example = torch.randn(1, streaming.window_frames, streaming.feature_dim)
        shell = _StreamingEncoder(_traced(module, example, streaming.initial(1)), streaming)
        probe = streaming_probe(module, streaming, items, front_end.padding_value)
        words = [f"_{name}_{value}" for name, value in streaming.context.items()]
    else:
        shell, probe, words = (
            _Encoder(_traced(encoder.module, *_example(encoder))),
            feature_probe(encoder, items, front_end.padding_value),
            [],
        )
    scripted = torch.jit.script(_Model(shell, part.modules).eval())
    check = lambda path: probe(_runner_of(torch.jit.load(path)))  # noqa: E731
    return publish([Draft(f"jit_script{''.join(words)}.pt", "fp32", _saver(scripted), check, scores=False)], out_dir)


def _runner_of(scripted: torch.jit.ScriptModule) -> Runner:
    def run(features: Tensor, *rest: Tensor) -> list[Tensor]:
        with torch.no_grad():
            if len(rest) == 1:
                return list(scripted.encoder(features, rest[0]))
            lens = torch.full((len(features),), features.shape[1])
            encoded, _, states = scripted.encoder(features, lens, list(rest))
        return [encoded, *states]

    return run


def _example(part: OfflinePart) -> tuple[Tensor, Tensor]:
    frames = max(TRACED_FRAMES, part.geometry.shortest)
    return torch.randn(1, frames, part.feature_dim), torch.tensor([frames])


def _traced(module: nn.Module, *example: Tensor | list[Tensor]) -> torch.jit.ScriptModule:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of every Python value; the self-check shows if one matters
        module(*example)  # makes what it keeps of the sizes that it has seen, such as tables of positions
        return torch.jit.trace(module, example, check_trace=False, strict=False)


def export_trace(
    parts: Sequence[ExportPart], front_end: FrontEndConfig, out_dir: Path, waves: list[Tensor]
) -> Agreements:
    """jit_trace.pt of a model of one part, NAME_jit_trace.pt of the parts of others. See `export_script`."""
    warn_if_untested()
    warn_of_features(front_end)
    items = features(waves, front_end)
    made: list[Draft] = []
    for part in parts:
        name = "jit_trace.pt" if len(parts) == 1 else f"{part.name}_jit_trace.pt"
        example: tuple[Tensor, ...]
        if isinstance(part, OfflinePart):
            module, example, probe = (
                part.module,
                _example(part),
                feature_probe(part, items, front_end.padding_value),
            )
        else:
            assert isinstance(part, RowsPart)
            rows = part.rows(items[1])
            module, example, probe = part.module, tuple(value[:1] for value in rows), rows_probe(part, items[1])
        made.append(Draft(name, "fp32", _saver(_traced(module, *example)), _checker(probe), part.scores))
    return publish(made, out_dir)


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
