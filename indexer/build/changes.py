"""What a base shard's ids have become since the live release: kept, changed, new or gone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from indexer.build.catalogue import Row
from indexer.build.digests import digest
from indexer.build.live import OldRow


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Tonight's rows of one base shard beside those that are live."""

    fresh: list[Row]
    """Rows that are new, or not what they were."""
    found: list[OldRow | None]
    """Where each fresh row's vector lies in the live release, if its text is what it was."""
    gone: list[OldRow]
    """Live rows that are to be found no more: a fresh row stands for them, or none."""
    in_deltas: int
    """Live rows that are kept, and lie in a delta."""


def compare_rows(rows: Sequence[Row], live: Mapping[str, OldRow], *, base: int, fold: bool) -> Changes:
    """Compare rows with what is live, by id.

    `base` is the number of base shards: those from there on are deltas. With `fold` kept rows of deltas count as fresh.
    """
    left, in_deltas = dict(live), 0
    fresh: list[Row] = []
    found: list[OldRow | None] = []
    gone: list[OldRow] = []
    for row in rows:
        old = left.pop(row.id, None)
        same_text = old is not None and old.text == digest(row.text)
        if old and same_text and old.display == digest(row.display) and not (fold and old.shard >= base):
            in_deltas += old.shard >= base
            continue
        fresh.append(row)
        found.append(old if same_text else None)
        gone += [old] if old else []
    return Changes(fresh=fresh, found=found, gone=[*gone, *left.values()], in_deltas=in_deltas)


def find_old_texts(rows: Sequence[Row], live: Mapping[str, OldRow]) -> list[OldRow | None]:
    """Return where each row's vector lies in the live release, if its text is what it was."""
    return [old if (old := live.get(row.id)) and old.text == digest(row.text) else None for row in rows]
