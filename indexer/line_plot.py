"""Line plots as inline SVG, for the reports of builds and of jobs."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 360, 170
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 30
COLOURS = ("#2456a6", "#b3541e", "#2c7a4b", "#7a3f9d")


class Series(NamedTuple):
    """One line: its name and its points in order."""

    name: str
    points: Sequence[tuple[float, float]]


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


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e6 else f"{value:.3g}"
