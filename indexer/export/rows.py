"""The rows of a published shard that are found, with their vectors.

Memory holds one shard, and a batch of its rows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from indexer.loaded_shard import LoadedShard, open_shard
from indexer.manifest import CollectionEntry, ShardEntry
from indexer.object_cache import ObjectCache
from indexer.shard_file import read_dead

BATCH_ROWS = 10_000
"""Rows whose ids, texts and vectors are in memory at a time; the row groups of Parquet."""

Vectors = npt.NDArray[np.float32]


class Batch(NamedTuple):
    """Rows in the order of the shard."""

    ids: list[str]
    texts: list[str | None]
    vectors: Vectors
    """float32 (n, dimension)."""


@dataclass(frozen=True, kw_only=True)
class ShardRows:
    """A loaded shard, and where its rows stand among all of the collection."""

    collection: CollectionEntry
    number: int
    loaded: LoadedShard
    live: npt.NDArray[np.bool_]
    """Which rows are found; the others are dead."""
    first: int
    """Found rows of the shards before."""
    advance: Callable[[int], object]
    """Told of rows when they are done."""

    def read_batches(self) -> Iterator[Batch]:
        """Yield the rows that are found, in row order; quantised vectors are reconstructed."""
        rows = np.flatnonzero(self.live)
        for start in range(0, len(rows), BATCH_ROWS):
            taken = rows[start : start + BATCH_ROWS]
            numbers = taken.tolist()
            yield Batch(
                ids=[self.loaded.id(row) for row in numbers],
                texts=[self.loaded.text(row) for row in numbers],
                vectors=self.loaded.index.reconstruct_batch(taken),
            )
            self.advance(len(taken))


def load_rows(
    collection: CollectionEntry, entry: ShardEntry, cache: ObjectCache, advance: Callable[[int], object]
) -> ShardRows:
    """Load a shard; raises IntegrityError unless all of its objects are as the manifest says, before any is parsed."""
    files = {item.key: cache.fetch(item) for item in entry.downloads}
    live = np.ones(entry.rows, dtype=np.bool_)
    if entry.dead:
        live[read_dead(files[entry.dead.rows.key], entry.rows)] = False
    return ShardRows(
        collection=collection,
        number=entry.number,
        loaded=open_shard(collection, entry, files),
        live=live,
        first=sum(before.live_rows for before in collection.shards[: entry.number]),
        advance=advance,
    )
