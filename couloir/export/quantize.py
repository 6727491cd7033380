"""Half precision and int8 versions of an fp32 ONNX file."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx

# Mel energies span more than half precision's range, positions more than its integers, squares more than both.
FP32_SCOPES = ("/fbank/", "/encoder_pos/", "/norm/", "/out_norm/")
FP32_OPS = ("LogSoftmax",)


def write_fp16(source: Path, target: Path) -> None:
    """Convert all but the sensitive parts to half precision. Inputs and outputs stay fp32."""
    from onnxconverter_common import float16

    model = onnx.load(str(source))
    _bypass_identities(model.graph)
    # The converter leaves a cast to fp32 as it is in front of half-precision consumers: such a file does not load.
    kept = [node.name for node in model.graph.node if _in_scope(node) or _casts_to_float(node)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one per constant below the smallest half
        converted = float16.convert_float_to_float16(
            model,
            keep_io_types=True,
            op_block_list=[*float16.DEFAULT_OP_BLOCK_LIST, *FP32_OPS],
            node_block_list=kept,
        )
    onnx.save(converted, str(target))


def _bypass_identities(graph: onnx.GraphProto) -> None:
    """Let weights that the exporter shares through Identity nodes be used directly.

    Otherwise the converter gives one weight two types.
    """
    weights = {weight.name for weight in graph.initializer}
    shared = [node for node in graph.node if node.op_type == "Identity" and node.input[0] in weights]
    source = {node.output[0]: node.input[0] for node in shared}
    for node in shared:
        graph.node.remove(node)
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = source.get(name, name)


def _in_scope(node: onnx.NodeProto) -> bool:
    return any(scope in node.name for scope in FP32_SCOPES)


def _casts_to_float(node: onnx.NodeProto) -> bool:
    return node.op_type == "Cast" and any(a.name == "to" and a.i == onnx.TensorProto.FLOAT for a in node.attribute)


def write_int8(source: Path, target: Path) -> None:
    """Quantise the weights of matrix products (and embeddings) to int8, activations at run time."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(source))
    takes_tokens = any(value.name == "y" for value in model.graph.input)
    quantize_dynamic(
        model_input=str(source),
        model_output=str(target),
        op_types_to_quantize=["MatMul", "Gather"] if takes_tokens else ["MatMul"],
        weight_type=QuantType.QInt8,
        nodes_to_exclude=[node.name for node in model.graph.node if "/fbank/" in node.name],
    )
