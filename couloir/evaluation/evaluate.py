"""From decoded utterances to tables: error rates with intervals, PFER, per language and per split, and confusions."""
# Shapes: N utterances.

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from couloir.evaluation.alignment import Counts, Pair, align, count, total
from couloir.evaluation.pfer import FeatureErrors, feature_errors, feature_table
from couloir.files import atomic_write
from couloir.text.units import UNITS, Unit, unit_named

NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class Result:
    """One decoded utterance: texts in the unit's writing (IPA for phones), duration in seconds where known."""

    id: str
    ref: str
    hyp: str
    language: str = ""
    split: str = ""
    duration: float | None = None


@dataclass(frozen=True)
class Utterance:
    """A result with its alignment; ``distance`` is the feature edit distance (phones only)."""

    result: Result
    pairs: list[Pair]
    counts: Counts
    distance: float | None = None


@dataclass(frozen=True)
class Row:
    """A line of a table: a group of utterances.

    ``low`` and ``high`` are the 95 % bootstrap interval of the rate over utterances, in percent. ``pfer`` has a value
    for each of `couloir.evaluation.pfer.CONVENTIONS`, ``spread`` the distribution of the per-utterance distance.
    """

    name: str
    utterances: int
    seconds: float
    counts: Counts
    low: float
    high: float
    pfer: dict[str, float] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Values for JSON; what has no finite value is None."""
        counts = {name: getattr(self.counts, name) for name in ("insertions", "deletions", "substitutions", "correct")}
        rates = {"rate": self.counts.rate, "low": self.low, "high": self.high}
        return {
            "name": self.name,
            "utterances": self.utterances,
            "seconds": round(self.seconds, 3),
            "reference": self.counts.reference,
            **counts,
            **_finite(rates),
            **({"pfer": _finite(self.pfer), "distance": _finite(self.spread)} if self.pfer else {}),
        }


@dataclass(frozen=True)
class Evaluation:
    """What is known about a set of results.

    ``tables`` maps "language", "split"... to rows, worst first; ``notes`` say what a reader must know of the figures.
    """

    unit: str
    overall: Row
    tables: dict[str, list[Row]]
    utterances: list[Utterance]
    confusions: list[tuple[Pair, int]]  # unequal pairs, most frequent first
    unknown: dict[str, int]  # characters that panphon's table lacks, so that PFER does not see them
    notes: list[str] = field(default_factory=list)

    @property
    def rate_name(self) -> str:
        """PER, WER or CER."""
        return UNITS[self.unit].rate_name

    def to_json(self) -> str:
        """All tables and confusions, without the utterances."""
        values = {
            "unit": self.unit,
            "rate": self.rate_name,
            "overall": self.overall.plain(),
            "tables": {name: [row.plain() for row in rows] for name, rows in self.tables.items()},
            "confusions": [{"ref": ref, "hyp": hyp, "count": n} for (ref, hyp), n in self.confusions],
            "unknown_to_panphon": self.unknown,
            "notes": self.notes,
        }
        return json.dumps(values, ensure_ascii=False, indent=1) + "\n"

    def to_text(self) -> str:
        """Tables and the commonest confusions for a terminal."""
        from couloir.evaluation.report import text_report

        return text_report(self)

    def to_html(self, title: str = "Evaluation") -> str:
        """One page that needs nothing else: tables, plots, confusions, the worst utterances."""
        from couloir.evaluation.report import html_report

        return html_report(self, title)

    def write(self, folder: str | Path, name: str = "report", title: str = "Evaluation") -> None:
        """Write ``name.txt``, ``name.json`` and ``name.html`` into a folder."""
        texts = {"txt": self.to_text(), "json": self.to_json(), "html": self.to_html(title)}
        for suffix, text in texts.items():
            with atomic_write(Path(folder) / f"{name}.{suffix}", "w") as out:
                out.write(text)


def evaluate(
    results: Iterable[Result], unit: str | Unit = "phone", seed: int = 0, notes: Sequence[str] = ()
) -> Evaluation:
    """Score decoded utterances.

    Args:
        results: decoded utterances. A reference may be empty: its insertions count, and the rate of a group with no
            reference unit at all is infinite (0 when nothing was inserted).
        unit: ``phone`` (PER and PFER), ``word`` (WER) or ``char`` (CER), or such a unit itself.
        seed: of the bootstrap's resampling. notes: lines that the report shows beside the figures.

    Raises `UserError` for another unit.
    """
    results = list(results)
    unit = unit if isinstance(unit, Unit) else unit_named(unit)
    refs, hyps = [unit.split(r.ref) for r in results], [unit.split(r.hyp) for r in results]
    aligned = [align(ref, hyp) for ref, hyp in zip(refs, hyps)]
    features = feature_errors(["".join(ref) for ref in refs], ["".join(hyp) for hyp in hyps]) if unit.is_ipa else None
    distances: Sequence[float | None] = [None] * len(results) if features is None else features.distance.tolist()
    utterances = [Utterance(r, pairs, count(pairs), d) for r, pairs, d in zip(results, aligned, distances)]
    groups = {
        "language": [r.language for r in results],
        "split": [r.split for r in results],
        "split and language": [f"{r.split} / {r.language}" if r.split and r.language else "" for r in results],
    }
    tables = {name: _table(labels, utterances, features, seed) for name, labels in groups.items() if any(labels)}
    if len(tables.get("split", ())) < 2 or len(tables.get("language", ())) < 2:
        tables.pop("split and language", None)
    confusions = Counter(pair for pairs in aligned for pair in pairs if pair[0] != pair[1])
    everything = np.arange(len(results))
    return Evaluation(
        unit=unit.name,
        overall=_row("all", everything, utterances, features, seed),
        tables=tables,
        utterances=utterances,
        confusions=sorted(confusions.items(), key=lambda item: (-item[1], str(item[0]))),
        unknown=_unknown([*refs, *hyps]) if unit.is_ipa else {},
        notes=list(notes),
    )


def bootstrap_interval(errors: np.ndarray, reference: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % interval of sum(errors) / sum(reference) in percent, utterances (N,) being drawn with replacement.

    Source: Bisani and Ney 2004, percentile bootstrap. (nan, nan) without utterances or reference units.
    """
    if not len(errors) or not reference.sum():
        return float("nan"), float("nan")
    draw = np.random.default_rng(seed)
    rates = []
    for _ in range(NUM_RESAMPLES):
        which = draw.integers(0, len(errors), len(errors))
        rates.append(errors[which].sum() / max(reference[which].sum(), 1))
    low, high = np.percentile(rates, [2.5, 97.5])
    return 100 * float(low), 100 * float(high)


def _row(name: str, which: np.ndarray, all_: list[Utterance], features: FeatureErrors | None, seed: int) -> Row:
    chosen = [all_[i] for i in which]
    errors, reference = (np.array([getattr(u.counts, what) for u in chosen]) for what in ("errors", "reference"))
    low, high = bootstrap_interval(errors, reference, seed)
    counts, seconds = total(u.counts for u in chosen), sum(u.result.duration or 0.0 for u in chosen)
    if features is None:
        return Row(name, len(chosen), seconds, counts, low, high)
    group = features.take(which)
    return Row(name, len(chosen), seconds, counts, low, high, group.rates(), group.spread())


def _table(labels: list[str], all_: list[Utterance], features: FeatureErrors | None, seed: int) -> list[Row]:
    """A row for each label that is not empty, highest rate first."""
    where = np.array(labels)
    rows = [_row(name, np.flatnonzero(where == name), all_, features, seed) for name in sorted(set(labels) - {""})]
    return sorted(rows, key=lambda row: -row.counts.rate)


def _unknown(strings: Iterable[Sequence[str]]) -> dict[str, int]:
    """Characters that panphon's table lacks, and how often they stand in strings of phones."""
    unknown: Counter[str] = Counter()
    for phone, times in Counter(phone for string in strings for phone in string).items():
        for character in feature_table().unknown(phone):
            unknown[character] += times
    return dict(unknown.most_common())


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    return {name: round(value, 6) if math.isfinite(value) else None for name, value in values.items()}
