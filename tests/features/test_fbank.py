"""The filterbank against kaldi-native-fbank, lhotse and a float64 computation, on real speech.

Every tolerance is a bound on float32 rounding, computed for the frame at hand from float64 (`rounding`), so that it
holds for the sums of any FFT, matrix product and instruction set, and for no other filterbank.
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
from couloir.features.config import PADDING_LOG_MEL, FbankConfig
from couloir.features.fbank import ExportableFbank, Fbank

WAVES = [load_audio(path) for path in sorted((Path(__file__).parents[1] / "data").glob("ru_*.flac"))]
USUAL = FbankConfig()
FLOOR = np.finfo(np.float32).eps
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


UNIT = 2.0**-24
"""The largest relative error of rounding to float32."""
SIGMAS = 6.0
"""Standard deviations that a rounding error is allowed: the tests look at a million of them, whose largest has 5."""


def frames_in_double(wave: np.ndarray, config: FbankConfig) -> np.ndarray:
    """(N,) -> (T, W): the samples of each frame, mirrored at both ends as often as it takes."""
    frames, shift, size = [], config.shift_samples, config.window_samples
    for frame in range((len(wave) + shift // 2) // shift):
        places = np.arange(size) + frame * shift - (size - shift) // 2
        while ((places < 0) | (places >= len(wave))).any():
            places = np.where(places < 0, -1 - places, places)
            places = np.where(places >= len(wave), 2 * len(wave) - 1 - places, places)
        frames.append(wave[places].astype(np.float64))
    return np.array(frames)


def power_in_double(frames: np.ndarray, config: FbankConfig) -> np.ndarray:
    """The power spectra of frames, by the definition: (T, W) -> (T, K)."""
    frames = frames - frames.mean(-1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    return np.abs(np.fft.rfft((frames - 0.97 * before) * kaldi.povey_window(frames.shape[1]), config.fft_samples)) ** 2


def in_double(wave: np.ndarray, config: FbankConfig = USUAL) -> np.ndarray:
    """The definition in float64, from nothing but the filters and the window."""
    power = power_in_double(frames_in_double(wave, config), config)
    return np.log(np.maximum(power @ kaldi.mel_filterbank(config), FLOOR))


def rounding(wave: np.ndarray, config: FbankConfig, float32_filters: bool) -> np.ndarray:
    """How far float32 may be from `in_double`, (T, F).

    A Fourier coefficient X is a sum of W products, and the sum that rounds most adds one after the other: the partial
    sums grow to the norm of the frame x, the gain of pre-emphasis G = 1.97 over it, and each is rounded with a standard
    deviation of at most u / sqrt(3) of itself, which together makes s = u G |x| sqrt(W / 6) (blocked sums, SIMD lanes
    and FFTs have fewer steps, and less). A filter's energy E is the sum of w |X|^2 over its bins, and so changes by
    2 s sqrt(sum of w^2 |X|^2) + s^2 sum of w, where s is `SIGMAS` times as large; the K products of its own sum are
    positive and round to K u E at most. Near the floor that is most of E: the error of the logarithm is that of E
    over the smallest E that may come out. The logarithm itself is rounded by 2 u of its value, at most 16.

    Args:
        float32_filters: as Kaldi and lhotse have them. Mel values of up to M, a logarithm times 1127, are rounded
            twice, and numerator and denominator of a triangle of width D hold two each: 8 u M / D of a weight.
    """
    frames, filters = frames_in_double(wave, config), kaldi.mel_filterbank(config)
    power, count = power_in_double(frames, config), config.window_samples
    energy = power @ filters
    sigma = SIGMAS * UNIT * 1.97 * np.linalg.norm(frames, axis=1, keepdims=True) * np.sqrt(count / 6)
    error = 2 * sigma * np.sqrt(power @ filters**2) + sigma**2 * filters.sum(0) + len(filters) * UNIT * energy
    if float32_filters:
        top = 1127 * np.log1p(config.top_freq / 700)
        width = (top - 1127 * np.log1p(config.low_freq / 700)) / (config.feature_dim + 1)
        error += 8 * UNIT * top / width * (power @ (filters > 0))
    return error / np.maximum(energy - error, FLOOR) + 2 * UNIT * 16


def assert_same_features(ours: np.ndarray, theirs: np.ndarray, wave: np.ndarray, config: FbankConfig = USUAL) -> None:
    """Both computed in float32 unless theirs is float64."""
    assert ours.shape == theirs.shape and ours.dtype == np.float32
    bound = rounding(wave, config, float32_filters=False)
    if theirs.dtype == np.float32:
        bound = bound + rounding(wave, config, float32_filters=True)
    assert (np.abs(ours - theirs) <= bound).all()


@pytest.mark.parametrize("peer", [of_kaldi, of_lhotse, in_double])
@pytest.mark.parametrize("wave", WAVES, ids=lambda wave: f"{len(wave)} samples")
def test_real_speech_equals(peer, wave):
    theirs = peer(wave)
    for ours in (single(Fbank(), wave), single(ExportableFbank(), wave), kaldi.fbank_numpy(wave)):
        assert_same_features(ours, theirs, wave)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PREEMPHASIS", 0.9699),
        ("povey_window", lambda size: (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / (size - 1))) ** 0.8501),
        ("_mel", lambda hertz: 1127.0 * np.log1p(hertz / 700.1)),
    ],
)
def test_the_bound_is_near_enough_to_tell_another_filterbank(name, value, monkeypatch):
    expected = in_double(WAVES[0])
    bound = rounding(WAVES[0], FbankConfig(), float32_filters=True)
    monkeypatch.setattr(kaldi, name, value)
    assert (np.abs(kaldi.fbank_numpy(WAVES[0]) - expected) > bound).any()


@pytest.mark.parametrize("length", LENGTHS)
def test_short_and_odd_lengths_equal_kaldi(length):
    wave = WAVES[0][20000 : 20000 + length]
    theirs = of_kaldi(wave)
    for ours in (single(Fbank(), wave), single(ExportableFbank(), wave), kaldi.fbank_numpy(wave)):
        assert_same_features(ours, theirs, wave)


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
        assert_same_features(row[:length].numpy(), single(fbank, wave), wave)


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
        for row, length, theirs, wave in zip(feats, feat_lens, ours[0], waves):
            assert_same_features(row[:length], theirs[:length].numpy(), wave)


def test_features_stay_float32_under_autocast():
    expected, _ = Fbank()(*batch(WAVES))
    with torch.autocast("cpu", torch.bfloat16):
        feats, _ = Fbank()(*batch(WAVES))
    assert feats.dtype == torch.float32 and torch.equal(feats, expected)


def test_nothing_is_stored_with_a_model():
    assert not Fbank().state_dict() and not list(ExportableFbank().parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_equals_cpu():
    waves = [*WAVES, WAVES[0][:1000]]
    padded, lens = batch(waves)
    expected, expected_lens = Fbank()(padded, lens)
    feats, feat_lens = Fbank().cuda()(padded.cuda(), lens.cuda())
    assert torch.equal(feat_lens.cpu(), expected_lens)
    for row, theirs, length, wave in zip(feats.cpu(), expected, expected_lens, waves):
        assert_same_features(row[:length].numpy(), theirs[:length].numpy(), wave)


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
    for ours in (single(Fbank(config), WAVES[0]), kaldi.fbank_numpy(WAVES[0], config)):
        assert_same_features(ours, theirs, WAVES[0], config)
        assert_same_features(ours, in_double(WAVES[0], config), WAVES[0], config)
