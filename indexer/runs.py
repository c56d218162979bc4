"""What a finished step of a run left behind: a numbered, create-only commit per step and date.

A step writes its tables below `<work>/<step>/run_date=D/attempt=A/` and then creates
`<work>/<step>/run_date=D/commits/<20-digit n>.json`. Readers go through the newest commit, never through
a folder listing. The same inputs and configuration give the same fingerprint, and a step that finds its
fingerprint in the newest commit has nothing to do.

Two processes may work on one step and date: each commit has the number after the newest one that stood when its
process began, so the second to finish is told of the conflict. What a killed process left is removed by a later run.
"""

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from indexer.claims import claim_folder, remove_abandoned, tell_refusals
from indexer.errors import ConfigError, ContractError, ManifestError, ObjectExistsError, PublishConflictError
from indexer.store import LocalStore

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class StepCommit:
    """One finished attempt of a step."""

    step: str
    run_date: str
    attempt: str
    fingerprint: str
    counts: dict[str, Any] = field(default_factory=dict)
    """Everything worth printing: rows in and out, filters, figures."""
    rejects: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the REJECTS table."""
    seconds: float = 0.0
    created_at: str = ""
    format: int = FORMAT


@dataclass(frozen=True)
class Attempt:
    """An unfinished attempt of a step."""

    name: str
    folder: Path
    """Where its tables go; it need not exist yet."""


class StepFolder:
    """The attempts and commits of one step on one date."""

    def __init__(self, work: str | Path, step: str, run_date: str) -> None:
        self.step = step
        self.run_date = check_run_date(run_date)
        self.folder = Path(work) / step / f"run_date={run_date}"
        self._store = LocalStore(self.folder)

    def new_attempt(self) -> str:
        """Return a fresh attempt name; its folder is the caller's alone."""
        return uuid.uuid4().hex[:12]

    def attempt_folder(self, attempt: str) -> Path:
        """Return the folder of one attempt; it need not exist."""
        return self.folder / f"attempt={attempt}"

    @contextmanager
    def open_attempt(self) -> Iterator[Attempt]:
        """Work on a fresh attempt; one that fails before its commit leaves no files.

        Raises StoreError where the folder or its disk refuses.
        """
        name = self.new_attempt()
        with tell_refusals(self.folder), claim_folder(self.attempt_folder(name)) as folder:
            try:
                yield Attempt(name, folder)
            except BaseException:
                if folder.name not in self._committed():
                    shutil.rmtree(folder, ignore_errors=True)
                raise

    def remove_abandoned(self) -> list[str]:
        """Remove the attempts of killed processes and return their folders' names; see `indexer.claims`."""
        return remove_abandoned(self.folder, "attempt=*", self._committed)

    def newest(self) -> StepCommit | None:
        """Return the newest commit, or None where the step has not finished on this date."""
        keys = self._keys()
        return self._read(keys[-1]) if keys else None

    def finished(self, fingerprint: str) -> StepCommit | None:
        """Return the newest commit if it has this fingerprint: then there is nothing to do."""
        commit = self.newest()
        return commit if commit and commit.fingerprint == fingerprint else None

    def next_number(self) -> int:
        """Return what the next commit is numbered; a step asks before it looks at its inputs."""
        return len(self._keys()) + 1

    def commit(self, commit: StepCommit, number: int) -> None:
        """Create the commit of this number; raises PublishConflictError where the number is taken."""
        key = f"commits/{number:020d}.json"
        document = json.dumps(asdict(commit), indent=1, allow_nan=False)
        try:
            self._store.put_new(key, document.encode())
        except ObjectExistsError:
            winner = self._read(key)
            raise PublishConflictError(
                f"{self.step} {self.run_date}: attempt {winner.attempt} finished while this one worked; its tables "
                "stand and this attempt's are removed; run again to see whether anything is left to do"
            ) from None

    def require(self, table: str) -> StepCommit:
        """Return the commit that holds a table; raises ContractError where the step has not finished."""
        commit = self.newest()
        if commit is None:
            raise ContractError(
                f"table {table} of {self.run_date}: not there; run the step {self.step} for this date first"
            )
        return commit

    def table_folder(self, table: str) -> Path:
        """Return the folder of a committed table; raises ContractError where the step has not finished."""
        return self.attempt_folder(self.require(table).attempt) / table

    def _keys(self) -> list[str]:
        return [item.key for item in self._store.list("commits/")]

    def _committed(self) -> set[str]:
        return {self.attempt_folder(self._read(key).attempt).name for key in self._keys()}

    def _read(self, key: str) -> StepCommit:
        try:
            return StepCommit(**json.loads(self._store.get(key)))
        except (ValueError, TypeError, RecursionError) as error:
            raise ManifestError(f"{self.folder / key}: not a step commit: {error}") from None


def newest_before(work: str | Path, step: str, run_date: str) -> StepCommit | None:
    """Return the commit of the step on the newest earlier date that has one, or None."""
    folders = (path.name.removeprefix("run_date=") for path in (Path(work) / step).glob("run_date=*"))
    # Somebody's copy of a date's folder is none.
    for day in sorted((day for day in folders if _is_run_date(day) and day < run_date), reverse=True):
        commit = StepFolder(work, step, day).newest()
        if commit:
            return commit
    return None


def check_run_date(text: str) -> str:
    """Return the date if it is YYYY-MM-DD, else raise ConfigError."""
    if _is_run_date(text):
        return text
    raise ConfigError(f"run date {text!r}: expected YYYY-MM-DD, such as 2026-11-20")


def _is_run_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def now_text() -> str:
    """Return the time in UTC, for people; nothing depends on it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def fingerprint(*parts: Any) -> str:
    """Return the SHA-256 of JSON-ready parts, independent of the order of keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()
