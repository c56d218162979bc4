"""Line plots as inline SVG."""

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 170
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 30
COLOURS = ("#2456a6", "#b3541e", "#2c7a4b", "#7a3f9d")


class Series(NamedTuple):
    """One line: its name and its points in order."""

    name: str
    points: Sequence[tuple[float, float]]


def draw_lines(series: Sequence[Series], *, label: str) -> Markup:
    """Return an SVG with one line per series over a common horizontal axis called `label`."""
    points = [point for each in series for point in each.points]
    x_range = _span([x for x, _ in points])
    y_range = _span([y for _, y in points])
    lines = [
        Markup('<polyline fill="none" stroke="{}" stroke-width="1.8" points="{}"><title>{}</title></polyline>').format(
            COLOURS[number % len(COLOURS)],
            " ".join(f"{_place_x(x, x_range):.1f},{_place_y(y, y_range):.1f}" for x, y in each.points),
            each.name,
        )
        for number, each in enumerate(series)
    ]
    return Markup('<svg viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">{}{}{}</svg>').format(
        WIDTH,
        HEIGHT,
        WIDTH,
        HEIGHT,
        ", ".join(each.name for each in series),
        _axes(x_range, y_range),
        Markup("").join(lines),
        _caption(label),
    )


def _axes(x_range: tuple[float, float], y_range: tuple[float, float]) -> Markup:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [Markup('<path d="M{} {}V{}H{}" fill="none" stroke="#999"/>').format(LEFT, TOP, bottom, right)]
    for share in (0.0, 0.5, 1.0):
        value = y_range[0] + share * (y_range[1] - y_range[0])
        parts.append(_text(LEFT - 5, _place_y(value, y_range) + 4, _number(value), "end"))
    for value in x_range:
        parts.append(_text(_place_x(value, x_range), bottom + 13, _number(value), "middle"))
    return Markup("").join(parts)


def _caption(label: str) -> Markup:
    return _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, label, "middle")


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" font-size="11" fill="#555" text-anchor="{}">{}</text>').format(
        x, y, anchor, escape(text)
    )


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _place_x(value: float, span: tuple[float, float]) -> float:
    return LEFT + (value - span[0]) / (span[1] - span[0]) * (WIDTH - RIGHT - LEFT)


def _place_y(value: float, span: tuple[float, float]) -> float:
    return HEIGHT - BOTTOM - (value - span[0]) / (span[1] - span[0]) * (HEIGHT - BOTTOM - TOP)


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e6 else f"{value:.3g}"
