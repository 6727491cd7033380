"""The flags of the export programs. Imports nothing heavy."""

from __future__ import annotations

import dataclasses

from couloir.config import option
from couloir.errors import must_be
from couloir.models.geometry import FrameGeometry

HEADS = ("transducer", "ctc")
HEAD_HELP = "which output of a run with --use-ctc True is exported"
SHORTEST_FRAMES = FrameGeometry().shortest
"""Feature frames that most models need for a frame of output; those that need more refuse by themselves."""


@dataclasses.dataclass(frozen=True)
class OutputConfig:
    """Export. Where the files go, and what they are checked on."""

    out_dir: str = option("", "folder of the files; empty: the run directory, or that of the checkpoint file")
    check_wav: str = option(
        "",
        "comma-separated recordings of speech on which the files are compared with PyTorch; empty: 4 s of Russian that "
        "come with the program",
    )
    tokens: str = option("", "tokens.txt of a foreign checkpoint, if there is no --bpe-model")


@dataclasses.dataclass(frozen=True)
class TorchExportConfig:
    """TorchScript. What is written beside pretrained.pt and model.safetensors."""

    jit: bool = option(False, "write jit_script.pt, or jit_script_chunk_C_left_L.pt for a causal model")
    jit_trace: bool = option(False, "write traced modules: jit_trace.pt, or one per part of a transducer")


@dataclasses.dataclass(frozen=True)
class PrecisionConfig:
    """ONNX. What every ONNX file is written in."""

    fp16: bool = option(False, "write .fp16.onnx too: weights in half precision")
    enable_int8_quantization: bool = option(True, "write .int8.onnx too")
    suffix: str = option("", "in the file names; a transducer's or a streaming model's empty one is epoch-E-avg-A")
    use_int32_inputs: bool = option(False, "lengths, tokens and counters as int32, for runtimes without int64")
    use_external_data: bool = option(False, "weights in a file of their own, NAME.onnx.data, beside each NAME.onnx")


@dataclasses.dataclass(frozen=True)
class OnnxConfig(PrecisionConfig):
    """ONNX. Precisions, file names, and what the files take."""

    dynamic_axes: bool = option(True, "any batch size and length; False: one recording of the traced length")
    max_len: int = option(
        -1, "recordings of exactly that many feature frames, shorter ones padded; -1: of any", unit="10 ms frames"
    )
    keep_x_lens: int = option(-1, "0: no input for the lengths, every recording fills its row; other numbers keep it")

    def __post_init__(self) -> None:
        if self.max_len != -1 and self.max_len < SHORTEST_FRAMES:
            raise must_be("--max-len", f"-1, or at least {SHORTEST_FRAMES}", self.max_len)


@dataclasses.dataclass(frozen=True)
class CtcOnnxConfig(OnnxConfig):
    """ONNX. Precisions, file names, and what a CTC model takes."""

    with_frontend: bool = option(False, "write audio-model.onnx instead: from 16 kHz samples to log-probabilities")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.with_frontend and (self.max_len > 0 or self.keep_x_lens == 0):
            raise must_be("--with-frontend", "False with --max-len or --keep-x-lens 0", "True")


@dataclasses.dataclass(frozen=True)
class TransducerOnnxConfig(CtcOnnxConfig):
    """ONNX. Precisions, file names, and what a model with a transducer takes."""

    head: str = option("transducer", HEAD_HELP, choices=HEADS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.with_frontend and self.head == "transducer":
            raise must_be("--with-frontend", "False for a transducer", "True", "give --head ctc if the model has CTC")


@dataclasses.dataclass(frozen=True)
class StreamingOnnxConfig(PrecisionConfig):
    """Streaming ONNX. Precisions and file names; --chunk-size and --left-context-frames need one number each."""

    dynamic_batch: bool = option(True, "any number of streams; False: one")
    use_whisper_features: bool = option(False, "refused: the models here take Kaldi's filterbank", hidden=True)

    def __post_init__(self) -> None:
        if self.use_whisper_features:
            raise must_be("--use-whisper-features", "False", "True", "the models here take Kaldi's filterbank")


@dataclasses.dataclass(frozen=True)
class StreamingTransducerOnnxConfig(StreamingOnnxConfig):
    """Streaming ONNX. Precisions and file names; --chunk-size and --left-context-frames need one number each."""

    head: str = option("transducer", HEAD_HELP, choices=HEADS)


# The flags of a recipe's programs. A transducer's models may have a CTC output too.
OFFLINE_ONNX: dict[str, type[CtcOnnxConfig]] = {"ctc": CtcOnnxConfig, "transducer": TransducerOnnxConfig}
STREAMING_ONNX: dict[str, type[StreamingOnnxConfig]] = {
    "ctc": StreamingOnnxConfig,
    "transducer": StreamingTransducerOnnxConfig,
}
