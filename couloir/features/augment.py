"""Augmentation of batches on their device: SpecAugment (Park et al., 2019, arXiv 1904.08779), volume, speed.

The arithmetic of masks and warps is lhotse's, with one difference: lengths, means and masks are those of the
utterance and not of the padded matrix, so that an utterance's augmentation does not depend on its batch.
All random numbers come from torch's global CPU generator, and as many are drawn for every utterance whatever
becomes of it: one state of the generator gives one result on any device.
Shapes: B batch, N samples, T frames, F feature bins, M masks.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from couloir.features.config import AugmentConfig

_CUBIC = -0.75  # the free coefficient of bicubic interpolation, as torch has it


class SpecAugment:
    """Warps and masks batches of features. Frames behind a length are left as they are.

    Args:
        config: how much. mask_value: what masked places get; None for the mean of the utterance's features.
        copies: sets of the mel filters' bins in a frame, all of which get the same bands.
    """

    def __init__(self, config: AugmentConfig, mask_value: float | None = None, copies: int = 1) -> None:
        self.config, self.mask_value, self.copies = config, mask_value, copies

    def __call__(self, feats: Tensor, feat_lens: Tensor) -> Tensor:
        """Warp, then mask: (B, T, F), (B,) -> (B, T, F)."""
        return self.mask(time_warp(feats, feat_lens, self.config), feat_lens)

    def views(self, feats: Tensor, feat_lens: Tensor) -> tuple[Tensor, Tensor]:
        """CR-CTC's two views of a batch: one warp for both, so that frames stay aligned, and separate masks for each.

        Time masks are ``time_mask_ratio`` times as many, and cover as many times more, as in plain SpecAugment.

        Returns:
            (2B, T, F) as [first views; second views], and their lengths (2B,).
        """
        both = feat_lens.repeat(2)
        warped = time_warp(feats, feat_lens, self.config)
        return self.mask(warped.repeat(2, 1, 1), both, self.config.time_mask_ratio), both

    @torch.no_grad()
    def mask(self, feats: Tensor, feat_lens: Tensor, time_mask_ratio: float = 1.0) -> Tensor:
        """Bands of bins and stretches of frames take the mask's value: (B, T, F) -> (B, T, F)."""
        config, (batch, frames, width) = self.config, feats.shape
        bins = width // self.copies
        lens = feat_lens[:, None].double()
        applied = _uniform(feats, batch, 1) < config.spec_aug_prob
        widest_band = torch.full_like(lens, config.features_mask_size)
        bands = _stretches(feats, config.num_feature_masks, widest_band, torch.full_like(lens, bins), bins)
        bands = bands.repeat(1, self.copies)

        number = int(config.num_frame_masks * time_mask_ratio)
        total = config.max_frames_mask_fraction * time_mask_ratio * lens
        count = (total / config.frames_mask_size).ceil().clamp(min=1, max=max(1, number))
        longest = (total / count).floor().clamp(max=config.frames_mask_size)
        in_use = torch.arange(number, device=feats.device) < count
        stretches = _stretches(feats, number, longest * in_use, lens, frames)

        valid = (torch.arange(frames, device=feats.device) < lens)[:, :, None]
        masked = (bands[:, None, :] | stretches[:, :, None]) & valid & applied[:, :, None]
        if self.mask_value is not None:
            return feats.masked_fill(masked, self.mask_value)
        mean = feats.masked_fill(~valid, 0.0).sum(dim=(1, 2)) / (lens[:, 0].clamp(min=1) * width)
        return torch.where(masked, mean.to(feats.dtype)[:, None, None], feats)


def _uniform(like: Tensor, *shape: int) -> Tensor:
    """Numbers in [0, 1), float64 so that floor(u * n) is never n, drawn on the CPU."""
    return torch.rand(*shape, dtype=torch.float64).to(like.device, non_blocking=True)


def _stretches(like: Tensor, number: int, longest: Tensor, extent: Tensor, size: int) -> Tensor:
    """Union of random stretches: (B, size) bool.

    Each is 0 to ``longest`` - 1 wide ((B, 1) or (B, M); below 1 it is empty), and lies within the first ``extent``
    (B, 1) places, any start being as likely as another.
    """
    draws = _uniform(like, 2, like.shape[0], number)
    width = (draws[0] * longest.floor()).floor()
    start = (draws[1] * (extent - width)).floor()
    place = torch.arange(size, device=like.device)
    return ((place >= start[:, :, None]) & (place < (start + width)[:, :, None])).any(dim=1)


@torch.no_grad()
def time_warp(feats: Tensor, feat_lens: Tensor, config: AugmentConfig) -> Tensor:
    """Move a random frame of an utterance to a random near-by place, stretching one side and squeezing the other.

    A frame moves by up to ``spec_aug_time_warp_factor``; utterances of up to twice that and one frame stay as they
    are. Interpolation is cubic along time.

    Args:
        feats: (B, T, F); feat_lens: (B,) frames; those behind are left as they are.
    """
    factor = config.spec_aug_time_warp_factor
    if factor < 1:
        return feats
    draws = _uniform(feats, 3, feats.shape[0])
    warps = (draws[0] < config.spec_aug_prob) & (feat_lens > 2 * factor + 1)
    centre = factor + 1 + (draws[1] * (feat_lens - 2 * factor - 1)).floor().long()
    target = centre - factor + (draws[2] * (2 * factor + 1)).floor().long()
    # From 1 to 1 is no warp. It gives exactly the weights 0, 1, 0, 0.
    return _warped(feats, feat_lens, torch.where(warps, centre, 1), torch.where(warps, target, 1))


def _warped(feats: Tensor, feat_lens: Tensor, centre: Tensor, target: Tensor) -> Tensor:
    """Resample frames [0, centre) to [0, target) and [centre, len) to [target, len): (B, T, F) -> (B, T, F)."""
    batch, frames, bins = feats.shape
    centre, target, lens = centre[:, None], target[:, None], feat_lens[:, None].clamp(min=2)
    place = torch.arange(frames, device=feats.device).expand(batch, frames)
    in_left, behind = place < target, place >= feat_lens[:, None]
    scale = torch.where(in_left, centre.double() / target, (lens - centre).double() / (lens - target))
    origin = torch.where(in_left, 0, centre)
    inside = torch.where(in_left, place, place - target)
    source = scale * (inside + 0.5) - 0.5
    whole = source.floor()
    taps = whole.long()[:, :, None] + torch.arange(-1, 3, device=feats.device)
    last = torch.where(in_left, centre, lens - centre)[:, :, None] - 1
    taps = origin[:, :, None] + torch.minimum(taps.clamp(min=0), last)
    taps = torch.where(behind[:, :, None], place[:, :, None], taps)
    weights = torch.where(behind[:, :, None], 0.25, _cubic_weights(source - whole)).to(feats.dtype)
    rows = taps + frames * torch.arange(batch, device=feats.device)[:, None, None]
    table = feats.reshape(batch * frames, bins)
    return F.embedding_bag(rows.flatten(0, 1), table, per_sample_weights=weights.flatten(0, 1), mode="sum").view_as(
        feats
    )


def _cubic_weights(fraction: Tensor) -> Tensor:
    """Weights of the four frames around a place: (...) in [0, 1) -> (..., 4)."""
    near = torch.stack([fraction, 1 - fraction], dim=-1)
    far = near + 1
    near = ((_CUBIC + 2) * near - (_CUBIC + 3)) * near * near + 1
    far = ((_CUBIC * far - 5 * _CUBIC) * far + 8 * _CUBIC) * far - 4 * _CUBIC
    return torch.stack([far[..., 0], near[..., 0], near[..., 1], far[..., 1]], dim=-1)


@torch.no_grad()
def volume_perturb(waves: Tensor, config: AugmentConfig) -> Tensor:
    """Scale each waveform by its own random factor, if ``use_volume_perturb``: (B, N) -> (B, N). Nothing is clipped."""
    if not config.use_volume_perturb:
        return waves
    draws = _uniform(waves, 2, waves.shape[0])
    low, high = config.volume_perturb_range
    factor = torch.where(draws[0] < config.volume_perturb_prob, low + (high - low) * draws[1], 1.0)
    return waves * factor.to(waves.dtype)[:, None]


@torch.no_grad()
def speed_perturb(waves: Tensor, wave_lens: Tensor, config: AugmentConfig) -> tuple[Tensor, Tensor]:
    """Play each waveform at a speed drawn from ``speed_perturb_factors``, if ``use_speed_perturb``.

    Pitch changes with the speed, as when a tape runs faster. Resampling is that of torchaudio and lhotse.

    Args:
        waves: (B, N), zero behind each length; wave_lens: (B,) samples.

    Returns:
        (B, N') and (B,): a factor of 1.1 gives 1 / 1.1 of the samples.
    """
    if not config.use_speed_perturb:
        return waves, wave_lens
    factors = [Fraction(factor).limit_denominator(100) for factor in config.speed_perturb_factors]
    choice = (_uniform(waves, waves.shape[0]) * len(factors)).long()
    played = [_resampled(waves, factor) if factor != 1 else waves for factor in factors]
    longest = max(wave.shape[1] for wave in played)
    candidates = torch.stack([F.pad(wave, (0, longest - wave.shape[1])) for wave in played])
    ups = torch.tensor([factor.denominator for factor in factors], device=waves.device)[choice]
    downs = torch.tensor([factor.numerator for factor in factors], device=waves.device)[choice]
    lens = (wave_lens * ups + downs - 1) // downs
    perturbed = candidates[choice, torch.arange(waves.shape[0], device=waves.device)]
    behind = torch.arange(longest, device=waves.device) >= lens[:, None]
    return perturbed.masked_fill(behind, 0.0)[:, : int(lens.max())], lens


def _resampled(waves: Tensor, factor: Fraction) -> Tensor:
    """Sinc interpolation under a Hann window: (B, N) -> (B, ceil(N / factor))."""
    down, up = factor.numerator, factor.denominator
    cutoff = 0.99 * min(down, up)
    zeros = 6  # of the sinc, on each side
    width = math.ceil(zeros * down / cutoff)
    taps = torch.arange(-width, width + down, dtype=torch.float64) / down
    time = ((taps - torch.arange(up, dtype=torch.float64)[:, None] / up) * cutoff).clamp(-zeros, zeros)
    kernel = torch.sinc(time) * torch.cos(time * math.pi / zeros / 2) ** 2 * (cutoff / down)
    padded = F.pad(waves, (width, width + down))[:, None]
    # A GPU's convolutions of float32 round to ten bits, and under autocast to seven; the quiet bands need more.
    exact = torch.float64 if waves.is_cuda else torch.float32
    with torch.autocast(waves.device.type, enabled=False):
        phases = F.conv1d(padded.to(exact), kernel[:, None].to(waves.device, exact), stride=down).to(waves.dtype)
    return phases.transpose(1, 2).flatten(1)[:, : -(-waves.shape[1] * up // down)]
