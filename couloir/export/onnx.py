"""ONNX files with icefall's names, inputs, outputs and metadata, which sherpa-onnx runs as they are."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from couloir.export.config import CtcOnnxConfig, OnnxConfig, PrecisionConfig, StreamingOnnxConfig
from couloir.export.graph import Agreements, Axes, Graph, fixed, write_precisions
from couloir.export.modules import (
    AudioEncoder,
    OfflineEncoder,
    Predictor,
    ProjectedJoiner,
    StreamingEncoder,
    WithoutLengths,
    chunk_and_left_context,
    head_of,
    prepared,
)
from couloir.export.selfcheck import (
    Shape,
    audio_probe,
    feature_probe,
    features,
    row_probe,
    streaming_probe,
    warn_if_untested,
)
from couloir.features.config import FbankConfig
from couloir.models.asr import AsrModel
from couloir.models.zipformer.config import ZipformerConfig
from couloir.models.zipformer.streaming import initial_states, state_shapes

TRACED_FRAMES = 100
# sherpa-onnx makes the first embed_states of a stream itself, and with so many channels.
SHERPA_CHANNELS = 128
# sherpa-onnx's time stamps assume 25 output frames per second.
SHERPA_FACTOR = 2


def export_ctc(
    model: AsrModel, fbank: FbankConfig, config: CtcOnnxConfig, out_dir: Path, waves: list[Tensor]
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
    name = "audio-model" if config.with_frontend else "model"
    metadata: dict[str, str | int] = {"model_type": "zipformer2_ctc", "version": 1, "model_author": "k2-fsa"}
    metadata["comment"] = "non-streaming zipformer2 CTC"
    outputs = ["log_probs", "log_probs_len"]
    if config.with_frontend:
        metadata |= {"sample_rate": fbank.sample_rate, "input": "samples"}
        samples = TRACED_FRAMES * fbank.shift_samples
        graph = Graph(
            AudioEncoder(encoder, fbank),
            (torch.randn(1, samples), torch.tensor([samples])),
            ["audio", "audio_lens"],
            outputs,
            offline_axes(["audio", "audio_lens"], outputs),
            audio_probe(model, encoder.head, waves, fbank),
            metadata,
        )
    else:
        graph = offline_graph(model, encoder, outputs, features(waves, fbank), metadata, config)
    stem = out_dir / (f"{name}-{config.suffix}" if config.suffix else name)
    return write_precisions(fixed(graph, config.dynamic_axes), stem, config)


def offline_axes(inputs: list[str], outputs: list[str]) -> Axes:
    """Batch N and time T are free; the lengths have N alone."""
    return {name: {0: "N"} if name.endswith(("_lens", "_len")) else {0: "N", 1: "T"} for name in (*inputs, *outputs)}


def offline_graph(
    model: AsrModel,
    encoder: OfflineEncoder,
    outputs: list[str],
    items: list[Tensor],
    metadata: dict[str, str | int],
    config: OnnxConfig,
) -> Graph:
    """The graph of an encoder on features, with the lengths and the input that --max-len and --keep-x-lens leave it."""
    shape = Shape(max(config.max_len, 0), config.keep_x_lens != 0)
    frames = shape.max_len or TRACED_FRAMES
    x, inputs = torch.randn(1, frames, model.zipformer_config.feature_dim), ["x", "x_lens"]
    probe = feature_probe(model, encoder.head, items, shape)
    module: nn.Module = encoder
    example: tuple[Tensor, ...] = (x, torch.tensor([frames]))
    if not shape.lengths:
        module, example, inputs = WithoutLengths(encoder), example[:1], inputs[:1]
    axes = offline_axes(inputs, outputs)
    if shape.max_len:
        axes = {name: {0: "N"} for name in axes}
    return Graph(module, example, inputs, outputs, axes, probe, metadata)


def export_transducer(
    model: AsrModel, fbank: FbankConfig, config: OnnxConfig, out_dir: Path, waves: list[Tensor], suffix: str
) -> Agreements:
    """encoder-, decoder- and joiner-SUFFIX.onnx in each wanted precision. Arguments as of `export_ctc`."""
    warn_if_untested()
    warn_of_sherpa(model.zipformer_config, streaming=False)
    model = prepared(model)
    metadata: dict[str, str | int] = {"model_type": "zipformer2", "version": 1, "model_author": "k2-fsa"}
    metadata["comment"] = "non-streaming zipformer2"
    encoder = OfflineEncoder(model, "transducer")
    outputs = ["encoder_out", "encoder_out_lens"]
    graphs = {"encoder": offline_graph(model, encoder, outputs, features(waves, fbank), metadata, config)}
    graphs |= search_graphs(model)
    return _write_all(graphs, config, config.dynamic_axes, out_dir, config.suffix or suffix)


def _write_all(
    graphs: dict[str, Graph], config: PrecisionConfig, dynamic: bool, out_dir: Path, suffix: str
) -> Agreements:
    done: Agreements = {}
    for part, graph in graphs.items():
        stem = out_dir / f"{part}-{suffix}"
        done |= write_precisions(fixed(graph, dynamic), stem, config)
    return done


def search_graphs(model: AsrModel) -> dict[str, Graph]:
    """What the search of a transducer calls: "decoder" and "joiner"."""
    head_of(model, "transducer")
    heads = model.heads_config
    predictor, joiner = Predictor(model), ProjectedJoiner(model)
    generator = torch.Generator().manual_seed(0)
    histories = torch.randint(-1, heads.vocab_size, (5, heads.context_size), generator=generator)
    rows = torch.randn(2, 7, heads.joiner_dim, generator=generator)
    decoder_axes, joiner_axes = (
        {name: {0: "N"} for name in names} for names in (("y", "decoder_out"), ("encoder_out", "decoder_out", "logit"))
    )
    return {
        "decoder": Graph(
            predictor,
            (histories[:1].clamp(min=0),),
            ["y"],
            ["decoder_out"],
            decoder_axes,
            row_probe(predictor, histories),
            {"context_size": heads.context_size, "vocab_size": heads.vocab_size},
        ),
        "joiner": Graph(
            joiner,
            (rows[0, :1], rows[1, :1]),
            ["encoder_out", "decoder_out"],
            ["logit"],
            joiner_axes,
            row_probe(joiner, rows[0], rows[1]),
            {"joiner_dim": heads.joiner_dim},
        ),
    }


def export_streaming(
    model: AsrModel,
    kind: str,
    fbank: FbankConfig,
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
    model = prepared(model, full_context=False)
    graphs = {"ctc" if kind == "ctc" else "encoder": _streaming_graph(model, kind, sizes, features(waves, fbank))}
    if kind == "transducer":
        graphs |= search_graphs(model)
    suffix = config.suffix or f"{suffix}-chunk-{sizes[0]}-left-{sizes[1]}"
    return _write_all(graphs, config, config.dynamic_batch, out_dir, suffix)


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


def batch_axis(state: str) -> int:
    """The axis of a streaming state that counts the streams."""
    return 1 if state.startswith(("cached_key", "cached_nonlin", "cached_val")) else 0


def _streaming_graph(model: AsrModel, kind: str, sizes: tuple[int, int], items: list[Tensor]) -> Graph:
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
        axes,
        streaming_probe(module, model, sizes, items),
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
