#!/usr/bin/env python3
"""Stage 2 of prepare.sh: DATA_DIR/phones/CORPUS.jsonl.gz, the manifests with IPA; or words, or chars, as stage 0 said.

Gold phones and IPA transcripts are brought to normal form; words are pronounced by espeak-ng, a process per language.
Where words or characters are to be recognised, punctuation is dropped and capitals become small.
"""

from __future__ import annotations

import sys

from couloir.config import TeachingParser, add_flags, from_mapping, given_flags
from couloir.data.corpora.config import PlaceConfig
from couloir.data.corpora.exclusive import preparing
from couloir.data.corpora.registry import chosen
from couloir.data.corpora.spelling import make_spelling
from couloir.data.corpora.stages import make_phones
from couloir.errors import one_line_errors
from couloir.text.units import PHONE


@one_line_errors
def main() -> None:
    """Make phones, words or characters."""
    parser = TeachingParser(description=__doc__)
    add_flags(parser, PlaceConfig)
    place = from_mapping(PlaceConfig, given_flags(parser.parse_args(), PlaceConfig))
    with preparing(place.data_dir):
        corpora, config = chosen(place.data_dir)
        for corpus in corpora:
            if config.unit is PHONE:
                make_phones(corpus.name, place.data_dir, place.nj, corpus.voices)
            else:
                make_spelling(corpus.name, place.data_dir, config.unit, config.lower_case)


if __name__ == "__main__":
    sys.exit(main())
