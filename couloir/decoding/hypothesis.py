"""What every search returns."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Hypothesis:
    """A decoded token string.

    Attributes:
        tokens: token ids, without blanks.
        frames: the subsampled frame at which each token starts.
        score: natural log-probability: of the best path (greedy search) or of all paths together (prefix beam search).
        confidences: probability of each token at the strongest of its frames, 0 to 1.
    """

    tokens: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    score: float = 0.0
    confidences: list[float] = field(default_factory=list)
