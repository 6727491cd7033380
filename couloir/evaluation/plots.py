"""Plots of an evaluation as inline SVG: sharp at any size, a tooltip on every mark, nothing to load."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

INK, MUTED, GRID, BAR, ACCENT = "#1f2933", "#66727f", "#e3e8ee", "#3f7cac", "#c8553d"


def _svg(width: float, height: float, parts: Sequence[str], label: str) -> str:
    head = f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img" aria-label="{escape(label)}">'
    return head + "".join(parts) + "</svg>"


def _text(x: float, y: float, text: str, anchor: str = "start", color: str = INK, size: float = 12) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="{color}" font-size="{size:g}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, color: str, width: float = 1) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{color}" stroke-width="{width:g}" fill="none"/>'


def _rect(x: float, y: float, width: float, height: float, color: str, title: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}"'
    return f'<rect {place} rx="2" fill="{color}"><title>{escape(title)}</title></rect>'


def ticks(top: float, about: int = 5) -> list[float]:
    """Round values 0, step, 2 step... up to the first one at or above ``top``."""
    if not math.isfinite(top) or top <= 0:
        return [0.0, 1.0]
    raw = top / about
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw * 0.999)
    return [step * k for k in range(math.ceil(top / step - 1e-9) + 1)]


def bars(rows: Sequence[tuple[str, float, float, float, str]], unit: str, label: str) -> str:
    """Horizontal bars, in the order given, with an interval each.

    Args:
        rows: (name, value, low, high, tooltip); a value that is not finite has its name but no bar.
        unit: what stands after a value; label: what the plot shows, for screen readers.
    """
    left, right, top, step, width = 210.0, 70.0, 8.0, 24.0, 900.0
    finite = [v for _, value, _, high, _ in rows for v in (value, high) if math.isfinite(v)]
    scale = ticks(max(finite, default=1.0))
    x: Callable[[float], float] = lambda v: left + (width - left - right) * v / scale[-1]  # noqa: E731
    bottom = top + step * len(rows)
    parts = [
        _line(x(v), top, x(v), bottom, GRID) + _text(x(v), bottom + 16, f"{v:g}", "middle", MUTED, 11) for v in scale
    ]
    for index, (name, value, low, high, tip) in enumerate(rows):
        y = top + step * index
        parts.append(_text(left - 8, y + step * 0.68, _short(name), "end"))
        if not math.isfinite(value):
            parts.append(_text(left + 6, y + step * 0.68, "no reference", color=MUTED))
            continue
        parts.append(_rect(left, y + 4, x(value) - left, step - 8, BAR, tip))
        end = value
        if math.isfinite(low) and math.isfinite(high):
            end = max(value, high)
            parts.append(_line(x(low), y + step / 2, x(high), y + step / 2, INK, 1.4))
            parts += [_line(x(v), y + step / 2 - 4, x(v), y + step / 2 + 4, INK, 1.4) for v in (low, high)]
        parts.append(_text(x(end) + 7, y + step * 0.68, f"{value:.1f}{unit}"))
    return _svg(width, bottom + 24, parts, label)


def _short(name: str, size: int = 28) -> str:
    return name if len(name) <= size else name[: size - 1] + "…"


def columns(rows: Sequence[tuple[str, float, float, str]], x_label: str, y_label: str, label: str) -> str:
    """Columns over bins: a value each, and how many utterances a bin has, written below it.

    Args:
        rows: (name of the bin, value, number in it, tooltip).
    """
    left, top, height, step = 56.0, 26.0, 200.0, 62.0
    width = max(left + step * len(rows) + 16, 260.0)
    scale = ticks(max((value for _, value, _, _ in rows if math.isfinite(value)), default=1.0))
    y: Callable[[float], float] = lambda v: top + height * (1 - v / scale[-1])  # noqa: E731
    parts = [
        _line(left, y(v), width, y(v), GRID) + _text(left - 8, y(v) + 4, f"{v:g}", "end", MUTED, 11) for v in scale
    ]
    parts.append(_text(4, 14, y_label, color=MUTED, size=11))
    for index, (name, value, number, tip) in enumerate(rows):
        middle = left + step * (index + 0.5)
        if math.isfinite(value):
            parts.append(_rect(middle - 20, y(value), 40, top + height - y(value), BAR, tip))
            parts.append(_text(middle, y(value) - 5, f"{value:.1f}", "middle", size=11))
        parts.append(_text(middle, top + height + 17, name, "middle", size=11))
        parts.append(_text(middle, top + height + 32, f"n={number:g}", "middle", MUTED, 10))
    parts.append(_text(left + step * len(rows) / 2, top + height + 52, x_label, "middle", MUTED, 11))
    return _svg(width, top + height + 60, parts, label)


def heat_map(names: Sequence[str], values: Sequence[Sequence[float]], tips: Sequence[Sequence[str]], label: str) -> str:
    """A square of cells, rows = reference, columns = hypothesis; the greatest value has the deepest colour."""
    left, top, cell = 74.0, 56.0, 25.0
    size = cell * len(names)
    turned = f"translate(14 {top + size / 2:.1f}) rotate(-90)"
    parts = [_text(left + size / 2, 14, "recognised as", "middle", MUTED, 11)]
    parts.append(f'<g transform="{turned}">{_text(0, 0, "reference", "middle", MUTED, 11)}</g>')
    deepest = max((value for row in values for value in row), default=0) or 1.0
    for index, name in enumerate(names):
        middle = (index + 0.5) * cell
        parts.append(_text(left - 8, top + middle + 5, name, "end", size=14))
        parts.append(_text(left + middle, top - 8, name, "middle", size=14))
        for column, value in enumerate(values[index]):
            color = "#f4f6f8" if not value else _shade(value / deepest)
            place = (left + column * cell + 1, top + index * cell + 1)
            parts.append(_rect(*place, cell - 2, cell - 2, color, tips[index][column]))
    return _svg(left + size + 8, top + size + 8, parts, label)


def _shade(value: float) -> str:
    """From almost white to the accent colour; the root lifts the small values."""
    share = 0.12 + 0.88 * math.sqrt(min(max(value, 0.0), 1.0))
    accent = [int(ACCENT[k : k + 2], 16) for k in (1, 3, 5)]
    return "#" + "".join(f"{round(255 + (c - 255) * share):02x}" for c in accent)
