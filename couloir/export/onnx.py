"""ONNX files of a model's parts, with the names of inputs and outputs that icefall's have."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from couloir.config import flag_name
from couloir.errors import must_be
from couloir.export.config import CtcOnnxConfig, OnnxConfig, PrecisionConfig, StreamingOnnxConfig
from couloir.export.graph import Axes, Graph, drafts
from couloir.export.modules import AudioEncoder, StreamingEncoder, WithoutLengths
from couloir.export.parts import ExportPart, OfflinePart, RowsPart, StreamingPart
from couloir.export.publish import Agreements, publish, warn_if_untested
from couloir.export.selfcheck import Shape, audio_probe, feature_probe, features, rows_probe, streaming_probe
from couloir.features.front_end import FrontEndConfig
from couloir.models.geometry import FrameGeometry

TRACED_FRAMES = 100
AUDIO_PREFIX = "audio-"
"""What the name of a file begins with that takes samples."""


def export_offline(
    parts: Sequence[ExportPart],
    front_end: FrontEndConfig,
    config: OnnxConfig,
    out_dir: Path,
    waves: list[Tensor],
    suffix: str = "",
) -> Agreements:
    """NAME.onnx of a model of one part, NAME-SUFFIX.onnx of one of several, in each wanted precision.

    Args:
        parts: of a model that takes whole recordings. front_end: its features. config: flags; with `CtcOnnxConfig`'s
            ``with_frontend`` the file is audio-NAME.onnx, which takes samples.
        out_dir: where to. waves: (N_i,) at least two recordings of different lengths, for the check.
        suffix: of the averaged model.

    Returns:
        File name -> how near it is to PyTorch.
    """
    _warn(parts)
    suffix = config.suffix or (suffix if len(parts) > 1 else "")
    if isinstance(config, CtcOnnxConfig) and config.with_frontend:
        graphs = {AUDIO_PREFIX + part.name: audio_graph(part, front_end, waves, config) for part in _offline(parts)}
        return _publish(graphs, config, out_dir, suffix)
    warn_of_features(front_end)
    items = features(waves, front_end)
    graphs = {}
    for part in parts:
        if isinstance(part, OfflinePart):
            graphs[part.name] = offline_graph(part, items, front_end, config)
        else:
            graphs[part.name] = _part_graph(part, items, front_end, config.dynamic_axes)
    return _publish(graphs, config, out_dir, suffix)


def export_streaming(
    parts: Sequence[ExportPart],
    front_end: FrontEndConfig,
    config: StreamingOnnxConfig,
    out_dir: Path,
    waves: list[Tensor],
    suffix: str,
) -> Agreements:
    """NAME-SUFFIX.onnx of a model that takes chunks; what tells its context is added to the suffix of the averaged
    model. Arguments as of `export_offline`."""
    _warn(parts)
    warn_of_features(front_end)
    items = features(waves, front_end)
    graphs = {part.name: _part_graph(part, items, front_end, config.dynamic_batch) for part in parts}
    contexts = [part.streaming.context for part in parts if isinstance(part, StreamingPart)]
    words = [f"{name}-{value}" for name, value in contexts[0].items()]
    return _publish(graphs, config, out_dir, config.suffix or "-".join([suffix, *words]))


def _warn(parts: Sequence[ExportPart]) -> None:
    warn_if_untested()
    for part in parts:
        if not isinstance(part, RowsPart):
            for warning in part.warnings:
                logging.warning(warning)


def _offline(parts: Sequence[ExportPart]) -> list[OfflinePart]:
    """The parts of a model that is one encoder. Raises `UserError` for others."""
    encoders = [part for part in parts if isinstance(part, OfflinePart)]
    if len(encoders) != len(parts):
        raise must_be("--with-frontend", "False for a model of several parts", "True")
    return encoders


def _publish(graphs: dict[str, Graph], config: PrecisionConfig, out_dir: Path, suffix: str) -> Agreements:
    end = f"-{suffix}" if suffix else ""
    return publish([draft for name, graph in graphs.items() for draft in drafts(graph, name + end, config)], out_dir)


def _part_graph(part: ExportPart, items: list[Tensor], front_end: FrontEndConfig, dynamic: bool) -> Graph:
    if isinstance(part, StreamingPart):
        return streaming_graph(part, items, front_end, dynamic)
    assert isinstance(part, RowsPart)
    return rows_graph(part, items[1], dynamic)


def offline_axes(inputs: list[str], outputs: list[str], shape: Shape) -> Axes:
    """Batch N and time T are free, as far as the file's shape leaves them so; the lengths have N alone."""
    if shape.alone:
        return {}
    timed = {0: "N"} if shape.max_len else {0: "N", 1: "T"}
    return {name: {0: "N"} if name.endswith(("_lens", "_len")) else timed for name in (*inputs, *outputs)}


def _shape(config: OnnxConfig, traced_len: int) -> Shape:
    """What a file takes by --max-len, --keep-x-lens and --dynamic-axes."""
    if config.dynamic_axes:
        return Shape(max(config.max_len, 0), config.keep_x_lens != 0)
    return Shape(max(config.max_len, 0) or traced_len, config.keep_x_lens != 0, alone=True)


def audio_graph(part: OfflinePart, front_end: FrontEndConfig, waves: list[Tensor], config: OnnxConfig) -> Graph:
    """The graph of an encoder on samples."""
    samples = front_end.num_samples(TRACED_FRAMES)
    shape, inputs, outputs = _shape(config, samples), ["audio", "audio_lens"], [part.output, part.output_lens]
    return Graph(
        AudioEncoder(part.module, front_end),
        (torch.randn(1, samples), torch.tensor([samples])),
        inputs,
        outputs,
        offline_axes(inputs, outputs, shape),
        audio_probe(part, waves, front_end, shape),
        part.scores,
        {**_metadata(part, part.geometry, front_end), "sample_rate": front_end.sample_rate, "input": "samples"},
    )


def offline_graph(part: OfflinePart, items: list[Tensor], front_end: FrontEndConfig, config: OnnxConfig) -> Graph:
    """The graph of an encoder on features, with the lengths and the input that --max-len and --keep-x-lens leave it.

    Raises:
        UserError: --max-len is too short for it.
    """
    shortest = part.geometry.shortest
    if 0 < config.max_len < shortest:
        raise must_be("--max-len", f"-1, or at least {shortest}", config.max_len)
    traced = max(TRACED_FRAMES, shortest)
    shape = _shape(config, traced)
    frames = shape.max_len or traced
    x, inputs, outputs = torch.randn(1, frames, part.feature_dim), ["x", "x_lens"], [part.output, part.output_lens]
    module: nn.Module = part.module
    example: tuple[Tensor, ...] = (x, torch.tensor([frames]))
    if not shape.lengths:
        module, example, inputs = WithoutLengths(module), example[:1], inputs[:1]
    axes, probe = offline_axes(inputs, outputs, shape), feature_probe(part, items, front_end.padding_value, shape)
    metadata = _metadata(part, part.geometry, front_end)
    return Graph(module, example, inputs, outputs, axes, probe, part.scores, metadata)


def rows_graph(part: RowsPart, item: Tensor, dynamic: bool) -> Graph:
    """The graph of a part whose rows are independent: of any number of rows at once, or of one."""
    example = tuple(value[:1] if value.is_floating_point() else value[:1].clamp(min=0) for value in part.rows(item))
    names = [*part.inputs, part.output]
    axes: Axes = {name: {0: "N"} for name in names if dynamic}
    probe = rows_probe(part, item, alone=not dynamic)
    metadata = dict(part.metadata)
    return Graph(part.module, example, list(part.inputs), [part.output], axes, probe, part.scores, metadata)


def streaming_graph(part: StreamingPart, items: list[Tensor], front_end: FrontEndConfig, dynamic: bool) -> Graph:
    """The graph of an encoder that takes a window and states; of any number of streams at once, or of one."""
    streaming = part.streaming
    module, names = StreamingEncoder(streaming, part.head), streaming.names
    axes: Axes = {"x": {0: "N"}, part.output: {0: "N"}}
    for name in names:
        axes[name] = axes[f"new_{name}"] = {streaming.batch_axis(name): "N"}
    return Graph(
        module,
        (torch.randn(1, streaming.window_frames, streaming.feature_dim), streaming.initial(1)),
        ["x", *names],
        [part.output, *(f"new_{name}" for name in names)],
        axes if dynamic else {},
        streaming_probe(module, streaming, items, front_end.padding_value, alone=not dynamic),
        part.scores,
        {**_metadata(part, streaming.geometry, front_end), **streaming.metadata()},
    )


def _metadata(part: ExportPart, geometry: FrameGeometry, front_end: FrontEndConfig) -> dict[str, str | int]:
    return {**part.metadata, **geometry.as_metadata(), **front_end.as_metadata()}


def warn_of_features(config: FrontEndConfig) -> None:
    """Name the settings of a model's features that those who feed a file without couloir have to know."""
    settings = [
        f"{flag_name(name)} {value} (default {getattr(type(config), name)})" for name, value in config.unusual().items()
    ]
    if settings:
        logging.warning(
            "this model's features are unusual, %s: sherpa-onnx and other programs compute the usual ones and will be "
            "wrong; couloir reads the settings off its ONNX files",
            ", ".join(settings),
        )
