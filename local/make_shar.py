#!/usr/bin/env python3
"""Stage 3 of prepare.sh: DATA_DIR/shar/SPLIT/{cuts.NNNNNN.jsonl.gz,recording.NNNNNN.tar}, FLAC at 16 kHz.

Utterances of implausible length or speaking rate are dropped and listed in DATA_DIR/dropped; the rest is split into
train, dev, test-heldout (seen speakers), test-unseen-speakers and test-unseen-languages, and into what the corpora
prescribe (dev-clean, test-other...). With --part only that share of the shards is made; when all parts are through, a
run without it completes the folders.
"""

from __future__ import annotations

import os
import sys

from couloir.config import TeachingParser, add_flags, from_mapping, given_flags
from couloir.data.corpora.config import FilterConfig, PartConfig, PlaceConfig, SharConfig, SplitConfig
from couloir.data.corpora.exclusive import preparing
from couloir.data.corpora.parts import parse_part
from couloir.data.corpora.registry import chosen
from couloir.data.corpora.stages import make_shar
from couloir.errors import one_line_errors


@one_line_errors
def main() -> None:
    """Make Shar folders."""
    parser = TeachingParser(description=__doc__)
    add_flags(parser, PlaceConfig, PartConfig, FilterConfig, SplitConfig, SharConfig)
    flags = parser.parse_args()
    place = from_mapping(PlaceConfig, given_flags(flags, PlaceConfig))
    part = parse_part(from_mapping(PartConfig, given_flags(flags, PartConfig)).part, os.environ)
    with preparing(place.data_dir, part):
        corpora, config = chosen(place.data_dir)
        make_shar(
            [corpus.name for corpus in corpora],
            place.data_dir,
            from_mapping(FilterConfig, given_flags(flags, FilterConfig)),
            from_mapping(SplitConfig, given_flags(flags, SplitConfig)),
            from_mapping(SharConfig, given_flags(flags, SharConfig)),
            place.nj,
            part,
            config.unit,
        )


if __name__ == "__main__":
    sys.exit(main())
