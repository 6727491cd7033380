"""What was prepared, in numbers: hours, utterances, phones per second by language and split; and what was dropped."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from couloir.data.corpora.config import is_split, split_order
from couloir.data.corpora.manifest import read_dropped
from couloir.data.corpora.registry import CHOICE_NAME, chosen, unit_of_data
from couloir.errors import UserError
from couloir.text.units import BY_PLURAL, PHONE, Unit
from couloir.texts import iterate_lines


@dataclass
class Amount:
    """How much speech there is of one kind."""

    utterances: int = 0
    seconds: float = 0.0
    units: int = 0
    speakers: set[str] = field(default_factory=set)

    def add(self, seconds: float, units: int, speaker: str) -> None:
        """Count one utterance."""
        self.utterances += 1
        self.seconds += seconds
        self.units += units
        if speaker:
            self.speakers.add(speaker)

    def row(self, unit: Unit) -> dict[str, float | int]:
        """The numbers of a report."""
        return {
            "utterances": self.utterances,
            "hours": round(self.seconds / 3600, 3),
            "speakers": len(self.speakers),
            unit.plural: self.units,
            f"{unit.plural}_per_second": round(self.units / max(self.seconds, 1e-9), 1),
        }


@dataclass
class Statistics:
    """All numbers of the report.

    Attributes:
        amounts: (split, corpus, language) -> how much; durations: split -> seconds of each utterance;
        unit: of the transcripts; rates: units per second of each utterance; units: how often each occurs;
        dropped: corpus or split -> reason -> number; problems: what validation found, empty when all is well;
        warnings: what it found that was asked for.
    """

    amounts: dict[tuple[str, str, str], Amount] = field(default_factory=dict)
    durations: dict[str, list[float]] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    units: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, Counter[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unit: Unit = PHONE

    def by_split(self) -> dict[str, Amount]:
        """Amounts summed over corpora and languages."""
        sums: dict[str, Amount] = {}
        for (split, _, _), amount in self.amounts.items():
            total = sums.setdefault(split, Amount())
            total.utterances += amount.utterances
            total.seconds += amount.seconds
            total.units += amount.units
            total.speakers |= amount.speakers
        return sums

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``statistics.json``."""
        return {
            "splits": {split: amount.row(self.unit) for split, amount in self.by_split().items()},
            "parts": [
                {"split": split, "corpus": corpus, "language": language, **amount.row(self.unit)}
                for (split, corpus, language), amount in sorted(self.amounts.items(), key=_part_order)
            ],
            "dropped": {name: dict(reasons.most_common()) for name, reasons in self.dropped.items()},
            self.unit.plural: dict(self.units.most_common()),
            "problems": self.problems,
            "warnings": self.warnings,
        }


def _part_order(item: tuple[tuple[str, str, str], Amount]) -> tuple[tuple[int, str], str, str]:
    split, corpus, language = item[0]
    return split_order(split), corpus, language


def shar_splits(data_dir: Path) -> list[str]:
    """The splits that have a Shar folder. Raises `UserError` when there is none."""
    found = [path.name for path in (data_dir / "shar").glob("*") if is_split(path.name) and path.is_dir()]
    if not found:
        raise UserError(f"{data_dir / 'shar'} has no split; run stage 3 of prepare.sh (shar) first")
    return sorted(found, key=split_order)


def read_cuts(folder: Path) -> Iterator[dict[str, Any]]:
    """The cuts of a Shar folder as plain dictionaries, without their audio.

    Raises `UserError` when there are none or a file is damaged.
    """
    paths = sorted(folder.glob("cuts.*.jsonl.gz"))
    if not paths:
        raise UserError(f"{folder} has no cuts.*.jsonl.gz; run stage 3 of prepare.sh (shar) first")
    for path in paths:
        try:
            yield from map(json.loads, iterate_lines(path))
        except (UserError, OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path} is damaged ({error}); remove it and run stage 3 of prepare.sh again") from None


def collect(data_dir: Path, problems: Iterable[str] = (), warnings: Iterable[str] = ()) -> Statistics:
    """Count what the Shar folders hold and what the stages dropped."""
    unit = unit_of_data(data_dir)
    statistics = Statistics(problems=list(problems), warnings=list(warnings), unit=unit)
    for split in shar_splits(data_dir):
        lengths = statistics.durations.setdefault(split, [])
        for cut in read_cuts(data_dir / "shar" / split):
            supervision = cut["supervisions"][0]
            units = unit.split(supervision["text"])
            corpus = supervision.get("custom", {}).get("corpus", "")
            part = split, corpus, supervision.get("language", "")
            amount = statistics.amounts.setdefault(part, Amount())
            amount.add(cut["duration"], len(units), supervision.get("speaker", ""))
            lengths.append(cut["duration"])
            statistics.rates.append(len(units) / cut["duration"])
            statistics.units.update(units)
    corpora = [corpus.name for corpus in chosen(data_dir)[0]] if (data_dir / CHOICE_NAME).is_file() else None
    for path in sorted((data_dir / "dropped").glob("*.jsonl")):
        stage, _, name = path.stem.partition("-")
        # Lists of corpora, splits and units that were chosen once lie there too.
        if stage in BY_PLURAL and stage != unit.plural:
            continue
        if name not in statistics.durations if stage == "shar" else corpora is not None and name not in corpora:
            continue
        if reasons := Counter(item.reason for item in read_dropped(path)):
            statistics.dropped.setdefault(name, Counter()).update(reasons)
    return statistics


def as_table(header: list[str], rows: list[list[Any]]) -> str:
    """Rows in aligned columns: words to the left, numbers to the right."""
    cells = [[f"{cell:g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [header, *cells]) for i in range(len(header))]
    left = [all(isinstance(row[i], str) for row in rows) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) if flush else cell.rjust(width) for cell, width, flush in zip(row, widths, left))
        for row in [header, *cells]
    )


def part_rows(statistics: Statistics) -> tuple[list[str], list[list[Any]]]:
    """Header and rows of the table of splits, corpora and languages, sums first."""
    parts = statistics.to_dict()["parts"]
    sums = [
        {"split": split, "corpus": "all", "language": "all", **row}
        for split, row in statistics.to_dict()["splits"].items()
    ]
    header = list((parts or sums)[0])
    return header, [[part[key] for key in header] for part in sums + parts]


def as_text(statistics: Statistics) -> str:
    """The report for a terminal."""
    lines = [as_table(*part_rows(statistics)), "", "dropped:"]
    rows = [[name, why, n] for name, reasons in statistics.dropped.items() for why, n in reasons.most_common()]
    lines.append(as_table(["corpus", "reason", "utterances"], rows) if rows else "nothing")
    lines += ["", f"problems: {len(statistics.problems) or 'none'}", *statistics.problems[:20]]
    if statistics.warnings:
        lines += ["", f"warnings: {len(statistics.warnings)}", *statistics.warnings[:20]]
    return "\n".join(lines) + "\n"
