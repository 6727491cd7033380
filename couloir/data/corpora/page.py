"""The report as one self-contained HTML page with plots."""

from __future__ import annotations

import base64
import html
import io
import itertools
import warnings
from typing import TYPE_CHECKING, Any

from couloir.data.corpora.config import SPLITS, TRAIN
from couloir.data.corpora.statistics import Statistics, part_rows
from couloir.text.units import WORD

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = dict(zip(SPLITS, ("#4477aa", "#228833", "#ee6677", "#ccbb44", "#aa3377")))
_OTHER_COLOURS = ("#66ccee", "#bbbbbb", "#ee8866", "#44bb99", "#aaaa00", "#77aadd")
_MOST_UNITS = 64
_MOST_LINES = 100
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums }
td, th { padding: .15em .9em; border-bottom: 1px solid #ddd; text-align: right }
td.word, th.word { text-align: left }
img { max-width: 100% }
.problem { color: #b00020 }
"""


def as_html(statistics: Statistics, title: str) -> str:
    """The page: tables of amounts and of what was dropped, four plots, problems."""
    header, rows = part_rows(statistics)
    dropped = [[name, why, n] for name, reasons in statistics.dropped.items() for why, n in reasons.most_common()]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
{_table(header, rows)}
<img alt="histograms of durations and speaking rates, hours by language, {statistics.unit.name} frequencies" \
src="{_plots(statistics)}">
<h2>Dropped</h2>
{_table(["corpus", "reason", "utterances"], dropped) if dropped else "<p>Nothing.</p>"}
<h2>Problems</h2>
{_list(statistics.problems, "problem")}
<h2>Warnings</h2>
{_list(statistics.warnings, "warning")}
</body></html>
"""


def _list(lines: list[str], kind: str) -> str:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines[:_MOST_LINES])
    return f'<ul class="{kind}">{items}</ul>' if items else "<p>None.</p>"


def _table(header: list[str], rows: list[list[Any]]) -> str:
    word = [all(isinstance(row[i], str) for row in rows) for i in range(len(header))]

    def line(cells: list[Any], tag: str) -> str:
        texts = [f"{cell:g}" if isinstance(cell, float) else html.escape(str(cell)) for cell in cells]
        return "".join(f"<{tag}{' class=word' if w else ''}>{t}</{tag}>" for t, w in zip(texts, word))

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f"<table><tr>{line([name.replace('_', ' ') for name in header], 'th')}</tr>{body}</table>"


def _plots(statistics: Statistics) -> str:
    """The plots as a data URI."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with warnings.catch_warnings(), rc_context({"text.parse_math": False}):  # a `$` in a phone or a language is one
        warnings.filterwarnings("ignore", "Glyph .* missing")
        return _drawn(Figure(figsize=(12, 8.6), layout="constrained"), statistics)


def _drawn(figure: Figure, statistics: Statistics) -> str:
    grid = figure.add_gridspec(3, 2)
    _durations(figure.add_subplot(grid[0, 0]), statistics)
    _rates(figure.add_subplot(grid[0, 1]), statistics)
    _hours(figure.add_subplot(grid[1, :]), statistics)
    _units(figure.add_subplot(grid[2, :]), statistics)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _colours(statistics: Statistics) -> dict[str, str]:
    """Split -> its colour; prescribed splits share a few."""
    others = [split for split in statistics.durations if split not in _COLOURS]
    return _COLOURS | dict(zip(others, itertools.cycle(_OTHER_COLOURS)))


def _durations(axes: Axes, statistics: Statistics) -> None:
    splits, colours = list(statistics.durations), _colours(statistics)
    axes.hist(
        list(statistics.durations.values()), bins=40, stacked=True, label=splits, color=[colours[s] for s in splits]
    )
    axes.set(title="duration of utterances", xlabel="s", ylabel="utterances")
    axes.legend(frameon=False, fontsize=8)


def _rates(axes: Axes, statistics: Statistics) -> None:
    axes.hist(statistics.rates, bins=40, color="#66ccee")
    axes.set(title="speaking rate", xlabel=f"{statistics.unit.plural} per second", ylabel="utterances")


def _hours(axes: Axes, statistics: Statistics) -> None:
    languages, colours = sorted({language for _, _, language in statistics.amounts}), _colours(statistics)
    bottom = dict.fromkeys(languages, 0.0)
    for split in statistics.durations:
        hours = dict.fromkeys(languages, 0.0)
        for (of_split, _, language), amount in statistics.amounts.items():
            hours[language] += amount.seconds / 3600 if of_split == split else 0.0
        axes.bar(languages, list(hours.values()), bottom=list(bottom.values()), color=colours[split], label=split)
        bottom = {language: bottom[language] + hours[language] for language in languages}
    axes.set(title="hours by language and split", ylabel="h", xlim=(-0.6, max(len(languages), 8) - 0.4))


def _units(axes: Axes, statistics: Statistics) -> None:
    common = statistics.units.most_common(_MOST_UNITS)
    axes.bar([unit for unit, _ in common], [count for _, count in common], color=_COLOURS[TRAIN])
    rest = len(statistics.units) - len(common)
    more = f" (the {_MOST_UNITS} most frequent; {rest} more)" if rest else ""
    axes.set(title=statistics.unit.plural + more, ylabel="tokens")
    axes.set_yscale("log")
    axes.margins(x=0.01)
    axes.tick_params(axis="x", labelsize=9, rotation=90 if statistics.unit is WORD else 0)
