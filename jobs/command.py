"""The command line that all jobs share."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click
from pyspark.sql import SparkSession

from indexer.cli.options import SafeCommand, log_options
from indexer.config import Config
from indexer.config_file import load_config
from indexer.console import describe_traceback, describe_unexpected, start_logging
from indexer.errors import IndexerError
from indexer.runs import StepCommit, StepFolder, check_run_date
from indexer.text import escape

Run = Callable[..., StepCommit]
"""`run(session, config, run_date, *, force)` of a job."""


def run_job(step: str, run: Run) -> None:
    """Run a job as a command; ends the process with the exit code of its error, if any."""
    make_command(step, run)(prog_name=step)


def make_command(step: str, run: Run) -> click.Command:
    """Return the command of a job."""

    @click.command(name=step, cls=SafeCommand, help=(sys.modules[run.__module__].__doc__ or "").strip())
    @click.option("--config", "config_path", help="TOML configuration of the shop.")
    @click.option("--run-date", required=True, help="Date of the run, YYYY-MM-DD.")
    @click.option("--set", "options", multiple=True, metavar="SECTION.KEY=VALUE", help="One setting; repeatable.")
    @click.option("--force", is_flag=True, help="Build again although nothing has changed.")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
    @log_options
    def command(
        config_path: str | None,
        run_date: str,
        options: tuple[str, ...],
        force: bool,
        as_json: bool,
        log_level: str,
        unsafe_debug: bool,
    ) -> None:
        start_logging(log_level, unsafe=unsafe_debug)
        with exit_codes(step):
            config = load_config(config_path, options=options)
            before = StepFolder(config.shop.work, step, check_run_date(run_date)).newest()
            with job_session(config, step) as session:
                commit = run(session, config, run_date, force=force)
        document = describe_commit(commit, built=before is None or before.attempt != commit.attempt)
        click.echo(json.dumps(document, indent=1) if as_json else format_commit(document))

    return command


def describe_commit(commit: StepCommit, *, built: bool) -> dict[str, Any]:
    """Return what a job prints, JSON-ready; a step whose inputs have not changed is skipped."""
    return {
        "step": commit.step,
        "run_date": commit.run_date,
        "status": "done" if built else "skipped",
        "attempt": commit.attempt,
        "seconds": commit.seconds,
        **commit.counts,
        "rejects": commit.rejects,
    }


def format_commit(document: dict[str, Any]) -> str:
    """Return the document as a short table for people."""
    rows: list[tuple[str, Any]] = []
    for table, counts in document["inputs"].items():
        rows += [(f"{table} {name.replace('_', ' ')}", count) for name, count in counts.items()]
    rows += [(f"rejected {item['table']} {item['reason']}", item["count"]) for item in document["rejects"]]
    rows += [(f"filtered {name.replace('_', ' ')}", count) for name, count in document["filters"].items()]
    figures = document["figures"]
    tables = {name: figure for name, figure in figures.items() if isinstance(figure, list) and figure}
    rows += [(name.replace("_", " "), figure) for name, figure in figures.items() if name not in tables]
    rows += [(f"{table} rows out", count) for table, count in document["tables"].items()]
    width = max((len(name) for name, _ in rows), default=0)
    title = f"{document['step']} {document['run_date']}: {document['status']} ({document['seconds']:.1f} s)"
    lines = [title, *(f"  {name:<{width}}  {show_value(value):>12}" for name, value in rows)]
    for name, records in tables.items():
        lines += ["", name.replace("_", " "), *format_table(records)]
    return "\n".join(map(escape, lines))


def format_table(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return records of equal keys as aligned lines."""
    cells = [list(records[0]), *([show_value(value) for value in record.values()] for record in records)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]


def show_value(value: Any) -> str:
    """Return a value for people: thousands apart, a dash for nothing."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int | float) else str(value)


@contextmanager
def exit_codes(step: str) -> Iterator[None]:
    """End the process with the exit code of an error of ours, after its sentence; of any other show the traceback."""
    try:
        yield
    except IndexerError as error:
        click.echo(f"{step}: {escape(str(error))}", err=True)
        sys.exit(error.exit_code)
    except Exception as error:
        click.echo(describe_traceback(error), err=True)
        click.echo(f"{step}: {describe_unexpected(error)}", err=True)
        sys.exit(IndexerError.exit_code)


@contextmanager
def job_session(config: Config, step: str) -> Iterator[SparkSession]:
    """Give a job its session, which ends with the block."""
    # Imported here, so that --help and a wrong option start no Spark.
    from spark.session import open_session

    session: SparkSession = open_session(config.spark, step)
    try:
        yield session
    finally:
        session.stop()
