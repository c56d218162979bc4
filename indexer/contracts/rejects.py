"""Counts of an input: rows in = rows out + rows rejected, by reason, with one example each."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from indexer.errors import ContractError

SAMPLE_CHARACTERS = 200
WITHHELD = "withheld, since the record may name a person"


@dataclass
class Reject:
    """One reason: how many rows, and the first of them."""

    count: int
    key: str | None
    sample: str | None


@dataclass
class InputCounts:
    """What became of the rows of one input."""

    table: str
    path: str
    rows_in: int = 0
    rows_out: int = 0
    rejects: dict[str, Reject] = field(default_factory=dict)
    fixes: dict[str, int] = field(default_factory=dict)
    """Values changed on the way in, such as texts cut to their limit."""
    unknown_columns: set[str] = field(default_factory=set)
    """The shop's names of columns that the contract does not have."""

    def reject(self, reason: str, *, key: str | None = None, sample: str | None = None, count: int = 1) -> None:
        """Count rejected rows; the first example of a reason is kept."""
        entry = self.rejects.setdefault(reason, Reject(0, _shorten(key), _shorten(sample)))
        entry.count += count

    def fix(self, name: str, count: int) -> None:
        """Count values that were changed."""
        if count:
            self.fixes[name] = self.fixes.get(name, 0) + count

    @property
    def rejected(self) -> int:
        """Rows rejected for any reason."""
        return sum(entry.count for entry in self.rejects.values())

    def as_counts(self) -> dict[str, Any]:
        """Return the figures for a step's summary."""
        counts: dict[str, Any] = {"rows_in": self.rows_in, "rows_out": self.rows_out, "rejected": self.rejected}
        return counts | self.as_remarks()

    def as_remarks(self) -> dict[str, Any]:
        """Return the figures that are no rows: what was mended in them, and the columns that were not read."""
        fixed = {"fixed": dict(sorted(self.fixes.items()))} if self.fixes else {}
        return fixed | describe_unknown(self.unknown_columns)

    def as_rows(self) -> list[dict[str, Any]]:
        """Return rows of the REJECTS table."""
        return [
            {"table": self.table, "reason": reason, "key": entry.key, "sample": entry.sample, "count": entry.count}
            for reason, entry in sorted(self.rejects.items())
        ]

    def check(self, max_reject_share: float) -> None:
        """Raise ContractError for an empty input, for lost rows, or for too many rejects."""
        if self.rows_in == 0:
            raise ContractError(f"{self.table} from {self.path}: 0 rows; expected at least one, check the export")
        if self.rows_in != self.rows_out + self.rejected:
            raise ContractError(
                f"{self.table} from {self.path}: {self.rows_in} rows in, but {self.rows_out} out and "
                f"{self.rejected} rejected; this is a fault of the reader, please report it"
            )
        if self.rejected > max_reject_share * self.rows_in:
            raise ContractError(
                f"{self.table} from {self.path}: {self.rejected} of {self.rows_in} rows rejected "
                f"({self._reasons()}), more than the allowed share {max_reject_share}; "
                "mend the input or raise max_reject_share"
            )

    def _reasons(self) -> str:
        worst = sorted(self.rejects.items(), key=lambda item: -item[1].count)[:5]
        return ", ".join(f"{reason} {entry.count}, such as {entry.sample!r}" for reason, entry in worst)


def describe_unknown(columns: Collection[str]) -> dict[str, str]:
    """Return the figure that names the columns an input has and its contract has not; nothing without any."""
    return {"unknown_columns": ", ".join(sorted(columns))[:SAMPLE_CHARACTERS]} if columns else {}


def _shorten(text: str | None) -> str | None:
    return text if text is None else text[:SAMPLE_CHARACTERS]
