"""Configuration of a run's texts. Imports nothing heavy."""

from __future__ import annotations

import dataclasses

from couloir.config import option
from couloir.text.units import AUTO, UNITS


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Text: the tokenizer, and what is done to a transcript before it is tokenised."""

    bpe_model: str = option("data/lang/bpe.model", "sentencepiece model, tokens.txt, or a folder that holds one")
    remove_diacritics: bool = option(False, "remove IPA diacritics from transcripts, as ZIPA's flag of that name does")
    unit: str = option(
        AUTO, "what transcripts are of, and errors are counted in; auto: as the tokenizer says", choices=(AUTO, *UNITS)
    )
