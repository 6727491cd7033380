"""Multi-head attention in the forms that a Paraformer's encoders and decoders have.

Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.2; with a memory block Gao et al. 2020 (arXiv:2006.01713,
SAN-M); with relative positions Dai et al. 2019 (arXiv:1901.02860), section 3.3.

Shapes: B batch, T frames or tokens, S frames attended to, D channels, H heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couloir.models.paraformer.memory import add_memory, memory_conv


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, T, D) -> (B, H, T, D / H)."""
    return x.reshape(x.shape[0], x.shape[1], num_heads, -1).transpose(1, 2)  # `unflatten` fixes lengths in ONNX


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """Scaled dot-product attention, (B, H, T, D / H) and twice (B, H, S, D / H) -> (B, T, D).

    Args:
        mask: broadcast to (B, H, T, S): True where a frame is seen, or what is added to the scores.
        dropout: of the weights; 0 in eval mode.
    """
    context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return context.transpose(1, 2).flatten(2)


class MemoryAttention(nn.Module):
    """Self-attention plus a memory block on the values: SAN-M.

    Args:
        in_width: of the inputs. width: of the outputs. num_heads: heads. kernel: of the memory, frames.
        shift: frames by which it looks further back. dropout: rate of attention weights and memory.
    """

    def __init__(self, in_width: int, width: int, num_heads: int, kernel: int, shift: int, dropout: float) -> None:
        super().__init__()
        self.linear_out = nn.Linear(width, width)
        self.linear_q_k_v = nn.Linear(in_width, 3 * width)
        self.fsmn_block = memory_conv(width, kernel)
        self.num_heads = num_heads
        self.shift = shift
        self.dropout = dropout

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """(B, T, D'), padding (B, T) -> (B, T, D)."""
        dropout = self.dropout if self.training else 0.0
        query, key, value = self.linear_q_k_v(x).chunk(3, dim=-1)
        memory = add_memory(value, self.fsmn_block, self.shift, padding.unsqueeze(-1), dropout)
        query, key, value = (split_heads(part, self.num_heads) for part in (query, key, value))
        return self.linear_out(attend(query, key, value, ~padding[:, None, None], dropout)) + memory


class FusedCrossAttention(nn.Module):
    """Attention to an encoder's output, keys and values of one projection.

    Args:
        width: of both. num_heads: heads. dropout: rate of the weights.
    """

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.linear_q = nn.Linear(width, width)
        self.linear_k_v = nn.Linear(width, 2 * width)
        self.linear_out = nn.Linear(width, width)
        self.num_heads = num_heads
        self.dropout = dropout

    def forward(self, x: Tensor, memory: Tensor, padding: Tensor) -> Tensor:
        """(B, T, D), (B, S, D), padding of the latter (B, S) -> (B, T, D)."""
        query = split_heads(self.linear_q(x), self.num_heads)
        key, value = (split_heads(part, self.num_heads) for part in self.linear_k_v(memory).chunk(2, dim=-1))
        dropout = self.dropout if self.training else 0.0
        return self.linear_out(attend(query, key, value, ~padding[:, None, None], dropout))


class Attention(nn.Module):
    """Attention with one projection each for queries, keys and values.

    Args:
        width: channels. num_heads: heads. dropout: rate of the weights.
    """

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.linear_q = nn.Linear(width, width)
        self.linear_k = nn.Linear(width, width)
        self.linear_v = nn.Linear(width, width)
        self.linear_out = nn.Linear(width, width)
        self.num_heads = num_heads
        self.dropout = dropout

    def _heads(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = self.linear_q(x), self.linear_k(memory), self.linear_v(memory)
        return split_heads(query, self.num_heads), split_heads(key, self.num_heads), split_heads(value, self.num_heads)

    def forward(self, x: Tensor, memory: Tensor, padding: Tensor) -> Tensor:
        """(B, T, D), (B, S, D), padding of the latter (B, S) -> (B, T, D)."""
        dropout = self.dropout if self.training else 0.0
        return self.linear_out(attend(*self._heads(x, memory), ~padding[:, None, None], dropout))


class RelativeAttention(Attention):
    """Self-attention with relative positions as ESPnet first had them, its "legacy" form.

    A query i sees key j by the table's row ``length - 1 - i + j`` if j <= i, by nothing if j = i + 1, and by what query
    i + 1 makes of row ``j - i - 2`` beyond. As the rows count down from 4999, the encoding of a distance back depends
    on the length; the models were trained so.
    """

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__(width, num_heads, dropout)
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(num_heads, width // num_heads))
        self.pos_bias_v = nn.Parameter(torch.empty(num_heads, width // num_heads))
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)

    def forward(  # type: ignore[override]
        self, x: Tensor, positions: Tensor, padding: Tensor, lens: Tensor | None = None
    ) -> Tensor:
        """(B, T, D) -> (B, T, D).

        Args:
            x: frames. positions: (T, D) encodings. padding: (B, T), True beyond an item's length.
            lens: (B,) the lengths that rows are counted by; None: the padded length, as in the reference.
        """
        query, key, value = self._heads(x, x)
        scores = self._position_scores(query, positions, lens) * query.shape[-1] ** -0.5
        scores = scores.masked_fill(padding[:, None, None], -torch.inf)
        content = query + self.pos_bias_u.unsqueeze(1)
        return self.linear_out(attend(content, key, value, scores, self.dropout if self.training else 0.0))

    def _position_scores(self, query: Tensor, positions: Tensor, lens: Tensor | None) -> Tensor:
        """(B, H, T, D / H), (T, D) -> scores (B, H, T, T) before scaling."""
        query = query + self.pos_bias_v.unsqueeze(1)
        rows = self.linear_pos(positions).reshape(positions.shape[0], self.num_heads, -1)  # (T, H, D / H)
        scores = shifted(torch.matmul(query, rows.permute(1, 2, 0)))
        if lens is None:
            return scores
        frames = positions.shape[0]
        frame = torch.arange(frames, device=rows.device)
        own = rows[(frame - (frames - lens[:, None])).clamp(min=0)]  # (B, T, H, D / H): an item's last row comes last
        back = shifted(torch.matmul(query, own.permute(0, 2, 3, 1)))
        return torch.where(frame[:, None] >= frame, back, scores)


def shifted(scores: Tensor) -> Tensor:
    """Scores (B, H, T, T) of queries i and rows r, brought to keys j = i + r - (T - 1); see `RelativeAttention`."""
    batch, heads, frames, _ = scores.shape
    return F.pad(scores, (1, 0)).view(batch, heads, frames + 1, frames)[:, :, 1:]
