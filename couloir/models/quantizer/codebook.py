"""A codebook of unit vectors that follows, by moving averages, what is assigned to it.

Source: van den Oord et al. 2017 (arXiv:1711.00937), appendix A.1 (averages); unit vectors as in Yu et al. 2022
(arXiv:2110.04627), section 3.2.

Shapes: N vectors, R rows, C channels of a code.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from couloir.models.quantizer.config import QuantizerConfig

EPSILON = 1.0e-5


class Codebook(nn.Module):
    """Rows are buffers: no gradient reaches them.

    Args:
        config: sizes and rules.
    """

    initted: Tensor
    cluster_size: Tensor
    embed_avg: Tensor
    embed: Tensor

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        rows = torch.empty(1, config.rows, config.codebook_dim)
        nn.init.kaiming_uniform_(rows)
        rows = F.normalize(rows, dim=-1)
        self.register_buffer("initted", torch.ones(1))
        self.register_buffer("cluster_size", torch.zeros(1, config.rows))
        self.register_buffer("embed_avg", rows.clone())
        self.register_buffer("embed", rows)
        self.config = config

    def nearest(self, vectors: Tensor) -> Tensor:
        """Unit vectors (..., C) -> the most similar rows' numbers (...)."""
        similarity = vectors @ self.embed[0].T
        if not self.config.search_mask:
            similarity[..., self.config.mask_row] = -torch.inf
        return similarity.argmax(dim=-1)

    def rows(self, ids: Tensor) -> Tensor:
        """(...) -> (..., C)."""
        return F.embedding(ids, self.embed[0])

    @torch.no_grad()
    def follow(self, vectors: Tensor, ids: Tensor, kept: Tensor | None = None) -> None:
        """Let the rows follow a batch: unit vectors (N, C), each with its row (N,).

        Args:
            kept: (N,), False for vectors that do not count; None: all do.
        """
        if kept is not None:
            vectors, ids = vectors[kept], ids[kept]
        size = self.embed.shape[1]
        counts = torch.bincount(ids, minlength=size).to(vectors.dtype)
        sums = torch.zeros_like(self.embed[0]).index_add_(0, ids, vectors)
        if self._shared():
            both = torch.cat([sums, counts[:, None]], dim=1)
            dist.all_reduce(both)
            sums, counts = both[:, :-1], both[:, -1]
        self.cluster_size[0].lerp_(counts, 1 - self.config.decay)
        self.embed_avg[0].lerp_(sums, 1 - self.config.decay)
        if self.config.dead_below:
            self._revive(vectors)
        self._renew()

    def _renew(self) -> None:
        """Rows from averages. Smoothing their counts matters only where a forgotten row is about to vanish.

        Normalising twice, as the reference does, keeps such a row for longer: 630 steps in place of 370.
        """
        total = self.cluster_size.sum()
        smoothed = (self.cluster_size + EPSILON) / (total + self.embed.shape[1] * EPSILON) * total
        once = F.normalize(self.embed_avg / smoothed.unsqueeze(-1), dim=-1)
        self.embed.copy_(F.normalize(once, dim=-1))

    def _revive(self, vectors: Tensor) -> None:
        """Put vectors of the batch in the place of rows that hardly any are assigned to; all ranks put the same."""
        dead = (self.cluster_size[0] < self.config.dead_below).nonzero().squeeze(1)
        drawn = vectors.new_zeros(len(dead), self.embed.shape[2] + 1)
        if len(vectors):
            drawn[:, :-1] = vectors[torch.randint(len(vectors), (len(dead),), device=vectors.device)]
            drawn[:, -1] = 1.0
        if self._shared():
            dist.broadcast(drawn, src=0)
        if len(dead) and drawn[0, -1]:
            self.embed_avg[0, dead] = drawn[:, :-1] * self.config.dead_below
            self.cluster_size[0, dead] = self.config.dead_below

    def _shared(self) -> bool:
        return self.config.reduce_over_ranks and dist.is_available() and dist.is_initialized()
