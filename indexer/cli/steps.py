"""The nightly run as a table of steps, in order; a finished step with unchanged inputs is skipped."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from indexer.build.night import SPARK_STEPS, collect_story, find_encoder, find_training, summarise_step
from indexer.cli.options import find_exit_code
from indexer.config import Config
from indexer.contracts.files import local_files
from indexer.creation import prove_creates
from indexer.distill_config import SCORES
from indexer.errors import ConfigError, OutcomeUnknownError, StoreError
from indexer.redaction import redact
from indexer.releases.history import read_own
from indexer.runs import StepCommit, StepFolder, check_run_date, now_text
from indexer.signature import open_shop_key
from indexer.store import open_store


@dataclass
class NightlySummary:
    """How a night went; also what `run.json` holds."""

    shop: str
    run_date: str
    status: str = "running"
    exit_code: int = 0
    reason: str = ""
    seconds: float = 0.0
    steps: list[dict[str, Any]] = field(default_factory=list)
    release: dict[str, Any] = field(default_factory=dict)


Listener = Callable[[StepCommit, str], None]
"""Called after each step with its commit and `done`, `skipped` or `kept` (an earlier night's training)."""


def run_nightly(
    config: Config, run_date: str, *, force: bool = False, progress: bool = True, on_step: Listener | None = None
) -> NightlySummary:
    """Run every step of the night; raises what a step raises, after writing `run.json`."""
    summary = NightlySummary(config.shop.name, check_run_date(run_date))
    started = time.monotonic()
    _write_run(config, summary)
    try:
        _check_start(config, run_date)
        for commit, status in _run_steps(config, run_date, force=force, progress=progress):
            summary.steps.append(summarise_step(commit) | {"status": status})
            if on_step:
                on_step(commit, status)
        summary.release = _publish(config, run_date, progress=progress)
        summary.status = "done"
    except BaseException as error:
        summary.status = "unknown" if isinstance(error, OutcomeUnknownError) else "failed"
        summary.exit_code = find_exit_code(error)
        summary.reason = redact(str(error)) or type(error).__name__
        raise
    finally:
        summary.seconds = round(time.monotonic() - started, 1)
        # A full disk must not hide the error that ended the night.
        with suppress(StoreError) if summary.exit_code else nullcontext():
            _write_run(config, summary)
    return summary


def _check_start(config: Config, run_date: str) -> None:
    """Raise what would fail hours later: an input that is not there, a student or a release that cannot be, a key."""
    if (os.environ.get("WORLD_SIZE") or "1") != "1":
        raise ConfigError("nightly: expected one process, found several; launch them for `indexer distill` alone")
    config.distill.check_exportable()
    optional = ("purchases", "queries", "taxonomy", "crosswalk", "query_classes", "blocked_words")
    for section in ("catalogue", "labels", *optional):
        source = getattr(config, section)
        if (source.path or section not in optional) and not source.path.startswith("s3://"):
            with local_files(source.path, section=section, success_file=source.success_file):
                pass
    for name in config.distill.teachers:
        if name.startswith(SCORES) and not name.startswith(f"{SCORES}s3://"):
            with local_files(name.removeprefix(SCORES), section="distill.teachers"):
                pass
    store = open_store(config.shop.release, single_writer=config.shop.single_writer)
    live = read_own(store, open_shop_key(config.shop)).live
    prove_creates(store, live.run_id if live else f"{run_date}-start")


def _run_steps(config: Config, run_date: str, *, force: bool, progress: bool) -> Iterator[tuple[StepCommit, str]]:
    yield from _run_spark_steps(config, run_date, force=force)
    before = find_training(config, run_date)
    if before and before.run_date != run_date and not force:
        yield before, "kept"
        return
    from indexer.distill.step import run_distill

    commit = run_distill(config, run_date, force=force, progress=progress)
    yield commit, _status(before, commit)


def _run_spark_steps(config: Config, run_date: str, *, force: bool) -> Iterator[tuple[StepCommit, str]]:
    """Run the Spark jobs in one session, which ends before training needs the memory.

    A shop without purchases has no query pairs and no curated queries: it trains on labels and indexes products.
    """
    if not config.purchases.path:
        return
    from spark.session import open_session

    session = open_session(config.spark, "nightly")
    try:
        for name in SPARK_STEPS:
            before = StepFolder(config.shop.work, name, run_date).newest()
            commit = import_module(f"jobs.{name}").run(session, config, run_date, force=force)
            yield commit, _status(before, commit)
    finally:
        session.stop()


def _status(before: StepCommit | None, after: StepCommit) -> str:
    return "skipped" if before and before.attempt == after.attempt else "done"


def _publish(config: Config, run_date: str, *, progress: bool) -> dict[str, Any]:
    from indexer.build.release import build_release

    released = build_release(
        config,
        run_date,
        encoder_directory=find_encoder(config, run_date),
        story=collect_story(config, run_date),
        progress=progress,
    )
    return released.as_dict()


def _write_run(config: Config, summary: NightlySummary) -> None:
    """Write `<work>/nightly/run_date=D/run.json`, whole or not at all; raises StoreError where it cannot."""
    folder = Path(config.shop.work) / "nightly" / f"run_date={summary.run_date}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / ".run.json"
        draft.write_text(json.dumps({**summary.__dict__, "written_at": now_text()}, indent=1) + "\n")
        draft.replace(folder / "run.json")
    except OSError as error:
        raise StoreError(f"work folder {folder}: cannot be written: {error.strerror}; correct shop.work") from None
