"""An evaluation as text for a terminal and as one self-contained HTML page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from itertools import pairwise
from string import Template

from couloir.evaluation import plots
from couloir.evaluation.alignment import Pair, error_rate
from couloir.evaluation.evaluate import Evaluation, Row, Utterance
from couloir.evaluation.pfer import CONVENTIONS

NOTHING = "∅"  # what stands opposite an insertion or a deletion
NUM_CONFUSIONS = 20
NUM_WORST = 30
NUM_HEAT = 22
NUM_BINS = 10

_KEY = (
    '<p class="key note">Reference above, hypothesis below. <span style="background:var(--sub)">substituted</span>'
    '<span style="background:var(--del)">deleted</span><span style="background:var(--ins)">inserted</span></p>'
)


def _number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else ("inf" if value == math.inf else "-")


def _header(evaluation: Evaluation) -> list[str]:
    names = [f"{evaluation.rate_name} %", "95 % interval", "ins", "del", "sub", "ref", "utts", "hours"]
    return [*names, *(f"PFER {name}" for name in evaluation.overall.pfer)]


def _cells(row: Row) -> list[str]:
    counts = row.counts
    interval = f"{_number(row.low)} - {_number(row.high)}" if math.isfinite(row.low) else "-"
    numbers = (counts.insertions, counts.deletions, counts.substitutions, counts.reference, row.utterances)
    hours = _number(row.seconds / 3600) if row.seconds else "-"
    return [_number(counts.rate), interval, *map(str, numbers), hours, *(_number(v) for v in row.pfer.values())]


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Lines with the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*table)]
    return [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:]))]).rstrip()
        for line in table
    ]


def text_report(evaluation: Evaluation) -> str:
    """Tables (the overall row first), the commonest confusions, and what the PFER columns mean."""
    header = _header(evaluation)
    lines = _aligned([["", *header], ["all", *_cells(evaluation.overall)]])
    for name, rows in evaluation.tables.items():
        lines += ["", *_aligned([[f"per {name}", *header], *([row.name, *_cells(row)] for row in rows)])]
    lines += ["", f"Commonest errors (reference -> hypothesis, {NOTHING} = nothing)"]
    shown = [
        f"{n:6d}  {ref or NOTHING} -> {hyp or NOTHING}" for (ref, hyp), n in evaluation.confusions[:NUM_CONFUSIONS]
    ]
    lines += shown or ["  none"]
    if evaluation.overall.pfer:
        spread = ", ".join(f"{name} {_number(value)}" for name, value in evaluation.overall.spread.items())
        lines += ["", f"Feature edit distance per utterance: {spread or '-'}"]
        lines += [f"PFER {name}: {meaning}" for name, meaning in CONVENTIONS.items()]
    if evaluation.unknown:
        lines += [_unknown_note(evaluation)]
    lines += ["", *(f"Note: {note}" for note in evaluation.notes)] if evaluation.notes else []
    return "\n".join(lines) + "\n"


def _unknown_note(evaluation: Evaluation) -> str:
    listed = ", ".join(f"{c} ({n})" for c, n in list(evaluation.unknown.items())[:20])
    return f"PFER does not see these characters, which panphon's table lacks (times): {listed}"


def html_report(evaluation: Evaluation, title: str = "Evaluation") -> str:
    """One page without outside references. Every text that came with the data is escaped."""
    page = files("couloir.evaluation").joinpath("report.html").read_text(encoding="utf-8")
    sections = [_overview(evaluation)]
    for name, rows in evaluation.tables.items():
        sections.append(
            _section(f"{evaluation.rate_name} per {name}", _bars(evaluation, rows) + _table(evaluation, rows))
        )
    sections.append(_section(f"{evaluation.rate_name} by length of the utterance", _by_length(evaluation)))
    sections.append(_section("Confusions", _confusions(evaluation)))
    sections.append(_section("Worst utterances", _worst(evaluation)))
    return Template(page).substitute(title=escape(title), body="\n".join(sections))


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _overview(evaluation: Evaluation) -> str:
    row = evaluation.overall
    interval = f"95 % interval {_number(row.low)} to {_number(row.high)}" if math.isfinite(row.low) else ""
    cards = [(f"{_number(row.counts.rate)} %", evaluation.rate_name, interval)]
    cards += [
        (_number(value) + ("" if name == "utterance" else " %"), f"PFER, {name}", CONVENTIONS[name])
        for name, value in row.pfer.items()
    ]
    boxes = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(name)}</span><small>{escape(note)}</small></div>'
        for value, name, note in cards
    )
    counts = row.counts
    hours = f", {row.seconds / 3600:.2f} h" if row.seconds else ""
    summary = (
        f"{row.utterances} utterances{hours}; {counts.reference} reference {evaluation.unit}s, of which "
        f"{counts.correct} correct, {counts.substitutions} substituted, {counts.deletions} deleted; "
        f"{counts.insertions} inserted."
    )
    notes = [*evaluation.notes, *([_unknown_note(evaluation)] if evaluation.unknown else [])]
    texts = "".join(f"<p class='note'>{escape(note)}</p>" for note in notes)
    return f'<div class="cards">{boxes}</div><p>{escape(summary)}</p>{texts}'


def _bars(evaluation: Evaluation, rows: list[Row]) -> str:
    marks = [
        (r.name, r.counts.rate, r.low, r.high, f"{r.name}: {_number(r.counts.rate)} % of {r.counts.reference}")
        for r in rows
    ]
    return plots.bars(marks, " %", f"{evaluation.rate_name} of each group with its 95 % interval")


def _html_table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _table(evaluation: Evaluation, rows: list[Row]) -> str:
    return _html_table(["", *_header(evaluation)], ([row.name, *_cells(row)] for row in rows))


def _by_length(evaluation: Evaluation) -> str:
    """Rates over bins of equally many utterances, by duration where it is known for all, else by reference units."""
    timed = all(u.result.duration is not None for u in evaluation.utterances)
    sized = sorted(
        ((u.result.duration or 0.0) if timed else float(u.counts.reference), u.counts.errors, u.counts.reference)
        for u in evaluation.utterances
    )
    number = min(NUM_BINS, len(sized))
    edges = [len(sized) * k // number for k in range(number + 1)] if number else []
    rows = []
    for start, end in pairwise(edges):
        members = sized[start:end]
        rate = error_rate(sum(m[1] for m in members), sum(m[2] for m in members))
        low, high = members[0][0], members[-1][0]
        low_text, high_text = (f"{edge:.1f}" if timed else f"{edge:g}" for edge in (low, high))
        name = low_text if low_text == high_text else f"{low_text}–{high_text}"
        rows.append((name, rate, float(len(members)), f"{name}: {_number(rate)} %"))
    unit = "duration of the utterance, s" if timed else f"{evaluation.unit}s in the reference"
    return plots.columns(rows, unit, f"{evaluation.rate_name} %", f"{evaluation.rate_name} by {unit}")


def _confusions(evaluation: Evaluation) -> str:
    if not evaluation.confusions:
        return "<p>No errors.</p>"
    in_ref = Counter(ref for u in evaluation.utterances for ref, _ in u.pairs)
    lines = [
        (f"{ref or NOTHING} → {hyp or NOTHING}", str(n), f"{100 * n / in_ref[ref]:.1f}" if ref else "")
        for (ref, hyp), n in evaluation.confusions[:NUM_CONFUSIONS]
    ]
    table = _html_table(["commonest", "times", "% of reference"], lines)
    if evaluation.unit == "word":
        return table
    in_hyp = Counter(hyp for u in evaluation.utterances for _, hyp in u.pairs)
    heat = _heat(evaluation.confusions, in_ref, in_hyp)
    note = f"Share of the reference's occurrences; row {NOTHING}: of the hypothesis's. Point at a cell for its counts."
    return f'<div class="pair"><div>{heat}<p class="note">{note}</p></div>{table}</div>'


def _heat(confusions: list[tuple[Pair, int]], in_ref: Counter[str | None], in_hyp: Counter[str | None]) -> str:
    """The units with the most errors against each other."""
    weight: Counter[str] = Counter()
    for (ref, hyp), times in confusions:
        for side in (ref, hyp):
            if side is not None:
                weight[side] += times
    names: list[str | None] = [*sorted(name for name, _ in weight.most_common(NUM_HEAT)), None]
    times_of = dict(confusions)
    values, tips = [], []
    for ref in names:
        found = [(times_of.get((ref, hyp), 0), max(in_hyp[hyp] if ref is None else in_ref[ref], 1)) for hyp in names]
        values.append([n / occurrences for n, occurrences in found])
        tips.append([f"{ref or NOTHING} → {hyp or NOTHING}: {n} of {of}" for hyp, (n, of) in zip(names, found)])
    label = "confusions between the units with most errors"
    return plots.heat_map([name or NOTHING for name in names], values, tips, label)


def _worst(evaluation: Evaluation) -> str:
    worst = sorted(evaluation.utterances, key=lambda u: (-u.counts.rate, -u.counts.errors, u.result.id))
    shown = [u for u in worst if u.counts.errors][:NUM_WORST]
    return _KEY + "".join(_utterance(evaluation, u) for u in shown) if shown else "<p>No errors.</p>"


def _utterance(evaluation: Evaluation, utterance: Utterance) -> str:
    result, counts = utterance.result, utterance.counts
    facts = [f"{evaluation.rate_name} {_number(counts.rate, 1)} %", f"{counts.errors} of {counts.reference}"]
    facts += [text for text in (result.language, result.split) if text]
    facts += [f"{result.duration:.1f} s"] if result.duration is not None else []
    facts += [f"feature distance {utterance.distance:.2f}"] if utterance.distance is not None else []
    cells = "".join(_pair(ref, hyp) for ref, hyp in utterance.pairs)
    head = f"<b>{escape(result.id)}</b> <small>{escape(' · '.join(facts))}</small>"
    return f'<div class="utterance">{head}<div class="aligned">{cells}</div></div>'


def _pair(ref: str | None, hyp: str | None) -> str:
    kind = "ok" if ref == hyp else "ins" if ref is None else "del" if hyp is None else "sub"
    return f'<span class="{kind}"><i>{escape(ref or "·")}</i><i>{escape(hyp or "·")}</i></span>'
