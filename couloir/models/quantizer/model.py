"""Quantizer between Whisper's encoder and decoder: 25 tokens a second, and features for the decoder made of them.

Source: Ichigo-ASR 0.1.1, whose bottleneck in a Whisper is WhisperSpeech's. State dict key for key and shape for shape
the released models'.

Shapes: B batch, S encoder frames, T tokens (S / 2), D channels, C channels of a code, R rows of the codebook.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couloir.models.quantizer.codebook import Codebook
from couloir.models.quantizer.config import QuantizerConfig
from couloir.models.quantizer.layers import RotaryBlock, feed_forward

INIT_STD, EMBEDDING_STD = 1.5, 0.045
"""Linear layers are drawn with the former over their inputs; cut at three standard deviations, as embeddings are."""


class VectorQuantizer(nn.Module):
    """Projection to the codes' width, codebook, projection back.

    Args:
        config: sizes.
    """

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.project_in = nn.Linear(config.encoder_dim, config.codebook_dim)
        self.project_out = nn.Linear(config.codebook_dim, config.encoder_dim)
        self._codebook = Codebook(config)

    @property
    def codebook(self) -> Codebook:
        """The codes, whose name in the state dict is private."""
        return self._codebook


class Residual(nn.Module):
    """The list that the reference keeps its quantizers in. There is one.

    Args:
        config: sizes.
    """

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([VectorQuantizer(config)])


@dataclass(frozen=True)
class Quantized:
    """What a training step needs.

    Attributes:
        features: (B, S, D), for Whisper's decoder. ids: (B, T). commitment: how far vectors are from their codes, a
            scalar; 0 in eval mode.
    """

    features: Tensor
    ids: Tensor
    commitment: Tensor


class Quantizer(nn.Module):
    """The whole quantizer.

    Args:
        config: sizes and rules.
    """

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        width = config.encoder_dim
        # Counters of the reference, which nothing here reads: the released files hold them.
        self.register_buffer("_codebook_usage", torch.zeros(config.rows))
        self.register_buffer("val_true", torch.zeros(1))
        self.register_buffer("val_total", torch.zeros(1))
        self.mlp = feed_forward(width)
        self.mlp_ln = nn.LayerNorm(width)
        self.rq = Residual(config)
        self.positional_embedding = nn.Embedding(config.audio_context, width)
        self._out_blocks = nn.Sequential(
            *(RotaryBlock(width, config.num_heads, config.query_mult) for _ in range(config.num_layers))
        )
        self.ln_post = nn.LayerNorm(width)
        self.config = config
        self.apply(_initialise)

    @property
    def vector_quantizer(self) -> VectorQuantizer:
        """The one quantizer."""
        return self.rq.layers[0]  # type: ignore[return-value]

    def project(self, encoded: Tensor) -> Tensor:
        """Encoder output (B, S, D) -> unit vectors (B, T, C) of single precision."""
        means = encoded.unflatten(1, (-1, self.config.downsampling)).mean(dim=2)
        x = means + self.mlp(_norm(self.mlp_ln, means))
        with torch.autocast(x.device.type, enabled=False):
            single = torch.promote_types(x.dtype, torch.float32)
            projection = self.vector_quantizer.project_in
            return F.normalize(F.linear(x.to(single), projection.weight.to(single), projection.bias.to(single)), dim=-1)

    @torch.no_grad()
    def quantize(self, encoded: Tensor) -> Tensor:
        """Encoder output (B, S, D) of whole windows -> tokens (B, T)."""
        with torch.autocast(encoded.device.type, enabled=False):
            return self.vector_quantizer.codebook.nearest(self.project(encoded))

    def token_lens(self, feat_lens: Tensor) -> Tensor:
        """Tokens of recordings of (B,) feature frames: incomplete ones are left out."""
        return feat_lens // 2 // self.config.downsampling

    def dequantize(self, ids: Tensor, lens: Tensor | None = None) -> Tensor:
        """Tokens (B, T) of at most a window -> features (B, S, D) of a whole one, for Whisper's decoder.

        Args:
            ids: rows of the codebook. lens: (B,) tokens of each item; those beyond are padding. None: all are speech.

        Raises:
            ValueError: there are more tokens than a window has, or an id is none.
        """
        mask, window = self.config.mask_row, self.config.window_tokens
        if ids.dim() != 2 or ids.shape[1] > window:
            raise ValueError(f"tokens must have the shape (batch, up to {window}), but have {tuple(ids.shape)}")
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.config.rows:
            raise ValueError(
                f"tokens must be from 0 to {self.config.codes}, but reach {int(ids.min())}..{int(ids.max())}"
            )
        if lens is not None:
            ids = ids.masked_fill(torch.arange(ids.shape[1], device=ids.device) >= lens[:, None], mask)
        ids = F.pad(ids, (0, window - ids.shape[1]), value=mask)
        return self._decode(self.vector_quantizer.project_out(self.vector_quantizer.codebook.rows(ids)))

    def forward(self, encoded: Tensor, speech: Tensor | None = None) -> Quantized:
        """Train on the encoder output (B, S, D) of whole windows; in train mode the codebook follows it.

        Args:
            speech: (B, S), False on encoder frames behind a recording, which in train mode get the mask's code; None:
                there are none.
        """
        quantizer, book = self.vector_quantizer, self.vector_quantizer.codebook
        vectors = self.project(encoded)
        ids = book.nearest(vectors.detach())
        codes, commitment = book.rows(ids), vectors.new_zeros(())
        if self.training:
            spoken = None if speech is None or self.config.average_padding else self._spoken_tokens(speech)
            commitment = _commitment(codes, vectors, spoken)
            book.follow(vectors.detach().flatten(0, 1), ids.flatten(), None if spoken is None else spoken.flatten())
            codes = vectors + (codes - vectors).detach()
        features = quantizer.project_out(codes)
        if not self.training or speech is None:
            return Quantized(self._decode(features), ids, commitment)
        # The reference asks the codebook after it has followed this very batch.
        mask = quantizer.project_out(book.rows(ids.new_tensor(self.config.mask_row)))
        return Quantized(self._decode(features, mask, speech), ids, commitment)

    def _spoken_tokens(self, speech: Tensor) -> Tensor:
        """(B, S) -> (B, T): tokens that have a frame of speech."""
        return speech.unflatten(1, (-1, self.config.downsampling)).any(dim=2)

    def _decode(self, codes: Tensor, mask: Tensor | None = None, speech: Tensor | None = None) -> Tensor:
        """Projected codes (B, T, D) -> (B, S, D); ``mask`` (D,) stands where ``speech`` (B, S) is False."""
        x = codes.repeat_interleave(self.config.downsampling, dim=1)
        if mask is not None and speech is not None:
            x = torch.where(speech[..., None], x, mask.to(x.dtype))
        x = x + self.positional_embedding.weight[: x.shape[1]].to(x.dtype)
        return _norm(self.ln_post, self._out_blocks(x))


def _norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """A layer norm of single precision, in the precision of its input."""
    return norm(x.to(torch.promote_types(norm.weight.dtype, x.dtype))).to(x.dtype)


def _commitment(codes: Tensor, vectors: Tensor, spoken: Tensor | None) -> Tensor:
    """Mean square distance of vectors (B, T, C) from their codes, over those that ``spoken`` (B, T) marks."""
    squares = (codes.detach() - vectors).square()
    if spoken is None:
        return squares.mean()
    return (squares * spoken[..., None]).sum() / (spoken.sum().clamp(min=1) * squares.shape[-1])


def _initialise(module: nn.Module) -> None:
    """Draw a module's own parameters."""
    if isinstance(module, nn.Linear):
        std = INIT_STD / module.in_features
        for parameter in module.parameters():
            nn.init.trunc_normal_(parameter, std=std, a=-3 * std, b=3 * std)
    elif isinstance(module, nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=EMBEDDING_STD, a=-3 * EMBEDDING_STD, b=3 * EMBEDDING_STD)


def build_model(config: QuantizerConfig) -> Quantizer:
    """A freshly initialised quantizer."""
    return Quantizer(config)
