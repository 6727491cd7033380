"""SpecAugment, time warp and volume against lhotse's, with the same drawn numbers and in distribution."""

from __future__ import annotations

from unittest import mock

import lhotse.dataset.signal_transforms as peer
import pytest
import torch
from lhotse.augmentation import Speed
from torch import Tensor

from couloir.errors import UserError
from couloir.features import augment
from couloir.features.augment import SpecAugment, speed_perturb, time_warp, volume_perturb
from couloir.features.config import PADDING_LOG_MEL, AugmentConfig

ALWAYS = AugmentConfig(spec_aug_prob=1.0)


def features(batch: int, frames: int, lens: list[int] | None = None) -> tuple[Tensor, Tensor]:
    feat_lens = torch.tensor(lens or [frames] * batch)
    feats = torch.randn(batch, frames, 80, dtype=torch.float64)
    feats[torch.arange(frames) >= feat_lens[:, None]] = PADDING_LOG_MEL
    return feats, feat_lens


def peer_of(config: AugmentConfig, ratio: float) -> peer.SpecAugment:
    return peer.SpecAugment(
        time_warp_factor=None,
        num_frame_masks=int(10 * ratio),
        max_frames_mask_fraction=0.15 * ratio,
        p=config.spec_aug_prob,
    )


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0, 2.5])
@pytest.mark.parametrize("frames", [20, 100, 161, 667, 1000, 9000])
def test_masks_equal_lhotse_with_the_same_numbers(frames, ratio):
    feats, lens = features(1, frames)
    drawn: list[Tensor] = []

    def record(like: Tensor, *shape: int) -> Tensor:
        drawn.append(torch.rand(*shape, dtype=torch.float64))
        return drawn[-1]

    with mock.patch.object(augment, "_uniform", record):
        ours = SpecAugment(ALWAYS).mask(feats, lens, ratio)
    widths = [drawn[1][0], drawn[2][0]]
    starts = [drawn[1][1], drawn[2][1]]

    def randint(low: int, high: int, shape: tuple[int, int]) -> Tensor:
        return (widths.pop(0)[:, : shape[1]] * high).long()

    def rand(one: int, number: int) -> Tensor:
        return starts.pop(0)[:, :number]

    with mock.patch.object(torch, "randint", randint), mock.patch.object(torch, "rand", rand):
        theirs = peer_of(ALWAYS, ratio)(feats)
    assert (ours != feats).any()
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [1.0, 2.5])
def test_masks_cover_as_much_as_lhotse_does(ratio):
    config, (feats, lens) = AugmentConfig(), features(250, 600)
    shares = []
    for augmented in (SpecAugment(config).mask(feats, lens, ratio), peer_of(config, ratio)(feats)):
        changed = augmented != feats
        in_time, in_frequency = changed.all(dim=2).double().mean(dim=1), changed.all(dim=1).double().mean(dim=1)
        shares.append(torch.stack([in_time, in_frequency, (in_time + in_frequency == 0).double()]))
    ours, theirs = shares
    error = ((ours.var(dim=1) + theirs.var(dim=1)) / 250).sqrt()
    assert ((ours.mean(dim=1) - theirs.mean(dim=1)).abs() < 4 * error).all()


def test_masks_stay_within_an_utterance_and_do_not_feel_its_batch():
    lens = [500, 321, 150, 5, 0]
    feats, feat_lens = features(5, 500, lens)
    torch.manual_seed(3)
    together = SpecAugment(ALWAYS).mask(feats, feat_lens, 2.5)
    longer = torch.cat([feats, torch.full((5, 77, 80), PADDING_LOG_MEL)], dim=1)
    torch.manual_seed(3)
    assert torch.equal(SpecAugment(ALWAYS).mask(longer, feat_lens, 2.5)[:, :500], together)
    for row, before, length in zip(together, feats, lens):
        assert torch.equal(row[length:], before[length:])
        masked = row[:length][row[:length] != before[:length]]
        assert torch.allclose(masked, before[:length].mean())
    assert (together[:3] != feats[:3]).any(dim=(1, 2)).all()


@pytest.mark.parametrize("centre, target", [(300, 250), (500, 580), (900, 880), (81, 1), (81, 161), (919, 999)])
def test_warp_equals_lhotse_with_the_same_numbers(centre, target):
    feats, lens = features(1, 1000)
    with mock.patch("numpy.random.randint", side_effect=[centre, target]):
        theirs = peer.time_warp(feats[0], 80)
    draws = torch.tensor(
        [[0.0], [(centre - 81 + 0.5) / 839], [(target - centre + 80 + 0.5) / 161]], dtype=torch.float64
    )
    with mock.patch.object(augment, "_uniform", lambda like, *shape: draws):
        ours = time_warp(feats, lens, ALWAYS)
    assert torch.allclose(ours[0], theirs, rtol=0, atol=1e-10)


def test_warp_draws_what_lhotse_draws():
    """Every frame that can be moved is, and it goes to every place up to 80 frames away."""
    seen = set()
    with mock.patch.object(
        augment, "_warped", lambda feats, lens, c, t: seen.update(zip(c.tolist(), t.tolist())) or feats
    ):
        for _ in range(40):
            time_warp(torch.zeros(1000, 165, 1), torch.full((1000,), 165), AugmentConfig())
    moved = seen - {(1, 1)}
    assert {centre for centre, _ in moved} == set(range(81, 85))
    assert {target - centre for centre, target in moved} == set(range(-80, 81))
    assert (1, 1) in seen


def test_warp_respects_lengths():
    lens = [700, 400, 162, 161, 0]
    feats, feat_lens = features(5, 700, lens)
    torch.manual_seed(5)
    warped = time_warp(feats, feat_lens, ALWAYS)
    for row, before, length in zip(warped, feats, lens):
        assert torch.equal(row[length:], before[length:])
        assert torch.equal(row[:length], before[:length]) == (length <= 161)
    torch.manual_seed(5)
    shortest_batch = time_warp(feats[:, :400][1:], feat_lens[1:], ALWAYS)
    assert shortest_batch.shape == (4, 400, 80)


def test_nothing_happens_when_switched_off():
    feats, lens = features(3, 300)
    assert torch.equal(time_warp(feats, lens, AugmentConfig(spec_aug_time_warp_factor=0)), feats)
    assert torch.equal(time_warp(feats, lens, AugmentConfig(spec_aug_prob=0.0)), feats)
    off = AugmentConfig(num_feature_masks=0, num_frame_masks=0, spec_aug_time_warp_factor=0)
    assert torch.equal(SpecAugment(off)(feats, lens), feats)
    assert torch.equal(SpecAugment(AugmentConfig(spec_aug_prob=0.0))(feats, lens), feats)


def test_views_share_the_warp_and_not_the_masks():
    feats, lens = features(4, 400, [400, 350, 300, 250])
    views, view_lens = SpecAugment(ALWAYS).views(feats, lens)
    first, second = views.chunk(2)
    assert view_lens.tolist() == lens.tolist() * 2
    assert (first != second).any(dim=(1, 2)).all()
    masked_frames = (first == first[:, :, :1]).all(dim=2).double().mean()
    plain = SpecAugment(ALWAYS)(feats, lens)
    assert masked_frames > (plain == plain[:, :, :1]).all(dim=2).double().mean()
    unmasked, _ = SpecAugment(AugmentConfig(spec_aug_prob=1.0, num_feature_masks=0, num_frame_masks=0)).views(
        feats, lens
    )
    first, second = unmasked.chunk(2)
    assert torch.equal(first, second) and (first != feats).any(dim=(1, 2)).all()


def test_volume_is_scaled_by_half_of_the_time():
    waves = torch.ones(4000, 3)
    assert torch.equal(volume_perturb(waves, AugmentConfig()), waves)
    factor = volume_perturb(waves, AugmentConfig(use_volume_perturb=True))
    assert (factor == factor[:, :1]).all()
    moved = factor[:, 0][factor[:, 0] != 1]
    assert abs(len(moved) / 4000 - 0.5) < 0.03
    assert 0.125 <= moved.min() < 0.15 and 1.97 < moved.max() <= 2.0
    assert abs(moved.mean() - 1.0625) < 0.05


def at_speeds(*factors: float) -> AugmentConfig:
    return AugmentConfig(use_speed_perturb=True, speed_perturb_factors=factors)


@pytest.mark.parametrize("factor", [0.9, 1.1, 0.75])
@pytest.mark.parametrize("samples", [16000, 15999, 8191, 10])
def test_speed_equals_lhotse(factor, samples):
    wave = torch.randn(1, samples)
    played, lens = speed_perturb(wave, torch.tensor([samples]), at_speeds(factor))
    theirs = torch.from_numpy(Speed(factor=factor)(wave.numpy(), 16000))
    assert lens.tolist() == [played.shape[1]] and played.shape == theirs.shape
    assert torch.allclose(played, theirs, atol=1e-5)


def test_speed_of_a_tone():
    tone = torch.sin(2 * torch.pi * 440 * torch.arange(16000) / 16000)[None]
    played, lens = speed_perturb(tone, torch.tensor([16000]), at_speeds(1.1))
    expected = torch.sin(2 * torch.pi * 484 * torch.arange(14546) / 16000)
    assert lens.tolist() == [14546]
    assert (played[0] - expected)[100:-100].abs().max() < 5e-3


def test_speed_is_as_exact_under_autocast():
    tone = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(16000) / 16000)[None]
    plain, _ = speed_perturb(tone, torch.tensor([16000]), at_speeds(1.1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        played, _ = speed_perturb(tone, torch.tensor([16000]), at_speeds(1.1))
    assert played.dtype == torch.float32 and torch.equal(played, plain)


def test_speeds_are_drawn_for_each_utterance_and_respect_its_length():
    waves, lens = torch.randn(120, 400), torch.randint(100, 401, (120,))
    waves[torch.arange(400) >= lens[:, None]] = 0
    unchanged, same_lens = speed_perturb(waves, lens, AugmentConfig())
    assert torch.equal(unchanged, waves) and torch.equal(same_lens, lens)
    played, new_lens = speed_perturb(waves, lens, at_speeds(0.9, 1.0, 1.1))
    assert played.shape == (120, int(new_lens.max()))
    seen = {"slower": 0, "as it was": 0, "faster": 0}
    for before, length, after, new_length in zip(waves, lens.tolist(), played, new_lens.tolist()):
        speed = "slower" if new_length > length else "faster" if new_length < length else "as it was"
        seen[speed] += 1
        factor = {"slower": 0.9, "as it was": 1.0, "faster": 1.1}[speed]
        alone, alone_lens = speed_perturb(before[None, :length], torch.tensor([length]), at_speeds(factor))
        assert alone_lens.tolist() == [new_length]
        assert torch.allclose(after[:new_length], alone[0], atol=1e-5) and (after[new_length:] == 0).all()
    assert min(seen.values()) > 20


def test_one_state_of_the_generator_gives_one_result():
    feats, lens = features(4, 400)
    state = torch.get_rng_state()
    once = SpecAugment(ALWAYS)(feats, lens)
    torch.set_rng_state(state)
    assert torch.equal(SpecAugment(ALWAYS)(feats, lens), once)
    assert not torch.equal(SpecAugment(ALWAYS)(feats, lens), once)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_equals_cpu():
    feats, lens = features(4, 400, [400, 380, 200, 100])
    state = torch.get_rng_state()
    expected = SpecAugment(ALWAYS)(feats, lens)
    torch.set_rng_state(state)
    assert torch.allclose(SpecAugment(ALWAYS)(feats.cuda(), lens.cuda()).cpu(), expected)


@pytest.mark.parametrize(
    "values, flag",
    [
        ({"spec_aug_prob": 1.5}, "--spec-aug-prob"),
        ({"features_mask_size": 0}, "--features-mask-size"),
        ({"num_frame_masks": -1}, "--num-frame-masks"),
        ({"max_frames_mask_fraction": 2.0}, "--max-frames-mask-fraction"),
        ({"time_mask_ratio": float("inf")}, "--time-mask-ratio"),
        ({"volume_perturb_range": (2.0, 0.5)}, "--volume-perturb-range"),
        ({"volume_perturb_range": (0.5,)}, "--volume-perturb-range"),
        ({"speed_perturb_factors": ()}, "--speed-perturb-factors"),
        ({"speed_perturb_factors": (0.0, 1.0)}, "--speed-perturb-factors"),
    ],
)
def test_impossible_settings_are_refused_by_name(values, flag):
    with pytest.raises(UserError, match=flag):
        AugmentConfig(**values)
