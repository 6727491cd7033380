"""From a batch of audio to the loss of a Zipformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from couloir.data.batch import Batch
from couloir.features.augment import SpecAugment, speed_perturb, volume_perturb
from couloir.features.config import AugmentConfig
from couloir.losses.config import LossConfig, ctc_scale
from couloir.losses.cr_ctc import consistency_warmup, cr_ctc
from couloir.losses.ctc import ctc_loss
from couloir.models.asr import AsrModel


class AsrObjective(nn.Module):
    """The training loss of a CTC or CR-CTC Zipformer.

    The waveform and feature steps are those of decoding and inference. In eval mode nothing is augmented; the two
    views of CR-CTC would be equal and their consistency term zero, so one view is enough.
    """

    def __init__(self, model: AsrModel, fbank: nn.Module, augment: AugmentConfig, loss: LossConfig) -> None:
        super().__init__()
        self.model = model
        self.fbank = fbank
        self.augment = augment
        self.loss = loss
        self.spec_augment = SpecAugment(augment)
        self.ctc_scale = ctc_scale(loss, model.heads_config)

    @torch.no_grad()
    def features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-mel features (B, T, F) and their lengths (B,); in training augmented, CR-CTC's two views stacked."""
        audio, audio_lens = batch.audio, batch.audio_lens
        if not self.training:
            return self.fbank(audio, audio_lens)
        audio, audio_lens = speed_perturb(audio, audio_lens, self.augment)
        feats, lens = self.fbank(volume_perturb(audio, self.augment), audio_lens)
        if self.loss.use_cr_ctc:
            return self.spec_augment.views(feats, lens)
        if self.augment.enable_spec_aug:
            feats = self.spec_augment(feats, lens)
        return feats, lens

    def forward(self, batch: Batch, batch_idx_train: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, summed over the batch, and detached sums by name.

        "frames" is icefall's count (feature frames // 4 of one view), by which logged values are divided.
        """
        feats, feat_lens = self.features(batch)
        encoded, lens = self.model.forward_encoder(feats, feat_lens)
        log_probs = self.model.ctc_log_probs(encoded)
        if self.training and self.loss.use_cr_ctc:
            ctc, consistency = cr_ctc(log_probs, lens, batch.tokens)
            scale = self.loss.cr_loss_scale * consistency_warmup(batch_idx_train, self.loss.cr_loss_warm_step)
            total = self.ctc_scale * ctc + scale * consistency
            stats = {"ctc_loss": ctc.detach(), "cr_loss": consistency.detach()}
        else:
            ctc = ctc_loss(log_probs, lens, batch.tokens)
            total = self.ctc_scale * ctc
            stats = {"ctc_loss": ctc.detach()}
        stats["frames"] = (feat_lens[: len(batch)] // 4).sum()
        stats["utterances"] = torch.tensor(len(batch))
        return total, {"loss": total.detach(), **stats}
