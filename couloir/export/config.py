"""The flags of the export programs. Imports nothing heavy."""

from __future__ import annotations

import dataclasses

from couloir.config import option


@dataclasses.dataclass(frozen=True)
class OutputConfig:
    """Export. Where the files go, and what they are checked on."""

    out_dir: str = option("", "folder of the files; empty: the run directory")
    check_wav: str = option(
        "", "comma-separated recordings on which the files are compared with PyTorch; empty: deterministic noise"
    )
    tokens: str = option("", "tokens.txt of a foreign checkpoint, if there is no --bpe-model")


@dataclasses.dataclass(frozen=True)
class TorchExportConfig:
    """TorchScript. What is written beside pretrained.pt and model.safetensors."""

    jit: bool = option(False, "write jit_script.pt, or jit_script_chunk_C_left_L.pt for a causal model")
    jit_trace: bool = option(False, "write traced modules: jit_trace.pt, or one per part of a transducer")


@dataclasses.dataclass(frozen=True)
class OnnxConfig:
    """ONNX. Precisions and file names."""

    fp16: bool = option(False, "write .fp16.onnx too")
    enable_int8_quantization: bool = option(True, "write .int8.onnx too")
    dynamic_axes: bool = option(True, "any batch size and length; False: one recording of the traced length")
    suffix: str = option("", "in the file names; a transducer's empty one is epoch-E-avg-A")


@dataclasses.dataclass(frozen=True)
class CtcOnnxConfig(OnnxConfig):
    """ONNX. Precisions, file names, and what a CTC model takes."""

    with_frontend: bool = option(False, "write audio-model.onnx instead: from 16 kHz samples to log-probabilities")


@dataclasses.dataclass(frozen=True)
class StreamingOnnxConfig:
    """Streaming ONNX. Precisions and file names; --chunk-size and --left-context-frames need one number each."""

    fp16: bool = option(False, "write .fp16.onnx too")
    enable_int8_quantization: bool = option(True, "write .int8.onnx too")
    dynamic_batch: bool = option(True, "any number of streams; False: one")
    suffix: str = option("", "in the file names instead of epoch-E-avg-A-chunk-C-left-L")
