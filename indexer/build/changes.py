"""What a base shard's ids have become since the live release: kept, changed, new or gone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from indexer.build.catalogue import Row
from indexer.build.digests import digest
from indexer.build.live import OldRow
from indexer.index_config import IndexConfig
from indexer.manifest import ShardEntry

GOLDEN_RATIO = 0.618034
"""Its multiples, without their whole parts, are spread evenly however many there are."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Tonight's rows of one base shard beside those that are live."""

    fresh: list[Row]
    """Rows that are new, or not what they were."""
    found: list[OldRow | None]
    """Where each fresh row's vector lies in the live release, if its text is what it was."""
    gone: list[OldRow]
    """Live rows that are to be found no more: a fresh row stands for them, or none."""
    held: list[tuple[Row, OldRow]]
    """Rows that are what they were, and lie in a delta."""


def compare_rows(rows: Sequence[Row], live: Mapping[str, OldRow], *, base: int) -> Changes:
    """Compare rows with what is live, by id; shards from number `base` on are deltas."""
    left = dict(live)
    changes = Changes(fresh=[], found=[], gone=[], held=[])
    for row in rows:
        old = left.pop(row.id, None)
        same_text = old is not None and old.text == digest(row.text)
        if old and same_text and old.display == digest(row.display):
            changes.held.extend([(row, old)] if old.shard >= base else [])
            continue
        changes.fresh.append(row)
        changes.found.append(old if same_text else None)
        changes.gone.extend([old] if old else [])
    changes.gone.extend(left.values())
    return changes


def count_stale(shard: ShardEntry, changes: Changes, *, number: int) -> int:
    """Return by how many rows the live base shard of the number is stale: dead ones, and those that lie beside it."""
    died = sum(row.shard == number for row in changes.gone)
    return shard.rows - shard.live_rows + died + len(changes.fresh) + len(changes.held)


def is_stale(options: IndexConfig, *, number: int, rows: float, changed: bool, stale: float) -> bool:
    """Whether the live base shard of the number, for whose ids there are so many rows tonight, is to be built anew.

    `changed` says whether any of these changes tonight; `stale` are the rows by which it is stale then.
    """
    if changed and not options.max_deltas:
        return True
    return stale > _limit_of(number) * options.max_stale_share * rows


def _limit_of(number: int) -> float:
    """Return the part of `max_stale_share` that a base shard may reach: from a half on, spread evenly by its number.

    Shards that were built in one night and change alike would all be built anew in one night again.
    """
    return 0.5 + number * GOLDEN_RATIO % 1 / 2


def find_old_texts(rows: Sequence[Row], live: Mapping[str, OldRow]) -> list[OldRow | None]:
    """Return where each row's vector lies in the live release, if its text is what it was."""
    return [old if (old := live.get(row.id)) and old.text == digest(row.text) else None for row in rows]
