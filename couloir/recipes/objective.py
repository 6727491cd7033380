"""From a batch of audio to the loss of a Zipformer with any of its heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from couloir.data.batch import Batch
from couloir.features.augment import SpecAugment, time_warp, volume_perturb
from couloir.features.config import AugmentConfig
from couloir.losses.config import LossConfig
from couloir.losses.cr_ctc import consistency_loss, consistency_scale
from couloir.losses.ctc import ctc_loss
from couloir.models.asr import AsrModel


class AsrObjective(nn.Module):
    """The training loss of a CTC or CR-CTC Zipformer (spec of CR-CTC: Yao et al. 2024, section 3).

    The waveform and feature steps are the ones that decoding and inference use. In eval mode nothing is
    augmented, so the two views of CR-CTC are the same and one is enough: its consistency term is zero.
    """

    def __init__(self, model: AsrModel, fbank: nn.Module, augment: AugmentConfig, loss: LossConfig) -> None:
        super().__init__()
        self.model = model
        self.fbank = fbank
        self.augment = augment
        self.loss = loss
        self.spec_augment = SpecAugment.from_config(augment, consistency=loss.use_cr_ctc)

    @torch.no_grad()
    def features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-mel features (B, T, F), augmented in training, and their lengths (B,)."""
        audio = batch.audio
        if self.training and self.augment.enable_volume_perturb:
            audio = volume_perturb(audio, self.augment)
        feats, lens = self.fbank(audio, batch.audio_lens)
        if not self.training:
            return feats, lens
        if self.loss.use_cr_ctc:
            # One warp, shared by both views, so that their frames stay aligned.
            feats = time_warp(feats, lens, self.augment.spec_aug_time_warp_factor)
            feats, lens = feats.repeat(2, 1, 1), lens.repeat(2)
        if self.loss.use_cr_ctc or self.augment.enable_spec_aug:
            feats = self.spec_augment(feats, lens)
        return feats, lens

    def forward(self, batch: Batch, batch_idx_train: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, summed over the batch, and detached sums by name.

        "frames" is icefall's count (feature frames // 4, of one view), by which logged values are divided.
        """
        feats, feat_lens = self.features(batch)
        views = feats.size(0) // len(batch)
        targets = batch.tokens * views
        encoded, encoded_lens = self.model.forward_encoder(feats, feat_lens)
        stats: dict[str, Tensor] = {}

        log_probs = self.model.ctc_log_probs(encoded)
        ctc = ctc_loss(log_probs, encoded_lens, targets) / views
        total = self.ctc_scale * ctc
        stats["ctc_loss"] = ctc.detach()
        if self.loss.use_cr_ctc and views == 2:
            consistency = consistency_loss(log_probs, encoded_lens) / views
            total = total + consistency_scale(self.loss, batch_idx_train) * consistency
            stats["cr_loss"] = consistency.detach()

        stats["loss"] = total.detach()
        stats["frames"] = (feat_lens[: len(batch)] // 4).sum()
        stats["utterances"] = torch.tensor(len(batch))
        return total, stats

    @property
    def ctc_scale(self) -> float:
        """The weight of CTC: 1 when it is the only loss."""
        return 1.0
