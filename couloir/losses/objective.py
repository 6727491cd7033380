"""From a batch of audio to the loss of an encoder with any of its heads."""
# Shapes: B batch, D model dimension, F feature bins, S output frames, T frames, V views (1 or 2).

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from couloir.data.batch import Batch
from couloir.features.augment import SpecAugment, speed_perturb, volume_perturb
from couloir.features.config import AugmentConfig
from couloir.features.front_end import FrontEnd
from couloir.losses.config import LossConfig, ctc_scale
from couloir.losses.cr_ctc import consistency_warmup, cr_ctc
from couloir.losses.ctc import ctc_loss, feasible
from couloir.losses.rnnt import reason_without_path
from couloir.losses.transducer import TransducerLoss
from couloir.models.heads.config import BLANK_ID
from couloir.models.heads.model import SpeechModel


@dataclass
class Encoded:
    """The encoder's output of a batch with what it is to be turned into.

    Attributes:
        frames: (V * B, S, D), the V views one after another. lens: (V * B,). tokens: B token lists. views: 1 or 2.
    """

    frames: Tensor
    lens: Tensor
    tokens: list[list[int]]
    views: int

    def rows(self, kept: list[int]) -> Encoded:
        """The same of some utterances only."""
        size = len(self.tokens)
        positions = [view * size + i for view in range(self.views) for i in kept]
        index = torch.tensor(positions, dtype=torch.int64, device=self.lens.device)
        return Encoded(self.frames[index], self.lens[index], [self.tokens[i] for i in kept], self.views)


class AsrObjective(nn.Module):
    """The training loss of an encoder with heads: the weighted sum of its heads' losses.

    The waveform and feature steps are those of decoding and inference. CR-CTC gives every head two masked views of
    each utterance, and every term is then their mean. In eval mode nothing is augmented; the views would be equal and
    their consistency term zero, so one view is enough.

    Raises:
        UserError: a ``--rnnt-backend`` that is not installed.
    """

    def __init__(self, model: SpeechModel, fbank: FrontEnd, augment: AugmentConfig, loss: LossConfig) -> None:
        super().__init__()
        self.model = model
        self.fbank = fbank
        self.augment = augment
        self.loss = loss
        self.heads = model.heads_config
        self.spec_augment = SpecAugment(augment, fbank.config.mask_value, fbank.config.mel_copies)
        self.ctc_scale = ctc_scale(loss, self.heads)
        self.transducer = TransducerLoss(loss) if self.heads.use_transducer else None

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

    def forward(self, batch: Batch, batch_idx_train: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, summed over the batch, and detached sums by name.

        "frames" is icefall's count (feature frames // 4 of one view), by which logged values are divided. An
        utterance that some head has no path for (speed perturbation may have made it too short) is left out of all
        of them, and goes with the reason into ``batch.skipped``, where it is counted.
        """
        feats, feat_lens = self.features(batch)
        frames, lens = self.model.forward_encoder(feats, feat_lens)
        encoded = Encoded(frames, lens, batch.tokens, views=2 if self.training and self.loss.use_cr_ctc else 1)
        reasons = self._reasons_to_skip(encoded)
        kept = [i for i, reason in enumerate(reasons) if not reason]
        batch.skipped += [(name, reason) for name, reason in zip(batch.ids, reasons) if reason]
        feat_lens = feat_lens[: len(batch)]
        if len(kept) < len(batch):
            encoded, feat_lens = encoded.rows(kept), feat_lens[kept]
        if kept:
            total, stats = self._heads(encoded, batch_idx_train)
        else:
            # Every parameter still takes part, as several processes expect.
            total, stats = sum((p.sum() * 0.0 for p in self.model.parameters()), frames.sum() * 0.0), {}
        stats["frames"] = (feat_lens // 4).sum()
        stats["utterances"] = torch.full((), len(kept), device=frames.device)
        return total, {"loss": total.detach(), **stats}

    def _reasons_to_skip(self, encoded: Encoded) -> list[str | None]:
        """Why each utterance has no path through the CTC or transducer lattice; None where it has one."""
        lens = encoded.lens[: len(encoded.tokens)].cpu()
        aligned = feasible(encoded.tokens, lens).tolist() if self.heads.use_ctc else [True] * len(lens)
        reasons: list[str | None] = []
        for tokens, frames, has_path in zip(encoded.tokens, lens.tolist(), aligned):
            reason = None
            if BLANK_ID in tokens:
                reason = f"has the blank, {BLANK_ID}, among its tokens"
            elif not has_path:
                reason = f"has no CTC path: {len(tokens)} tokens do not fit into {frames} frames"
            elif self.transducer is not None:
                pathless = reason_without_path(len(tokens), frames, s_range=self.loss.prune_range)
                reason = f"has no transducer path: {pathless}" if pathless else None
            reasons.append(reason)
        return reasons

    def _heads(self, encoded: Encoded, batch_idx_train: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum over the heads, and each head's own sums, detached."""
        total = encoded.frames.new_zeros((), dtype=torch.float32)
        stats: dict[str, Tensor] = {}
        if self.transducer is not None:
            simple, pruned = self.transducer(self.model, encoded.frames, encoded.lens, encoded.tokens * encoded.views)
            simple_scale, pruned_scale = self.transducer.scales(batch_idx_train)
            total = total + (simple_scale * simple + pruned_scale * pruned) / encoded.views
            stats |= {"simple_loss": simple / encoded.views, "pruned_loss": pruned / encoded.views}
        if self.heads.use_ctc:
            weighted, terms = self._ctc(encoded, batch_idx_train)
            total, stats = total + weighted, stats | terms
        if self.heads.use_attention_decoder:
            tokens = encoded.tokens * encoded.views
            attention = self.model.attention_decoder(encoded.frames, encoded.lens, tokens) / encoded.views
            total = total + self.loss.attention_decoder_loss_scale * attention
            stats["attn_decoder_loss"] = attention
        return total, {name: value.detach() for name, value in stats.items()}

    def _ctc(self, encoded: Encoded, batch_idx_train: float) -> tuple[Tensor, dict[str, Tensor]]:
        log_probs = self.model.ctc_log_probs(encoded.frames)
        if encoded.views == 1:
            ctc = ctc_loss(log_probs, encoded.lens, encoded.tokens)
            return self.ctc_scale * ctc, {"ctc_loss": ctc}
        ctc, consistency = cr_ctc(log_probs, encoded.lens, encoded.tokens)
        scale = self.loss.cr_loss_scale * consistency_warmup(batch_idx_train, self.loss.cr_loss_warm_step)
        return self.ctc_scale * ctc + scale * consistency, {"ctc_loss": ctc, "cr_loss": consistency}
