"""Paraformer: encoder, predictor, parallel decoder. Its state dict is FunASR's.

Source: Gao et al. 2022 (arXiv:2206.08317).

Shapes: B batch, T feature frames, S encoder frames, F feature bins, K tokens, D channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couloir.models.paraformer.cif import token_spans
from couloir.models.paraformer.config import EOS_ID, ParaformerConfig
from couloir.models.paraformer.conformer import ConformerEncoder
from couloir.models.paraformer.decoder import SanDecoder, SanmDecoder
from couloir.models.paraformer.encoder import SanmEncoder
from couloir.models.paraformer.layers import padding_of
from couloir.models.paraformer.predictor import Prediction, Predictor, TimedPredictor
from couloir.models.paraformer.sampler import glance, mix

Padding = Literal["exact", "reference"]
IGNORED = -1
"""What stands behind a row of targets."""


class Recognition(NamedTuple):
    """What a model makes of recordings.

    Attributes:
        log_probs: (B, K, V); rows from ``token_num`` (B,) on mean nothing. K is at least 1, also where nothing fires.
        encoder_out: (B, S, D), encoder_lens: (B,). prediction: the predictor's weights and peaks.
    """

    log_probs: Tensor
    token_num: Tensor
    encoder_out: Tensor
    encoder_lens: Tensor
    prediction: Prediction


class Lesson(NamedTuple):
    """What a model makes of recordings with transcripts: the losses' arguments.

    Attributes:
        logits: (B, K, V) of the pass that is trained. targets: (B, K), with the sentence's end where the model has one,
            padded with `IGNORED`; target_lens: (B,). raw_sum: (B,) the predictor's count of tokens.
        first_ids: (B, K) best tokens of the pass on acoustic vectors alone, by which accuracy is counted.
        encoder_out: (B, S, D), encoder_lens: (B,). ctc_log_probs: (B, S, V) or None.
    """

    logits: Tensor
    targets: Tensor
    target_lens: Tensor
    raw_sum: Tensor
    first_ids: Tensor
    encoder_out: Tensor
    encoder_lens: Tensor
    ctc_log_probs: Tensor | None


class CtcHead(nn.Module):
    """CTC output layer.

    Args:
        width: of the encoder. vocab_size: tokens.
    """

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        self.ctc_lo = nn.Linear(width, vocab_size)

    def forward(self, encoder_out: Tensor) -> Tensor:
        """(B, S, D) -> log-probabilities (B, S, V)."""
        return self.ctc_lo(encoder_out).float().log_softmax(dim=-1)


class Paraformer(nn.Module):
    """Non-autoregressive recogniser.

    Args:
        config: sizes.
    """

    def __init__(self, config: ParaformerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder: SanmEncoder | ConformerEncoder
        self.decoder: SanmDecoder | SanDecoder
        # Registered in the order of FunASR's state dict.
        self.encoder = SanmEncoder(config) if config.encoder == "sanm" else ConformerEncoder(config)
        self.decoder = SanmDecoder(config) if config.decoder == "sanm" else SanDecoder(config)
        self.ctc = CtcHead(config.encoder_dim, config.vocab_size) if config.use_ctc else None
        self.predictor = TimedPredictor(config) if config.predictor == "v3" else Predictor(config)

    def encode(self, feats: Tensor, feat_lens: Tensor, padding: Padding = "exact") -> tuple[Tensor, Tensor]:
        """Encode a batch of features.

        Args:
            feats: (B, T, F), normalised. feat_lens: (B,) their lengths.
            padding: "exact" gives every item what it would get alone, whatever the batch, and zeros behind it;
                "reference" lets its last frames depend on the padding, as FunASR does.

        Returns:
            (B, S, D) and (B,) lengths.
        """
        exact = padding == "exact"
        encoded, lens = self.encoder(feats, feat_lens, exact)
        if exact:
            encoded = encoded.masked_fill(padding_of(lens, encoded.shape[1]).unsqueeze(-1), 0.0)
        return encoded, lens

    def forward(self, feats: Tensor, feat_lens: Tensor, padding: Padding = "exact") -> Recognition:
        """Recognise: (B, T, F) features and (B,) lengths -> tokens' log-probabilities, and what led to them.

        An item may have no token at all; the others get theirs.
        """
        encoded, lens = self.encode(feats, feat_lens, padding)
        prediction = self.predictor(encoded, lens)
        logits = self.decoder(prediction.acoustic, prediction.token_num, encoded, lens)
        return Recognition(logits.float().log_softmax(dim=-1), prediction.token_num, encoded, lens, prediction)

    def token_times(self, found: Recognition) -> Tensor:
        """Where tokens begin and end, (B, K, 2) in frames and parts of frames of the encoder.

        By the predictor's weights without their tail, or by those of its head for times where there is one.
        """
        prediction, lens, rows = found.prediction, found.encoder_lens, found.log_probs.shape[1]
        if isinstance(self.predictor, TimedPredictor):
            weights = self.predictor.time_weights(found.encoder_out, lens, found.token_num)
            return token_spans(weights, rows) / self.predictor.factor
        spans = token_spans(prediction.alphas, rows)
        return torch.minimum(spans, lens[:, None, None].to(spans.dtype))

    def teach(
        self,
        feats: Tensor,
        feat_lens: Tensor,
        tokens: Sequence[Sequence[int]],
        sampling_ratio: float = 0.0,
        padding: Padding = "exact",
    ) -> Lesson:
        """Run with known tokens, for the losses.

        Args:
            feats: (B, T, F). feat_lens: (B,). tokens: B lists of ids, without the sentence's end.
            sampling_ratio: of the glancing sampler; 0 leaves it out, and its first pass with it.
            padding: as for `encode`.
        """
        encoded, lens = self.encode(feats, feat_lens, padding)
        targets, target_lens = sentence_targets(tokens, self.config.predictor_bias, encoded.device)
        prediction = self.predictor.teach(encoded, lens, target_lens, targets.shape[1])
        inputs, first_ids = prediction.acoustic, None
        if sampling_ratio > 0.0:
            with torch.no_grad():
                first_ids = self.decoder(inputs, target_lens, encoded, lens).argmax(dim=-1)
            glanced = glance(first_ids, targets, target_lens, sampling_ratio)
            inputs = mix(inputs, self.embed_tokens(targets.clamp(min=0)), glanced, target_lens)
        logits = self.decoder(inputs, target_lens, encoded, lens)
        return Lesson(
            logits,
            targets,
            target_lens,
            prediction.raw_sum,
            logits.detach().argmax(dim=-1) if first_ids is None else first_ids,
            encoded,
            lens,
            None if self.ctc is None else self.ctc(encoded),
        )

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Token ids (B, K) -> (B, K, D), what the sampler shows the decoder."""
        if self.config.share_embedding:
            return F.embedding(tokens, self.decoder.output_layer.weight)
        return self.decoder.embed(tokens)

    def ctc_log_probs(self, encoder_out: Tensor) -> Tensor:
        """(B, S, D) -> CTC log-probabilities (B, S, V). Raises `ValueError` for a model without a CTC head."""
        if self.ctc is None:
            raise ValueError("this model has no CTC head")
        return self.ctc(encoder_out)


def sentence_targets(tokens: Sequence[Sequence[int]], bias: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids (B, K) padded with `IGNORED`, and lengths (B,); with ``bias`` 1 the sentence's end is a token. K is >= 1."""
    rows = [[*ids, *[EOS_ID] * bias] for ids in tokens]
    width = max(1, *map(len, rows)) if rows else 1
    padded = torch.tensor([[*row, *[IGNORED] * (width - len(row))] for row in rows], dtype=torch.int64)
    lens = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    return padded.to(device), lens.to(device)


def build_model(config: ParaformerConfig) -> Paraformer:
    """A freshly initialised model."""
    return Paraformer(config)
