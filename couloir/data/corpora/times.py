"""Times of utterances within recordings: how they are written, and what of them lies inside."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from couloir.data.corpora.base import Phone, Utterance
from couloir.errors import UserError, must_be

OUTSIDE = "outside its recording"
MOST_OUTSIDE_S = 0.5
"""Times are rounded, and voice activity detectors pad: so much beyond a recording's ends is clamped to them."""
TO_THE_END = -1.0
"""Kaldi's end of a segment that goes to the end of its recording."""

_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?", re.ASCII)


def seconds(text: str, name: str) -> float:
    """A time in s. Raises `UserError` for a decimal comma, NaN, infinity, hexadecimal digits and whatever else."""
    value = float(text) if _NUMBER.fullmatch(text) and len(text) <= 40 else math.nan
    if not math.isfinite(value):
        raise must_be(name, "a number of seconds such as 1.25", f"`{text[:40]}`")
    return value


def span(start: float, end: float | None, name: str) -> tuple[float, float | None]:
    """Start and duration; no ``end``, or Kaldi's -1, is the recording's. Raises `UserError` where none is left."""
    if end is None or end == TO_THE_END:
        return start, None
    if end <= start:
        raise must_be(f"the end of {name}", f"after its start, {start:g} s", f"{end:g} s")
    return start, round(end - start, 4)


def inside(utterance: Utterance, length: float) -> Utterance:
    """An utterance with start, duration and phones inside its recording of ``length`` s.

    Raises:
        UserError: more than `MOST_OUTSIDE_S` of it, or of a phone, lies outside, or nothing of it inside.
    """
    start = utterance.start or 0.0
    end = length if utterance.duration is None else start + utterance.duration
    outside = max(-start, end - length)
    if outside > MOST_OUTSIDE_S + 1e-6 or start >= length or end <= 0:
        raise UserError(f"it is from {start:g} to {end:g} s of a recording of {length:g} s{_unit(end, length)}")
    first, last = max(start, 0.0), min(end, length)
    phones = utterance.phones and tuple(_phone(phone, first - start, last - first) for phone in utterance.phones)
    duration = round(last - first, 4)
    return replace(utterance, start=None if utterance.start is None else first, duration=duration, phones=phones)


def _unit(end: float, length: float) -> str:
    """A guess at what times are that end this far behind a recording."""
    ratio = end / length
    unit = "milliseconds" if 50 < ratio <= 6000 else "samples" if 6000 < ratio <= 400000 else ""
    return f"; are its times {unit}? They must be seconds" if unit else ""


def _phone(phone: Phone, shift: float, length: float) -> Phone:
    """A phone's times from the start of the utterance that was clamped."""
    start, end = phone.start - shift, phone.start - shift + phone.duration
    if start < -MOST_OUTSIDE_S or end > length + MOST_OUTSIDE_S or phone.duration < 0:
        raise UserError(f"its phone {phone.symbol} is from {start:g} to {end:g} s of {length:g} s")
    start, end = min(max(start, 0.0), length), min(max(end, 0.0), length)
    if (start, end) == (phone.start, phone.start + phone.duration):
        return phone
    return phone._replace(start=round(start, 4), duration=round(end - start, 4))
