"""The ONNX files as their readers see them: names, axes and metadata against the specification, tokens in ONNX Runtime
and sherpa-onnx. Random models, real speech."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from small_models import FBANK, PIECES, SPEECH, chunks, rows_of, speech_features, tokens_of

from couloir.audio import load_audio
from couloir.errors import UserError
from couloir.export.graph import run_onnx
from couloir.export.publish import Draft, publish
from couloir.export.selfcheck import feature_probe, features
from couloir.families.zipformer_export import export_parts
from couloir.features.fbank import Fbank
from couloir.inference.onnx_backend import OnnxBackend
from couloir.inference.recognizer import Recognizer
from couloir.inference.search import ctc_greedy, transducer_greedy
from couloir.inference.torch_backend import TorchBackend
from couloir.inference.vocabulary import Vocabulary

FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
OFFLINE, ONLINE = "epoch-1-avg-1", "epoch-1-avg-1-chunk-16-left-32"
FEATURES = {"x": (FLOAT, ["N", "T", 80]), "x_lens": (INT64, ["N"])}
AUTHOR = {"version": "1", "model_author": "k2-fsa", "front_end": "fbank"}
# Of a chunk of 16 frames and a left context of 32 at 50 Hz, in layers of 2 heads: keys of 8, values of 6, and the three
# quarters of the 32 and 48 channels that non-linear attention has; half kernels of 7 and 3.
STATES = {
    "cached_key_0": (FLOAT, [32, "N", 16]),
    "cached_nonlin_attn_0": (FLOAT, [1, "N", 32, 24]),
    "cached_val1_0": (FLOAT, [32, "N", 12]),
    "cached_val2_0": (FLOAT, [32, "N", 12]),
    "cached_conv1_0": (FLOAT, ["N", 32, 7]),
    "cached_conv2_0": (FLOAT, ["N", 32, 7]),
    "cached_key_1": (FLOAT, [16, "N", 16]),
    "cached_nonlin_attn_1": (FLOAT, [1, "N", 16, 36]),
    "cached_val1_1": (FLOAT, [16, "N", 12]),
    "cached_val2_1": (FLOAT, [16, "N", 12]),
    "cached_conv1_1": (FLOAT, ["N", 48, 3]),
    "cached_conv2_1": (FLOAT, ["N", 48, 3]),
    "embed_states": (FLOAT, ["N", 128, 3, 19]),
    "processed_lens": (INT64, ["N"]),
}
STREAM = {
    "model_type": "zipformer2",
    **AUTHOR,
    "decode_chunk_len": "32",
    "T": "45",
    "num_encoder_layers": "1,1",
    "encoder_dims": "32,48",
    "cnn_module_kernels": "15,7",
    "left_context_len": "32,16",
    "query_head_dims": "8,8",
    "value_head_dims": "6,6",
    "num_heads": "2,2",
}
SEARCH = {
    "decoder": (
        {"y": (INT64, ["N", 2])},
        {"decoder_out": (FLOAT, ["N", 24])},
        {"context_size": "2", "vocab_size": "19"},
    ),
    "joiner": (
        {"encoder_out": (FLOAT, ["N", 24]), "decoder_out": (FLOAT, ["N", 24])},
        {"logit": (FLOAT, ["N", 19])},
        {"joiner_dim": "24"},
    ),
}
# Kind, whether streaming, file -> inputs, outputs, metadata.
FILES = [
    (
        "ctc",
        False,
        "model",
        FEATURES,
        {"log_probs": (FLOAT, ["N", "T", 19]), "log_probs_len": (INT64, ["N"])},
        {"model_type": "zipformer2_ctc", **AUTHOR, "comment": "non-streaming zipformer2 CTC"},
    ),
    (
        "transducer",
        False,
        f"encoder-{OFFLINE}",
        FEATURES,
        {"encoder_out": (FLOAT, ["N", "T", 24]), "encoder_out_lens": (INT64, ["N"])},
        {"model_type": "zipformer2", **AUTHOR, "comment": "non-streaming zipformer2"},
    ),
    *(("transducer", False, f"{part}-{OFFLINE}", *SEARCH[part]) for part in SEARCH),
    (
        "transducer",
        True,
        f"encoder-{ONLINE}",
        {"x": (FLOAT, ["N", 45, 80]), **STATES},
        {"encoder_out": (FLOAT, ["N", 8, 24]), **{f"new_{name}": value for name, value in STATES.items()}},
        {**STREAM, "comment": "streaming zipformer2"},
    ),
    *(("transducer", True, f"{part}-{ONLINE}", *SEARCH[part]) for part in SEARCH),
    (
        "ctc",
        True,
        f"ctc-{ONLINE}",
        {"x": (FLOAT, ["N", 45, 80]), **STATES},
        {"log_probs": (FLOAT, ["N", 8, 19]), **{f"new_{name}": value for name, value in STATES.items()}},
        {**STREAM, "comment": "streaming ctc zipformer2"},
    ),
]


PRECISIONS = {
    "": {},
    ".fp16": {"precision": "fp16 weights, computed in fp32"},
    ".int8": {"precision": "int8 weights of 7 bits by channel, computed in integers with uint8 activations"},
}


def declared(values):
    """name -> (type, dimensions by name or number), in the file's order."""
    return {
        value.name: (
            value.type.tensor_type.elem_type,
            [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
        )
        for value in values
    }


def slow_but(fast, cases):
    """Exporting takes seconds: of one kind the tests are among the fast ones."""
    return [case if fast(*case) else pytest.param(*case, marks=pytest.mark.slow) for case in cases]


@pytest.mark.parametrize(
    ("kind", "streaming", "name", "inputs", "outputs", "metadata"),
    slow_but(lambda kind, streaming, *_: kind == "ctc" and not streaming, FILES),
)
def test_a_file_is_what_the_specification_says(exported, kind, streaming, name, inputs, outputs, metadata):
    _, folder, done = exported(kind, streaming)
    for precision in ("", ".fp16", ".int8"):
        assert f"{name}{precision}.onnx" in done
        model = onnx.load(folder / f"{name}{precision}.onnx")
        onnx.checker.check_model(model)
        assert list(declared(model.graph.input).items()) == list(inputs.items())
        assert list(declared(model.graph.output).items()) == list(outputs.items())
        # ONNX Runtime's quantisation leaves a mark of its own.
        found = {entry.key: entry.value for entry in model.metadata_props if entry.key != "onnx.infer"}
        assert found == metadata | PRECISIONS[precision]


class Files:
    """The files of one model in one precision, run by onnxruntime alone."""

    def __init__(self, folder, kind, streaming, suffix):
        name = ONLINE if streaming else OFFLINE
        stem = {("ctc", False): "model", ("ctc", True): f"ctc-{name}"}.get((kind, streaming), f"encoder-{name}")
        self.paths = {"encoder": str(folder / f"{stem}{suffix}")}
        if kind == "transducer":
            self.paths |= {part: str(folder / f"{part}-{name}{suffix}") for part in ("decoder", "joiner")}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.sessions = {part: onnxruntime.InferenceSession(path, options) for part, path in self.paths.items()}
        self.kind, self.streaming = kind, streaming

    def run(self, part, *arrays):
        session = self.sessions[part]
        return session.run(None, {value.name: array for value, array in zip(session.get_inputs(), arrays, strict=True)})

    def rows(self, feats):
        """The outputs of a whole recording: (S, D)."""
        if not self.streaming:
            return self.run("encoder", feats.numpy(), np.array([feats.shape[1]]))[0][0]
        shapes = [dims for _, dims in STATES.values()]
        states = [np.zeros([1 if dim == "N" else dim for dim in dims], np.float32) for dims in shapes[:-1]]
        states.append(np.zeros(1, np.int64))
        rows = []
        for chunk in chunks(feats):
            found, *states = self.run("encoder", chunk.numpy(), *states)
            rows.append(found[0])
        return np.concatenate(rows)

    def tokens(self, rows):
        if self.kind == "ctc":
            return ctc_greedy(rows).tokens
        predict = lambda histories: self.run("decoder", histories)[0]  # noqa: E731
        join = lambda encoded, predicted: self.run("joiner", encoded, predicted)[0]  # noqa: E731
        return transducer_greedy([rows], predict, join, 2)[0].tokens


def recognizer(sherpa, files, folder):
    tokens = str(folder / "tokens.txt")
    if files.kind == "transducer":
        make = sherpa.OnlineRecognizer if files.streaming else sherpa.OfflineRecognizer
        return make.from_transducer(**files.paths, tokens=tokens, num_threads=1)
    make = (
        sherpa.OnlineRecognizer.from_zipformer2_ctc if files.streaming else sherpa.OfflineRecognizer.from_zipformer_ctc
    )
    return make(model=files.paths["encoder"], tokens=tokens, num_threads=1)


def heard(recognizer, wave, streaming):
    """The tokens that sherpa-onnx finds."""
    stream = recognizer.create_stream()
    stream.accept_waveform(16000, wave)
    if not streaming:
        recognizer.decode_stream(stream)
        return [PIECES.index(piece) for piece in stream.result.tokens]
    stream.input_finished()
    while recognizer.is_ready(stream):
        recognizer.decode_stream(stream)
    return [PIECES.index(piece) for piece in recognizer.tokens(stream)]


# Largest difference of ONNX Runtime's outputs from PyTorch's in a recording of 4 s. CTC's heads are a hundred times as
# steep as ordinary ones, and so are the differences of their log-probabilities, which go down to -1200. That of fp32 is
# the order of sums, 5e-4 with AVX2. Those of fp16 (0.18) and int8 are the rounding of the weights, which is the same on
# every processor, where the order of sums adds no more than in fp32.
FURTHEST = {
    ("ctc", ".onnx"): 2e-3,
    ("ctc", ".fp16.onnx"): 0.5,
    ("ctc", ".int8.onnx"): 10,
    ("transducer", ".onnx"): 2e-5,
    ("transducer", ".fp16.onnx"): 5e-3,
    ("transducer", ".int8.onnx"): 0.1,
}


@pytest.mark.parametrize(
    ("kind", "streaming", "suffix"),
    slow_but(
        lambda kind, streaming, suffix: kind == "ctc" and not streaming,
        [(kind, streaming, suffix) for streaming in (False, True) for kind, suffix in FURTHEST],
    ),
)
def test_sherpa_and_onnxruntime_find_what_pytorch_finds(exported, kind, streaming, suffix):
    sherpa = pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed")
    model, folder, _ = exported(kind, streaming)
    files = Files(folder, kind, streaming, suffix)
    expected, rows = rows_of(model, kind, streaming), files.rows(speech_features())
    assert np.abs(rows - expected).max() < FURTHEST[kind, suffix]
    tokens, found = files.tokens(rows), heard(recognizer(sherpa, files, folder), load_audio(SPEECH), streaming)
    assert len(found) > 50 and len(set(found)) > 8
    # With rounded weights the text may be another, but the same in both runtimes.
    assert found == tokens
    if suffix == ".onnx":
        assert found == tokens_of(model, kind, expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ctc", "transducer"])
def test_the_recognizer_opens_what_the_exporters_write(exported, kind):
    model, folder, _ = exported(kind)
    recordings = sorted(SPEECH.parent.glob("ru_*.flac"))
    torch_backend = TorchBackend(model, Fbank(), Vocabulary(PIECES), torch.device("cpu"), kind=kind)
    expected = Recognizer(torch_backend).transcribe(recordings, log_probs=kind == "ctc")
    for suffix in (".onnx", ".fp16.onnx", ".int8.onnx"):
        backend = OnnxBackend(folder, suffix=suffix, threads=1)
        assert (backend.kind, backend.frame_shift) == (kind, 0.04)
        found = Recognizer(backend).transcribe(recordings, log_probs=kind == "ctc")
        for one, other in zip(found, expected):
            assert len(one.text) > 50
            if suffix == ".onnx":
                spans = [[(token.symbol, token.start, token.end) for token in each.tokens] for each in (one, other)]
                assert spans[0] == spans[1]
            if kind == "ctc":
                assert np.abs(one.log_probs - other.log_probs).max() < FURTHEST["ctc", suffix]


@pytest.mark.slow
def test_a_broken_int8_file_is_refused(exported, tmp_path, waves):
    """By the best tokens, whatever the distance; a scale that is off by a fifth is enough."""
    model, folder, _ = exported("ctc")
    items = features(waves, FBANK)
    probe = feature_probe(export_parts(model, "ctc")[0], items, FBANK.padding_value)

    def broken(path):
        file = onnx.load(folder / "model.int8.onnx")
        for weight in file.graph.initializer:
            if weight.name.endswith("_scale"):
                weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.2), weight.name))
        onnx.save(file, path)

    draft = Draft("m.int8.onnx", "int8", broken, lambda path: run_onnx(path, probe), scores=True)
    with pytest.raises(UserError, match=r"m.int8.onnx disagrees with PyTorch .* best token of \d\d.\d% of the frames"):
        publish([draft], tmp_path)
