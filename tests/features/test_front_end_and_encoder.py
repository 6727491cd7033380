"""A front end and an encoder that do not fit each other are refused by name, and those that fit work."""

import numpy as np
import pytest
import torch
import yaml

from couloir.errors import UserError
from couloir.features.config import AugmentConfig, FbankConfig
from couloir.features.fbank import Fbank
from couloir.features.kaldi import fbank_numpy, mel_filterbank
from couloir.inference.loading import open_backend
from couloir.inference.source import Source
from couloir.models.heads.config import HeadsConfig
from couloir.models.zipformer.config import ZipformerConfig
from couloir.models.zipformer.model import build_model
from couloir.recipes.run_config import build_config, config_from_plain, make_parser

TINY = ZipformerConfig(
    num_encoder_layers=(1,), downsampling_factor=(1, 2), feedforward_dim=(32,), num_heads=(2,), encoder_dim=(24,),
    query_head_dim=(8,), value_head_dim=(6,), encoder_unmasked_dim=(24,), cnn_module_kernel=(15,),
    frontend_channels=(4, 8, 8), feature_dim=40,
)  # fmt: skip


def configured(tmp_path, values, *flags):
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(values))
    namespace = make_parser("").parse_args([*flags, "--config", str(path)])
    return build_config(namespace, "zipformer_crctc", {"augment": {"enable_spec_aug": False}})


@pytest.mark.parametrize("flags", [(), ("--preset", "tiny"), ("--preset", "zipa_large"), ("--preset", "small")])
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"fbank": {"feature_dim": 40}}, ("--feature-dim", "40 in the section `fbank` and 80 in `zipformer`")),
        ({"zipformer": {"feature_dim": 40}}, ("--feature-dim", "80 in the section `fbank` and 40 in `zipformer`")),
        ({"fbank": {"feature_dim": 81}}, ("--feature-dim", "81")),  # the same number of frequencies behind the strides
        ({"fbank": {"sample_rate": 8000}}, ("--sample-rate", "8000")),
        ({"fbank": {"feature_dim": 20}, "zipformer": {"feature_dim": 20}}, ("--features-mask-size", "20")),
        ({"fbank": {"feature_dim": 8}, "zipformer": {"feature_dim": 8}}, ("--feature-dim", "at least 9")),
    ],
)
def test_sections_that_contradict_each_other_are_refused(tmp_path, values, words, flags):
    with pytest.raises(UserError) as error:
        configured(tmp_path, values, *flags)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_a_run_directory_with_such_sections_is_refused():
    with pytest.raises(UserError, match="--feature-dim"):
        config_from_plain({"recipe": "zipformer_crctc", "fbank": {"feature_dim": 40}}, "config.yaml")


def test_the_flag_sets_both(tmp_path):
    config = configured(tmp_path, {}, "--feature-dim", "40")
    assert config.fbank.feature_dim == config.zipformer.feature_dim == 40


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"feature_dim": 257}, "--feature-dim"),
        ({"feature_dim": 10**9}, "--feature-dim"),
        ({"feature_dim": 129, "frame_length_ms": 12.0, "frame_shift_ms": 10.0}, "--feature-dim"),
        ({"frame_shift_ms": 0.01}, "--frame-shift-ms"),
        ({"frame_shift_ms": 0.1, "frame_length_ms": 0.1}, "--frame-length-ms"),
        ({"frame_length_ms": float("inf")}, "--frame-length-ms"),
        ({"frame_length_ms": float("nan")}, "--frame-length-ms"),
        ({"frame_shift_ms": float("nan")}, "--frame-shift-ms"),
        ({"frame_length_ms": 1e6}, "--frame-length-ms"),
        ({"sample_rate": 10**12}, "--sample-rate"),
        ({"sample_rate": 0}, "--sample-rate"),
        ({"sample_rate": -16000}, "--sample-rate"),
        ({"low_freq": float("nan")}, "--high-freq"),
        ({"high_freq": float("nan")}, "--high-freq"),
        ({"high_freq": float("inf")}, "--high-freq"),
        ({"low_freq": 8000.0, "high_freq": 7000.0}, "--high-freq"),
    ],
)
def test_features_that_cannot_be_are_refused(values, word):
    with pytest.raises(UserError, match=word):
        FbankConfig(**values)


@pytest.mark.parametrize(
    "values",
    [{"feature_dim": 4}, {"feature_dim": 256}, {"frame_shift_ms": 0.5}, {"frame_length_ms": 1000.0},
     {"frame_shift_ms": 25.0}, {"frame_length_ms": 0.5, "frame_shift_ms": 0.5, "feature_dim": 4}],
)  # fmt: skip
def test_the_extremes_that_are_allowed_give_finite_features_of_their_size(values):
    config = FbankConfig(**values)
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 3000).astype(np.float32)
    feats, lens = Fbank(config)(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))
    expected = (3000 + config.shift_samples // 2) // config.shift_samples
    assert feats.shape == (1, expected, config.feature_dim) and lens.tolist() == [expected]
    assert feats.isfinite().all() and mel_filterbank(config).shape == (config.fft_samples // 2 + 1, config.feature_dim)
    assert np.abs(feats[0].numpy() - fbank_numpy(wave, config)).max() < 0.05


def test_a_model_of_40_bins_takes_its_features():
    model = build_model(TINY, HeadsConfig(use_transducer=False, use_ctc=True, vocab_size=7)).eval()
    feats, lens = Fbank(FbankConfig(feature_dim=40))(torch.zeros(2, 16000), torch.tensor([16000, 8000]))
    encoded, _ = model.forward_encoder(feats, lens, padding="exact")
    assert encoded.shape == (2, 23, 24)  # 100 frames, 46 behind the front end, halved


def test_weights_of_40_bins_from_elsewhere_get_their_features(tmp_path):
    model = build_model(TINY, HeadsConfig(use_transducer=False, use_ctc=True, vocab_size=5))
    torch.save({"model": model.state_dict()}, tmp_path / "epoch-1.pt")
    (tmp_path / "tokens.txt").write_text("<blk> 0\n<sos/eos> 1\n<unk> 2\na 3\nb 4\n")
    backend = open_backend(Source(tmp_path / "epoch-1.pt"))
    (frames,) = backend.encode([np.zeros(16000, np.float32)])
    assert frames.shape[0] == 23


def test_frequency_masks_leave_a_bin(tmp_path):
    both = {"fbank": {"feature_dim": 20}, "zipformer": {"feature_dim": 20}}
    for augment in ({"num_feature_masks": 0}, {"features_mask_size": 20}):
        assert configured(tmp_path, {**both, "augment": augment}).fbank.feature_dim == 20
    assert AugmentConfig().features_mask_size == 27
