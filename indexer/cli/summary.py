"""What a step did, as a few lines for people."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from indexer.cli.steps import NightlySummary
from indexer.runs import StepCommit
from indexer.text import escape

LINE_CHARACTERS = 110


def print_step(commit: StepCommit, *, status: str = "done") -> None:
    """Print a step's figures and its rejects."""
    click.echo(f"{commit.step}  {commit.run_date}  {status}  {commit.seconds:.1f} s")
    print_figures(commit.counts, commit.rejects)


def print_figures(counts: Mapping[str, Any], rejects: Sequence[Mapping[str, Any]]) -> None:
    """Print figures by group, then the rejects with an example of each reason."""
    for line in _figure_lines(counts):
        click.echo(escape(f"  {line}"))
    for reject in rejects:
        example = f", such as {reject['key'] or reject['sample']!r}" if reject["key"] or reject["sample"] else ""
        click.echo(escape(f"  rejected from {reject['table']}: {reject['count']} {reject['reason']}{example}"))


def print_release(release: Mapping[str, Any]) -> None:
    """Print what a build published, and where its report lies."""
    click.echo(f"release  {release['run_id']}  {release['status']}  log entry {release['sequence']}")
    print_table(release["collections"])
    for line in _figure_lines(release["remarks"]):
        click.echo(escape(f"  {line}"))
    for reject in release["rejects"]:
        click.echo(escape(f"  rejected from {reject['table']}: {reject['count']} {reject['reason']}"))
    click.echo(f"  size    {release['bytes'] / 2**20:.1f} MiB at {escape(release['url'])}")
    click.echo(f"  report  {release['report'] or '-'}")


def print_plan(release: Mapping[str, Any]) -> None:
    """Print what a build would do."""
    click.echo(
        f"plan  {release['run_id']}  for {escape(release['url'])}, log entry {release['sequence']} is the newest"
    )
    print_table(release["plan"]["collections"])
    click.echo(f"  expected peak memory {release['plan']['peak_bytes'] / 2**20:,.0f} MiB; nothing was built")


def print_night(summary: NightlySummary) -> None:
    """Print the night's evaluation, release and total time."""
    for step in summary.steps:
        if step["counts"].get("evaluation"):
            click.echo("models on held-out queries")
            print_table(step["counts"]["evaluation"])
    print_release(summary.release)
    click.echo(f"{escape(summary.shop)}  {summary.run_date}  {summary.status}  {summary.seconds:.1f} s in all")


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print rows of equal keys as an aligned table."""
    if not rows:
        return
    header = list(rows[0])
    cells = [header, *([escape(format_value(row.get(name))) for name in header] for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(header))]
    for row in cells:
        click.echo("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def format_value(value: Any) -> str:
    """Format a figure for people: thousands apart, four digits of a fraction."""
    if value is None or value == {}:
        return "-"
    if isinstance(value, Mapping):
        return _join(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _figure_lines(counts: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Yield one line per group of plain figures; tables and histories belong to the report."""
    plain = {name: value for name, value in counts.items() if not isinstance(value, Mapping | list)}
    if plain:
        yield f"{path}: {_join(plain)}" if path else _join(plain)
    for name, value in counts.items():
        if isinstance(value, Mapping):
            yield from _figure_lines(value, f"{path} {name}".strip())


def _join(figures: Mapping[str, Any]) -> str:
    text = ", ".join(f"{name} {format_value(value)}" for name, value in figures.items())
    return escape(text if len(text) <= LINE_CHARACTERS * 3 else text[: LINE_CHARACTERS * 3] + " ...")
