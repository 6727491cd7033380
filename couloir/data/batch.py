"""A batch of utterances: what the loader hands to an objective or a decoder."""
# Shapes: B batch, N samples.

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from couloir.data.index import Utterance


@dataclass
class Batch:
    """B utterances with their audio zero-padded to the longest.

    Attributes:
        ids, texts, languages, speakers: one per utterance.
        tokens: the encoded texts ([] each when no tokenizer was given).
        audio: (B, N) float32 in [-1, 1] at 16 kHz; audio_lens: (B,) int64 samples.
        skipped: (id, reason) of utterances that had to be left out of this batch, or of the loss of it.
        unread: those of them that the loader left out, without their audio; their texts as in ``texts``.
        index: position of the batch in the rank's epoch, from 0.
    """

    ids: list[str]
    texts: list[str]
    languages: list[str]
    speakers: list[str]
    tokens: list[list[int]]
    audio: Tensor
    audio_lens: Tensor
    skipped: list[tuple[str, str]] = field(default_factory=list)
    unread: list[Utterance] = field(default_factory=list)
    index: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: list[int]) -> Batch:
        """The utterances at ``rows``, padded as they are here."""
        lists = ("ids", "texts", "languages", "speakers", "tokens")
        chosen: dict[str, Any] = {name: [getattr(self, name)[row] for row in rows] for name in lists}
        return replace(self, **chosen, audio=self.audio[rows], audio_lens=self.audio_lens[rows])

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on ``device``."""
        return replace(
            self,
            audio=self.audio.to(device, non_blocking=True),
            audio_lens=self.audio_lens.to(device, non_blocking=True),
        )

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (what the loader calls before a copy to a GPU)."""
        return replace(self, audio=self.audio.pin_memory(), audio_lens=self.audio_lens.pin_memory())
