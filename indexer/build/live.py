"""What the live release has: its rows by what they were made of, and their vectors, for tonight to use again.

Every object is verified by size and SHA-256 before it is read, as a consumer does.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from indexer.build.catalogue import shards_of
from indexer.build.digests import DIGEST_BYTES, ROW_BYTES, read_digests
from indexer.build.embed import Mask, Vectors
from indexer.index_config import IndexConfig
from indexer.index_file import IndexShape, read_index
from indexer.manifest import CollectionEntry, EncoderEntry, Manifest
from indexer.object_cache import ObjectCache
from indexer.shard_file import read_dead, read_lines

SORTED_ROWS = 5_000
"""Rows that are read at once where they are sorted by shard."""
SCHEMA = pa.schema(
    [("id", pa.string()), ("shard", pa.int32()), ("row", pa.int64())]
    + [(name, pa.binary(DIGEST_BYTES)) for name in ("text", "display")]
    + [("vector", pa.binary())]
)


class OldRow(NamedTuple):
    """A row of the live release: where it lies, and what it was made of."""

    shard: int
    row: int
    text: bytes
    display: bytes
    vector: bytes | None = None
    """Where it was read along; else it lies in the shard."""


@dataclass(frozen=True, kw_only=True)
class LiveCollection:
    """One collection of the live release, made by the encoder that tonight's rows are embedded by."""

    entry: CollectionEntry
    cache: ObjectCache

    def keeps_shards(self, options: IndexConfig, *, texts: bool) -> bool:
        """Whether its shards are what tonight's options would make of the same rows."""
        ours = (options.storage, options.m, options.ef_construction)
        theirs = (self.entry.storage, self.entry.m, self.entry.ef_construction)
        return ours == theirs and all((shard.texts is not None) == texts for shard in self.entry.shards)

    def takes_in(self, options: IndexConfig) -> bool:
        """Whether tonight's delta takes in the rows of the live ones: where there are many that lie in few."""
        deltas = self.entry.deltas
        needed = -(-sum(shard.live_rows for shard in deltas) // options.max_shard_rows)
        return len(deltas) >= options.max_deltas and 2 * needed <= len(deltas) + 1

    @property
    def gives_vectors(self) -> bool:
        """Whether its shards hold the vectors as they were embedded; quantised ones do not."""
        return self.entry.storage == "flat"

    def open_index(self, number: int) -> Any:
        """Load the index of a shard as a consumer does."""
        shard, entry = self.entry.shards[number], self.entry
        shape = IndexShape(rows=shard.rows, dimension=entry.dimension, m=entry.m, storage=entry.storage)
        return read_index(self.cache.fetch(shard.index), shape)

    def find_vectors(self, places: Sequence[OldRow | None], number: int) -> tuple[Vectors, Mask]:
        """Return vectors (n, dimension) as they were embedded, and which are known.

        They were read along, or lie in the base shard of the number.
        """
        vectors = np.empty((len(places), self.entry.dimension), dtype=np.float32)
        known = np.zeros(len(places), dtype=np.bool_)
        own: list[tuple[int, int]] = []
        for place, old in enumerate(places):
            if old and old.vector is not None:
                vectors[place], known[place] = np.frombuffer(old.vector, dtype=np.float32), True
            elif old and old.shard == number and self.gives_vectors:
                own.append((place, old.row))
        if own:
            at, rows = np.array(own, dtype=np.int64).T
            vectors[at], known[at] = self.open_index(number).reconstruct_batch(rows), True
        return vectors, known

    def read_rows(self, number: int) -> Iterator[tuple[str, OldRow]]:
        """Yield the id and place of every row of a shard that is not dead, in row order."""
        shard = self.entry.shards[number]
        assert shard.digests
        ids = read_lines(self.cache.fetch(shard.ids), shard.rows)
        digests = read_digests(self.cache.fetch(shard.digests), shard.rows)
        dead = set(self.read_dead(number).tolist())
        for row, name in enumerate(ids):
            if row not in dead:
                at = row * ROW_BYTES
                text, display = digests[at : at + DIGEST_BYTES], digests[at + DIGEST_BYTES : at + ROW_BYTES]
                yield name, OldRow(number, row, text, display)

    def read_dead(self, number: int) -> npt.NDArray[np.uint32]:
        """Return the numbers of a shard's dead rows."""
        shard = self.entry.shards[number]
        if shard.dead is None:
            return np.empty(0, dtype=np.uint32)
        return read_dead(self.cache.fetch(shard.dead.rows), shard.rows)

    def is_aligned(self, shards: int) -> bool:
        """Whether a base shard has the ids that the same of so many shards has."""
        return _is_aligned(self.entry, shards)

    def read_strays(self, number: int, shards: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield the rows of a shard, and which of so many shards their ids belong to."""
        index = self.open_index(number) if self.gives_vectors else None
        for rows in _take_rows(self.read_rows(number), SORTED_ROWS):
            numbers = np.array([old.row for _, old in rows], dtype=np.int64)
            vectors = None if index is None else index.reconstruct_batch(numbers)
            places = shards_of((name for name, _ in rows), shards)
            batch = _as_batch(rows, vectors)
            for place in np.unique(places).tolist():
                yield place, batch.filter(pa.array(places == place))

    def split_rows(self, folder: Path, shards: int) -> list[Path]:
        """Write rows to one file for each of so many shards, by the shard that their ids belong to; return the files.

        Those of base shards that are aligned with them are left out: they need no sorting.
        """
        paths = [folder / f"live-{self.entry.name}-{number:05d}.arrow" for number in range(shards)]
        with ExitStack() as stack:
            sinks = [stack.enter_context(pa.ipc.new_stream(str(path), SCHEMA)) for path in paths]
            for number in find_strays(self.entry, shards):
                for place, batch in self.read_strays(number, shards):
                    sinks[place].write_batch(batch)
        return paths


@dataclass(frozen=True, kw_only=True)
class LiveRelease:
    """What tonight's build may use again of the live release."""

    collections: Mapping[str, LiveCollection] = field(default_factory=dict)
    encoder: EncoderEntry | None = None


def find_strays(entry: CollectionEntry, shards: int) -> range:
    """Return the numbers of the shards that hold rows of several of so many shards: aligned base shards do not."""
    return range(shards if _is_aligned(entry, shards) else 0, len(entry.shards))


def find_live(manifest: Manifest | None, cache: ObjectCache, *, encoder: str) -> LiveRelease:
    """Return the live release of a manifest, where there is one and tonight's encoder, by its fingerprint, made it.

    Vectors of another encoder are of another space.
    """
    if manifest is None or manifest.encoder.fingerprint != encoder:
        return LiveRelease()
    found = {
        entry.name: LiveCollection(entry=entry, cache=cache)
        for entry in manifest.collections
        # Releases of format 1 do not say what their rows were made of.
        if all(shard.digests for shard in entry.shards)
    }
    return LiveRelease(collections=found, encoder=manifest.encoder)


def read_old_rows(path: Path) -> Iterator[tuple[str, OldRow]]:
    """Yield the rows that `split_rows` wrote."""
    with pa.ipc.open_stream(str(path)) as stream:
        for batch in stream:
            yield from unpack_rows(batch)


def count_old_rows(path: Path) -> int:
    """Return how many rows `split_rows` wrote there; their vectors are not read."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
        return sum(batch.num_rows for batch in stream)


def unpack_rows(batch: pa.RecordBatch) -> Iterator[tuple[str, OldRow]]:
    """Yield the rows of a batch of SCHEMA."""
    columns = [batch.column(name).to_pylist() for name in SCHEMA.names]
    for name, *place in zip(*columns, strict=True):
        yield name, OldRow(*place)


def _is_aligned(entry: CollectionEntry, shards: int) -> bool:
    return len(entry.base) == shards


def _take_rows(rows: Iterator[tuple[str, OldRow]], size: int) -> Iterator[list[tuple[str, OldRow]]]:
    while chunk := list(islice(rows, size)):
        yield chunk


def _as_batch(rows: list[tuple[str, OldRow]], vectors: Vectors | None) -> pa.RecordBatch:
    columns: list[Any] = [[name for name, _ in rows], *([old[at] for _, old in rows] for at in range(4))]
    columns.append([None] * len(rows) if vectors is None else [vector.tobytes() for vector in vectors])
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)
