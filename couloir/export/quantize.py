"""Half-precision and int8 versions of an fp32 ONNX file."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

# A smaller constant is no weight, or its size does not matter.
SMALLEST_WEIGHT = 64
# The features inside a graph: mel energies span more than 8 bits or half precision can tell apart.
FEATURES_SCOPE = "/fbank/"


def write_fp16(source: Path, target: Path) -> None:
    """Store the weights in half precision; what is computed with them stays fp32.

    The casts back are folded when a runtime loads the file, which so is half as large and as fast as the fp32 one.
    icefall's converter changes the arithmetic too. Of these graphs onnxconverter-common 1.16 makes files that ONNX
    Runtime 1.31 refuses (a Cast of another type); those of onnxruntime.transformers crash it while it optimises
    (NchwcTransformer), so that sherpa-onnx cannot load them, and without that step take 1.6 times as long on a CPU.
    """
    model = onnx.load(str(source))
    graph = model.graph
    exempt = {name for node in graph.node if FEATURES_SCOPE in node.name for name in node.input}
    casts = []
    for weight in graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.size < SMALLEST_WEIGHT or weight.name in exempt:
            continue
        limit = np.finfo(np.float16).max
        half = numpy_helper.from_array(values.clip(-limit, limit).astype(np.float16), f"{weight.name}_half")
        casts.append(onnx.helper.make_node("Cast", [half.name], [weight.name], f"/half/{half.name}", to=1))
        weight.CopyFrom(half)
    nodes = casts + [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, str(target))


def write_int8(source: Path, target: Path) -> None:
    """Quantise the weights of matrix products (and embeddings) to int8, activations at run time."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(source))
    takes_tokens = any(value.name == "y" for value in model.graph.input)
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # a line per tensor that stays as it is, through the root logger
    try:
        quantize_dynamic(
            model_input=str(source),
            model_output=str(target),
            op_types_to_quantize=["MatMul", "Gather"] if takes_tokens else ["MatMul"],
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[node.name for node in model.graph.node if FEATURES_SCOPE in node.name],
        )
    finally:
        logging.disable(disabled)
