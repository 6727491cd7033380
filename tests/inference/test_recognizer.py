"""The recogniser: one result per recording whatever the batch, the runtime and the cut."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest
import torch
from tiny_models import tiny_model, write_onnx_of_audio

import couloir
from couloir.audio import AudioError, load_audio
from couloir.decoding.ctc import ctc_greedy_search
from couloir.errors import UserError
from couloir.export.quantize import write_int8
from couloir.inference.onnx_backend import OnnxBackend, load_session, run_session
from couloir.inference.recognizer import Recognizer
from couloir.inference.search import ctc_greedy
from couloir.inference.torch_backend import MAX_WINDOWS, windows_that_fit
from couloir.inference.windows import STEP_SAMPLES, cut, join

# Both rates with both heads; the two of --fast have both heads and both rates once.
CASES = [("ctc", 2), ("transducer", 1)]
LONG_CASES = [("ctc", 2), pytest.param("ctc", 1, marks=pytest.mark.slow)]
LONG_CASES += [pytest.param("transducer", 1, marks=pytest.mark.slow)]
CASES += [pytest.param("ctc", 1, marks=pytest.mark.slow), pytest.param("transducer", 2, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def waves(speech):
    return [load_audio(path) for path in speech]


def _plain(transcripts):
    return [(t.text, [(k.symbol, k.start, k.end) for k in t.tokens]) for t in transcripts]


@pytest.mark.parametrize("kind, factor", CASES)
def test_torch_and_onnxruntime_agree_on_real_speech(models, speech, kind, factor):
    folder = models(kind, factor)
    by_torch = Recognizer.from_pretrained(folder / "run").transcribe(speech, log_probs=kind == "ctc")
    by_onnx = Recognizer(OnnxBackend(folder / "onnx")).transcribe(speech, log_probs=kind == "ctc")
    assert _plain(by_torch) == _plain(by_onnx)
    assert all(len(t.tokens) > 20 for t in by_torch)
    assert {t.frame_shift for t in by_torch + by_onnx} == {0.02 * factor}
    for ours, theirs in zip(by_torch, by_onnx):
        assert ours.confidence == pytest.approx(theirs.confidence, abs=2e-4)
        if kind == "ctc":
            # The head's weights are 30 times the usual, and so are the differences of float32 sums.
            np.testing.assert_allclose(ours.log_probs, theirs.log_probs, atol=3e-3)


@pytest.mark.slow
def test_a_model_with_features_inside_agrees_too(models, speech, waves, tmp_path):
    folder = write_onnx_of_audio(tmp_path, tiny_model())
    expected = Recognizer.from_pretrained(models() / "run").transcribe([*speech, waves[0][:700]])
    assert _plain(Recognizer(OnnxBackend(folder)).transcribe([*speech, waves[0][:700]])) == _plain(expected)


@pytest.mark.parametrize("kind, factor", CASES)
def test_neither_batch_nor_order_changes_a_result(models, waves, kind, factor):
    items = [waves[0], waves[1][:9000], waves[2], waves[1], waves[0][:500], waves[2][:40001]]
    for backend in (
        Recognizer.from_pretrained(models(kind, factor) / "run").backend,
        OnnxBackend(models(kind, factor) / "onnx"),
    ):
        alone = [Recognizer(backend).transcribe([item])[0] for item in items]
        for one, among in zip((backend.encode([wave])[0] for wave in items[:4]), backend.encode(items[:4])):
            # Measured: 2.4e-4 of log-probabilities that reach -1150, and 4e-6 of encoder outputs that reach 8.
            np.testing.assert_allclose(among, one, atol=1e-3 if kind == "ctc" else 2e-5, rtol=0)
        assert _plain(Recognizer(backend, batch_size=4).transcribe(items)) == _plain(alone)
        assert _plain(Recognizer(backend, batch_size=1).transcribe(items[::-1]))[::-1] == _plain(alone)


def test_every_kind_of_item_is_heard_alike(models, speech, waves):
    recognizer = couloir.Recognizer.from_pretrained(models() / "run")
    items = [speech[0], str(speech[0]), speech[0].read_bytes(), waves[0], (waves[0], 16000)]
    results = recognizer.transcribe(items)
    assert len(set(map(str, _plain(results)))) == 1
    assert [bool(r.name) for r in results] == [True, True, False, False, False]
    assert recognizer.transcribe([]) == []


def test_search_is_that_of_decoding():
    torch.manual_seed(1)
    log_probs = (4 * torch.randn(5, 60, 7)).log_softmax(-1)
    expected = ctc_greedy_search(log_probs, torch.full((5,), 60))
    for rows, hypothesis in zip(log_probs.numpy(), expected):
        found = ctc_greedy(rows)
        assert (found.tokens, found.starts) == (hypothesis.tokens, hypothesis.starts)
        assert found.confidences == pytest.approx(hypothesis.confidences)
        assert all(a < b for a, b in zip(found.starts, found.ends))
        assert all(b <= a for a, b in zip(found.starts[1:], found.ends))


@pytest.mark.parametrize("kind", ["ctc", pytest.param("transducer", marks=pytest.mark.slow)])
def test_nothing_but_allowed_symbols(models, waves, kind, tmp_path):
    free = {t.symbol for t in Recognizer.from_pretrained(models(kind) / "run").transcribe(waves[:1])[0].tokens}
    kept = sorted(free)[: len(free) // 2 + 1]
    (tmp_path / "phones.txt").write_text(" ".join(kept), encoding="utf-8")
    found = []
    for runtime, folder in (("torch", "run"), ("onnx", "onnx")):
        options = {"inventory": tmp_path / "phones.txt", "runtime": runtime}
        found.append(Recognizer.from_pretrained(models(kind) / folder, **options).transcribe(waves[:1]))
        assert {token.symbol for token in found[-1][0].tokens} <= set(kept) < free
    assert _plain(found[0]) == _plain(found[1])


@pytest.mark.parametrize("kind", ["ctc", pytest.param("transducer", marks=pytest.mark.slow)])
def test_a_penalty_on_blank_changes_how_many_symbols(models, waves, kind):
    counts = []
    for runtime, folder in (("torch", "run"), ("onnx", "onnx")):
        for penalty in (-1e4, 0.0):
            options = {"blank_penalty": penalty, "runtime": runtime}
            recognizer = Recognizer.from_pretrained(models(kind) / folder, **options)
            counts.append(len(recognizer.transcribe(waves[:1])[0].tokens))
    assert counts[:2] == counts[2:] and counts[0] == 0 < counts[1]


@pytest.mark.parametrize("factor", [1, 2])
def test_passes_are_averaged_frame_by_frame(models, waves, factor):
    backend = Recognizer.from_pretrained(models("ctc", factor) / "run").backend
    step, wave = 320 * factor, waves[0][:30000]
    later = [np.concatenate([np.zeros(i * step, np.float32), wave]) for i in range(3)]
    expected = np.mean([np.exp(backend.encode([w])[0][i:]) for i, w in enumerate(later)], axis=0)
    found = Recognizer(backend, passes=3).transcribe([wave], log_probs=True)[0]
    np.testing.assert_allclose(np.exp(found.log_probs), expected, atol=1e-5)
    with pytest.raises(UserError, match="--passes"):
        Recognizer(Recognizer.from_pretrained(models("transducer") / "run").backend, passes=2)


def test_windows_cover_a_recording_and_overlap():
    rng = np.random.default_rng(0)
    for _ in range(200):
        longest = int(rng.integers(5, 60)) * 16000
        overlap = int(rng.integers(1, longest // 2))
        size = int(rng.integers(1, 40 * longest))
        windows = cut(size, longest, overlap)
        assert windows[0].start == 0 and windows[-1].stop == size
        assert all(w.start % STEP_SAMPLES == 0 and w.stop - w.start <= longest for w in windows)
        assert all(a.stop - b.start >= min(overlap, longest - STEP_SAMPLES) for a, b in zip(windows, windows[1:]))


def test_joining_equal_windows_gives_the_uncut_frames():
    whole = np.random.default_rng(0).normal(size=(1000, 5)).astype(np.float32)
    offsets = [0, 230, 470, 700]
    parts = [whole[o : o + 300] for o in offsets]
    np.testing.assert_array_equal(join(parts, offsets, 0.02, False), whole)


def test_a_seam_avoids_where_two_windows_disagree():
    left, right = np.zeros((100, 3)), np.zeros((100, 3))
    left[:, 0] = right[:, 0] = 5.0
    left[70] = [0.0, 9.0, 0.0]  # a symbol that the right window finds two frames later
    right[22] = [0.0, 9.0, 0.0]
    joined = join([left, right], [0, 50], 0.02, False)
    assert len(joined) == 150
    assert (joined.argmax(1) == 1).sum() == 1


def _long(waves):
    """49 s of speech, and its windows of 14 s."""
    long = np.concatenate([waves[i % 3] for i in range(12)])
    windows = cut(len(long), 14 * 16000, 4 * 16000)
    assert len(long) > 45 * 16000 and len(windows) == 5
    return long, windows


def _frames(backend, long, windows):
    """Output frames of the whole, and of the windows joined."""
    starts = [round(w.start / 16000 / backend.frame_shift) for w in windows]
    parts = [backend.encode([long[w.start : w.stop]])[0] for w in windows]
    return backend.encode([long])[0], join(parts, starts, backend.frame_shift, backend.kind == "ctc")


@pytest.mark.parametrize("kind, factor", LONG_CASES)
def test_joined_windows_are_the_uncut_recording_where_context_is_local(models, waves, kind, factor):
    """Without attention a frame sees 1 to 2 s around itself, which the windows' overlap (5 s) gives to every frame."""
    backend = Recognizer.from_pretrained(models(kind, factor) / "run").backend
    for name, weights in backend.model.named_parameters():
        if name.endswith(("out_proj.weight", "out_proj.bias")) and "att" in name:
            weights.data.zero_()
    long, windows = _long(waves)
    uncut, joined = _frames(backend, long, windows)
    # Measured: not a bit of difference. CTC's log-probabilities reach -1150 here, encoder outputs 8.
    np.testing.assert_allclose(joined, uncut, atol=1e-3 if kind == "ctc" else 1e-5, rtol=0)
    windowed = Recognizer(backend, window_s=14.0, overlap_s=4.0).transcribe([long])[0]
    assert windowed.tokens == Recognizer(backend, window_s=60.0).transcribe([long])[0].tokens
    assert len(windowed.tokens) > 200


@pytest.mark.slow
@pytest.mark.parametrize("kind, factor", [("ctc", 1), ("transducer", 1)])
def test_a_long_recording_is_joined_without_a_seam(models, waves, kind, factor):
    """With attention a frame sees all of its window, and changes a little with the window's length."""
    backend = Recognizer.from_pretrained(models(kind, factor) / "run").backend
    long, windows = _long(waves)
    uncut, joined = _frames(backend, long, windows)
    assert uncut.shape == joined.shape
    # Measured: 0.006 of probability with CTC, and 0.0023 of encoder outputs that reach 8.
    difference = np.abs(np.exp(uncut) - np.exp(joined)) if kind == "ctc" else np.abs(uncut - joined)
    assert difference.max() < (0.02 if kind == "ctc" else 0.008)
    whole, windowed = (
        {(t.symbol, t.start, t.end) for t in Recognizer(backend, window_s=s).transcribe([long])[0].tokens}
        for s in (60.0, 14.0)
    )
    # Measured: all of 345 with CTC, 2453 of 2459 with the transducer, whose search remembers.
    assert len(whole & windowed) >= (1.0 if kind == "ctc" else 0.99) * max(len(whole), len(windowed)) > 200


def test_times_are_those_of_the_audio(models, waves):
    """Silence put before a recording moves its symbols by as much: at either output rate."""
    for factor in (1, 2):
        recognizer = Recognizer.from_pretrained(models("ctc", factor) / "run")
        pause = np.zeros(8 * STEP_SAMPLES, np.float32)
        later = recognizer.transcribe([np.concatenate([pause, waves[0]])])[0]
        assert later.tokens[-1].end <= later.duration
        assert later.duration == pytest.approx(len(waves[0]) / 16000 + 1.28, abs=2e-3)
        starts = [t.start for t in later.tokens]
        assert starts == sorted(starts)


def test_bad_items_are_named_and_the_rest_go_on(models, waves, tmp_path):
    recognizer = Recognizer.from_pretrained(models() / "run")
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "empty.wav").write_bytes(b"")
    items = [waves[0], tmp_path / "text.wav", tmp_path / "empty.wav", tmp_path / "gone.wav", np.full(9000, np.nan)]
    results = dict(recognizer.results(items))
    assert [isinstance(results[i], AudioError) for i in range(5)] == [False, True, True, True, True]
    for i, name in ((1, "text.wav"), (2, "empty.wav"), (3, "gone.wav"), (4, "item 4")):
        assert name in str(results[i]) and "\n" not in str(results[i])
    with pytest.raises(AudioError, match="text.wav"):
        recognizer.transcribe(items)


def test_what_a_decoder_chokes_on_is_a_bad_item(models, waves, monkeypatch):
    def choked(item, **_):
        raise UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid continuation byte")

    monkeypatch.setattr("couloir.inference.recognizer.load_audio", choked)
    ((_, error),) = Recognizer.from_pretrained(models() / "run").results(["film.m4a"])
    assert isinstance(error, AudioError) and "film.m4a cannot be read (UnicodeDecodeError" in str(error)


def test_large_files_are_not_read_together(models, waves, tmp_path, monkeypatch):
    sizes = [60, 60, 1, 1, 1, 1, 1, 30, 30, 10]
    paths = [tmp_path / f"{i}.wav" for i in range(len(sizes))]
    for path, size in zip(paths, sizes):
        path.touch()
        os.truncate(path, size * 1_000_000)  # takes no room on the disk
    reading, together, lock = set(), [], threading.Lock()

    def read(path, **_):
        with lock:
            reading.add(path)
            together.append(sum(size for size, other in zip(sizes, paths) if other in reading))
            together[-1] *= len(reading) > 1
        time.sleep(0.01)
        with lock:
            reading.remove(path)
        return waves[0][:4000]

    monkeypatch.setattr("couloir.inference.recognizer.load_audio", read)
    monkeypatch.setattr("couloir.inference.recognizer.usable_cores", lambda: 4)
    found = list(Recognizer.from_pretrained(models() / "run").results(paths))
    assert sorted(index for index, _ in found) == list(range(len(paths)))
    assert 4 <= max(together) <= 50


def test_a_transducer_has_no_log_probabilities(models, waves):
    recognizer = Recognizer.from_pretrained(models("transducer") / "onnx")
    with pytest.raises(UserError, match=r"`log_probs` must be False, but is True, and .*onnx is a transducer"):
        recognizer.transcribe(waves[:1], log_probs=True)
    with pytest.raises(UserError, match="log_probs"):
        recognizer.results(waves[:1], log_probs=True)  # at once, not with the first result


def test_settings_are_checked(models):
    with pytest.raises(UserError, match="overlap_s"):
        Recognizer(None, window_s=10, overlap_s=6)
    with pytest.raises(UserError, match="--batch-size"):
        Recognizer(None, batch_size=0)


@pytest.mark.parametrize("free_gb, windows", [(0.1, 1), (6, 20), (80, MAX_WINDOWS)])
def test_a_small_gpu_gets_fewer_windows_at_a_time(monkeypatch, free_gb, windows):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free_gb * 1e9), 80_000_000_000))
    assert windows_that_fit(torch.device("cuda")) == windows


@pytest.fixture(scope="module")
def int8_model(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    (folder / "tokens.txt").write_bytes((models() / "onnx/tokens.txt").read_bytes())
    write_int8(models() / "onnx/model.onnx", folder / "model.int8.onnx")
    return folder


@pytest.mark.parametrize("version, flags, refused", [
    ("1.23.2", "avx512_vnni amx_int8", True),
    ("1.24.4", "amx_int8", True),
    ("1.23.2", "avx512_vnni", False),
    ("1.20.1", "amx_int8", False),
    ("1.25.0", "amx_int8", False),
])  # fmt: skip
def test_a_runtime_that_computes_int8_wrongly_is_refused(models, int8_model, monkeypatch, version, flags, refused):
    monkeypatch.setattr("onnxruntime.__version__", version)
    monkeypatch.setattr("couloir.inference.processor.cpu_flags", lambda: frozenset(flags.split()))
    OnnxBackend(models() / "onnx")
    if refused:
        with pytest.raises(UserError, match=r"int8\.onnx cannot be run: onnxruntime .* install 1\.20"):
            OnnxBackend(int8_model, suffix=".int8.onnx")
    else:
        OnnxBackend(int8_model, suffix=".int8.onnx")


@pytest.mark.slow
def test_int8_models_hear_each_recording_alone_too(models, waves, tmp_path):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source, target = models() / "onnx", tmp_path / "model.int8.onnx"
    (tmp_path / "tokens.txt").write_bytes((source / "tokens.txt").read_bytes())
    quantize_dynamic(source / "model.onnx", target, op_types_to_quantize=["MatMul"], weight_type=QuantType.QInt8)
    backend = OnnxBackend(tmp_path, suffix=".int8.onnx")
    found = Recognizer(backend).transcribe(waves, log_probs=True)
    assert _plain(found) == _plain([Recognizer(backend).transcribe([wave])[0] for wave in waves])
    for ours, full in zip(found, Recognizer(OnnxBackend(source)).transcribe(waves, log_probs=True)):
        assert (ours.log_probs.argmax(1) == full.log_probs.argmax(1)).mean() > 0.9


def test_half_precision_inputs_and_outputs(tmp_path):
    from onnx import TensorProto, helper, save

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["N"]) for name in ("y", "z")]
    graph = helper.make_graph([helper.make_node("Neg", ["y"], ["z"])], "g", ends[:1], ends[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "a.onnx")
    (out,) = run_session(load_session(tmp_path / "a.onnx", 1), np.array([1.5, -2.0]), names=("y",))
    assert out.dtype == np.float32 and out.tolist() == [-1.5, 2.0]
