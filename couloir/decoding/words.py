"""The words that a search over a graph found, and which of its tokens each is made of."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from couloir.decoding.graph import read_lexicon
from couloir.decoding.hypothesis import Hypothesis
from couloir.text.tokenizer import Tokenizer

LEXICON = "lexicon.txt"


class GraphWords:
    """What output labels of a graph stand for.

    Args:
        words: by label, 0 being none. folder: of the graph, where its lexicon is; without one words are spelt as the
            ``tokenizer`` does.
    """

    def __init__(self, words: Sequence[str], folder: str | Path, tokenizer: Tokenizer) -> None:
        self.words, self.tokenizer = list(words), tokenizer
        self._lexicon = Path(folder) / LEXICON

    def texts(self, hypothesis: Hypothesis) -> list[str]:
        """The words of a hypothesis."""
        return [self.words[label] for label in hypothesis.words]

    def lengths(self, hypothesis: Hypothesis) -> list[int]:
        """How many tokens each word has. All tokens belong to a word, where there is one.

        The lexicon divides them, since a graph has its labels somewhere in a word. A path that it cannot divide (that
        ends inside a word, for one) is divided at the labels.
        """
        forms = [self._forms(label) for label in hypothesis.words]
        return divided(hypothesis.tokens, forms) or _divided_at_labels(hypothesis)

    def _forms(self, label: int) -> Collection[tuple[int, ...]]:
        word = self.words[label]
        return self._spellings.get(word) or [tuple(self.tokenizer.encode(word))]

    @cached_property
    def _spellings(self) -> dict[str, set[tuple[int, ...]]]:
        spellings: dict[str, set[tuple[int, ...]]] = {}
        if self._lexicon.is_file():
            lexicon = read_lexicon(self._lexicon, self.tokenizer.pieces)
            for word, tokens in lexicon.entries:
                spellings.setdefault(lexicon.words[word], set()).add(tuple(tokens))
        return spellings


def divided(tokens: Sequence[int], forms: Sequence[Collection[tuple[int, ...]]]) -> list[int]:
    """The lengths of words in a row that together spell ``tokens``, each by one of its forms; [] if they cannot."""
    reached: list[dict[int, int]] = [{0: 0}]  # after each word: how far -> by how many tokens of that word
    for spellings in forms:
        reached.append(
            {
                at + len(form): len(form)
                for at in reached[-1]
                for form in spellings
                if tuple(tokens[at : at + len(form)]) == form
            }
        )
    lengths, at = list[int](), len(tokens)
    for here in reached[:0:-1]:
        if at not in here:
            return []
        lengths.append(here[at])
        at -= here[at]
    return lengths[::-1]


def _divided_at_labels(hypothesis: Hypothesis) -> list[int]:
    """A word ends with the token at its label."""
    bounds = [0, *(sum(start <= frame for start in hypothesis.starts) for frame in hypothesis.word_frames)]
    bounds[-1] = len(hypothesis.tokens)
    return [end - begin for begin, end in pairwise(bounds)]
