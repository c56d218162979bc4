"""The report of a release: one self-contained HTML page without scripts."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from indexer.html_page import render_page
from indexer.line_plot import Series, draw_history, draw_lines, is_number

PLOTTED = {
    "deciles": ("npmi_above", ("agreement", "agreement_apart", "agreement_above")),
    "curve": ("ef_search", ("recall_10", "recall_100")),
}
"""List of objects -> its column for the horizontal axis, and those drawn as lines of one plot."""


def render_report(story: Mapping[str, Any]) -> str:
    """Return the page; every part of the story is optional, and all text is escaped.

    `refused` says why the release did not go live. `steps`: list of {step, seconds, counts, rejects}. In `counts`,
    plain values form one table, a list of objects is a table of its own, and a list named `history`, ending in
    `_history` or named in PLOTTED is drawn as lines as well.
    """
    return render_page(
        "indexer.build",
        "report.html",
        title=f"Release {story.get('run_id', 'release')}",
        refused=story.get("refused", ""),
        facts={
            name: story[name]
            for name in ("run_id", "run_date", "created_at", "url", "writers", "shop")
            if name in story
        },
        gates=list(story.get("gates", ())),
        collections=list(story.get("collections", ())),
        **{name: list(story.get(name, ())) for name in ("funnel", "drift", "golden", "sizes", "stages")},
        search=[{**item, "plots": _plot_search(item["curve"])} for item in story.get("search", ())],
        steps=[_read_step(step) for step in story.get("steps", ())],
        encoder=story.get("encoder", {}),
        versions=story.get("versions", {}),
        config=json.dumps(story.get("config", {}), indent=1, sort_keys=True, ensure_ascii=False),
        show=show_value,
        columns=read_columns,
        is_table=is_table,
    )


def show_value(value: Any) -> str:
    """Return a value for people: thousands separated, four digits after the point."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4f}" if abs(value) < 1000 else f"{value:,.1f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {show_value(item)}" for key, item in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(show_value(item) for item in value) or "-"
    return str(value)


def is_table(value: Any) -> bool:
    """Whether a value is a list of objects."""
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)


def read_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of all columns in the order they first appear."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _read_step(step: Mapping[str, Any]) -> dict[str, Any]:
    flat = dict(_flatten(step.get("counts", {})))
    tables = {name: value for name, value in flat.items() if is_table(value)}
    return {
        "name": step.get("step", ""),
        "seconds": step.get("seconds", 0.0),
        "figures": {name: value for name, value in flat.items() if name not in tables},
        "tables": tables,
        "plots": {name: _plot_table(name.split(" ")[-1], rows) for name, rows in tables.items()},
        "rejects": list(step.get("rejects", ())),
    }


def _flatten(counts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return nested counts as (path, value), the parts of a path joined by a space."""
    found: list[tuple[str, Any]] = []
    for name, value in counts.items():
        path = f"{prefix} {name}".strip()
        found += _flatten(value, path) if isinstance(value, Mapping) else [(path, value)]
    return found


def _plot_table(name: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if "history" in name:
        return [{"name": figure, "svg": Markup(svg)} for figure, svg in draw_history(rows).items()]
    if name not in PLOTTED:
        return []
    axis, columns = PLOTTED[name]
    points = {
        column: [(float(row[axis]), float(row[column])) for row in rows if is_number(row.get(column))]
        for column in columns
    }
    series = [Series(column, found) for column, found in points.items() if len(found) > 1]
    return [_plot(", ".join(columns), series, axis)] if series else []


def _plot_search(curve: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Draw recall and the time of a search over efSearch."""
    if len(curve) < 2:
        return []
    times = Series("ms", [(float(row["ef_search"]), float(row["ms"])) for row in curve])
    return [*_plot_table("curve", curve), _plot("ms a search", [times], "ef_search")]


def _plot(name: str, series: Sequence[Series], label: str) -> dict[str, Any]:
    return {"name": name, "svg": Markup(draw_lines(series, label=label))}
