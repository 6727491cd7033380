"""The exporters: what they check, what they refuse, what their flags do. Random models, real speech."""

import dataclasses
import logging
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
import torch
from onnx import numpy_helper
from small_models import FBANK, SPEECH, export, export_chunks, make_model, speech_features

from couloir.audio import load_audio
from couloir.errors import UserError
from couloir.export import graph as onnx_graph
from couloir.export import onnx as onnx_export
from couloir.export import publish
from couloir.export.config import CtcOnnxConfig, OnnxConfig, StreamingOnnxConfig, TransducerOnnxConfig
from couloir.export.publish import Draft
from couloir.export.selfcheck import CHECK_SPEECH, Shape, check_waves, feature_probe, streaming_probe
from couloir.export.transducer import ProjectedJoiner
from couloir.families.zipformer_export import export_parts, sherpa_warnings
from couloir.features.config import FbankConfig
from couloir.features.fbank import Fbank
from couloir.inference.onnx_backend import OnnxBackend
from couloir.inference.recognizer import Recognizer
from couloir.inference.torch_backend import TorchBackend
from couloir.inference.vocabulary import Vocabulary
from couloir.models.zipformer.config import PRESETS
from couloir.models.zipformer.streaming import ZipformerStreaming

DATA = Path(__file__).resolve().parents[1] / "data"
FP32 = CtcOnnxConfig(enable_int8_quantization=False)


def test_the_check_is_on_real_speech():
    """On that which comes along, an utterance of tests/data with its licence, when no other is named."""
    speech, rate = soundfile.read(DATA / "ru_0308.flac", dtype="float32")
    longest = max(check_waves(""), key=len).numpy()
    assert rate == 16000 and np.array_equal(longest, speech)
    assert CHECK_SPEECH.stat().st_size < 100_000
    licence = (DATA / "LICENSE.festvox-ru").read_text().split("\n", 1)[1]
    assert CHECK_SPEECH.with_name("LICENSE.festvox-ru").read_text().split("\n", 1)[1] == licence
    named = check_waves(f"{SPEECH}, {DATA / 'ru_0683.flac'}")
    assert len(named) == 6 and len({len(wave) for wave in named}) == 6


def test_recordings_that_no_file_can_be_checked_on(tmp_path):
    soundfile.write(tmp_path / "short.wav", np.zeros(4000), 16000)
    with pytest.raises(UserError, match=r"--check-wav.*0.5 s.*short.wav"):
        check_waves(f"{SPEECH},{tmp_path / 'short.wav'}")
    with pytest.raises(UserError, match="gone.wav"):
        check_waves(str(tmp_path / "gone.wav"))


def sizes_run(probe):
    """(batch, frames, lengths if there are any) of every call."""
    sizes = []

    def run(x, *lens):
        sizes.append((*x.shape[:2], lens[0].tolist() if lens else None))
        frames = torch.tensor(sizes[-1][2] or [x.shape[1]])
        return torch.zeros(len(x), x.shape[1], 19), ((frames - 7) // 2 + 1) // 2

    probe(run)
    return sizes


def test_files_are_run_at_every_size_that_they_take():
    (part,) = export_parts(make_model("ctc"), "ctc")
    items = [speech_features()[0, :n] for n in (150, 60, 100)]

    def run(shape):
        return sizes_run(feature_probe(part, items, FBANK.padding_value, shape))

    # The shortest recording that gives a frame of output is 9 frames long, the longest is longer than all that follow.
    assert run(Shape()) == [(4, 150, [150, 60, 100, 9]), (1, 60, [60]), (1, 9, [9]), (1, 210, [210])]
    assert run(Shape(lengths=False)) == [(1, n, None) for n in (150, 60, 100, 9, 210)]
    assert run(Shape(max_len=120)) == [(4, 120, [120, 60, 100, 9]), (1, 120, [60]), (1, 120, [9])]
    assert run(Shape(max_len=120, lengths=False)) == [(1, 120, None)] * 3
    assert run(Shape(max_len=100, alone=True)) == [(1, 100, [n]) for n in (100, 60, 100, 9)]


def test_streams_are_run_over_several_chunks():
    """However large the chunk is, and with states that begin again in each stream."""
    sizes = []

    def run(part, *states):
        sizes.append((*part.shape[:2], int(states[-1][0])))
        return [torch.zeros(1, 1, 19), *states[:-1], states[-1] + 64]

    def module(part, states):
        output, *states = run(part, *states)
        return output, states

    model, items = make_model("ctc", causal=True), [speech_features()[0, :n] for n in (150, 60, 100)]
    model.zipformer_config = model.zipformer_config.with_context(64, 64)
    streaming_probe(module, ZipformerStreaming(model), items, FBANK.padding_value)(run)
    assert sizes[: len(sizes) // 2] == [*((1, 141, 64 * i) for i in range(4)), *((3, 141, 64 * i) for i in range(4))]


def test_one_file_from_samples_to_log_probs(folder, waves):
    config = CtcOnnxConfig(with_frontend=True, fp16=True)
    done = export(make_model("ctc"), "ctc", config, folder, waves)
    assert set(done) == {"audio-model.onnx", "audio-model.fp16.onnx", "audio-model.int8.onnx"}
    assert done["audio-model.onnx"].same_best == 1.0
    # int8 rounds the weights alone, each to the nearest step of its channel: browsers get what Python gets.
    full, small = (onnx.load(folder / f"audio-model{precision}.onnx").graph for precision in ("", ".int8"))
    exact, stored = (
        {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer} for graph in (full, small)
    )
    rounded = [name.removesuffix("_int8") for name in stored if name.endswith("_int8")]
    assert len(rounded) > 20
    for name in rounded:
        steps, scale = stored[f"{name}_int8"], stored[f"{name}_scale"]
        assert steps.dtype == np.int8 and scale.size in exact[name].shape
        assert (np.abs(exact[name] - steps * scale) <= 0.5001 * scale).all()
    assert {node.op_type for node in small.node} <= {node.op_type for node in full.node} | {"Cast", "Mul"}


def inputs_of(path):
    session = onnxruntime.InferenceSession(path)
    return {value.name: (value.type.removeprefix("tensor"), value.shape) for value in session.get_inputs()}


@pytest.mark.slow
def test_one_length_no_lengths_int32_and_weights_apart(folder, waves):
    plain = {"enable_int8_quantization": False, "use_int32_inputs": True}
    model = make_model("both")
    config = OnnxConfig(max_len=130, keep_x_lens=0, use_external_data=True, **plain)
    done = export(model, "transducer", config, folder, waves, "a")
    assert max(agreement.relative for agreement in done.values()) < 1e-5
    assert inputs_of(folder / "encoder-a.onnx") == {"x": ("(float)", ["N", 130, 80])}
    assert inputs_of(folder / "decoder-a.onnx") == {"y": ("(int32)", ["N", 2])}
    assert {path.name for path in folder.iterdir()} >= {"encoder-a.onnx", "encoder-a.onnx.data", "joiner-a.onnx.data"}
    assert (folder / "encoder-a.onnx").stat().st_size < 2 * (folder / "encoder-a.onnx.data").stat().st_size
    with pytest.raises(UserError, match="x_lens"):
        OnnxBackend(folder)
    export(model, "ctc", CtcOnnxConfig(keep_x_lens=0, suffix="b", **plain), folder, waves)
    assert inputs_of(folder / "model-b.onnx") == {"x": ("(float)", ["N", "T", 80])}
    export(model, "ctc", CtcOnnxConfig(max_len=700, suffix="c", **plain), folder, waves)
    assert inputs_of(folder / "model-c.onnx") == {"x": ("(float)", ["N", 700, 80]), "x_lens": ("(int32)", ["N"])}
    with pytest.raises(UserError, match="700 frames alone"):
        OnnxBackend(folder / "model-c.onnx")


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0o002])
def test_weights_apart_are_as_readable_as_their_model(tmp_path, umask):
    weights = numpy_helper.from_array(np.arange(1000, dtype=np.float32), "w")
    out = onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [1000])
    graph = onnx.helper.make_graph([], "g", [], [out], [weights])
    before = os.umask(umask)
    try:
        onnx_graph._with_external_data(
            lambda path: onnx.save(onnx.helper.make_model(graph), path), tmp_path / "model.onnx"
        )
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("model.onnx", "model.onnx.data"), 0o666 & ~umask)
    assert np.array_equal(
        numpy_helper.to_array(onnx.load(tmp_path / "model.onnx").graph.initializer[0]), np.arange(1000)
    )


@pytest.mark.slow
def test_files_of_one_size(folder, waves):
    model, config = make_model("transducer", causal=True), {"enable_int8_quantization": False}
    export(model, "transducer", OnnxConfig(dynamic_axes=False, **config), folder, waves, "a")
    assert inputs_of(folder / "encoder-a.onnx") == {"x": ("(float)", [1, 100, 80]), "x_lens": ("(int64)", [1])}
    assert inputs_of(folder / "joiner-a.onnx")["encoder_out"] == ("(float)", [1, 24])
    one = StreamingOnnxConfig(dynamic_batch=False, use_int32_inputs=True, **config)
    export_chunks(model, "transducer", one, folder, waves, "b")
    found = inputs_of(folder / "encoder-b-chunk-16-left-32.onnx")
    assert found["processed_lens"] == ("(int32)", [1]) and found["cached_key_0"] == ("(float)", [32, 1, 16])


def test_flags_that_cannot_be_met_are_named():
    with pytest.raises(UserError, match="--use-whisper-features"):
        StreamingOnnxConfig(use_whisper_features=True)
    with pytest.raises(UserError, match="--with-frontend"):
        CtcOnnxConfig(with_frontend=True, max_len=100)
    with pytest.raises(UserError, match="--max-len"):
        OnnxConfig(max_len=5)
    with pytest.raises(UserError, match=r"--with-frontend.*--head ctc"):
        TransducerOnnxConfig(with_frontend=True)


def test_streaming_needs_a_causal_model_and_one_chunk_size(tmp_path, waves):
    with pytest.raises(UserError, match="--causal"):
        export_chunks(make_model("ctc"), "ctc", StreamingOnnxConfig(), tmp_path, waves)
    model = make_model("ctc", causal=True)
    model.zipformer_config = dataclasses.replace(model.zipformer_config, chunk_size=(16, 32))
    with pytest.raises(UserError, match="--chunk-size"):
        export_chunks(model, "ctc", StreamingOnnxConfig(), tmp_path, waves)


@pytest.mark.slow
def test_a_file_that_disagrees_is_not_left_behind_nor_an_older_one_taken_for_it(tmp_path, waves, monkeypatch):
    """The encoder is right and the joiner of other weights: none of the files is written."""
    write = onnx_graph.write_fp32

    def corrupted(graph, path):
        if path.name.startswith("joiner"):
            other = ProjectedJoiner(make_model("transducer", seed=2).joiner)
            graph = dataclasses.replace(graph, module=other)
        write(graph, path)

    monkeypatch.setattr(onnx_graph, "write_fp32", corrupted)
    arguments = make_model("transducer"), "transducer", OnnxConfig(), tmp_path, waves, "a"
    with pytest.raises(UserError, match=r"^joiner-a.onnx disagrees with PyTorch .*tested torch 2.13$"):
        export(*arguments)
    assert not list(tmp_path.iterdir())
    for name in ("encoder-a.onnx", "joiner-a.int8.onnx", "joiner-b.onnx"):
        (tmp_path / name).write_text("older")
    with pytest.raises(UserError, match=r"earlier export.*: encoder-a.onnx, joiner-a.int8.onnx in "):
        export(*arguments)
    assert {path.read_text() for path in tmp_path.iterdir()} == {"older"}


def test_files_of_a_precision_that_is_not_written_now_are_named(tmp_path, caplog):
    """Else a model.fp16.onnx of last month's weights lies beside today's model.onnx."""
    same = torch.tensor([0.0, -1.0])
    for name in ("model.fp16.onnx", "model.int8.onnx", "model-b.fp16.onnx", "tokens.txt"):
        (tmp_path / name).write_text("older")

    def draft(name, precision):
        return Draft(name, precision, lambda path: path.write_text("new"), lambda path: [(same, same)], scores=True)

    publish.publish([draft("model.onnx", "fp32"), draft("model.int8.onnx", "int8")], tmp_path)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "earlier export" in warning and warning.count(".onnx") == 1 and "model.fp16.onnx" in warning
    assert (tmp_path / "model.int8.onnx").read_text() == "new"


def test_a_file_that_its_runtime_refuses_is_named(tmp_path):
    def check(path):
        return onnx_graph.run_onnx(path, lambda run: [])

    draft = Draft("model.onnx", "fp32", lambda path: path.write_bytes(b"no model"), check, scores=True)
    with pytest.raises(UserError, match=r"ONNX Runtime does not run model.onnx, and nothing was written"):
        publish.publish([draft], tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_best_token_counts_where_outputs_are_scores(tmp_path):
    """Whatever the distance: int8 may have another one in a fifth of the frames."""
    expected = torch.tensor([0.0, -1e-3, -100.0]).expand(100, 3)

    def draft(others, scores=True):
        found = expected.clone()
        found[:others, 1] = 1e-3
        return Draft("a", "int8", lambda path: path.write_text("a"), lambda _: [(expected, found)], scores)

    with pytest.raises(UserError, match=r"^a disagrees with PyTorch on the best token of 21.0% of the frames"):
        publish.publish([draft(21)], tmp_path)
    assert publish.publish([draft(19)], tmp_path)["a"].same_best == pytest.approx(0.81)
    assert publish.publish([draft(100, scores=False)], tmp_path)["a"].relative < 1e-4


def test_what_sherpa_cannot_do_with_a_model_is_said(caplog):
    assert sherpa_warnings(PRESETS["medium"], streaming=True) == ()
    at_50_hz = dataclasses.replace(PRESETS["tiny"], output_downsampling_factor=1)
    times, channels = sherpa_warnings(at_50_hz, streaming=True)
    assert "time stamps" in times and "--frontend-channels" in channels
    assert sherpa_warnings(at_50_hz, streaming=False) == (times,)
    onnx_export._warn([*export_parts(make_model("transducer"))])
    assert not caplog.messages
    (part,) = export_parts(make_model("ctc"))
    onnx_export._warn([dataclasses.replace(part, warnings=(times,))])
    assert caplog.messages == [times]


@pytest.mark.parametrize(
    ("version", "named"), [("2.13.0+cpu", False), ("2.13.1", False), ("2.14.0+cu130", True), ("2.1", True)]
)
def test_an_untested_torch_is_named(caplog, monkeypatch, version, named):
    monkeypatch.setattr(torch, "__version__", version)
    publish.warn_if_untested()
    expected = [f"torch {version.split('+')[0]}: the exporters were tested with torch 2.13"] if named else []
    assert caplog.messages == expected and all(record.levelno == logging.WARNING for record in caplog.records)


@pytest.mark.slow
def test_unusual_features_go_with_the_file(folder, waves, caplog):
    """They are named when they are exported, and read again; sherpa-onnx opens the file, and finds something else."""
    sherpa = pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed")
    model, fbank = make_model("ctc"), FbankConfig(frame_shift_ms=12.5, low_freq=60.0)
    export(model, "ctc", FP32, folder, waves, fbank=fbank)
    assert "--frame-shift-ms 12.5 (default 10.0), --low-freq 60.0 (default 20.0)" in " ".join(caplog.messages)
    metadata = {entry.key: entry.value for entry in onnx.load(folder / "model.onnx").metadata_props}
    ours = {key: value for key, value in metadata.items() if key.startswith("fbank_")}
    assert ours == {"fbank_frame_shift_ms": "12.5", "fbank_low_freq": "60.0"}
    backend = OnnxBackend(folder, threads=1)
    vocabulary = Vocabulary((folder / "tokens.txt").read_text().split()[::2])
    torch_backend = TorchBackend(model, Fbank(fbank), vocabulary, torch.device("cpu"))
    found, expected = (Recognizer(each).transcribe([SPEECH], log_probs=True)[0] for each in (backend, torch_backend))
    assert backend.frame_shift == torch_backend.frame_shift == 0.05
    assert found.text == expected.text and np.abs(found.log_probs - expected.log_probs).max() < 2e-3
    recognizer = sherpa.OfflineRecognizer.from_zipformer_ctc(
        model=str(folder / "model.onnx"), tokens=str(folder / "tokens.txt")
    )
    stream = recognizer.create_stream()
    stream.accept_waveform(16000, load_audio(SPEECH))
    recognizer.decode_stream(stream)
    assert "".join(stream.result.tokens) != found.text
    caplog.clear()
    onnx_export.warn_of_features(FBANK)
    assert not caplog.messages and FBANK.as_metadata() == {"front_end": "fbank"}


def test_metadata_of_features_that_nobody_writes():
    assert FbankConfig.from_metadata({"T": "45"}, "m") == FBANK
    with pytest.raises(UserError, match=r"the metadata of m: `low_frequency`; did you mean `low_freq`"):
        FbankConfig.from_metadata({"fbank_low_frequency": "3"}, "m")
    with pytest.raises(UserError, match="--low-freq"):
        FbankConfig.from_metadata({"fbank_low_freq": "much"}, "m")


def test_one_export_at_a_time_goes_into_a_folder(tmp_path):
    """The second names who has it before it writes; what a killed one left is removed, what a person made is not."""
    (tmp_path / "a.bin").write_bytes(b"old")
    (tmp_path / ".export-mine").mkdir()
    (tmp_path / ".couloir-export-dead").mkdir()
    (tmp_path / ".couloir-export-dead/a.bin").write_bytes(b"half")
    refusal = f"must be used by one process at a time, but is used by process {os.getpid()} on "
    with publish.staged(tmp_path, ["a.bin"]) as first:
        (first / "a.bin").write_bytes(b"new")
        with pytest.raises(UserError, match=refusal), publish.staged(tmp_path, ["a.bin"]):
            raise AssertionError
        assert (first / "a.bin").read_bytes() == b"new" and (tmp_path / "a.bin").read_bytes() == b"old"
    assert (tmp_path / "a.bin").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".export-mine", "a.bin"]
