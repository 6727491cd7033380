"""One ONNX file to be: traced, given its metadata, converted, and checked in ONNX Runtime before it gets its name."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from couloir.export.config import PrecisionConfig
from couloir.export.modules import Int32Inputs, as_integers
from couloir.export.quantize import write_fp16, write_int8
from couloir.export.selfcheck import Agreement, Pair, Probe, Runner, publish

OPSET = 13
SMALLEST_EXTERNAL_BYTES = 1024
KINDS = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
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
    declared = session.get_inputs()

    def run(*inputs: Tensor) -> list[Tensor]:
        feed = {
            value.name: given.numpy().astype(KINDS[value.type], copy=False)
            for value, given in zip(declared, inputs, strict=True)
        }
        return [torch.from_numpy(np.asarray(output)) for output in session.run(None, feed)]

    return probe(run)


def write_precisions(graph: Graph, stem: Path, config: PrecisionConfig) -> Agreements:
    """STEM.onnx and, if wanted, STEM.fp16.onnx and STEM.int8.onnx: file name -> how near it is to PyTorch."""
    if config.use_int32_inputs:
        graph = replace(graph, module=Int32Inputs(graph.module), example=as_integers(graph.example, torch.int32))
    full = stem.with_name(f"{stem.name}.onnx")
    writers: list[tuple[str, Path, Callable[[Path], None]]] = [("fp32", full, functools.partial(write_fp32, graph))]
    for wanted, precision, convert in (
        (config.fp16, "fp16", write_fp16),
        (config.enable_int8_quantization, "int8", write_int8),
    ):
        if wanted:
            path = stem.with_name(f"{stem.name}.{precision}.onnx")
            writers.append((precision, path, functools.partial(convert, full)))
    done: Agreements = {}
    for precision, path, write in writers:
        if config.use_external_data:
            write = functools.partial(_with_external_data, write)
        done[path.name] = publish(path, precision, write, lambda written: run_onnx(written, graph.probe))
    return done


def _with_external_data(write: Callable[[Path], None], path: Path) -> None:
    """Write a file, and then its weights apart from it, as PATH.data, which a runtime may map into memory."""
    write(path)
    onnx.save(
        onnx.load(str(path)),
        str(path),
        save_as_external_data=True,
        location=f"{path.name}.data",
        size_threshold=SMALLEST_EXTERNAL_BYTES,
    )


def fixed(graph: Graph, dynamic: bool) -> Graph:
    """The graph itself, or with no free axis, checked on the inputs it was traced with."""
    if dynamic:
        return graph

    def probe(run: Runner) -> list[Pair]:
        with torch.no_grad():
            expected = graph.module(*graph.example)
        found = run(*_flat(graph.example))
        return [(expected if isinstance(expected, Tensor) else expected[0], found[0])]

    return replace(graph, axes={}, probe=probe)


def _flat(example: tuple[Tensor | list[Tensor], ...]) -> list[Tensor]:
    return [tensor for value in example for tensor in ([value] if isinstance(value, Tensor) else value)]
