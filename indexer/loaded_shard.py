"""A shard that is ready to search: its index, its ids and its texts, and which of its rows may be found."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.id_filter import IdFilter
from indexer.id_rows import IdRows
from indexer.index_file import IndexShape, read_index
from indexer.manifest import CollectionEntry, ShardEntry
from indexer.shard_file import Lines, read_dead, read_lines
from indexer.shard_search import Selection, select_only, select_rows

NO_ROWS = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class LoadedShard:
    """A shard in memory or mapped."""

    index: Any
    ids: Lines
    texts: Lines | None
    dead: npt.NDArray[np.int64] = field(default_factory=lambda: NO_ROWS)
    live: Selection | None = None
    """The rows that are not dead, where any are."""

    def id(self, row: int) -> str:
        """Return the id of a row."""
        return self.ids[row]

    def text(self, row: int) -> str | None:
        """Return the text of a row, None where the release carries none."""
        return self.texts[row] if self.texts is not None else None

    @cached_property
    def id_rows(self) -> IdRows:
        """The rows by id; made when a filter first asks, and kept."""
        return IdRows(self.ids)

    def select(self, ids: IdFilter, table: IdRows) -> Selection:
        """Return the live rows that a filter leaves; the table is that of this shard's ids."""
        denied = self.dead if ids.without is None else np.union1d(self.dead, table.find(ids.without))
        if ids.among is None:
            return select_rows(denied, len(self.ids))
        rows = table.find(ids.among)
        return select_only(rows[~_is_among(rows, denied)], len(self.ids))


def open_shard(
    collection: CollectionEntry, shard: ShardEntry, files: Mapping[str, Path], *, mapped: bool = False
) -> LoadedShard:
    """Load or map a shard from verified files; raises IntegrityError where it is not as the manifest says."""
    shape = IndexShape(rows=shard.rows, dimension=collection.dimension, m=collection.m, storage=collection.storage)
    dead = read_dead(files[shard.dead.rows.key], shard.rows).astype(np.int64) if shard.dead else NO_ROWS
    return LoadedShard(
        index=read_index(files[shard.index.key], shape, mapped=mapped),
        ids=read_lines(files[shard.ids.key], shard.rows, mapped=mapped),
        texts=read_lines(files[shard.texts.key], shard.rows, mapped=mapped) if shard.texts else None,
        dead=dead,
        live=select_rows(dead, shard.rows) if len(dead) else None,
    )


def _is_among(rows: npt.NDArray[np.int64], rising: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Tell which rows stand in a rising list, in time that grows with the rows and hardly with the list."""
    if not len(rising):
        return np.zeros(len(rows), dtype=np.bool_)
    return np.equal(rising[np.minimum(np.searchsorted(rising, rows), len(rising) - 1)], rows)
