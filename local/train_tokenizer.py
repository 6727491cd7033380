#!/usr/bin/env python3
"""Stage 4 of prepare.sh: DATA_DIR/lang/{bpe.model,tokens.txt,unit.txt} from the texts of DATA_DIR/shar/train.

A vocabulary of characters has no bpe.model. unit.txt says what the texts are made of: phone, word or char.
"""

from __future__ import annotations

import sys
from pathlib import Path

from couloir.config import TeachingParser, add_flags, from_mapping, given_flags
from couloir.data.corpora.config import TRAIN, PlaceConfig, TokenizerConfig
from couloir.data.corpora.exclusive import preparing
from couloir.data.corpora.manifest import fingerprint, is_done, mark_done
from couloir.data.corpora.registry import unit_of_data
from couloir.data.corpora.statistics import read_cuts
from couloir.errors import one_line_errors
from couloir.progress import log
from couloir.text.ipa import remove_diacritics
from couloir.text.units import save_unit


def make_lang(data_dir: Path, config: TokenizerConfig) -> None:
    """Train the tokenizer, unless it is there already."""
    train, lang, unit = data_dir / "shar" / TRAIN, data_dir / "lang", unit_of_data(data_dir)
    kind = config.kind(unit)
    inputs = fingerprint(config, unit.name, files=sorted(train.glob("cuts.*")))
    made = lang / ("tokens.txt" if kind == "chars" else "bpe.model")
    if is_done(made, inputs):
        return log("tokenizer is there already")
    from couloir.text.tokenizer import train_tokenizer

    texts = [cut["supervisions"][0]["text"] for cut in read_cuts(train)]
    if config.remove_diacritics:
        texts = [remove_diacritics(text) for text in texts]
    usual = unit.vocab_size if kind in ("unigram", "bpe") else None
    tokenizer = train_tokenizer(texts, lang, config.vocab_size or usual, kind, at_most=config.vocab_size is None)
    save_unit(lang, unit)
    mark_done(made, inputs)
    log(f"{lang}: {tokenizer.vocab_size} pieces ({kind})")


@one_line_errors
def main() -> None:
    """Train a tokenizer."""
    parser = TeachingParser(description=__doc__)
    add_flags(parser, PlaceConfig, TokenizerConfig)
    flags = parser.parse_args()
    place = from_mapping(PlaceConfig, given_flags(flags, PlaceConfig))
    with preparing(place.data_dir):
        make_lang(place.data_dir, from_mapping(TokenizerConfig, given_flags(flags, TokenizerConfig)))


if __name__ == "__main__":
    sys.exit(main())
