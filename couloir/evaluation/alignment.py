"""Word, phone and character alignments (kaldialign) and the counts that error rates are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import kaldialign

from couloir.text.units import unit_named

Pair = tuple[str | None, str | None]  # (reference, hypothesis); None where the other side has something of its own

_NOTHING = "\0 "  # units hold no blanks, so it is none, unlike the `*` that is printed


def units_of(text: str, unit: str) -> list[str]:
    """A text's IPA phones, words, or characters without spaces. Raises `UserError` for another unit."""
    return unit_named(unit).split(text)


def align(ref: Sequence[str], hyp: Sequence[str]) -> list[Pair]:
    """The alignment with the fewest errors; among several the one that kaldialign, and so icefall, takes."""
    pairs = kaldialign.align(ref, hyp, _NOTHING)
    return [(None if a == _NOTHING else a, None if b == _NOTHING else b) for a, b in pairs]


@dataclass(frozen=True)
class Counts:
    """How many units were inserted, deleted, substituted and correct."""

    insertions: int = 0
    deletions: int = 0
    substitutions: int = 0
    correct: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.insertions + other.insertions,
            self.deletions + other.deletions,
            self.substitutions + other.substitutions,
            self.correct + other.correct,
        )

    @property
    def errors(self) -> int:
        """Insertions, deletions and substitutions."""
        return self.insertions + self.deletions + self.substitutions

    @property
    def reference(self) -> int:
        """Units in the reference."""
        return self.deletions + self.substitutions + self.correct

    @property
    def rate(self) -> float:
        """Error rate in percent (see `error_rate`)."""
        return error_rate(self.errors, self.reference)


def error_rate(errors: float, reference: float) -> float:
    """Errors per reference unit in percent; against an empty reference 0 without errors and infinite with them."""
    if reference:
        return 100.0 * errors / reference
    return float("inf") if errors else 0.0


def count(pairs: Iterable[Pair]) -> Counts:
    """Counts of an alignment."""
    insertions = deletions = substitutions = correct = 0
    for ref, hyp in pairs:
        insertions += ref is None
        deletions += hyp is None
        correct += ref == hyp
        substitutions += ref is not None and hyp is not None and ref != hyp
    return Counts(insertions, deletions, substitutions, correct)


def total(counts: Iterable[Counts]) -> Counts:
    """The sum of many counts."""
    return sum(counts, Counts())
