"""What a base shard's ids have become since the live release: kept, changed, new or gone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from indexer.build.catalogue import Row
from indexer.build.digests import digest
from indexer.build.live import OldRow
from indexer.config import IndexConfig
from indexer.manifest import ShardEntry


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


def is_stale(options: IndexConfig, shard: ShardEntry, changes: Changes, *, number: int, rows: int) -> bool:
    """Whether a live base shard, for whose ids there are so many rows tonight, is to be built anew."""
    if (changes.fresh or changes.gone) and not options.max_deltas:
        return True
    died = sum(row.shard == number for row in changes.gone) + shard.rows - shard.live_rows
    return died + len(changes.fresh) + len(changes.held) > options.max_stale_share * rows


def find_old_texts(rows: Sequence[Row], live: Mapping[str, OldRow]) -> list[OldRow | None]:
    """Return where each row's vector lies in the live release, if its text is what it was."""
    return [old if (old := live.get(row.id)) and old.text == digest(row.text) else None for row in rows]
