"""Front ends by name: each one's geometry, forms and metadata, held against one another."""

from __future__ import annotations

import dataclasses
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from couloir.audio import load_audio
from couloir.config import from_mapping, read_yaml, write_yaml
from couloir.errors import UserError
from couloir.features.augment import SpecAugment
from couloir.features.config import AugmentConfig, FbankConfig
from couloir.features.front_end import FRONT_ENDS, config_class, from_metadata, make_front_end, numpy_front_end
from couloir.features.lfr_config import LfrConfig
from couloir.features.log_mel_config import LogMelConfig

ROOT = Path(__file__).resolve().parents[2]
WAVES = [load_audio(path) for path in sorted((ROOT / "tests/data").glob("ru_*.flac"))]
MEANS = tuple(-0.1 * i - 5 for i in range(80))
SCALES = tuple(0.15 + 0.001 * i for i in range(80))
CONFIGS = [
    FbankConfig(),
    FbankConfig(feature_dim=40, frame_shift_ms=12.5),
    LfrConfig(neg_mean=MEANS, inv_stddev=SCALES),
    LfrConfig(num_mel_bins=24, lfr_m=4, lfr_n=3, snip_edges=False, window="povey", sample_scale=1.0, high_freq=-400.0),
    LfrConfig(lfr_m=1, lfr_n=1),
    LogMelConfig(),
    LogMelConfig(feature_dim=128, padding_value=0.0),
]
ALL = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.name}-{config.feature_dim}")
# float32 sums of other lengths and orders; a bin at the floor takes most of it.
TOLERANCE = 3e-3


def batch(waves, garbage=0.0):
    lens = torch.tensor([len(wave) for wave in waves])
    padded = torch.full((len(waves), int(lens.max())), garbage)
    for row, wave in zip(padded, waves):
        row[: len(wave)] = torch.from_numpy(wave)
    return padded, lens


def test_the_geometry_of_features_is_asked_of_them():
    """Nothing outside couloir/features knows of windows, shifts and what padding is."""
    own = re.compile(
        r"shift_samples|window_samples|frame_shift_ms|frame_length_ms|PADDING_LOG_MEL|snip_edges|left_margin"
    )
    for path in sorted((ROOT / "couloir").rglob("*.py")):
        if path.parent.name != "features":
            assert not own.search(path.read_text(encoding="utf-8")), path


def test_every_registered_one_is_tried_here():
    assert {config.name for config in CONFIGS} == set(FRONT_ENDS)
    assert all(config_class(config.name) is type(config) for config in CONFIGS)


@ALL
def test_geometry(config):
    """Every count of frames is what comes out, and the fewest samples that have it are."""
    function, module = numpy_front_end(config), make_front_end(config).eval()
    for length in [*range(0, 2000, 37), 159, 160, 161, 399, 400, 401, 559, 560, 561, 5679, 5680, 5681]:
        wave = WAVES[0][20000 : 20000 + length]
        frames = config.num_frames(length)
        assert function(wave).shape == (frames, config.feature_dim)
        feats, lens = module(*batch([wave, WAVES[1][:6000]]))
        assert lens.tolist() == [frames, config.num_frames(6000)] and module.num_frames(length) == frames
        assert feats.shape == (2, config.num_frames(6000), config.feature_dim)
    for frames in (1, 2, 9, 57):
        fewest = config.min_samples(frames)
        assert config.num_frames(fewest) == frames == config.num_frames(fewest - 1) + 1
        assert config.num_frames(config.num_samples(frames)) == frames
    assert config.step_samples == round(config.frame_step_s * 16000)
    many = torch.arange(3000)
    assert config.num_frames(many).tolist() == [config.num_frames(n) for n in range(3000)]
    seconds = 600
    assert config.num_frames(16000 * seconds) * config.frame_step_s == pytest.approx(seconds, abs=0.1)


@ALL
def test_a_frame_stands_where_its_click_is(config):
    """Of a click in silence, which is within reach of several frames, the one that its place belongs to has the most.

    Where stacked frames overlap, that is the one whose middle window has it.
    """
    config = dataclasses.replace(config, **({"neg_mean": (), "inv_stddev": ()} if config.name == "lfr" else {}))
    middle = slice(None)
    if config.name == "lfr":
        at = config.left_windows * config.num_mel_bins
        middle = slice(at, at + config.num_mel_bins)
    for frame in (3, 7, 12):
        wave = np.random.default_rng(0).normal(0, 1e-3, 32000).astype(np.float32)
        step = config.frame_step_s
        begin = config.first_frame_s + frame * step
        centre = begin + step / 2
        if config.name == "lfr":  # the window in its middle, and not the one after it where they are an even number
            centre -= ((config.lfr_m - 1) / 2 - config.left_windows) * config.frame_shift_ms / 1000
        wave[round(centre * 16000)] = 1.0
        loudest = numpy_front_end(config)(wave)[:, middle].sum(axis=1).argmax()
        assert loudest == frame


@ALL
def test_numpy_torch_and_what_is_exported_are_alike(config):
    function, module = numpy_front_end(config), make_front_end(config).eval()
    feats, lens = module(*batch(WAVES))
    others, other_lens = module.exportable().eval()(*batch(WAVES))
    assert lens.tolist() == other_lens.tolist() and feats.dtype == others.dtype == torch.float32
    for row, other, length, wave in zip(feats, others, lens, WAVES):
        expected = function(wave)
        assert expected.dtype == np.float32
        assert np.abs(row[:length].numpy() - expected).max() < TOLERANCE
        assert (other - row).abs().max() < TOLERANCE


@ALL
@pytest.mark.parametrize("garbage", [0.0, 1.0, float("nan")])
def test_an_utterance_does_not_feel_its_batch(config, garbage):
    module, waves = make_front_end(config).eval(), [*WAVES, WAVES[2][:7777], WAVES[0][:500], WAVES[0][:30]]
    for form in (module, module.exportable().eval()):
        feats, lens = form(*batch(waves, garbage))
        for row, length, wave in zip(feats, lens, waves):
            alone, _ = form(*batch([wave]))
            assert torch.allclose(row[:length], alone[0], atol=TOLERANCE)
            assert (row[length:] == module.padding_value).all() and module.padding_value == config.padding_value


@ALL
def test_onnx_and_traces_take_other_batches_and_lengths(config):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    module, stored, graph = make_front_end(config).exportable().eval(), io.BytesIO(), io.BytesIO()
    example = batch([WAVES[0][:5000], WAVES[1][:4000]])
    torch.jit.save(torch.jit.trace(module, example), stored)
    stored.seek(0)
    names = {"waves": {0: "B", 1: "N"}, "wave_lens": {0: "B"}, "feats": {0: "B", 1: "T"}, "feat_lens": {0: "B"}}
    torch.onnx.export(
        module, example, graph, opset_version=17, dynamo=False,
        input_names=["waves", "wave_lens"], output_names=["feats", "feat_lens"], dynamic_axes=names,
    )  # fmt: skip
    loaded = torch.jit.load(stored)
    session = onnxruntime.InferenceSession(graph.getvalue(), providers=["CPUExecutionProvider"])
    for waves in (WAVES, WAVES[:1], [WAVES[0][:400], WAVES[2], WAVES[1][:161], WAVES[0][:3210]]):
        padded, lens = batch(waves)
        expected, expected_lens = module(padded, lens)
        for found, found_lens in (
            loaded(padded, lens),
            map(torch.from_numpy, session.run(None, {"waves": padded.numpy(), "wave_lens": lens.numpy()})),
        ):
            assert found_lens.tolist() == expected_lens.tolist()
            assert (found - expected).abs().max() < TOLERANCE


@ALL
def test_metadata_and_back(config):
    metadata = make_front_end(config).metadata()
    assert metadata == config.as_metadata() and metadata["front_end"] == config.name
    assert all(isinstance(value, str) for value in metadata.values())
    others = {"model_type": "zipformer2", "T": "45", "vocab_size": "500", "sample_rate": "16000"}
    assert from_metadata(metadata | others, "m") == config


@ALL
def test_a_run_keeps_it(config, tmp_path):
    write_yaml(tmp_path / "config.yaml", {"features": config})
    saved = read_yaml(tmp_path / "config.yaml")["features"]
    assert from_mapping(type(config), saved) == config
    assert config.unusual().items() <= saved.items()


def test_files_from_elsewhere_do_not_name_theirs():
    assert from_metadata({"model_type": "zipformer2_ctc", "T": "45"}, "m") == FbankConfig()
    values = ",".join(["-8.5"] * 560), ",".join(["0.25"] * 560)
    found = from_metadata(
        {"model_type": "paraformer", "lfr_window_size": "7", "lfr_window_shift": "6"}
        | dict(zip(("neg_mean", "inv_stddev"), values)), "m",
    )  # fmt: skip
    assert found == LfrConfig(neg_mean=(-8.5,) * 80, inv_stddev=(0.25,) * 80)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"front_end": "mfcc"}, "`front_end of the metadata of m.onnx` must be one of fbank, lfr, log_mel, but"),
        ({"front_end": ""}, "but is ''"),
        ({"front_end": "Fbank"}, "'Fbank'"),
        ({"front_end": "x" * 5000}, "xxx"),
        ({"front_end": "log_mel", "log_mel_feature_dim": "0"}, "--feature-dim"),
        ({"front_end": "log_mel", "log_mel_hop": "0"}, "hop"),
        ({"front_end": "log_mel", "log_mel_padding_value": "nan"}, "padding"),
        ({"lfr_window_size": "0"}, "--lfr-m"),
        ({"lfr_window_size": "seven"}, "--lfr-m"),
        ({"lfr_window_size": "9" * 300}, "--lfr-m"),
        ({"lfr_window_size": "7", "lfr_window_shift": "1000"}, "--lfr-n"),
        ({"lfr_window_size": "7", "neg_mean": "1,2,3", "inv_stddev": "1,2,3"}, "0 or 80 or 560 numbers each, but"),
        ({"lfr_window_size": "7", "neg_mean": "1," * 80}, "80 and 0"),
        ({"lfr_window_size": "7", "neg_mean": "a,b"}, "--neg-mean"),
        ({"lfr_window_size": "7", "neg_mean": "inf," * 80, "inv_stddev": "1," * 80}, "--neg-mean"),
        ({"lfr_window_size": "7", "neg_mean": "1," * 80, "inv_stddev": "0," * 80}, "above 0"),
        ({"front_end": "lfr", "lfr_window": "hann"}, "hamming"),
        ({"front_end": "lfr", "lfr_sample_scale": "-1"}, "--sample-scale"),
        ({"front_end": "lfr", "lfr_num_mel_bins": "1000"}, "--num-mel-bins"),
    ],
)  # fmt: skip
def test_what_a_file_cannot_mean_is_refused_by_name(metadata, words):
    with pytest.raises(UserError) as error:
        from_metadata(metadata, "m.onnx")
    assert words in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 600


def test_nothing_heavy_is_imported():
    """Names, configurations and functions in numpy work where torch is not installed."""
    code = """if True:
        import sys
        sys.modules["torch"] = None
        import numpy as np
        from couloir.features.front_end import FRONT_ENDS, config_class, numpy_front_end
        wave = np.random.default_rng(0).normal(size=16000).astype(np.float32)
        print([numpy_front_end(config_class(name)())(wave).shape for name in sorted(FRONT_ENDS)])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[(100, 80), (17, 560), (100, 80)]"
    light = "import sys, couloir.features.front_end; print('numpy' in sys.modules or 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", light], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"


@ALL
def test_masks_take_the_front_ends_value_and_lie_at_one_place_of_each_copy(config):
    module = make_front_end(config).eval()
    feats, lens = module(*batch(WAVES))
    augment = AugmentConfig(spec_aug_prob=1.0, features_mask_size=10, num_frame_masks=0)
    torch.manual_seed(1)
    masked = SpecAugment(augment, config.mask_value, config.mel_copies).mask(feats, lens)
    for row, before, length in zip(masked, feats, lens):
        bins = (row[:length] != before[:length]).any(dim=0).reshape(config.mel_copies, config.num_mel_bins)
        assert 0 < bins[0].sum() < 20 and (bins == bins[0]).all()
        filled = row[:length][row[:length] != before[:length]]
        expected = before[:length].mean() if config.mask_value is None else torch.tensor(config.mask_value)
        assert torch.allclose(filled, expected) and torch.equal(row[length:], before[length:])


def test_features_stay_float32_under_autocast_and_nothing_is_stored():
    for config in CONFIGS:
        module = make_front_end(config).eval()
        expected, _ = module(*batch(WAVES))
        with torch.autocast("cpu", torch.bfloat16):
            feats, _ = module(*batch(WAVES))
        assert feats.dtype == torch.float32 and torch.equal(feats, expected)
        assert not module.state_dict() and not [*module.exportable().parameters()]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@ALL
def test_gpu_equals_cpu(config):
    module, waves = make_front_end(config).eval(), [*WAVES, WAVES[0][:1000]]
    padded, lens = batch(waves)
    expected, expected_lens = module(padded, lens)
    feats, feat_lens = module.to("cuda")(padded.cuda(), lens.cuda())
    assert torch.equal(feat_lens.cpu(), expected_lens)
    assert (feats.cpu() - expected).abs().max() < 10 * TOLERANCE
