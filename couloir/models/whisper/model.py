"""Whisper: state dict key for key and shape for shape OpenAI's.

Source: Radford et al. 2022 (arXiv:2212.04356), section 2.2.

Shapes: B batch, T feature frames, F feature bins, S encoder frames, D channels, H heads, K tokens, U tokens of a
context, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couloir.models.common.sinusoids import concatenated_sinusoids
from couloir.models.whisper.config import WhisperConfig
from couloir.models.whisper.layers import Block, Pair

FEATURE_PADDING = -1.5
"""What stands in feature frames behind a recording."""
SHORT_MARGIN = 50
"""Encoder frames of padding, 1 s, behind a recording whose window is not filled up: without any, texts repeat."""


class AudioEncoder(nn.Module):
    """Two convolutions, the second halving the frame rate, positions, layers, norm.

    Args:
        config: sizes.
    """

    positional_embedding: Tensor

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        width, context = config.encoder_dim, config.audio_context
        self.conv1 = nn.Conv1d(config.feature_dim, width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(width, width, kernel_size=3, stride=2, padding=1)
        self.register_buffer("positional_embedding", concatenated_sinusoids(torch.arange(context), width))
        self.blocks = nn.ModuleList(Block(width, config.encoder_num_heads) for _ in range(config.num_encoder_layers))
        self.ln_post = nn.LayerNorm(width)

    def forward(self, feats: Tensor, lens: Tensor | None = None) -> Tensor:
        """Features (B, T, F) of at most a window -> (B, ceil(T / 2), D).

        Args:
            lens: (B,) encoder frames of each item, the only ones that are attended to; None: all are.
        """
        x = F.gelu(self.conv1(feats.transpose(1, 2)))
        x = F.gelu(self.conv2(x)).transpose(1, 2)
        if lens is not None:
            x = x[:, : int(lens.max())]
        frames = x.shape[1]
        x = x + self.positional_embedding[:frames].to(x.dtype)
        seen = None if lens is None else (torch.arange(frames, device=x.device) < lens[:, None])[:, None, None]
        for block in self.blocks:
            x = block(x, seen)
        return self.ln_post(x)


@dataclass
class TextState:
    """What a decoder keeps between tokens.

    Attributes:
        memory: keys and values of the encoder's output, of each layer. past: those (B, H, U, D / H) of the tokens, of
            which ``length`` are filled in.
    """

    memory: list[Pair]
    past: list[Pair]
    length: int = 0

    def select(self, rows: Tensor) -> None:
        """Go on with these rows (B',) of the batch, of each as often as it stands there."""
        self.memory = [(key[rows], value[rows]) for key, value in self.memory]
        self.past = [(key[rows], value[rows]) for key, value in self.past]


class TextDecoder(nn.Module):
    """Embedded tokens with learned positions, layers, norm; the output layer is the embedding.

    Args:
        config: sizes.
    """

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        width = config.decoder_dim
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(config.text_context, width))
        self.blocks = nn.ModuleList(
            Block(width, config.decoder_num_heads, cross=True) for _ in range(config.num_decoder_layers)
        )
        self.ln = nn.LayerNorm(width)
        nn.init.normal_(self.positional_embedding, std=0.01)

    def memory(self, encoded: Tensor) -> list[Pair]:
        """Encoder output (B, S, D) -> keys and values of each layer."""
        return [block.cross_attn.pair(encoded) for block in self.blocks]  # type: ignore[union-attr, operator]

    def start(self, encoded: Tensor) -> TextState:
        """The state before any token, for encoder output (B, S, D)."""
        memory = self.memory(encoded)
        context = self.positional_embedding.shape[0]
        past = [
            (key.new_empty(*key.shape[:2], context, key.shape[3]), key.new_empty(*key.shape[:2], context, key.shape[3]))
            for key, _ in memory
        ]
        return TextState(memory, past)

    @torch.no_grad()
    def step(self, tokens: Tensor, state: TextState, places: Sequence[int] | None = None) -> Tensor:
        """The next tokens (B, K), after those that ``state`` has seen -> logits (B, K, V). Advances the state.

        Args:
            tokens: ids. state: of what came before. places: those among the K whose logits are wanted; None: all.

        Raises:
            ValueError: there would be more tokens than the context has.
        """
        hidden = self._hidden(tokens, state.memory, state.past, state.length)
        state.length += tokens.shape[1]
        return self.logits(hidden if places is None else hidden[:, list(places)])

    def forward(self, tokens: Tensor, encoded: Tensor) -> Tensor:
        """Tokens (B, K) from the first one on, encoder output (B, S, D) -> logits (B, K, V). Raises as `step`."""
        return self.logits(self._hidden(tokens, self.memory(encoded), None, 0))

    def _hidden(self, tokens: Tensor, memory: list[Pair], past: list[Pair] | None, start: int) -> Tensor:
        end, context = start + tokens.shape[1], self.positional_embedding.shape[0]
        if end > context:
            raise ValueError(f"{end} tokens are more than the context of {context}")
        x = self.token_embedding(tokens) + self.positional_embedding[start:end]
        x = x.to(memory[0][0].dtype)
        for i, block in enumerate(self.blocks):
            x = block.decode(x, memory[i], None if past is None else past[i], start)  # type: ignore[operator]
        return self.ln(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(B, K, D) -> logits (B, K, V), of single precision at least."""
        logits = F.linear(hidden, self.token_embedding.weight.to(hidden.dtype))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


class Whisper(nn.Module):
    """The whole model.

    Args:
        config: sizes.
    """

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.encoder = AudioEncoder(config)
        self.decoder = TextDecoder(config)
        self.config = config

    def encode(
        self, feats: Tensor, feat_lens: Tensor, whole_window: bool = True, margin: int = SHORT_MARGIN
    ) -> tuple[Tensor, Tensor]:
        """Log-mel features of at most 30 s, filled up to the window, as the model was trained.

        Args:
            feats: (B, T, F), `FEATURE_PADDING` behind each end. feat_lens: (B,). whole_window: False computes an item's
                frames and ``margin`` of padding, and no others: quicker for short recordings, and not the same numbers.
                Either way an item does not depend on the others.
            margin: encoder frames.

        Returns:
            (B, S, D), S a window's frames, or those of the longest item and its margin; and (B,) frames of each item,
            without a margin.

        Raises:
            ValueError: there are more frames than a window has.
        """
        frames, window = feats.shape[1], self.config.window_frames
        if frames > window:
            raise ValueError(f"{frames} feature frames are more than a window's {window}")
        lens = (feat_lens + 1) // 2
        if whole_window:
            return self.encoder(F.pad(feats, (0, 0, 0, window - frames), value=FEATURE_PADDING)), lens
        shown = (lens + margin).clamp(1, self.config.audio_context)
        # The convolutions of an item's last frame reach this far; the longest item shall not end there by zeros.
        reach = 2 * int(shown.max()) + 1
        feats = F.pad(feats, (0, 0, 0, max(reach - frames, 0)), value=FEATURE_PADDING)
        return self.encoder(feats, shown), lens

    def forward(self, feats: Tensor, feat_lens: Tensor, tokens: Tensor) -> Tensor:
        """Features (B, T, F), (B,) and tokens (B, K) -> logits (B, K, V), with whole windows."""
        return self.decoder(tokens, self.encode(feats, feat_lens)[0])


def build_model(config: WhisperConfig) -> Whisper:
    """A freshly initialised model."""
    return Whisper(config)
