"""One ONNX graph to be: traced, given its metadata, converted, and run in ONNX Runtime."""

from __future__ import annotations

import functools
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from couloir.errors import UserError
from couloir.export.config import PrecisionConfig
from couloir.export.modules import Int32Inputs, as_integers
from couloir.export.publish import DATA_SUFFIX, Draft, Pair
from couloir.export.quantize import write_fp16, write_int8
from couloir.export.selfcheck import Probe

OPSET = 13
SMALLEST_EXTERNAL_BYTES = 1024
KINDS = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
Axes = dict[str, dict[int, str]]


@dataclass(frozen=True)
class Graph:
    """One file to be: what is traced, with what, and how it is checked.

    Attributes:
        module: in eval mode. example: its inputs. inputs, outputs: their names. axes: name -> the axes that are free.
        probe: runs the file at other sizes. scores: whether it gives scores of tokens. metadata: of the file.
    """

    module: nn.Module
    example: tuple[Tensor | list[Tensor], ...]
    inputs: list[str]
    outputs: list[str]
    axes: Axes
    probe: Probe
    scores: bool
    metadata: dict[str, str | int] = field(default_factory=dict)


def write_fp32(graph: Graph, path: Path) -> None:
    """Trace, with gradients off and the classic exporter (the other one freezes the batch size)."""
    with torch.no_grad(), warnings.catch_warnings():
        # Tracing warns of every Python value; the self-check shows whether one matters.
        warnings.simplefilter("ignore")
        # Also makes what a model keeps of the sizes that it has seen, such as tables of positions, before it is traced.
        given = _flat(graph.module(*graph.example))
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
    for output, tensor in zip(model.graph.output, given, strict=True):
        # The exporter gives a name of its own to an axis whose size it cannot infer.
        for axis, dim in enumerate(output.type.tensor_type.shape.dim):
            if axis not in graph.axes.get(output.name, {}):
                dim.dim_value = tensor.shape[axis]
    for key, value in graph.metadata.items():
        model.metadata_props.add(key=key, value=str(value))
    onnx.save(model, str(path))


def _flat(outputs: Tensor | Sequence[Any]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else [tensor for output in outputs for tensor in _flat(output)]


def run_onnx(path: Path, probe: Probe) -> list[Pair]:
    """Probe a file in ONNX Runtime. Raises `UserError` when it does not run there."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    with _refusal_named(path):
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    declared = session.get_inputs()

    def run(*inputs: Tensor) -> list[Tensor]:
        feed = {
            value.name: given.numpy().astype(KINDS[value.type], copy=False)
            for value, given in zip(declared, inputs, strict=True)
        }
        with _refusal_named(path):
            return [torch.from_numpy(np.asarray(output)) for output in session.run(None, feed)]

    return probe(run)


@contextmanager
def _refusal_named(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # ONNX Runtime's own classes have no common base
        reason = str(error).splitlines()[0][:160]
        raise UserError(f"ONNX Runtime does not run {path.name}, and nothing was written: {reason}") from error


def drafts(graph: Graph, stem: str, config: PrecisionConfig) -> list[Draft]:
    """STEM.onnx and, if wanted, STEM.fp16.onnx and STEM.int8.onnx, which are made from it."""
    if config.use_int32_inputs:
        graph = replace(graph, module=Int32Inputs(graph.module), example=as_integers(graph.example, torch.int32))
    full = f"{stem}.onnx"
    writers: list[tuple[str, str, Callable[[Path], None]]] = [("fp32", full, functools.partial(write_fp32, graph))]
    for wanted, precision, convert in (
        (config.fp16, "fp16", write_fp16),
        (config.enable_int8_quantization, "int8", write_int8),
    ):
        if wanted:
            writers.append((precision, f"{stem}.{precision}.onnx", functools.partial(_converted, convert, full)))
    return [
        Draft(
            name,
            precision,
            functools.partial(_with_external_data, write) if config.use_external_data else write,
            functools.partial(run_onnx, probe=graph.probe),
            graph.scores,
        )
        for precision, name, write in writers
    ]


def _converted(convert: Callable[[Path, Path], None], source: str, path: Path) -> None:
    convert(path.with_name(source), path)


def _with_external_data(write: Callable[[Path], None], path: Path) -> None:
    """Write a file, and then its weights apart from it, as PATH.data, which a runtime may map into memory."""
    write(path)
    onnx.save(
        onnx.load(str(path)),
        str(path),
        save_as_external_data=True,
        location=path.name + DATA_SUFFIX,
        size_threshold=SMALLEST_EXTERNAL_BYTES,
    )
    data = path.with_name(path.name + DATA_SUFFIX)
    if data.is_file():
        shutil.copymode(path, data)  # onnx makes it readable by its owner alone
