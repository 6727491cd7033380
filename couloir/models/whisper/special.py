"""Ids of a Whisper's special tokens, which follow from the size of its vocabulary. Imports no torch.

Source: Radford et al. 2022 (arXiv:2212.04356), section 2.3.
"""

from __future__ import annotations

from dataclasses import dataclass

from couloir.errors import must_be

ENGLISH_VOCABULARY = 51864
TIMESTAMPS = 1501
"""From 0 to 30 s, every 20 ms."""
BLANK = 220
"""A space alone."""
NON_SPEECH = (
    1, 2, 7, 8, 9, 10, 14, 25, 26, 27, 28, 29, 31, 58, 59, 60, 61, 62, 63, 90, 91, 92, 93, 359, 503, 522, 542, 873,
    893, 902, 918, 922, 931, 1350, 1853, 1982, 2460, 2627, 3246, 3253, 3268, 3536, 3846, 3961, 4183, 4667, 6585, 6647,
    7273, 9061, 9383, 10428, 10929, 11938, 12033, 12331, 12562, 13793, 14157, 14635, 15265, 15618, 16553, 16604,
    18362, 18956, 20075, 21675, 22520, 26130, 26161, 26435, 28279, 29464, 31650, 32302, 32470, 36865, 42863, 47425,
    49870, 50254,
)  # fmt: skip
"""Brackets, notes and other signs that are not spoken, in the multilingual vocabularies; English's own has others."""


@dataclass(frozen=True)
class SpecialTokens:
    """Where the special tokens lie: end, start, languages, tasks, then timestamps up to the vocabulary's end.

    Attributes:
        end: of a text; ids below it are text. languages: their number. vocab_size: all tokens. multilingual: the start
            is followed by a language and a task.
    """

    end: int
    languages: int
    vocab_size: int
    multilingual: bool = True

    @property
    def start(self) -> int:
        """Of a transcript."""
        return self.end + 1

    @property
    def first_language(self) -> int:
        """Id of the first of the languages."""
        return self.end + 2

    @property
    def translate(self) -> int:
        """The task of translating; it and those that follow stand behind the languages."""
        return self.first_language + self.languages

    @property
    def transcribe(self) -> int:
        """The task of transcribing."""
        return self.translate + 1

    @property
    def start_of_lm(self) -> int:
        """A mark that training used."""
        return self.translate + 2

    @property
    def start_of_previous(self) -> int:
        """What a prompt begins with."""
        return self.translate + 3

    @property
    def no_speech(self) -> int:
        """Its probability after `start` is that of no speech."""
        return self.translate + 4

    @property
    def no_timestamps(self) -> int:
        """The mark that the text has none."""
        return self.translate + 5

    @property
    def first_timestamp(self) -> int:
        """0 s."""
        return self.translate + 6


def special_tokens(vocab_size: int) -> SpecialTokens:
    """Those of a published vocabulary. Raises `UserError` for a size that none can have."""
    multilingual = vocab_size != ENGLISH_VOCABULARY
    end = 50257 if multilingual else 50256
    languages = vocab_size - TIMESTAMPS - 6 - (end + 2)
    if languages < 99:
        raise must_be("a Whisper's vocabulary", f"of at least {ENGLISH_VOCABULARY} tokens", vocab_size)
    return SpecialTokens(end, languages, vocab_size, multilingual)
