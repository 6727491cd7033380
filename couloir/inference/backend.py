"""What a recogniser asks of a runtime."""
# Shapes: V vocabulary.

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from couloir.decoding.hypothesis import Hypothesis
from couloir.inference.frame_times import FrameTimes
from couloir.inference.restriction import Restriction
from couloir.inference.vocabulary import Vocabulary

if TYPE_CHECKING:
    import torch


class Backend(Protocol):
    """A model in some runtime.

    Attributes:
        kind: "ctc" or "transducer". vocabulary: its pieces. frame_shift: distance of its output frames in s.
        times: when its output frames are, and where recordings may be cut for it.
        origin: where it came from, for messages. files: what its results depend on: weights, settings, tokens.
        average: which weights of the files, in words; "" where there is no choice.
        batch_size: recordings or windows that it likes to get at a time.
        choices: what was asked of it that changes its results, by the names of its flags.
    """

    kind: str
    vocabulary: Vocabulary
    frame_shift: float
    times: FrameTimes
    origin: str
    average: str
    files: list[Path]
    batch_size: int
    choices: dict[str, int]

    def encode(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Waves of at least ``times.min_samples`` (N_i,) float32 at 16 kHz -> frames (S_i, D).

        Log-probabilities of CTC, encoder output of a transducer. What a wave gives does not depend on the others.
        """

    def searchable(self) -> tuple[Any, torch.device]:
        """The model's heads as the searches of `couloir.decoding` ask for them, and where they are. Needs torch."""

    def search(
        self,
        frames: Sequence[np.ndarray],
        bias: np.ndarray | None,
        restriction: Restriction | None = None,
        max_sym_per_frame: int = 1,
    ) -> list[Hypothesis]:
        """The symbols in frames (S_i, D).

        Args:
            frames: of each recording. bias: (V,), added to their scores (see `search.token_bias`).
            restriction: which strings of symbols may come out; None for all.
            max_sym_per_frame: of a transducer; see `search.transducer_greedy`.
        """
