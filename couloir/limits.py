"""Bounds on what a file may claim or cost, each with its reason. What is beyond is refused in one line."""

from __future__ import annotations

MAX_LINE_CHARS = 1 << 24
"""Of a text's line: a book fits, a gzip of zeros does not."""

MAX_TEXT_BYTES = 1 << 30
"""Of a text that is read whole: tables of ten million rows fit."""

MAX_GAPS = 1024
"""Numbers that a table of ids, or a graph's states, may leave out: a place is made for each up to the highest, so a
line `word 2000000000` would take gigabytes."""

MAX_MANIFEST_LINE_BYTES = 1 << 24
"""Of one cut of a manifest: an hour of aligned phones has 3 MiB. A longer line is passed over."""

MAX_PASSED_LINES = 64
"""Times that length: a line that is only passed over; beyond it the manifest is damaged."""

MAX_EXPANSION = 200
"""Bytes of content for each byte of a packed manifest: real ones have 5 to 60, gzip itself ends at 1,032."""

EXPANSION_SLACK_BYTES = 1 << 24
"""Content that any packed manifest may have beside that: short ones may repeat themselves."""

MAX_TAR_HEADER_BYTES = 1 << 20
"""Of one header of a tar: a long name and its records have a few hundred."""

MAX_MEMBER_BYTES = 1 << 30
"""Of one recording in a tar, which is read whole: 9 hours of 16-bit wav at 16 kHz."""

MAX_CUT_SECONDS = 1e6
"""Of a cut's start and length: 11 days."""

MAX_MANIFEST_RATE = 10_000_000
"""Hz that a manifest may say: recorders of ultrasound reach 1 MHz."""

MAX_CHANNELS = 1024
"""Of a manifest's recording: arrays of microphones have hundreds."""

MAX_ID_CHARS = 1000
"""Of a cut's id: names of files end at 255 bytes."""

MAX_NESTING = 16
"""Lists and objects within each other in a custom value of a manifest: reading them back takes stack."""

MAX_INDEX_HEADER_BYTES = 1 << 20
"""Of an index's first line, which has counts and a few examples."""
