"""Several rows of one id: the same content counts once, of different contents the newest stands."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter

from indexer.build.catalogue import Row

OLDEST = datetime.min.replace(tzinfo=UTC)


@dataclass
class UniqueRows:
    """Rows with distinct ids in id order, and what became of the others."""

    rows: list[Row] = field(default_factory=list)
    duplicates: int = 0
    """Rows that repeat another row's content."""
    rejected: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    """Reason -> id of its first row."""

    def reject(self, reason: str, rows: list[Row]) -> None:
        """Count rejected rows."""
        self.rejected[reason] += len(rows)
        self.examples.setdefault(reason, rows[0].id)


def resolve_duplicates(rows: Iterable[Row]) -> UniqueRows:
    """Keep one row per id; where the newest rows of an id differ, all rows of that id are rejected."""
    result = UniqueRows()
    for _, group in groupby(sorted(rows, key=attrgetter("id")), key=attrgetter("id")):
        same_id = list(group)
        if len(same_id) == 1:
            result.rows.append(same_id[0])
        else:
            _resolve(same_id, result)
    return result


def _resolve(rows: list[Row], result: UniqueRows) -> None:
    newest = max(read_time(row.updated_at) for row in rows)
    candidates = [row for row in rows if read_time(row.updated_at) == newest]
    winner = candidates[0]
    if any(_content(row) != _content(winner) for row in candidates):
        result.reject("duplicate_id", rows)
        return
    result.rows.append(winner)
    others = [row for row in rows if _content(row) != _content(winner)]
    result.duplicates += len(rows) - 1 - len(others)
    if others:
        result.reject("duplicate_id", others)


def read_time(text: str | None) -> datetime:
    """Return an ISO 8601 time, taken as UTC where it names no zone; what is no time is older than any."""
    try:
        time = datetime.fromisoformat(text) if text else OLDEST
    except ValueError:
        return OLDEST
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _content(row: Row) -> tuple[str, str]:
    return row.text, row.display
