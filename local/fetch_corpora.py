#!/usr/bin/env python3
"""Stage 0 of prepare.sh: bring the corpora below --download-dir and record the choice in DATA_DIR/corpora.yaml.

A download that was broken off is continued, what is there is not fetched again. With --list, show the corpora.
"""

from __future__ import annotations

import dataclasses
import sys

from couloir.config import TeachingParser, add_flags, from_mapping, given_flags
from couloir.data.corpora.config import CorporaConfig, PlaceConfig
from couloir.data.corpora.exclusive import preparing
from couloir.data.corpora.registry import GROUPS, build, builders, expand, save_choice
from couloir.errors import UserError, one_line_errors
from couloir.progress import log

FALLBACK = "synthetic"


def fetch(config: CorporaConfig, nj: int) -> CorporaConfig:
    """Fetch every corpus; where one cannot be had, say why and take synthetic speech instead.

    Returns the choice as it came out. Raises `UserError` when that is not allowed or fails as well.
    """
    names = expand(config.corpora, config)
    fetched: list[str] = []
    for name in names:
        (corpus,) = build([name], config, nj)
        try:
            corpus.fetch(config.download_dir)
            fetched.append(name)
        except UserError as error:
            if not config.fallback or name in (FALLBACK, "user"):
                raise
            log(f"WARNING: {name} is left out: {error}")
    if not fetched:
        log(f"WARNING: none of {', '.join(names)} can be had on this machine; taking {FALLBACK} speech instead")
        build([FALLBACK], config, nj)[0].fetch(config.download_dir)
        fetched = [FALLBACK]
    return dataclasses.replace(config, corpora=tuple(fetched))


def list_corpora(config: CorporaConfig) -> None:
    """Print the names that --corpora takes."""
    for corpus in build(list(builders(config)), config):
        print(f"{corpus.name:14} {corpus.summary}")
    print(f"groups: {', '.join(GROUPS)} (all real speech that is fetched)")


@one_line_errors
def main() -> None:
    """Fetch."""
    parser = TeachingParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="show the corpora and leave")
    add_flags(parser, PlaceConfig, CorporaConfig)
    flags = parser.parse_args()
    place = from_mapping(PlaceConfig, given_flags(flags, PlaceConfig))
    config = from_mapping(CorporaConfig, given_flags(flags, CorporaConfig))
    if flags.list:
        return list_corpora(config)
    with preparing(place.data_dir):
        save_choice(place.data_dir, fetch(config, place.nj))
    log(f"fetched below {config.download_dir}")


if __name__ == "__main__":
    sys.exit(main())
