"""ONNX files that load and then do not do what a model does: one line, and nothing large in memory."""

import resource
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from couloir.errors import UserError
from couloir.features.front_end import numpy_front_end
from couloir.features.lfr_config import LfrConfig
from couloir.features.log_mel_config import LogMelConfig
from couloir.inference import onnx_session, watchdog
from couloir.inference.info import describe
from couloir.inference.onnx_backend import OnnxBackend
from couloir.inference.recognizer import Recognizer

ROOT = Path(__file__).resolve().parents[2]
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
SYMBOLS = 5


def constant(name, values, kind=np.int64):
    return numpy_helper.from_array(np.array(values, kind), name)


def write_tokens(folder):
    (folder / "tokens.txt").write_text("".join(f"{symbol} {i}\n" for i, symbol in enumerate(["<blk>", *"abcd"])))


def write(path, nodes, constants=(), inputs=None, outputs=None, metadata=None):
    """A model of ``nodes``. inputs, outputs: name -> (type, axes)."""
    inputs = inputs or {"x": (FLOAT, ["N", "T", 80]), "x_lens": (INT64, ["N"])}
    outputs = outputs or {"log_probs": (FLOAT, ["N", "S", SYMBOLS]), "log_probs_len": (INT64, ["N"])}
    ends = [
        [helper.make_tensor_value_info(name, *of) for name, of in declared.items()] for declared in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "g", *ends, list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    return path


node = helper.make_node
SCORES = [node("Slice", ["x", "start", "stop", "axis"], ["some"]), node("Identity", ["some"], ["scores"])]
CUT = [constant("start", [0]), constant("stop", [SYMBOLS]), constant("axis", [2])]
STEPPED = [  # every fourth frame, as a model at 25 frames/s has them
    node("Slice", ["scores", "start", "end", "time", "step"], ["log_probs"]),
    node("Add", ["x_lens", "three"], ["more"]),
    node("Div", ["more", "four"], ["log_probs_len"]),
]
STEPS = [
    constant("end", [10**6]),
    constant("time", [1]),
    constant("step", [4]),
    constant("three", 3),
    constant("four", 4),
]
SAME_LENGTH = node("Identity", ["x_lens"], ["log_probs_len"])


def huge(path, fold=False):
    """19 GB: of the input, or of constants alone."""
    shape = constant("shape", [1, 10**9, SYMBOLS])
    if fold:
        return write(path, [node("ConstantOfShape", ["shape"], ["log_probs"]), SAME_LENGTH], [shape])
    mean = node("ReduceMean", ["x"], ["mean"], keepdims=1)
    return write(path, [mean, node("Expand", ["mean", "shape"], ["log_probs"]), SAME_LENGTH], [shape])


def no_frames(path):
    empty = [node("Slice", ["scores", "start", "start", "time"], ["log_probs"]), SAME_LENGTH]
    return write(path, [*SCORES, *empty], [*CUT, constant("time", [1])])


def longer_than_its_input(path):
    twice = node("Concat", ["scores", "scores"], ["log_probs"], axis=1)
    double = node("Add", ["x_lens", "x_lens"], ["log_probs_len"])
    return write(path, [*SCORES, twice, double], CUT)


def a_rank_less(path):
    outputs = {"log_probs": (FLOAT, ["T", SYMBOLS]), "log_probs_len": (INT64, ["N"])}
    return write(
        path,
        [*SCORES, node("Squeeze", ["scores", "first"], ["log_probs"]), SAME_LENGTH],
        [*CUT, constant("first", [0])],
        outputs=outputs,
    )


def a_count_beyond_its_frames(path):
    return write(
        path,
        [*SCORES, node("Identity", ["scores"], ["log_probs"]), node("Add", ["x_lens", "one"], ["log_probs_len"])],
        [*CUT, constant("one", 1)],
    )


def a_count_below_zero(path):
    return write(
        path, [*SCORES, node("Identity", ["scores"], ["log_probs"]), node("Neg", ["x_lens"], ["log_probs_len"])], CUT
    )


def nan(path):
    bad = constant("bad", np.nan, np.float32)
    return write(path, [*SCORES, node("Add", ["scores", "bad"], ["log_probs"]), SAME_LENGTH], [*CUT, bad])


def whole_numbers(path):
    outputs = {"log_probs": (INT64, ["N", "S", SYMBOLS]), "log_probs_len": (INT64, ["N"])}
    return write(path, [*SCORES, node("Cast", ["scores"], ["log_probs"], to=INT64), SAME_LENGTH], CUT, outputs=outputs)


def no_count(path):
    return write(
        path,
        [*SCORES, node("Identity", ["scores"], ["log_probs"])],
        CUT,
        outputs={"log_probs": (FLOAT, ["N", "S", SYMBOLS])},
    )


def texts(path):
    inputs = {"x": (TensorProto.STRING, ["N", "T", 80]), "x_lens": (INT64, ["N"])}
    outputs = {"log_probs": (TensorProto.STRING, ["N", "T", 80]), "log_probs_len": (INT64, ["N"])}
    return write(path, [node("Identity", ["x"], ["log_probs"]), SAME_LENGTH], inputs=inputs, outputs=outputs)


def flat_features(path):
    inputs = {"x": (FLOAT, ["T"]), "x_lens": (INT64, ["N"])}
    return write(path, [node("Identity", ["x"], ["log_probs"]), SAME_LENGTH], inputs=inputs)


def another_input(path):
    inputs = {"x": (FLOAT, ["N", "T", 80]), "x_lens": (INT64, ["N"]), "more": (INT64, ["N"])}
    return write(
        path,
        [*SCORES, node("Identity", ["scores"], ["log_probs"]), node("Add", ["x_lens", "more"], ["log_probs_len"])],
        CUT,
        inputs=inputs,
    )


def other_features(path):
    return write(
        path,
        [*SCORES, node("Identity", ["scores"], ["log_probs"]), SAME_LENGTH],
        CUT,
        inputs={"x": (FLOAT, ["N", "T", 40]), "x_lens": (INT64, ["N"])},
    )


MODELS = {
    huge: "asks for 20.0 GB of memory",
    no_frames: "must be",
    longer_than_its_input: "makes of 57",
    a_rank_less: r"must be \(1, T, D\)",
    a_count_beyond_its_frames: r"log_probs_len \[58\]",
    a_count_below_zero: r"log_probs_len \[-57\]",
    nan: "with NaN",
    whole_numbers: "int64",
    no_count: "the number of its frames",
    texts: "cannot be run",
    flat_features: "cannot be run",
    another_input: "cannot be run",
    other_features: "cannot be run",
}  # fmt: skip


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_a_model_that_misbehaves_ends_in_one_line(tmp_path, make):
    write_tokens(tmp_path)
    path = make(tmp_path / "model.onnx")
    with pytest.raises(UserError, match=MODELS[make]) as found:
        OnnxBackend(path)
    assert len(str(found.value).splitlines()) == 1 and "model.onnx" in str(found.value)
    assert "inputs" in describe(path)


def test_constants_do_not_fill_the_memory_either(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="asks for 20.0 GB of memory"):
        OnnxBackend(huge(tmp_path / "model.onnx", fold=True))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # KiB


def endless(path, steps=2**62):
    """A loop that ends when the sun is gone, and then gives the lowest mel energies."""
    one = numpy_helper.from_array(np.float32(1), "one")
    ends = ("on", TensorProto.BOOL, []), ("kept", FLOAT, None)
    step = helper.make_graph(
        [node("Identity", ["on"], ["still"]), node("Mul", ["kept", "one"], ["next"])],
        "step",
        [helper.make_tensor_value_info(*of) for of in (("i", INT64, []), *ends)],
        [helper.make_tensor_value_info(*of) for of in (("still", *ends[0][1:]), ("next", *ends[1][1:]))],
        [one],
    )
    loop = node("Loop", ["steps", "true", "scores"], ["log_probs"], body=step)
    constants = [constant("steps", steps), constant("true", True, bool)]
    return write(path, [*SCORES, loop, SAME_LENGTH], [*CUT, *constants])


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(watchdog, "TICK_S", 0.02)
    monkeypatch.setattr(onnx_session, "MAX_RUN_SECONDS", 0.04)
    monkeypatch.setattr(onnx_session, "MAX_RUN_NUMBERS_PER_SECOND", 10**6)


def test_a_model_without_an_end_is_stopped(tmp_path, impatient):
    write_tokens(tmp_path)
    endless(tmp_path / "model.onnx")
    with pytest.raises(UserError, match=r"model.onnx cannot be run by ONNX Runtime \(it has no end after 0.04 s\)"):
        OnnxBackend(tmp_path / "model.onnx")
    assert not watchdog._runs
    # A loop that ends is none, nor is the next run of this process stopped.
    backend = OnnxBackend(endless(tmp_path / "model.onnx", 100))
    assert backend.encode([np.zeros(16000, np.float32)])[0].shape == (100, SYMBOLS)


def test_every_run_has_its_own_time(monkeypatch):
    """Counted by hand: a long run outlives a short one, and those that are over are not counted any more."""
    ticks, seen = iter(range(4)), []
    long, short, over = (SimpleNamespace(terminate=False) for _ in range(3))

    def sleep(seconds):
        seen.append((seconds, short.terminate, long.terminate))
        if next(ticks, None) is None:
            raise SystemExit

    monkeypatch.setattr(watchdog.time, "sleep", sleep)
    monkeypatch.setattr(watchdog, "_start", lambda: None)
    with watchdog.Ending(over, 1):
        pass
    with watchdog.Ending(long, 4), watchdog.Ending(short, 1.5), pytest.raises(SystemExit):
        watchdog._count()
    assert seen == [(1.0, *of) for of in [(False, False), (False, False), (True, False), (True, False), (True, True)]]
    assert not over.terminate and not watchdog._runs


def test_longer_inputs_have_more_time(tmp_path, monkeypatch):
    """60 s, and 20 s for each second of features."""
    given = []
    monkeypatch.setattr(onnx_session, "Ending", lambda _, seconds: nullcontext(given.append(seconds)))
    backend = OnnxBackend(sound(tmp_path / "model.onnx"))
    backend.encode([np.zeros(16000 * seconds, np.float32) for seconds in (30,)])
    assert given == [60 + 57 * 80 // 400, 60 + 600]


def test_one_clock_counts_for_all_threads(monkeypatch):
    monkeypatch.setattr(watchdog, "TICK_S", 0.01)
    before = watchdog._clock

    def run(_):
        with watchdog.Ending(SimpleNamespace(terminate=False), 60):
            return watchdog._clock

    with ThreadPoolExecutor(8) as pool:
        clocks = set(pool.map(run, range(64)))
    assert len(clocks) == 1 and clocks.pop().is_alive()
    assert not before.is_alive() or watchdog._clock is before
    assert sum(thread.name == "watchdog" for thread in threading.enumerate()) == 1


def sound(path, steps=STEPPED, constants=STEPS, metadata=None):
    """A model that behaves: its scores are the lowest mel energies."""
    write_tokens(path.parent)
    return write(path, [*SCORES, *steps], [*CUT, *constants], metadata=metadata)


def test_the_rate_of_frames_is_read_off_the_model(tmp_path):
    assert OnnxBackend(sound(tmp_path / "model.onnx")).frame_shift == pytest.approx(0.04)
    same = [node("Identity", ["scores"], ["log_probs"]), SAME_LENGTH]
    backend = OnnxBackend(sound(tmp_path / "model.onnx", same, []))
    assert backend.frame_shift == pytest.approx(0.01)  # a model that does not sub-sample
    wave = np.random.default_rng(0).normal(0, 0.1, 16000 * 40).astype(np.float32)
    found = Recognizer(backend).transcribe([wave])[0]
    assert found.tokens[-1].end == pytest.approx(40, abs=0.1)


def test_a_file_says_where_its_frames_are_and_how_it_may_be_cut(tmp_path):
    """An embedding of every fourth frame that looks no further: its first frame begins with the recording."""
    said = {"geometry_embedding_factor": "4", "geometry_embedding_margin": "0", "geometry_window_step": "4"}
    (tmp_path / "said").mkdir()
    usual = OnnxBackend(sound(tmp_path / "model.onnx"))
    other = OnnxBackend(sound(tmp_path / "said/model.onnx", metadata=said))
    assert (usual.times.shift, usual.times.first, usual.times.min_samples, usual.times.step_samples) == (
        0.04, 0.035, 1360, 2560)  # fmt: skip
    assert (other.times.shift, other.times.first, other.times.min_samples, other.times.step_samples) == (
        0.04, 0.0, 560, 640)  # fmt: skip
    wave = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    late, early = (Recognizer(backend).transcribe([wave])[0].tokens for backend in (usual, other))
    assert [token.symbol for token in late] == [token.symbol for token in early]
    np.testing.assert_allclose([t.start - 0.035 for t in late[1:]], [t.start for t in early[1:]], atol=0.0011)
    (found,) = Recognizer(other).transcribe([wave[:10]])  # padded to its own fewest samples
    assert found.duration == 0.001
    said["geometry_window_step"] = "1000"
    coarse = OnnxBackend(sound(tmp_path / "said/model.onnx", metadata=said))
    assert Recognizer(coarse).window_s == 30.0
    with pytest.raises(UserError, match="`window_s` must be at least 10, at multiples of which this model is cut"):
        Recognizer(coarse, window_s=8.0)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"fbank_feature_dim": "eighty"}, "feature"),
        ({"fbank_feature_dim": "80.5"}, "feature"),
        ({"fbank_feature_dim": "-1"}, "feature-dim"),
        ({"fbank_feature_dim": "9" * 5000}, "feature"),
        ({"fbank_sample_rate": "0"}, "must be"),
        ({"fbank_sample_rate": "1000000000000"}, "sample-rate"),
        ({"fbank_frame_shift_ms": "nan"}, "frame-shift-ms"),
        ({"fbank_frame_shift_ms": "0.00001"}, "frame-shift-ms"),
        ({"fbank_frame_length_ms": "inf"}, "frame-length-ms"),
        ({"fbank_frame_length_ms": "1e15"}, "frame-length-ms"),
        ({"fbank_low_freq": "low"}, "low_freq|low-freq"),
        ({"fbank_unheard_of": "1"}, "unheard"),
        ({"fbank_sample_rate": "8000"}, "sample rate of .* must be 16000 Hz"),
        ({"sample_rate": "44100"}, "sample rate of .* must be 16000 Hz"),
        ({"sample_rate": "\0" * 300}, "sample rate"),
        ({"front_end": "mfcc"}, "`front_end of the metadata of .*` must be one of fbank, lfr, log_mel"),
        ({"front_end": ""}, "fbank, lfr, log_mel"),
        ({"front_end": "lfr", "neg_mean": "0,0"}, "--neg-mean"),
        ({"lfr_window_size": "0"}, "--lfr-m"),
        ({"geometry_embedding_factor": "0"}, "geometry_embedding_factor"),
        ({"geometry_embedding_margin": "9" * 5000}, "embedding-margin"),
        ({"geometry_window_step": "10.5"}, "window-step"),
        ({"geometry_unheard_of": "1"}, "unheard"),
    ],
)
def test_metadata_that_says_nothing_sensible(tmp_path, metadata, reason):
    with pytest.raises(UserError, match=reason):
        OnnxBackend(sound(tmp_path / "model.onnx", metadata=metadata))


@pytest.mark.parametrize("config", [LfrConfig(num_mel_bins=20, lfr_m=4, lfr_n=2), LogMelConfig()])
def test_a_file_gets_the_features_that_it_names(tmp_path, config):
    """The scores of this model are the first bins of its features."""
    same = [node("Identity", ["scores"], ["log_probs"]), SAME_LENGTH]
    backend = OnnxBackend(sound(tmp_path / "model.onnx", same, [], metadata=config.as_metadata()))
    wave = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    expected = numpy_front_end(config)(wave)
    np.testing.assert_array_equal(backend.encode([wave])[0], expected[:, :SYMBOLS])
    assert backend.frame_shift == pytest.approx(config.frame_step_s) and len(expected) == config.num_frames(16000)


def test_metadata_is_not_needed_nor_that_of_others_believed(tmp_path):
    for metadata in ({}, {"vocab_size": "many", "context_size": "two", "model_type": "\0", "version": ""}):
        assert OnnxBackend(sound(tmp_path / "model.onnx", metadata=metadata)).frame_shift == pytest.approx(0.04)


@pytest.mark.parametrize("symbols", [0, 1, 4, 6, 300])
def test_tokens_of_another_number(tmp_path, symbols):
    path = sound(tmp_path / "model.onnx")
    (tmp_path / "tokens.txt").write_text("".join(f"s{i} {i}\n" for i in range(symbols)))
    with pytest.raises(UserError, match=r"tokens"):
        OnnxBackend(path)


def write_transducer(folder, context=("N", 2), metadata=None, logit=("encoder_out", "log")):
    """The mean of the encoder's rows and the decoder's, or ``logit``: what the joiner does with them."""
    write_tokens(folder)
    outputs = {"encoder_out": (FLOAT, ["N", "S", SYMBOLS]), "encoder_out_lens": (INT64, ["N"])}
    renamed = [node("Identity", ["scores"], ["encoder_out"]), node("Identity", ["x_lens"], ["encoder_out_lens"])]
    write(folder / "encoder.onnx", [*SCORES, *renamed], CUT, outputs=outputs)
    cast = node("Cast", ["y"], ["decoder_out"], to=FLOAT)
    write(
        folder / "decoder.onnx",
        [cast],
        inputs={"y": (INT64, list(context))},
        outputs={"decoder_out": (FLOAT, ["N", "C"])},
        metadata=metadata,
    )
    inputs = {"encoder_out": (FLOAT, ["N", SYMBOLS]), "decoder_out": (FLOAT, ["N", "C"])}
    node_of = {
        "encoder_out": node("Identity", ["encoder_out"], ["logit"]),
        "nan": node("Div", ["encoder_out", "zero"], ["inf"]),
    }
    nodes = (
        [node_of[logit[0]]] if logit[0] == "encoder_out" else [node_of["nan"], node("Sub", ["inf", "inf"], ["logit"])]
    )
    write(
        folder / "joiner.onnx",
        nodes,
        [constant("zero", 0, np.float32)],
        inputs=inputs,
        outputs={"logit": (FLOAT, ["N", SYMBOLS])},
    )
    return folder


def test_a_transducers_context_is_read_off_its_input_or_its_metadata(tmp_path):
    wave = [np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)]
    for context, metadata in (
        (("N", 2), {"context_size": "two"}),
        (("N", "C"), {"context_size": "3"}),
        (("N", "C"), {}),
    ):
        assert Recognizer(OnnxBackend(write_transducer(tmp_path, context, metadata))).transcribe(wave)[0].text
    for said in ("two", "0", "-1", "1000000000", ""):
        with pytest.raises(UserError, match="context_size"):
            OnnxBackend(write_transducer(tmp_path, ("N", "C"), {"context_size": said}))


def test_a_joiner_without_numbers(tmp_path):
    with pytest.raises(UserError, match="joiner.*NaN"):
        OnnxBackend(write_transducer(tmp_path, logit=("nan",)))


def test_a_recording_that_gives_nan_is_one_line(tmp_path):
    """NaN for loud sounds alone, which the silence does not show with which a model is tried."""
    steps = [node("Sqrt", ["less"], ["log_probs"]), SAME_LENGTH]
    less = node("Sub", ["limit", "scores"], ["less"])
    path = sound(tmp_path / "model.onnx", [less, *steps], [constant("limit", -12, np.float32)])
    backend = OnnxBackend(path)
    with pytest.raises(UserError, match="with NaN"):
        backend.encode([np.random.default_rng(0).normal(0, 0.3, 16000).astype(np.float32)])


@pytest.mark.slow
def test_the_program_says_one_line(tmp_path):
    path = huge(tmp_path / "model.onnx")
    wave = ROOT / "tests/data/ru_0274.flac"
    command = [sys.executable, ROOT / "inference/inference.py", wave, "--model-path", path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ") and "asks for 20.0 GB of memory" in done.stderr
