"""What encoders with heads share: the heads in the order of icefall's state dict, and how they are called.

Shapes: B batch, T feature frames, F feature bins, S encoder frames, D model dimension, V vocabulary.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from couloir.models.common.init import scale_parameters
from couloir.models.geometry import FrameGeometry
from couloir.models.heads.attention_decoder import AttentionDecoder
from couloir.models.heads.config import HeadsConfig
from couloir.models.heads.transducer import Decoder, Joiner

Padding = Literal["exact", "reference"]
CTC_DROPOUT = 0.1


def _projection(width: int, vocab: int, scale: float | None) -> nn.Linear:
    linear = nn.Linear(width, vocab)
    return linear if scale is None else scale_parameters(linear, scale)


class SpeechModel(nn.Module):
    """An encoder with CTC, transducer and attention heads, of which it has those of ``heads_config``."""

    heads_config: HeadsConfig
    decoder: Decoder
    joiner: Joiner
    simple_am_proj: nn.Linear
    simple_lm_proj: nn.Linear
    ctc_output: nn.Sequential
    attention_decoder: AttentionDecoder

    def add_heads(
        self, heads: HeadsConfig, width: int, balanced: bool = True, simple_scale: float | None = 0.25
    ) -> None:
        """The heads on an encoder's output of that many channels, registered in the order of icefall's state dict.

        Args:
            heads: which, and their sizes. width: D. balanced: whether balancers act on the predictor in training.
            simple_scale: of the initial weights of the projections of the simple loss; None: torch's initial values.
        """
        self.heads_config = heads
        vocab = heads.vocab_size
        if heads.use_transducer:
            self.decoder = Decoder(vocab, heads.decoder_dim, heads.context_size, balanced)
            self.joiner = Joiner(width, heads.decoder_dim, heads.joiner_dim, vocab)
            self.simple_am_proj = _projection(width, vocab, simple_scale)
            self.simple_lm_proj = _projection(heads.decoder_dim, vocab, simple_scale)
        if heads.use_ctc:
            self.ctc_output = nn.Sequential(nn.Dropout(CTC_DROPOUT), nn.Linear(width, vocab), nn.LogSoftmax(dim=-1))
        if heads.use_attention_decoder:
            self.attention_decoder = AttentionDecoder(heads, width)

    def forward_encoder(
        self, feats: Tensor, feat_lens: Tensor, padding: Padding | None = None
    ) -> tuple[Tensor, Tensor]:
        """Features (B, T, F) with lengths (B,) -> (B, S, D) and lengths (B,).

        Args:
            feats, feat_lens: the features.
            padding: "exact" gives every item what it would get alone, whatever the batch; "reference" lets an
                item's last frames depend on the padding behind it, as icefall does. None: exact in eval mode, and
                the cheaper reference in training.
        """
        raise NotImplementedError

    def geometry(self) -> FrameGeometry:
        """Where output frames lie on the feature frames."""
        raise NotImplementedError

    def context(self) -> tuple[int, int] | None:
        """What a model that was trained to stream sees outside training; None for any other.

        Returns:
            Chunk size and left context in frames of 20 ms; -1 is all.
        """
        raise NotImplementedError

    def ctc_log_probs(self, encoder_out: Tensor) -> Tensor:
        """(B, S, D) -> CTC log-probabilities (B, S, V)."""
        return self.ctc_output(encoder_out)
