"""What every search and every alignment returns. Needs neither torch nor numpy."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Hypothesis:
    """A token string and where it stands.

    Attributes:
        tokens: token ids, without blanks.
        starts, ends: the output frame at which each token starts, and the first one after it. A transducer emits a
            token in one frame; of CTC a token has the frames that repeat it, and blanks between two belong to none.
        confidences: probability of each token at the strongest of its frames, 0 to 1.
        score: natural log-probability: of the best path (greedy search, alignment, graphs) or of all paths together
            (beam searches); what language models and hotwords add counts in. -inf where there is no path.
        words: output labels of a search on a graph (on a graph of tokens the tokens again).
        word_frames: the frame of the arc that carries each.
    """

    tokens: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    score: float = 0.0
    words: list[int] = field(default_factory=list)
    word_frames: list[int] = field(default_factory=list)
