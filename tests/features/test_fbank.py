"""The filterbank against kaldi-native-fbank, lhotse and a float64 computation, on real speech.

In float32 each Fourier bin carries a rounding error in proportion to the whole frame's amplitude, so a filter
whose amplitude is 1/r of the loudest one's has a log-mel error in proportion to r: a few 1e-7 r, which reaches
7e-4 near the floor for every implementation, Kaldi's included. The peers also build their filters in float32,
which costs 5e-5 everywhere. The bounds below are these two terms; 1e-3 is never passed.
"""

from __future__ import annotations

import io
from pathlib import Path

import kaldi_native_fbank
import lhotse
import numpy as np
import pytest
import torch

from couloir.audio import load_audio
from couloir.errors import UserError
from couloir.features import kaldi
from couloir.features.config import FbankConfig
from couloir.features.fbank import PADDING_LOG_MEL, ExportableFbank, Fbank

WAVES = [load_audio(path) for path in sorted((Path(__file__).parents[1] / "data").glob("ru_*.flac"))]
LENGTHS = [80, 81, 119, 120, 200, 239, 240, 399, 400, 401, 559, 560, 1600, 16000, 16079, 16080]


def batch(waves: list[np.ndarray], garbage: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    lens = torch.tensor([len(wave) for wave in waves])
    padded = torch.full((len(waves), int(lens.max())), garbage)
    for row, wave in zip(padded, waves):
        row[: len(wave)] = torch.from_numpy(wave)
    return padded, lens


def single(fbank: Fbank, wave: np.ndarray) -> np.ndarray:
    return fbank(*batch([wave]))[0][0].numpy()


def of_kaldi(wave: np.ndarray) -> np.ndarray:
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither, options.frame_opts.snip_edges = 0, False
    options.mel_opts.num_bins, options.mel_opts.high_freq = 80, -400
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(16000, wave.tolist())
    fbank.input_finished()
    return np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])


def of_lhotse(wave: np.ndarray) -> np.ndarray:
    return lhotse.Fbank().extract(wave, 16000)


def in_double(wave: np.ndarray) -> np.ndarray:
    """The definition by one sum after another, in float64, from nothing but the filters and the window."""
    config = FbankConfig()
    frames = []
    for centre in range(80, 160 * ((len(wave) + 80) // 160) + 80, 160):
        places = np.arange(centre - 200, centre + 200)
        while ((places < 0) | (places >= len(wave))).any():
            places = np.where(places < 0, -1 - places, places)
            places = np.where(places >= len(wave), 2 * len(wave) - 1 - places, places)
        frame = wave[places].astype(np.float64)
        frame -= frame.mean()
        frame = np.array([frame[i] - 0.97 * frame[max(i - 1, 0)] for i in range(400)]) * kaldi.povey_window(400)
        frames.append(np.abs(np.fft.rfft(frame, 512)) ** 2 @ kaldi.mel_filterbank(config))
    return np.log(np.maximum(np.array(frames), np.finfo(np.float32).eps))


def assert_same_features(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape and ours.dtype == np.float32
    amplitude_below_loudest = np.exp((theirs.max(axis=-1, keepdims=True) - theirs) / 2)
    exact = theirs.dtype == np.float64
    bound = 2e-5 + 4e-7 * amplitude_below_loudest if exact else 1e-4 + 8e-7 * amplitude_below_loudest
    assert (np.abs(ours - theirs) <= np.minimum(bound, 1e-3)).all()


@pytest.mark.parametrize("peer", [of_kaldi, of_lhotse, in_double])
@pytest.mark.parametrize("wave", WAVES, ids=lambda wave: f"{len(wave)} samples")
def test_real_speech_equals(peer, wave):
    theirs = peer(wave)
    for ours in (single(Fbank(), wave), single(ExportableFbank(), wave), kaldi.fbank_numpy(wave)):
        assert_same_features(ours, theirs)


@pytest.mark.parametrize("length", LENGTHS)
def test_short_and_odd_lengths_equal_kaldi(length):
    wave = WAVES[0][20000 : 20000 + length]
    theirs = of_kaldi(wave)
    for ours in (single(Fbank(), wave), single(ExportableFbank(), wave), kaldi.fbank_numpy(wave)):
        assert_same_features(ours, theirs)


@pytest.mark.parametrize("length", [0, 1, 79])
def test_less_than_half_a_frame_has_none(length):
    wave = WAVES[0][:length]
    assert kaldi.fbank_numpy(wave).shape == (0, 80)
    for fbank in (Fbank(), ExportableFbank()):
        feats, lens = fbank(*batch([WAVES[1], wave]))
        assert lens[1] == 0 and (feats[1] == PADDING_LOG_MEL).all()


def test_silence_and_constant_offset_lie_on_the_floor():
    for wave in (np.zeros(8000, np.float32), np.full(8000, 0.25, np.float32)):
        assert np.allclose(single(Fbank(), wave), np.log(1.1920929e-07))


@pytest.mark.parametrize("garbage", [0.0, 1.0, float("nan")])
def test_an_utterance_does_not_feel_its_batch(garbage):
    fbank = Fbank()
    short = WAVES[2][:7777]
    feats, lens = fbank(*batch([*WAVES, short], garbage))
    assert lens.tolist() == [fbank.num_frames(len(wave)) for wave in [*WAVES, short]]
    for row, length, wave in zip(feats, lens, [*WAVES, short]):
        assert np.array_equal(row[:length].numpy(), single(fbank, wave))
        assert (row[length:] == PADDING_LOG_MEL).all()


def test_exportable_batch_equals_single():
    fbank = ExportableFbank()
    feats, lens = fbank(*batch(WAVES))
    for row, length, wave in zip(feats, lens, WAVES):
        assert_same_features(row[:length].numpy(), single(fbank, wave))


def test_trace_takes_other_batches_and_lengths():
    fbank = ExportableFbank()
    traced = torch.jit.trace(fbank, batch([WAVES[0][:5000], WAVES[1][:4000]]))
    stored = io.BytesIO()
    torch.jit.save(traced, stored)
    stored.seek(0)
    loaded = torch.jit.load(stored)
    for waves in (WAVES, WAVES[:1], [WAVES[0][:400], WAVES[2], WAVES[1][:161], WAVES[0][:3210]]):
        for ours, theirs in zip(loaded(*batch(waves)), fbank(*batch(waves))):
            assert torch.equal(ours, theirs)


def test_onnx_takes_other_batches_and_lengths():
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    fbank, graph = ExportableFbank(), io.BytesIO()
    names = {"waves": {0: "B", 1: "N"}, "wave_lens": {0: "B"}, "feats": {0: "B", 1: "T"}, "feat_lens": {0: "B"}}
    torch.onnx.export(
        fbank, batch([WAVES[0][:5000], WAVES[1][:4000]]), graph, opset_version=17, dynamo=False,
        input_names=["waves", "wave_lens"], output_names=["feats", "feat_lens"], dynamic_axes=names,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(graph.getvalue(), providers=["CPUExecutionProvider"])
    for waves in (WAVES, WAVES[:1], [WAVES[0][:400], WAVES[2], WAVES[1][:161]]):
        padded, lens = batch(waves)
        feats, feat_lens = session.run(None, {"waves": padded.numpy(), "wave_lens": lens.numpy()})
        ours = fbank(padded, lens)
        assert feat_lens.tolist() == ours[1].tolist()
        assert_same_features(feats, ours[0].numpy())


def test_features_stay_float32_under_autocast():
    expected, _ = Fbank()(*batch(WAVES))
    with torch.autocast("cpu", torch.bfloat16):
        feats, _ = Fbank()(*batch(WAVES))
    assert feats.dtype == torch.float32 and torch.equal(feats, expected)


def test_nothing_is_stored_with_a_model():
    assert not Fbank().state_dict() and not list(ExportableFbank().parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_equals_cpu():
    waves, lens = batch([*WAVES, WAVES[0][:1000]])
    expected, expected_lens = Fbank()(waves, lens)
    feats, feat_lens = Fbank().cuda()(waves.cuda(), lens.cuda())
    assert_same_features(feats.cpu().numpy(), expected.numpy())
    assert torch.equal(feat_lens.cpu(), expected_lens)


@pytest.mark.parametrize(
    "values, flag",
    [
        ({"feature_dim": 3}, "--feature-dim"),
        ({"frame_shift_ms": 0.0}, "--frame-shift-ms"),
        ({"frame_shift_ms": 30.0}, "--frame-shift-ms"),
        ({"high_freq": 9000.0}, "--high-freq"),
        ({"low_freq": 7700.0}, "--high-freq"),
    ],
)
def test_impossible_settings_are_refused_by_name(values, flag):
    with pytest.raises(UserError, match=flag):
        FbankConfig(**values)


def test_other_settings_equal_kaldi_too():
    config = FbankConfig(feature_dim=40, sample_rate=8000, high_freq=0.0)
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither, options.frame_opts.snip_edges, options.frame_opts.samp_freq = 0, False, 8000
    options.mel_opts.num_bins, options.mel_opts.high_freq = 40, 0
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(8000, WAVES[0].tolist())
    fbank.input_finished()
    theirs = np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])
    assert_same_features(single(Fbank(config), WAVES[0]), theirs)
    assert_same_features(kaldi.fbank_numpy(WAVES[0], config), theirs)
