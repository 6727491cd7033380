"""Attention decoder head: a Transformer decoder over the encoder output (Watanabe et al. 2017)."""
# Shapes: B batch, D model dimension, M encoder's dimension, N hypotheses, S output frames, U labels, V vocabulary.

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from couloir.models.common.penalty import penalise_large
from couloir.models.common.sinusoids import interleaved_sinusoids
from couloir.models.heads.config import HeadsConfig

DROPOUT = 0.1
LABEL_SMOOTHING = 0.1
SOS_EOS = 1
IGNORED = -1
RESCORED_VALUES = 1 << 24  # of the encoder's output that are repeated at once for hypotheses
PENALTY_PROB, PENALTY_LIMIT, PENALTY = 0.1, 50.0, 1.0e-4


class CrossAttention(nn.Module):
    """Scaled dot-product attention of queries on memory.

    Args:
        width: of queries and output. memory_width: of the memory. attention_dim: all heads' width. num_heads: heads.
    """

    def __init__(self, width: int, memory_width: int, attention_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.linear_q = nn.Linear(width, attention_dim)
        self.linear_k = nn.Linear(memory_width, attention_dim)
        self.linear_v = nn.Linear(memory_width, attention_dim)
        self.out_proj = nn.Linear(attention_dim, width)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, memory: Tensor, hidden: Tensor) -> Tensor:
        """(B, U, D), (B, S, M) -> (B, U, D). ``hidden`` (B, 1, U or 1, S) is True where memory is hidden."""
        query, key, value = (self._split(y) for y in (self.linear_q(x), self.linear_k(memory), self.linear_v(memory)))
        scores = torch.matmul(query, key.transpose(2, 3)) * query.shape[-1] ** -0.5
        if self.training and random.random() < PENALTY_PROB:
            scores = penalise_large(scores, PENALTY_LIMIT, PENALTY)
        weights = scores.float().masked_fill(hidden, -math.inf).softmax(dim=-1)
        weights = F.dropout(weights.to(value.dtype), DROPOUT, self.training)
        return self.out_proj(torch.matmul(weights, value).transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    """Pre-norm Transformer decoder layer.

    Args:
        heads: sizes. encoder_dim: width of the encoder's output.
    """

    def __init__(self, heads: HeadsConfig, encoder_dim: int) -> None:
        super().__init__()
        width, attention = heads.attention_decoder_dim, heads.attention_decoder_attention_dim
        num_heads, hidden = heads.attention_decoder_num_heads, heads.attention_decoder_feedforward_dim
        self.norm_self_attn = nn.LayerNorm(width)
        self.self_attn = CrossAttention(width, width, attention, num_heads)
        self.norm_src_attn = nn.LayerNorm(width)
        self.src_attn = CrossAttention(width, encoder_dim, attention, num_heads)
        self.norm_ff = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, hidden), nn.SiLU(), nn.Dropout(DROPOUT), nn.Linear(hidden, width)
        )

    def forward(self, x: Tensor, memory: Tensor, future: Tensor, memory_hidden: Tensor) -> Tensor:
        """(B, U, D) -> (B, U, D), given the encoder's output (B, S, M) and what is hidden of both."""
        normed = self.norm_self_attn(x)
        x = x + F.dropout(self.self_attn(normed, normed, future), DROPOUT, self.training)
        x = x + F.dropout(self.src_attn(self.norm_src_attn(x), memory, memory_hidden), DROPOUT, self.training)
        return x + F.dropout(self.feed_forward(self.norm_ff(x)), DROPOUT, self.training)


class TransformerDecoder(nn.Module):
    """Embedding, decoder layers, output projection.

    Args:
        heads: sizes. encoder_dim: width of the encoder's output.
    """

    def __init__(self, heads: HeadsConfig, encoder_dim: int) -> None:
        super().__init__()
        width = heads.attention_decoder_dim
        self.embed = nn.Embedding(heads.vocab_size, width)
        self.layers = nn.ModuleList(DecoderLayer(heads, encoder_dim) for _ in range(heads.attention_decoder_num_layers))
        self.output_layer = nn.Linear(width, heads.vocab_size)

    def forward(self, tokens: Tensor, memory: Tensor, memory_lens: Tensor) -> Tensor:
        """Token ids (B, U) and encoder output (B, S, M) with lengths (B,) -> logits (B, U, V)."""
        length, width = tokens.shape[1], self.embed.embedding_dim
        positions = torch.arange(length, device=tokens.device)
        x = self.embed(tokens) * math.sqrt(width) + interleaved_sinusoids(positions, width)
        x = F.dropout(x, DROPOUT, self.training)
        future = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
        hidden = (torch.arange(memory.shape[1], device=memory.device) >= memory_lens[:, None])[:, None, None]
        for layer in self.layers:
            x = layer(x, memory, future, hidden)
        return self.output_layer(x)


class AttentionDecoder(nn.Module):
    """The attention decoder and its label-smoothed loss.

    Args:
        heads: sizes. encoder_dim: width of the encoder's output. sos_eos_id: the token that begins and ends a sentence,
            icefall's 1.
    """

    def __init__(self, heads: HeadsConfig, encoder_dim: int, sos_eos_id: int = SOS_EOS) -> None:
        super().__init__()
        self.sos_eos_id = sos_eos_id
        self.decoder = TransformerDecoder(heads, encoder_dim)

    def log_probs(self, encoder_out: Tensor, lens: Tensor, tokens: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Teacher-forced log-probabilities (B, U + 1, V), and the targets (B, U + 1): tokens, then end of sentence."""
        device = encoder_out.device
        inputs = [torch.tensor([self.sos_eos_id, *ids]) for ids in tokens]
        outputs = [torch.tensor([*ids, self.sos_eos_id]) for ids in tokens]
        padded = nn.utils.rnn.pad_sequence(inputs, batch_first=True, padding_value=self.sos_eos_id)
        targets = nn.utils.rnn.pad_sequence(outputs, batch_first=True, padding_value=IGNORED)
        logits = self.decoder(padded.to(device), encoder_out, lens)  # moved once, not once per sentence
        return logits.float().log_softmax(dim=-1), targets.to(device)

    def forward(self, encoder_out: Tensor, lens: Tensor, tokens: list[list[int]]) -> Tensor:
        """Label-smoothed cross entropy, summed over all tokens of the batch.

        Args:
            encoder_out: (B, S, D). lens: (B,). tokens: B lists of token ids without start and end.
        """
        log_probs, targets = self.log_probs(encoder_out, lens, tokens)
        return F.cross_entropy(
            log_probs.transpose(1, 2),
            targets,
            ignore_index=IGNORED,
            label_smoothing=LABEL_SMOOTHING,
            reduction="sum",
        )

    @torch.no_grad()
    def sequence_scores(
        self, encoder_out: Tensor, lens: Tensor, tokens: Sequence[list[int]], owner: Sequence[int]
    ) -> Tensor:
        """Log-probability (N,) float64 of hypotheses with the sentence's end, for rescoring.

        Args:
            encoder_out: (B, S, D). lens: (B,). tokens: N lists of token ids. owner: the utterance of each.
        """
        lens = lens.to(encoder_out.device)
        rows = max(1, RESCORED_VALUES // max(1, encoder_out[0].numel()))
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))  # like lengths together
        scores = torch.zeros(len(tokens), dtype=torch.float64, device=encoder_out.device)
        for begin in range(0, len(order), rows):
            part = order[begin : begin + rows]
            whose = torch.tensor([owner[i] for i in part], device=encoder_out.device)
            log_probs, targets = self.log_probs(encoder_out[whose], lens[whose], [tokens[i] for i in part])
            picked = log_probs.double().gather(2, targets.clamp(min=0)[:, :, None]).squeeze(2)
            scores[part] = picked.masked_fill(targets == IGNORED, 0.0).sum(1)
        return scores
