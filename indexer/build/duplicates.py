"""Several rows of one id: the same content counts once, of different contents one stands or none."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter

from indexer.build.catalogue import Row
from indexer.contracts.duplicates import Version, choose_version


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
    place = choose_version([Version(_content(row), row.updated_at) for row in rows])
    if place is None:
        result.reject("duplicate_id", rows)
        return
    winner = rows[place]
    result.rows.append(winner)
    others = [row for row in rows if _content(row) != _content(winner)]
    result.duplicates += len(rows) - 1 - len(others)
    if others:
        result.reject("duplicate_id", others)


def _content(row: Row) -> tuple[str, str]:
    return row.text, row.display
