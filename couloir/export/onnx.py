"""ONNX files with icefall's names, inputs, outputs and metadata, which sherpa-onnx runs as they are."""

from __future__ import annotations

import functools
import logging
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from couloir.export.config import CtcOnnxConfig, OnnxConfig, StreamingOnnxConfig
from couloir.export.modules import (
    AudioEncoder,
    OfflineEncoder,
    Predictor,
    ProjectedJoiner,
    StreamingEncoder,
    chunk_and_left_context,
    head_of,
    prepared,
)
from couloir.export.quantize import write_fp16, write_int8
from couloir.export.selfcheck import (
    Agreement,
    Pair,
    Probe,
    audio_probe,
    feature_probe,
    features,
    publish,
    row_probe,
    streaming_probe,
    warn_if_untested,
)
from couloir.features.config import FbankConfig
from couloir.models.asr import AsrModel
from couloir.models.zipformer.streaming import initial_states, state_shapes

OPSET = 13
TRACED_FRAMES = 100
# sherpa-onnx makes the first embed_states of a stream itself, and with so many channels.
SHERPA_CHANNELS = 128
Axes = dict[str, dict[int, str]]
Agreements = dict[str, Agreement]


@dataclass(frozen=True)
class Graph:
    """One file to be: what is traced, with what, and how it is checked.

    Attributes:
        module: in eval mode. example: its inputs. inputs, outputs: their names. axes: name -> the axes that are free.
        metadata: of the file. probe: runs the file at other sizes.
    """

    module: nn.Module
    example: tuple[Tensor | list[Tensor], ...]
    inputs: list[str]
    outputs: list[str]
    axes: Axes
    probe: Probe
    metadata: dict[str, str | int] = field(default_factory=dict)


def write_fp32(graph: Graph, path: Path) -> None:
    """Trace, with gradients off and the classic exporter (the other one freezes the batch size)."""
    with torch.no_grad(), warnings.catch_warnings():
        # Tracing warns of every Python value; the self-check shows whether one matters.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.module,
            graph.example,
            str(path),
            input_names=graph.inputs,
            output_names=graph.outputs,
            dynamic_axes=graph.axes,
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(str(path))
    for key, value in graph.metadata.items():
        model.metadata_props.add(key=key, value=str(value))
    onnx.save(model, str(path))


def run_onnx(path: Path, probe: Probe) -> list[Pair]:
    """Probe a file in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def run(*inputs: Tensor) -> list[Tensor]:
        feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return [torch.from_numpy(np.asarray(output)) for output in session.run(None, feed)]

    return probe(run)


def write_precisions(graph: Graph, stem: Path, fp16: bool, int8: bool) -> Agreements:
    """STEM.onnx and, if wanted, STEM.fp16.onnx and STEM.int8.onnx: file name -> how near it is to PyTorch."""
    full = stem.with_name(f"{stem.name}.onnx")
    done = {full.name: publish(full, "fp32", lambda path: write_fp32(graph, path), lambda p: run_onnx(p, graph.probe))}
    for wanted, precision, convert in ((fp16, "fp16", write_fp16), (int8, "int8", write_int8)):
        if wanted:
            path = stem.with_name(f"{stem.name}.{precision}.onnx")
            done[path.name] = publish(
                path, precision, functools.partial(convert, full), lambda p: run_onnx(p, graph.probe)
            )
    return done


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
        graph = offline_graph(model, encoder, outputs, features(waves, fbank), metadata)
    stem = out_dir / (f"{name}-{config.suffix}" if config.suffix else name)
    return write_precisions(fixed(graph, config.dynamic_axes), stem, config.fp16, config.enable_int8_quantization)


def offline_axes(inputs: list[str], outputs: list[str]) -> Axes:
    """Batch N and time T are free; the lengths have N alone."""
    return {name: {0: "N"} if name.endswith(("_lens", "_len")) else {0: "N", 1: "T"} for name in (*inputs, *outputs)}


def offline_graph(
    model: AsrModel, encoder: OfflineEncoder, outputs: list[str], items: list[Tensor], metadata: dict[str, str | int]
) -> Graph:
    """The graph of an encoder on features."""
    inputs = ["x", "x_lens"]
    example = torch.randn(1, TRACED_FRAMES, model.zipformer_config.feature_dim), torch.tensor([TRACED_FRAMES])
    probe = feature_probe(model, encoder.head, items)
    return Graph(encoder, example, inputs, outputs, offline_axes(inputs, outputs), probe, metadata)


def fixed(graph: Graph, dynamic: bool) -> Graph:
    """The graph itself, or with no free axis, checked on the inputs it was traced with."""
    if dynamic:
        return graph

    def probe(run: object) -> list[Pair]:
        with torch.no_grad():
            expected = graph.module(*graph.example)
        found = run(*_flat(graph.example))  # type: ignore[operator]
        return [(expected if isinstance(expected, Tensor) else expected[0], found[0])]

    return Graph(graph.module, graph.example, graph.inputs, graph.outputs, {}, probe, graph.metadata)


def _flat(example: tuple[Tensor | list[Tensor], ...]) -> list[Tensor]:
    return [tensor for value in example for tensor in ([value] if isinstance(value, Tensor) else value)]


def export_transducer(
    model: AsrModel, fbank: FbankConfig, config: OnnxConfig, out_dir: Path, waves: list[Tensor], suffix: str
) -> Agreements:
    """encoder-, decoder- and joiner-SUFFIX.onnx in each wanted precision. Arguments as of `export_ctc`."""
    warn_if_untested()
    model = prepared(model)
    metadata: dict[str, str | int] = {"model_type": "zipformer2", "version": 1, "model_author": "k2-fsa"}
    metadata["comment"] = "non-streaming zipformer2"
    encoder = OfflineEncoder(model, "transducer")
    outputs = ["encoder_out", "encoder_out_lens"]
    graphs = {"encoder": offline_graph(model, encoder, outputs, features(waves, fbank), metadata)}
    graphs |= search_graphs(model)
    return _write_all(graphs, config, config.dynamic_axes, out_dir, config.suffix or suffix)


def _write_all(
    graphs: dict[str, Graph], config: OnnxConfig | StreamingOnnxConfig, dynamic: bool, out_dir: Path, suffix: str
) -> Agreements:
    done: Agreements = {}
    for part, graph in graphs.items():
        stem = out_dir / f"{part}-{suffix}"
        done |= write_precisions(fixed(graph, dynamic), stem, config.fp16, config.enable_int8_quantization)
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
    if model.zipformer_config.frontend_channels[2] != SHERPA_CHANNELS:
        logging.warning("sherpa-onnx streams models with --frontend-channels ..,..,%d alone", SHERPA_CHANNELS)
    model = prepared(model, full_context=False)
    graphs = {"ctc" if kind == "ctc" else "encoder": _streaming_graph(model, kind, sizes, features(waves, fbank))}
    if kind == "transducer":
        graphs |= search_graphs(model)
    suffix = config.suffix or f"{suffix}-chunk-{sizes[0]}-left-{sizes[1]}"
    return _write_all(graphs, config, config.dynamic_batch, out_dir, suffix)


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
