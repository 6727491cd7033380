"""FunASR's front end against kaldi-native-fbank, a stacking by hand, and files of statistics as it writes them."""

from __future__ import annotations

from pathlib import Path

import kaldi_native_fbank
import numpy as np
import pytest
import torch

from couloir.audio import load_audio
from couloir.errors import UserError
from couloir.features.fbank import Fbank
from couloir.features.funasr import stacked
from couloir.features.kaldi import fbank_numpy
from couloir.features.lfr import Lfr
from couloir.features.lfr_config import LfrConfig, read_statistics

WAVES = [load_audio(path) for path in sorted((Path(__file__).parents[1] / "data").glob("ru_*.flac"))]
# Kaldi's mel values are float32, which moves the edges of its filters: 5.5e-4 at most on speech.
TOLERANCE = 2e-3


def of_kaldi(wave: np.ndarray, window: str = "hamming", snip_edges: bool = True) -> np.ndarray:
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither, options.frame_opts.snip_edges = 0, snip_edges
    options.frame_opts.window_type = window
    options.mel_opts.num_bins, options.mel_opts.high_freq, options.energy_floor = 80, 0, 0
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(16000, (wave * 32768).tolist())
    fbank.input_finished()
    frames = [fbank.get_frame(i) for i in range(fbank.num_frames_ready)]
    return np.array(frames, np.float32).reshape(-1, 80)


@pytest.mark.parametrize(("window", "snip_edges"), [("hamming", True), ("hamming", False), ("povey", True)])
@pytest.mark.parametrize("length", [80, 100, 399, 400, 401, 559, 560, 1600, 16000, 16079, 10**9])
def test_windows_equal_kaldis(window, snip_edges, length):
    wave = WAVES[0][20000 : 20000 + length]
    theirs = of_kaldi(wave, window, snip_edges)
    config = LfrConfig(window=window, snip_edges=snip_edges)
    feats, lens = Fbank(config).eval()(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))
    assert lens.tolist() == [len(theirs)]
    for ours in (feats[0].numpy(), fbank_numpy(wave, config)):
        assert ours.shape == theirs.shape and (not len(theirs) or np.abs(ours - theirs).max() < TOLERANCE)


@pytest.mark.parametrize(("m", "n"), [(7, 6), (1, 1), (1, 3), (4, 3), (5, 1), (2, 7)])
@pytest.mark.parametrize("count", [1, 2, 6, 7, 12, 13, 98])
def test_frames_are_stacked_as_by_hand(m, n, count):
    windows = np.arange(count * 5, dtype=np.float32).reshape(count, 5)
    left = [windows[0]] * ((m - 1) // 2)
    padded = [*left, *windows, *[windows[-1]] * (m + n)]
    expected = [np.concatenate(padded[at : at + m]) for at in range(0, count, n)]
    found = stacked(windows, LfrConfig(num_mel_bins=5, lfr_m=m, lfr_n=n))
    np.testing.assert_array_equal(found, expected)
    assert len(found) == -(-count // n)
    alone = Lfr(LfrConfig(num_mel_bins=5, lfr_m=m, lfr_n=n))
    lens = torch.tensor([count])
    in_torch = alone._stacked(torch.from_numpy(np.pad(windows, ((0, 9), (0, 0))))[None], lens, len(found))
    np.testing.assert_array_equal(in_torch[0].numpy(), expected)


def test_one_second_has_17_frames_of_60_ms():
    config = LfrConfig()
    assert (config.num_windows(16000), config.num_frames(16000)) == (98, 17)
    assert config.feature_dim == 560 and config.frame_step_s == 0.06


def test_statistics_shift_and_scale_each_bin():
    shift, scale = np.linspace(-9, -5, 560), np.linspace(0.1, 0.2, 560)
    plain, _ = Lfr(LfrConfig()).eval()(torch.from_numpy(WAVES[0])[None], torch.tensor([len(WAVES[0])]))
    config = LfrConfig(neg_mean=tuple(shift), inv_stddev=tuple(scale))
    feats, _ = Lfr(config).eval()(torch.from_numpy(WAVES[0])[None], torch.tensor([len(WAVES[0])]))
    np.testing.assert_allclose(feats[0].numpy(), (plain[0].numpy() + shift) * scale, atol=1e-5)


def test_funasrs_configuration():
    """Of Paraformer's small model, and of its AISHELL recipe, which stacks nothing."""
    paraformer = {"fs": 16000, "window": "hamming", "n_mels": 80, "frame_length": 25, "frame_shift": 10, "lfr_m": 7,
                  "lfr_n": 6, "cmvn_file": "/somewhere/am.mvn"}  # fmt: skip
    assert LfrConfig.from_funasr(paraformer, "config.yaml") == LfrConfig()
    assert LfrConfig.from_funasr({}, "config.yaml") == LfrConfig(lfr_m=1, lfr_n=1)
    aishell = {"fs": 16000, "n_mels": 80, "dither": 0.0, "upsacle_samples": False, "snip_edges": False}
    expected = LfrConfig(lfr_m=1, lfr_n=1, dither=0.0, sample_scale=1.0, snip_edges=False)
    assert LfrConfig.from_funasr(aishell, "config.yaml") == expected


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"n_mel": 80}, "did you mean `n_mels`"), ({"n_mels": "many"}, "--num-mel-bins"),
        ({"window": "hann"}, "hamming"),
        ({"upsacle_samples": "no"}, "upsacle_samples in config.yaml"), ({"lfr_m": None}, "--lfr-m"), ({3: 4}, "3"),
    ],
)  # fmt: skip
def test_what_funasrs_configuration_does_not_have_is_refused_by_name(values, words):
    with pytest.raises(UserError) as error:
        LfrConfig.from_funasr(values, "config.yaml")
    assert words in str(error.value)


AM_MVN = """<Nnet> 
<Splice> {n} {n} 
[ 0 ] 
<AddShift> {n} {n} 
<LearnRateCoef> 0 [ {shift} ] 
<Rescale> {n} {n} 
<LearnRateCoef> 0 [ {scale} ] 
</Nnet> 
"""  # noqa: W291
# The first numbers of the statistics of Paraformer's small Chinese model, of which seven equal sets are in its file.
SHIFT, SCALE = [-8.311879, -8.600912, -9.615928, -10.4], [0.155775, 0.154484, 0.1527379, 0.1518718]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("copies", [1, 7])
def test_statistics_files_are_read(tmp_path, copies, ending):
    path = tmp_path / "am.mvn"
    shift, scale = (" ".join(map(str, values * copies)) for values in (SHIFT, SCALE))
    text = AM_MVN.format(n=4 * copies, shift=shift, scale=scale)
    path.write_text(text.replace("\n", ending), newline="")
    assert read_statistics(path) == (tuple(SHIFT * copies), tuple(SCALE * copies))
    config = LfrConfig(num_mel_bins=4).with_statistics(path)
    assert config == LfrConfig(num_mel_bins=4, neg_mean=tuple(SHIFT), inv_stddev=tuple(SCALE))
    assert config.statistics() == (tuple(SHIFT * 7), tuple(SCALE * 7))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "<AddShift>"),
        ("no network at all", "<AddShift>"),
        ("<AddShift> 1 1\n<LearnRateCoef> 0 [ 1 2", "<AddShift>"),
        ("<AddShift> 1 1\n<LearnRateCoef> 0 [ 1 2 ]", "<Rescale>"),
        ("<AddShift>\n<LearnRateCoef> 0 [ a b ]\n<Rescale>\n<LearnRateCoef> 0 [ 1 2 ]", "<AddShift>"),
        (AM_MVN.format(n=2, shift="1 2", scale="1"), "2 and 1"),
        (AM_MVN.format(n=3, shift="1 2 3", scale="1 2 3"), "80 or 560"),
        (AM_MVN.format(n=80, shift="nan " * 80, scale="1 " * 80), "numbers"),
        (AM_MVN.format(n=80, shift="1 " * 80, scale="0 " * 80), "above 0"),
        (AM_MVN.format(n=80, shift="1 " * 80, scale="1e999 " * 80), "numbers"),
    ],
)
def test_what_is_no_statistics_file_is_refused_by_name(tmp_path, text, words):
    path = tmp_path / "am.mvn"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        LfrConfig().with_statistics(path)
    assert words in str(error.value) and str(path) in str(error.value)
    with pytest.raises(UserError, match="do not exist"):
        read_statistics(tmp_path / "other.mvn")


def test_noise_is_added_in_training_alone():
    """Of the asked strength: what comes out is what the filterbank makes of the signal and the same noise."""
    wave, lens = torch.from_numpy(WAVES[0])[None], torch.tensor([len(WAVES[0])])
    module = Lfr(LfrConfig(dither=3.0))
    torch.manual_seed(4)
    noisy, _ = module.train()(wave, lens)
    torch.manual_seed(4)
    noise = torch.randn(wave.shape)
    expected, _ = module.eval()(wave + 3.0 * noise / 32768, lens)
    assert (noisy - expected).abs().max() < TOLERANCE
    state = torch.get_rng_state()
    quiet, _ = Lfr(LfrConfig(dither=3.0))(wave, lens)
    assert torch.equal(module.eval()(wave, lens)[0], quiet)
    assert torch.equal(
        Lfr(LfrConfig(dither=3.0)).exportable()(wave, lens)[0], Lfr(LfrConfig()).exportable()(wave, lens)[0]
    )
    assert torch.equal(torch.get_rng_state(), state) and (quiet - noisy).abs().max() > 0.1


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"lfr_m": 0}, "--lfr-m"), ({"lfr_n": 0}, "--lfr-n"), ({"lfr_n": 101}, "--lfr-n"),
        ({"num_mel_bins": 3}, "--num-mel-bins"), ({"sample_scale": 0.0}, "--sample-scale"),
        ({"dither": -1.0}, "--dither"), ({"dither": float("nan")}, "--dither"), ({"neg_mean": (1.0,)}, "--neg-mean"),
        ({"frame_shift_ms": 30.0}, "--frame-shift-ms"), ({"high_freq": 9000.0}, "--high-freq"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused_by_name(values, flag):
    with pytest.raises(UserError, match=flag):
        LfrConfig(**values)
