"""Plots of lines and of intervals as inline SVG, for the reports of builds, jobs and comparisons."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple, TypeGuard

WIDTH, HEIGHT = 360, 170
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 30
ROW_HEIGHT, NAME_WIDTH = 20, 190
COLOURS = ("#2456a6", "#b3541e", "#2c7a4b", "#7a3f9d")


class Series(NamedTuple):
    """One line: its name and its points in order."""

    name: str
    points: Sequence[tuple[float, float]]


class Range(NamedTuple):
    """One row of an interval plot."""

    name: str
    value: float
    low: float
    high: float


def draw_ranges(rows: Sequence[Range], *, label: str) -> str:
    """Return an SVG with one horizontal interval per row and a line at 0; those that leave out 0 are filled."""
    span = _span([0.0, *(row.low for row in rows), *(row.high for row in rows)])
    bottom, width = len(rows) * ROW_HEIGHT + 6, NAME_WIDTH + WIDTH
    parts = [f'<path d="M{_across(0.0, span):.1f} 0V{bottom}" stroke="#999" stroke-dasharray="3 3"/>']
    for place, row in enumerate(rows):
        y = place * ROW_HEIGHT + ROW_HEIGHT / 2
        low, value, high = (_across(x, span) for x in (row.low, row.value, row.high))
        fill = COLOURS[0] if row.low > 0 or row.high < 0 else "#fff"
        parts.append(_text(NAME_WIDTH - 8, y + 4, row.name, "end"))
        parts.append(f'<path d="M{low:.1f} {y:.1f}H{high:.1f}" stroke="{COLOURS[0]}" stroke-width="1.8"/>')
        parts.append(
            f'<circle cx="{value:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="{COLOURS[0]}">'
            f"<title>{escape(f'{row.name}: {row.value:+.4f} [{row.low:+.4f}, {row.high:+.4f}]')}</title></circle>"
        )
    parts += [_text(_across(x, span), bottom + 13, f"{x:+.3f}", "middle") for x in (*span, 0.0)]
    parts.append(_text(NAME_WIDTH + (WIDTH - RIGHT) / 2, bottom + 28, label, "middle"))
    return (
        f'<svg viewBox="0 0 {width} {bottom + 34}" width="{width}" height="{bottom + 34}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def draw_lines(series: Sequence[Series], *, label: str) -> str:
    """Return an SVG with one line per series over a common horizontal axis called `label`; all text is escaped."""
    points = [point for each in series for point in each.points]
    x_range = _span([x for x, _ in points])
    y_range = _span([y for _, y in points])
    lines = [_line(each, COLOURS[at % len(COLOURS)], x_range, y_range) for at, each in enumerate(series)]
    names = escape(", ".join(each.name for each in series))
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{names}">'
        f"{_axes(x_range, y_range)}{''.join(lines)}{_caption(label)}</svg>"
    )


def draw_history(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return an SVG by figure of a history; rows are in order, `epoch` or `step` labels them.

    A figure of fewer than two rows has none.
    """
    key = next((name for name in ("epoch", "step") if name in rows[0]), None) if rows else None
    plots = {}
    for name in dict.fromkeys(name for row in rows for name in row if name != key):
        points = [
            (float(row[key]) if key and is_number(row.get(key)) else float(position), float(row[name]))
            for position, row in enumerate(rows)
            if is_number(row.get(name))
        ]
        if len(points) > 1:
            plots[name] = draw_lines([Series(name, points)], label=key or "row")
    return plots


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _line(series: Series, colour: str, x_range: tuple[float, float], y_range: tuple[float, float]) -> str:
    places = " ".join(f"{_place_x(x, x_range):.1f},{_place_y(y, y_range):.1f}" for x, y in series.points)
    return (
        f'<polyline fill="none" stroke="{colour}" stroke-width="1.8" points="{places}">'
        f"<title>{escape(series.name)}</title></polyline>"
    )


def _axes(x_range: tuple[float, float], y_range: tuple[float, float]) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#999"/>']
    for share in (0.0, 0.5, 1.0):
        value = y_range[0] + share * (y_range[1] - y_range[0])
        parts.append(_text(LEFT - 5, _place_y(value, y_range) + 4, _number(value), "end"))
    for value in x_range:
        parts.append(_text(_place_x(value, x_range), bottom + 13, _number(value), "middle"))
    return "".join(parts)


def _caption(label: str) -> str:
    return _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, label, "middle")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="11" fill="#555" text-anchor="{anchor}">{escape(text)}</text>'


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _place_x(value: float, span: tuple[float, float]) -> float:
    return LEFT + (value - span[0]) / (span[1] - span[0]) * (WIDTH - RIGHT - LEFT)


def _place_y(value: float, span: tuple[float, float]) -> float:
    return HEIGHT - BOTTOM - (value - span[0]) / (span[1] - span[0]) * (HEIGHT - BOTTOM - TOP)


def _across(value: float, span: tuple[float, float]) -> float:
    return NAME_WIDTH + 12 + (value - span[0]) / (span[1] - span[0]) * (WIDTH - RIGHT - 24)


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e6 else f"{value:.3g}"
