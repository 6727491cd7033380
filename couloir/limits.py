"""Bounds on what a file may claim or cost, each with its reason. What is beyond is refused in one line."""

from __future__ import annotations

MAX_LINE_CHARS = 1 << 24
"""Of a text's line: a book fits, a gzip of zeros does not."""

MAX_TEXT_BYTES = 1 << 30
"""Of a text that is read whole: tables of ten million rows fit."""
