"""What a decoding method is to those who use it, whatever the model: a test set's decoding, and recognition."""
# Shapes: B batch, D model dimension, S output frames.

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from couloir.decoding.hypothesis import Hypothesis

if TYPE_CHECKING:
    from torch import Tensor

Results = dict[str, list[Hypothesis]]
"""icefall's key of a result -> a hypothesis per utterance. Rescoring has many keys, one for each of its scales."""


class Search(Protocol):
    """A decoding method with all that it needs, read once."""

    @property
    def name(self) -> str:
        """The method's name, which is that of the folder of its results."""

    @property
    def suffix(self) -> str:
        """What its settings add to the names of result files."""

    def __call__(self, encoder_out: Tensor, lens: Tensor, references: Sequence[str] = ()) -> Results:
        """Decode (B, S, D), of which lens (B,) frames are valid. ``references``: texts, which only an oracle needs."""

    def text_words(self, hypothesis: Hypothesis) -> list[str] | None:
        """The words that a graph found; None where the tokens are to be decoded."""

    def word_lengths(self, hypothesis: Hypothesis) -> list[int]:
        """How many of its tokens each of those words has."""
