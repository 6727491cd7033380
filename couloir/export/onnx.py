"""ONNX files with icefall's names, inputs, outputs and metadata, which sherpa-onnx runs as they are."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from couloir.config import flag_name
from couloir.export.config import CtcOnnxConfig, OnnxConfig, PrecisionConfig, StreamingOnnxConfig
from couloir.export.graph import Axes, Graph, drafts
from couloir.export.modules import (
    AudioEncoder,
    OfflineEncoder,
    Predictor,
    ProjectedJoiner,
    StreamingEncoder,
    WithoutLengths,
    chunk_and_left_context,
    prepared,
)
from couloir.export.publish import Agreements, publish, warn_if_untested
from couloir.export.selfcheck import (
    Shape,
    audio_probe,
    feature_probe,
    features,
    joiner_probe,
    predictor_probe,
    search_inputs,
    streaming_probe,
)
from couloir.features.front_end import FrontEndConfig
from couloir.models.zipformer.config import ZipformerConfig
from couloir.models.zipformer.model import AsrModel
from couloir.models.zipformer.streaming import initial_states, state_shapes

TRACED_FRAMES = 100
# sherpa-onnx makes the first embed_states of a stream itself, and with so many channels.
SHERPA_CHANNELS = 128
# sherpa-onnx's time stamps assume 25 output frames per second.
SHERPA_FACTOR = 2


def export_ctc(
    model: AsrModel, fbank: FrontEndConfig, config: CtcOnnxConfig, out_dir: Path, waves: list[Tensor]
) -> Agreements:
    """model.onnx (or audio-model.onnx, which takes samples) in each wanted precision.

    Args:
        model: with a CTC head. fbank: its features. config: flags. out_dir: where to.
        waves: (N_i,) at least two recordings of different lengths, for the check.

    Returns:
        File name -> how near it is to PyTorch.
    """
    warn_if_untested()
    warn_of_sherpa(model.zipformer_config, streaming=False)
    model = prepared(model)
    encoder = OfflineEncoder(model, "ctc")
    metadata: dict[str, str | int] = {"model_type": "zipformer2_ctc", "version": 1, "model_author": "k2-fsa"}
    metadata |= {"comment": "non-streaming zipformer2 CTC", **fbank.as_metadata()}
    if config.with_frontend:
        name, graph = "audio-model", _audio_graph(model, encoder, fbank, waves, metadata, config)
    else:
        warn_of_features(fbank)
        outputs = ["log_probs", "log_probs_len"]
        name, graph = "model", offline_graph(model, encoder, outputs, features(waves, fbank), metadata, config)
    return publish(drafts(graph, f"{name}-{config.suffix}" if config.suffix else name, config), out_dir)


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


def _audio_graph(
    model: AsrModel,
    encoder: OfflineEncoder,
    fbank: FrontEndConfig,
    waves: list[Tensor],
    metadata: dict[str, str | int],
    config: OnnxConfig,
) -> Graph:
    samples = fbank.num_samples(TRACED_FRAMES)
    shape, inputs, outputs = _shape(config, samples), ["audio", "audio_lens"], ["log_probs", "log_probs_len"]
    return Graph(
        AudioEncoder(encoder, fbank),
        (torch.randn(1, samples), torch.tensor([samples])),
        inputs,
        outputs,
        offline_axes(inputs, outputs, shape),
        audio_probe(model, encoder.head, waves, fbank, shape),
        True,
        metadata | {"sample_rate": fbank.sample_rate, "input": "samples"},
    )


def offline_graph(
    model: AsrModel,
    encoder: OfflineEncoder,
    outputs: list[str],
    items: list[Tensor],
    metadata: dict[str, str | int],
    config: OnnxConfig,
) -> Graph:
    """The graph of an encoder on features, with the lengths and the input that --max-len and --keep-x-lens leave it."""
    shape = _shape(config, TRACED_FRAMES)
    frames = shape.max_len or TRACED_FRAMES
    x, inputs = torch.randn(1, frames, model.zipformer_config.feature_dim), ["x", "x_lens"]
    probe = feature_probe(model, encoder.head, items, shape)
    module: nn.Module = encoder
    example: tuple[Tensor, ...] = (x, torch.tensor([frames]))
    if not shape.lengths:
        module, example, inputs = WithoutLengths(encoder), example[:1], inputs[:1]
    axes = offline_axes(inputs, outputs, shape)
    return Graph(module, example, inputs, outputs, axes, probe, outputs[0] == "log_probs", metadata)


def export_transducer(
    model: AsrModel, fbank: FrontEndConfig, config: OnnxConfig, out_dir: Path, waves: list[Tensor], suffix: str
) -> Agreements:
    """encoder-, decoder- and joiner-SUFFIX.onnx in each wanted precision. Arguments as of `export_ctc`."""
    warn_if_untested()
    warn_of_sherpa(model.zipformer_config, streaming=False)
    warn_of_features(fbank)
    model, items = prepared(model), features(waves, fbank)
    metadata: dict[str, str | int] = {"model_type": "zipformer2", "version": 1, "model_author": "k2-fsa"}
    metadata |= {"comment": "non-streaming zipformer2", **fbank.as_metadata()}
    encoder = OfflineEncoder(model, "transducer")
    graphs = {"encoder": offline_graph(model, encoder, ["encoder_out", "encoder_out_lens"], items, metadata, config)}
    graphs |= search_graphs(model, items, config.dynamic_axes)
    return _publish_all(graphs, config, out_dir, config.suffix or suffix)


def _publish_all(graphs: dict[str, Graph], config: PrecisionConfig, out_dir: Path, suffix: str) -> Agreements:
    return publish([d for part, graph in graphs.items() for d in drafts(graph, f"{part}-{suffix}", config)], out_dir)


def search_graphs(model: AsrModel, items: list[Tensor], dynamic: bool) -> dict[str, Graph]:
    """What the search of a transducer calls: "decoder" and "joiner"; of any number of rows at once, or of one."""
    heads = model.heads_config
    histories, rows, predicted = search_inputs(model, items[1])

    def axes(*names: str) -> Axes:
        return {name: {0: "N"} for name in names if dynamic}

    return {
        "decoder": Graph(
            Predictor(model),
            (histories[:1].clamp(min=0),),
            ["y"],
            ["decoder_out"],
            axes("y", "decoder_out"),
            predictor_probe(model, items[1], alone=not dynamic),
            False,
            {"context_size": heads.context_size, "vocab_size": heads.vocab_size},
        ),
        "joiner": Graph(
            ProjectedJoiner(model),
            (rows[:1], predicted[:1]),
            ["encoder_out", "decoder_out"],
            ["logit"],
            axes("encoder_out", "decoder_out", "logit"),
            joiner_probe(model, items[1], alone=not dynamic),
            True,
            {"joiner_dim": heads.joiner_dim},
        ),
    }


def export_streaming(
    model: AsrModel,
    kind: str,
    fbank: FrontEndConfig,
    config: StreamingOnnxConfig,
    out_dir: Path,
    waves: list[Tensor],
    suffix: str,
) -> Agreements:
    """ctc-SUFFIX.onnx, or encoder-, decoder- and joiner-SUFFIX.onnx, of a causal model.

    Args:
        model: whose configuration has one chunk size and one left context. kind: "ctc" or "transducer".
        suffix: of the averaged model; the chunk size and left context are added to it.
        fbank, config, out_dir, waves: as of `export_ctc`.
    """
    warn_if_untested()
    sizes = chunk_and_left_context(model)
    warn_of_sherpa(model.zipformer_config, streaming=True)
    warn_of_features(fbank)
    model, items = prepared(model, full_context=False), features(waves, fbank)
    graph = _streaming_graph(model, kind, sizes, items, config.dynamic_batch)
    graph = replace(graph, metadata={**graph.metadata, **fbank.as_metadata()})
    graphs = {"ctc" if kind == "ctc" else "encoder": graph}
    if kind == "transducer":
        graphs |= search_graphs(model, items, config.dynamic_batch)
    suffix = config.suffix or f"{suffix}-chunk-{sizes[0]}-left-{sizes[1]}"
    return _publish_all(graphs, config, out_dir, suffix)


def warn_of_sherpa(config: ZipformerConfig, streaming: bool) -> None:
    """Say in the log what sherpa-onnx cannot do with a model. ONNX Runtime and couloir run the files all the same."""
    if config.output_downsampling_factor != SHERPA_FACTOR:
        logging.warning(
            "sherpa-onnx takes an output frame for 40 ms, and this model's is 20 ms: its texts are right and its time "
            "stamps twice too late; couloir reads the rate off the file"
        )
    if streaming and config.frontend_channels[2] != SHERPA_CHANNELS:
        logging.warning(
            "sherpa-onnx cannot stream this model: it makes the first `embed_states` with %d channels, and "
            "`--frontend-channels` ends in %d (as the preset tiny has it)",
            SHERPA_CHANNELS,
            config.frontend_channels[2],
        )


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


def batch_axis(state: str) -> int:
    """The axis of a streaming state that counts the streams."""
    return 1 if state.startswith(("cached_key", "cached_nonlin", "cached_val")) else 0


def _streaming_graph(model: AsrModel, kind: str, sizes: tuple[int, int], items: list[Tensor], dynamic: bool) -> Graph:
    chunk, left_context = sizes
    module = StreamingEncoder(model, kind)
    names = [name for name, _ in state_shapes(model.zipformer_config, 1, left_context)] + ["processed_lens"]
    output = "log_probs" if kind == "ctc" else "encoder_out"
    axes: Axes = {"x": {0: "N"}, output: {0: "N"}}
    for name in names:
        axes[name] = axes[f"new_{name}"] = {batch_axis(name): "N"}
    states = initial_states(model.zipformer_config, 1, left_context)
    return Graph(
        module,
        (torch.randn(1, 2 * chunk + 13, model.zipformer_config.feature_dim), states),
        ["x", *names],
        [output, *(f"new_{name}" for name in names)],
        axes if dynamic else {},
        streaming_probe(module, model, sizes, items, alone=not dynamic),
        kind == "ctc",
        _streaming_metadata(model, kind, sizes),
    )


def _streaming_metadata(model: AsrModel, kind: str, sizes: tuple[int, int]) -> dict[str, str | int]:
    """What sherpa-onnx makes the states from."""
    config, (chunk, left_context) = model.zipformer_config, sizes
    lists = {
        "num_encoder_layers": config.num_encoder_layers,
        "encoder_dims": config.encoder_dim,
        "cnn_module_kernels": config.cnn_module_kernel,
        "left_context_len": [left_context // factor for factor in config.downsampling_factor],
        "query_head_dims": config.query_head_dim,
        "value_head_dims": config.value_head_dim,
        "num_heads": config.num_heads,
    }
    return {
        "model_type": "zipformer2",
        "version": 1,
        "model_author": "k2-fsa",
        "comment": "streaming ctc zipformer2" if kind == "ctc" else "streaming zipformer2",
        "decode_chunk_len": 2 * chunk,
        "T": 2 * chunk + 13,
        **{name: ",".join(map(str, values)) for name, values in lists.items()},
    }
