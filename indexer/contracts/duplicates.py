"""Several rows of one product: which of them stands.

The one rule: of different contents the newest stands; where the newest rows differ, no row can be believed.
"""

import re
from collections.abc import Hashable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

TIME = (
    "([1-9][0-9]{3}-[0-9]{2}-[0-9]{2})"
    "(?:[Tt ]((?:[01][0-9]|2[0-3]):[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]+)?)?)"
    "(Z|[+-](?:0[0-9]|1[0-7])(?::?[0-5][0-9])?)?)?"
)
"""Date, time and zone of ISO 8601 in its extended form, as a whole text; Python and Java read the pattern alike."""
YEAR = "(?:199[0-9]|20[0-9]{2})-"
"""How a time begins that may decide: what has no such year (9999) is no time, lest it stand for ever."""
OLDEST = datetime.min.replace(tzinfo=UTC)


class Version(NamedTuple):
    """One row of an id: what it says, and when that was written."""

    content: Hashable
    updated_at: str | None


def choose_version(versions: Sequence[Version]) -> int | None:
    """Return the place of the row that stands, the first of equal ones; None where the newest rows differ."""
    times = [read_time(version.updated_at) for version in versions]
    latest = max(times)
    newest = [place for place, time in enumerate(times) if time == latest]
    differ = len({versions[place].content for place in newest}) > 1
    return None if differ else newest[0]


def read_time(text: str | None) -> datetime:
    """Return a time written as TIME and of a YEAR, taken as UTC where it names no zone; what is none is the oldest."""
    if text is None or not re.match(YEAR, text) or not re.fullmatch(TIME, text):
        return OLDEST
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return OLDEST
    return time if time.tzinfo else time.replace(tzinfo=UTC)
