"""Half-precision and int8 versions of an fp32 ONNX file."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

# A smaller constant is no weight, or its size does not matter.
SMALLEST_WEIGHT = 64
# The features inside a graph: mel energies span more than 8 bits or half precision can tell apart.
FEATURES_SCOPE = "/fbank/"
# Where the output channels are in the weight of each operator; each channel has its own scale.
CHANNEL_AXIS = {"MatMul": -1, "Conv": 0, "Gather": 0}
PRECISION = "precision"
"""The entry of a file's metadata that says how its weights are stored and used."""
HALVES, EIGHTHS = "fp16 weights, computed in fp32", "int8 weights of 8 bits by channel, computed in fp32"
INTEGER_PRODUCTS = "int8 weights of 7 bits by channel, computed in integers with uint8 activations"
# Tensors and operators that give a weight back in fp32, from its name and its values.
Restore = Callable[[onnx.GraphProto, str, np.ndarray], tuple[list[onnx.TensorProto], list[onnx.NodeProto]] | None]


def write_fp16(source: Path, target: Path) -> None:
    """Store the weights in half precision; what is computed with them stays fp32.

    The casts back are folded when a runtime loads the file, which so is half as large and as fast as the fp32 one.
    icefall's converter changes the arithmetic too. Of these graphs onnxconverter-common 1.16 makes files that ONNX
    Runtime 1.31 refuses (a Cast of another type); those of onnxruntime.transformers crash it while it optimises
    (NchwcTransformer), so that sherpa-onnx cannot load them, and without that step take 1.6 times as long on a CPU.
    """
    _write_stored(source, target, _halves, HALVES)


def write_int8(source: Path, target: Path) -> None:
    """Quantise weights to int8.

    Of a graph that takes features those of matrix products (and embeddings), as icefall does: they are computed in
    integers with activations rounded at run time. They have seven bits, and each column its own scale. Of weights
    of eight bits, as icefall's files have them, two products with activations do not fit the 16 bits in which x86-64
    processors without VNNI add them, and the file gives other numbers there. The scales make up for the lost bit.

    Of a graph that takes samples, which runs in browsers: all of them, by channel, and what is computed with them stays
    fp32. Activations that are rounded from sums of another order differ by a step now and then, so integer products
    give another text on another machine (3 of 4,837 phones between ONNX Runtime's native and web builds); these do not.
    They are nearer to the fp32 file, and run at its speed.
    """
    inputs = {value.name for value in onnx.load(str(source)).graph.input}
    if "audio" in inputs:
        _write_stored(source, target, _eighths, EIGHTHS)
    else:
        _write_integer_products(source, target, ["MatMul", "Gather"] if "y" in inputs else ["MatMul"])


def _write_stored(source: Path, target: Path, restore: Restore, precision: str) -> None:
    """Store weights in another type, with the operators that give them back in fp32, which runtimes fold on loading."""
    model = onnx.load(str(source))
    graph = model.graph
    exempt = {name for node in graph.node if FEATURES_SCOPE in node.name for name in node.input}
    stored: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    for weight in graph.initializer:
        values = numpy_helper.to_array(weight)
        is_weight = values.dtype == np.float32 and values.size >= SMALLEST_WEIGHT and weight.name not in exempt
        restored = restore(graph, weight.name, values) if is_weight else None
        stored += restored[0] if restored else [onnx.TensorProto.FromString(weight.SerializeToString())]
        nodes += restored[1] if restored else []
    nodes += [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(stored)
    graph.node.extend(nodes)
    _save(model, target, precision)


def _save(model: onnx.ModelProto, target: Path, precision: str) -> None:
    model.metadata_props.add(key=PRECISION, value=precision)
    onnx.save(model, str(target))


def _halves(_: onnx.GraphProto, name: str, values: np.ndarray) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]]:
    limit = np.finfo(np.float16).max
    half = numpy_helper.from_array(values.clip(-limit, limit).astype(np.float16), f"{name}_half")
    return [half], [onnx.helper.make_node("Cast", [half.name], [name], f"/half/{name}", to=onnx.TensorProto.FLOAT)]


def _eighths(
    graph: onnx.GraphProto, name: str, values: np.ndarray
) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]] | None:
    """A weight as int8 numbers and a scale for each channel; None: it is no weight of `CHANNEL_AXIS`'s operators."""
    users = {node.op_type for node in graph.node if name in node.input}
    if values.ndim < 2 or len(users) != 1 or not users <= CHANNEL_AXIS.keys():
        return None
    channel = CHANNEL_AXIS[users.pop()] % values.ndim
    others = tuple(axis for axis in range(values.ndim) if axis != channel)
    largest = np.abs(values).max(others, keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    tensors = [
        numpy_helper.from_array(np.rint(values / scale).astype(np.int8), f"{name}_int8"),
        numpy_helper.from_array(scale, f"{name}_scale"),
    ]
    cast = onnx.helper.make_node(
        "Cast", [tensors[0].name], [f"{name}_steps"], f"/int8/{name}/Cast", to=onnx.TensorProto.FLOAT
    )
    scaled = onnx.helper.make_node("Mul", [f"{name}_steps", tensors[1].name], [name], f"/int8/{name}/Mul")
    return tensors, [cast, scaled]


def _write_integer_products(source: Path, target: Path, operators: list[str]) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(source))
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # a line per tensor that stays as it is, through the root logger
    try:
        quantize_dynamic(
            model_input=str(source),
            model_output=str(target),
            op_types_to_quantize=operators,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            nodes_to_exclude=[node.name for node in model.graph.node if FEATURES_SCOPE in node.name],
        )
    finally:
        logging.disable(disabled)
    _save(onnx.load(str(target)), target, INTEGER_PRODUCTS)
