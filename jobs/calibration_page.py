"""The calibration of tau as one HTML page that runs nothing and loads nothing."""

from collections.abc import Mapping, Sequence
from html import escape as escape_html
from typing import Any

from indexer.console import clean
from indexer.line_plot import COLOURS, Series, draw_lines
from jobs.command import show_value

LINES = {
    "agreement": "agreement of the decile",
    "agreement_apart": "the same without the products they share",
    "agreement_above": "agreement of all pairs above",
    "target": "target",
}
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>NPMI calibration {title}</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; margin: .4rem 0 1.5rem; }}
th, td {{ padding: .2rem .9rem .2rem 0; text-align: left; border-bottom: 1px solid #eee; }}
</style>
</head>
<body>
<h1>NPMI calibration {title}</h1>
<p>{verdict}</p>
<p>{chance}</p>
<figure>{plot}<figcaption>{legend}</figcaption></figure>
<h2>Deciles</h2>
{deciles}
<h2>Sampled pairs</h2>
{samples}
</body>
</html>
"""


def render_page(figures: Mapping[str, Any], *, run_date: str, shop: str) -> str:
    """Return the page of a calibration's figures; all text is escaped."""
    return PAGE.format(
        title=escape(f"{shop} {run_date}"),
        verdict=escape(figures["verdict"]),
        chance=escape(f"Pairs of queries put together by chance agree in {show_value(figures['chance_agreement'])}."),
        plot=_plot(figures["deciles"], figures["target_agreement"]),
        legend=", ".join(
            f'<span style="color: {colour}">{escape(name)}</span>'
            for name, colour in zip(LINES.values(), COLOURS, strict=False)
        ),
        deciles=_table(figures["deciles"]),
        samples=_table(figures["samples"]),
    )


def escape(text: str) -> str:
    """Return text for the page: no markup, no secrets, no control characters."""
    return escape_html(clean(text))


def _plot(deciles: Sequence[Mapping[str, Any]], target: float) -> str:
    """Draw agreement over `npmi_above`, the tau that would keep the decile and those above it."""
    points = {
        LINES[name]: [(row["npmi_above"], row[name]) for row in deciles if row[name] is not None]
        for name in ("agreement", "agreement_apart", "agreement_above")
    }
    points[LINES["target"]] = [(row["npmi_above"], target) for row in deciles]
    return draw_lines([Series(name, line) for name, line in points.items()], label="tau")


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in rows[0])
    lines = ["".join(f"<td>{escape(show_value(value))}</td>" for value in row.values()) for row in rows]
    return f"<table><tr>{head}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
