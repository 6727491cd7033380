"""What encoder and decoder of a Whisper are made of: attention with a cache, pre-norm blocks.

Source: Radford et al. 2022 (arXiv:2212.04356), section 2.2; attention as in Vaswani et al. 2017 (arXiv:1706.03762),
section 3.2.

Shapes: B batch, T frames or tokens, S frames or tokens attended to, D channels, H heads, U tokens of a context.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[Tensor, Tensor]
"""Keys and values (B, H, S, D / H)."""


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, T, D) -> (B, H, T, D / H)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


class Attention(nn.Module):
    """Attention whose keys have no bias.

    Args:
        width: channels. num_heads: heads.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.num_heads = num_heads

    def pair(self, sources: Tensor) -> Pair:
        """Keys and values of (B, S, D)."""
        return split_heads(self.key(sources), self.num_heads), split_heads(self.value(sources), self.num_heads)

    def forward(self, x: Tensor, pair: Pair, seen: Tensor | None = None, causal: bool = False) -> Tensor:
        """(B, T, D) attends to ``pair``: (B, T, D).

        Args:
            seen: broadcast to (B, H, T, S), True where a source is seen; None: all are. causal: a target sees the
                sources up to its own place.
        """
        query = split_heads(self.query(x), self.num_heads)
        mixed = F.scaled_dot_product_attention(query, *pair, attn_mask=seen, is_causal=causal)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm layer: attention, of a decoder's also to the encoder, and a feed-forward module of four times the width.

    Args:
        width: channels. num_heads: heads. cross: attend to the encoder too.
    """

    def __init__(self, width: int, num_heads: int, cross: bool = False) -> None:
        super().__init__()
        self.attn = Attention(width, num_heads)
        self.attn_ln = nn.LayerNorm(width)
        self.cross_attn = Attention(width, num_heads) if cross else None
        self.cross_attn_ln = nn.LayerNorm(width) if cross else None
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.mlp_ln = nn.LayerNorm(width)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D), of an encoder; ``seen`` as in `Attention`."""
        normed = self.attn_ln(x)
        x = x + self.attn(normed, self.attn.pair(normed), seen)
        return x + self.mlp(self.mlp_ln(x))

    def decode(self, x: Tensor, memory: Pair, past: Pair | None, start: int) -> Tensor:
        """(B, T, D) -> (B, T, D), of a decoder.

        Args:
            x: of the tokens ``start`` and following. memory: keys and values of the encoder's output.
            past: keys and values (B, H, U, D / H) of all tokens, those before ``start`` filled in; the others are
                filled in here. None: there are none before, and none are kept.
        """
        assert self.cross_attn is not None and self.cross_attn_ln is not None
        normed = self.attn_ln(x)
        pair, seen, count = self.attn.pair(normed), None, x.shape[1]
        if past is not None:
            end = start + count
            for kept, fresh in zip(past, pair):
                kept[:, :, start:end] = fresh
            pair = past[0][:, :, :end], past[1][:, :, :end]
            if start and count > 1:
                seen = x.new_ones(count, end).tril(start).bool()
        x = x + self.attn(normed, pair, seen, causal=start == 0 and count > 1)
        x = x + self.cross_attn(self.cross_attn_ln(x), memory)
        return x + self.mlp(self.mlp_ln(x))
