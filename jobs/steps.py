"""What every job does around its own work: fingerprint, fresh attempt, reject table, commit."""

import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from pyspark.sql import DataFrame, SparkSession

from indexer import __version__
from indexer.claims import claim_folder, remove_abandoned
from indexer.config import Config, as_document
from indexer.contracts.days import Days
from indexer.contracts.schemas import Table
from indexer.errors import IntegrityError, PublishConflictError
from indexer.runs import StepCommit, StepFolder, fingerprint, newest_before, now_text
from indexer.text import escape
from jobs.gates import judge_step
from spark.inputs import Location, locate_input
from spark.pairs import count_filters
from spark.session import spark_failures
from spark.tables import check_rejects, count_rows, reject_row, write_rejects, write_table


@dataclass
class Account:
    """What a step counted; it ends in the step's commit."""

    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    filters: dict[str, int] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, int] = field(default_factory=dict)
    rejects: list[dict[str, Any]] = field(default_factory=list)

    def add_rows(self, table: Table, counts: dict[str, Any], rejects: list[dict[str, Any]]) -> None:
        """Enter a table that was read, and warn of columns that were not."""
        self.inputs[table.name] = counts
        if "unknown_columns" in counts:
            announce(f"{table.name}: columns that are not read: {counts['unknown_columns']}")
        self.rejects += rejects

    def reject(self, table: Table, reason: str, count: int, *, key: str | None, sample: str | None) -> None:
        """Enter rows that passed their own checks and do not fit to another table."""
        self.rejects.append(reject_row(table, reason, count, key=key, sample=sample))
        if table.name in self.inputs:
            before = self.inputs[table.name]
            valid, rejected = before["valid"] - count, before["rejected"] + count
            self.inputs[table.name] = {**before, "valid": valid, "rejected": rejected}

    def check(self, table: Table, location: Location, limit: float, *, rows: int | None = None) -> None:
        """Raise ContractError where too large a share of the table's rows was rejected.

        `location` is the input that has them; `rows` counts them where they are no input's own rows.
        """
        rejects = [reject for reject in self.rejects if reject["table"] == table.name]
        counts = count_rows(self.inputs[table.name]["rows_in"] if rows is None else rows, rejects)
        check_rejects(counts, rejects, shown=location.shown, limit=limit, section=location.section)

    def write(self, frame: DataFrame, folder: Path, table: Table) -> int:
        """Write a table and enter its rows."""
        self.tables[table.name] = write_table(frame, folder, table)
        return self.tables[table.name]

    def write_kept(self, judged: DataFrame, folder: Path, table: Table, *, rows: int) -> None:
        """Write the rows without a `reason` and enter every filter; raises IntegrityError unless all `rows` appear."""
        with held(judged):
            counted = {row["reason"]: row["count"] for row in count_filters(judged).collect()}
            counted.pop(None, None)
            kept = self.write(judged.where("reason IS NULL"), folder, table)
        self.filters |= dict(sorted(counted.items()))
        self.balance(table.name, rows, [*counted.values(), kept])

    def balance(self, name: str, rows: int, parts: Iterable[int]) -> None:
        """Raise IntegrityError unless the parts add up to the rows."""
        found = sum(parts)
        if found != rows:
            raise IntegrityError(
                f"{name}: {rows} rows must be accounted for, found {found}; on a cluster see that shop.work is one "
                "folder for all machines, else please report this"
            )


def run_step(
    session: SparkSession,
    config: Config,
    run_date: str,
    *,
    step: str,
    sections: Iterable[str],
    inputs: Mapping[str, Location] | None = None,
    upstream: Iterable[Table] = (),
    force: bool,
    build: Callable[[Path], Account],
) -> StepCommit:
    """Build a step's tables in a fresh attempt and commit them; equal inputs and settings are left as they are.

    `sections` are the parts of the configuration that the result depends on. An attempt that fails leaves no files.
    Raises GateError where the result is not fit to be used, PublishConflictError where another process was first.
    """
    folder = StepFolder(config.shop.work, step, run_date)
    folder.remove_abandoned()
    number = folder.next_number()
    tables = list(upstream)
    before = _fingerprint_tables(config, run_date, tables)
    identities = {name: location.identity for name, location in (inputs or {}).items()}
    settings = {name: _settings(config, name) for name in sections}
    print_of_step = fingerprint(step, identities, before, settings, __version__)
    done = folder.finished(print_of_step)
    if done and not force:
        return done
    started = time.monotonic()
    with folder.open_attempt() as attempt:
        with spark_failures(step):
            account = build(attempt.folder)
        write_rejects(session, account.rejects, attempt.folder)
        counts = {
            "inputs": account.inputs,
            "filters": account.filters,
            "figures": account.figures,
            "tables": account.tables,
        }
        if _fingerprint_tables(config, run_date, tables) != before:
            # Each table was read by its newest commit: some may be of the one before, some of the one after.
            raise PublishConflictError(
                f"{step}: a step before it was committed anew while it ran, one of those that write "
                f"{', '.join(table.name for table in tables)}; run it again"
            )
        judge_step(step, counts, newest_before(config.shop.work, step, run_date), config.gates)
        commit = StepCommit(
            step=step,
            run_date=run_date,
            attempt=attempt.name,
            fingerprint=print_of_step,
            counts=counts,
            rejects=account.rejects,
            seconds=round(time.monotonic() - started, 3),
            created_at=now_text(),
        )
        folder.commit(commit, number)
    return commit


def _fingerprint_tables(config: Config, run_date: str, tables: Iterable[Table]) -> list[str]:
    return [
        StepFolder(config.shop.work, table.written_by, run_date).require(table.name).fingerprint for table in tables
    ]


def announce(text: str) -> None:
    """Tell people what is about to happen; says nothing where one JSON document is all that may be printed."""
    context = click.get_current_context(silent=True)
    if context is None or not context.params.get("as_json"):
        click.echo(escape(text), err=True)


@contextmanager
def held(frame: DataFrame) -> Iterator[DataFrame]:
    """Keep a frame that is used twice, in memory or on disk, for the time of the block."""
    frame.persist()
    try:
        yield frame
    finally:
        frame.unpersist()


def first_row(frame: DataFrame) -> dict[str, Any]:
    """Return the only row of an aggregate by column name."""
    return frame.collect()[0].asDict(recursive=True)


@contextmanager
def located(
    session: SparkSession, config: Config, step: str, *sections: str, days: Mapping[str, Days] | None = None
) -> Iterator[dict[str, Location]]:
    """Find the inputs of these sections; what was downloaded for them goes at the end of the block.

    `days` names the sections whose files are daily, with the days to read.
    """
    staging, spans = Path(config.shop.work) / "staging", days or {}
    remove_abandoned(staging, f"{step}-*", frozenset)
    with claim_folder(staging / f"{step}-{uuid.uuid4().hex}") as folder:
        try:
            yield {
                name: locate_input(session, getattr(config, name), section=name, staging=folder, days=spans.get(name))
                for name in sections
            }
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _settings(config: Config, section: str) -> dict[str, Any]:
    """Return a section without its paths: what lies there is known by its bytes."""
    document: dict[str, Any] = as_document(getattr(config, section))
    return {key: value for key, value in document.items() if key not in ("path", "encoder")}
