"""Files of single days: the day a path names, and the days of which files are read."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta

from indexer.errors import ContractError

DAY_IN_PATH = "^.*(?<![0-9])([0-9]{4}-[0-9]{2}-[0-9]{2})(?![0-9])"
"""The last day written in a path; Python and Java read the pattern alike."""


@dataclass(frozen=True, kw_only=True)
class Days:
    """A span of days, both ends included; without a first day it has no beginning."""

    first: date | None
    last: date

    def __contains__(self, day: date) -> bool:
        """Tell whether the day lies in the span."""
        return (self.first is None or self.first <= day) and day <= self.last

    def choose_names(self, names: Iterable[str], shown: str) -> list[str]:
        """Return the names of files that lie in the span.

        Raises ContractError where a name has no day, or no file lies in the span.
        """
        found = {name: read_day(name) for name in names}
        for name, day in found.items():
            if day is None:
                raise ContractError(
                    f"{shown}: {name} names no day; expected YYYY-MM-DD in the name or folder of every daily file"
                )
        chosen = [name for name, day in found.items() if day is not None and day in self]
        if found and not chosen:
            newest = max(day for day in found.values() if day is not None)
            raise ContractError(
                f"{shown}: no file of the days {self.first or '...'} to {self.last}, the newest is of {newest}; "
                "deliver the files or correct the date of the run"
            )
        return chosen


def span_days(last: date, *, lookback_days: int) -> Days:
    """Return so many days up to the last one; 0 means all days up to it."""
    # Before the year 1 there are no days, and no purchases either.
    reach = min(lookback_days - 1, last.toordinal() - 1)
    return Days(first=last - timedelta(days=reach) if lookback_days else None, last=last)


def read_day(name: str) -> date | None:
    """Return the last day written in a path, or None."""
    match = re.match(DAY_IN_PATH, name, re.DOTALL)
    try:
        return date.fromisoformat(match.group(1)) if match else None
    except ValueError:
        return None
