#!/usr/bin/env python3
"""Stage 5 of prepare.sh: check what was prepared and write DATA_DIR/statistics.{txt,json,html}.

Every utterance is decoded. Ends with an error when something is wrong, after the report has been written.
"""

from __future__ import annotations

import json
import sys

from couloir.config import TeachingParser, add_flags, from_mapping, given_flags
from couloir.data.corpora.config import PlaceConfig
from couloir.data.corpora.exclusive import preparing
from couloir.data.corpora.page import as_html
from couloir.data.corpora.statistics import as_text, collect
from couloir.data.corpora.validation import validate
from couloir.errors import UserError, one_line_errors
from couloir.files import atomic_write
from couloir.progress import log


@one_line_errors
def main() -> None:
    """Validate and report."""
    parser = TeachingParser(description=__doc__)
    add_flags(parser, PlaceConfig)
    place = from_mapping(PlaceConfig, given_flags(parser.parse_args(), PlaceConfig))
    with preparing(place.data_dir):
        report(place)


def report(place: PlaceConfig) -> None:
    """Validate, and write and print the report. Raises `UserError` when something is wrong."""
    findings = validate(place.data_dir, place.nj)
    statistics = collect(place.data_dir, findings.problems, findings.warnings)
    reports = {
        "txt": as_text(statistics),
        "json": json.dumps(statistics.to_dict(), ensure_ascii=False, indent=1) + "\n",
        "html": as_html(statistics, f"Speech in {place.data_dir.name}"),
    }
    for suffix, text in reports.items():
        with atomic_write(place.data_dir / f"statistics.{suffix}", "w") as out:
            out.write(text)
    print(reports["txt"], end="")
    log(f"report with plots: {place.data_dir / 'statistics.html'}")
    if statistics.problems:
        page = place.data_dir / "statistics.html"
        raise UserError(f"{len(statistics.problems)} problems, the first: {statistics.problems[0]}; all are in {page}")


if __name__ == "__main__":
    sys.exit(main())
