#!/usr/bin/env python3
"""Stage 1 of prepare.sh: DATA_DIR/manifests/CORPUS.jsonl.gz, one line per utterance with its length and transcript."""

from __future__ import annotations

import sys

from couloir.config import TeachingParser, add_flags, from_mapping, given_flags
from couloir.data.corpora.config import PlaceConfig
from couloir.data.corpora.exclusive import preparing
from couloir.data.corpora.registry import chosen
from couloir.data.corpora.stages import make_manifest
from couloir.errors import one_line_errors


@one_line_errors
def main() -> None:
    """Make manifests."""
    parser = TeachingParser(description=__doc__)
    add_flags(parser, PlaceConfig)
    place = from_mapping(PlaceConfig, given_flags(parser.parse_args(), PlaceConfig))
    with preparing(place.data_dir):
        corpora, config = chosen(place.data_dir)
        for corpus in corpora:
            make_manifest(corpus, config.download_dir, place.data_dir, config)


if __name__ == "__main__":
    sys.exit(main())
