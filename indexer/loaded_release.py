"""A release that is loaded as a whole: its encoder, its shards, and the search over all shards of a collection."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import faiss
import numpy as np

from indexer.encoder import Encoder, Vectors, load_encoder
from indexer.errors import ConfigError, EncoderError, IntegrityError
from indexer.id_filter import IdFilter
from indexer.loaded_shard import LoadedShard, open_shard
from indexer.manifest import Manifest
from indexer.object_cache import ObjectCache
from indexer.search_pool import SearchPool
from indexer.shard_search import Rows, Scores, Selection, search_shard

Selections = tuple[Selection | None, ...]
"""Of every shard of a collection; None stands for all its rows."""


class Place(NamedTuple):
    """Where a hit was found."""

    score: float
    shard: LoadedShard
    row: int


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedRelease:
    """A release and what its filters select; nothing else of it ever changes."""

    sequence: int
    manifest: Manifest
    encoder: Encoder
    shards: dict[str, tuple[LoadedShard, ...]]
    mapped: bool
    _selections: WeakKeyDictionary[IdFilter, Selections] = field(default_factory=WeakKeyDictionary, init=False)
    """By filter, as long as somebody holds it."""
    _making_tables: threading.Lock = field(default_factory=threading.Lock, init=False)

    @property
    def mapped_bytes(self) -> int:
        """Size of the files that are mapped."""
        shards = [shard for item in self.manifest.collections for shard in item.shards] if self.mapped else []
        return sum(entry.bytes for shard in shards for entry in (shard.index, shard.ids, shard.texts) if entry)

    def shards_of(self, collection: str) -> tuple[LoadedShard, ...]:
        """Return a collection's shards; raises ConfigError for an unknown one."""
        if collection not in self.shards:
            raise ConfigError(f"collection {collection!r}: expected one of {', '.join(self.shards)}")
        return self.shards[collection]

    def select(self, ids: IdFilter) -> Selections:
        """Return the rows that a filter leaves, found on its first use and kept as long as it lives."""
        found = self._selections.get(ids)
        if found is None:
            shards = self.shards_of(ids.collection)
            # Tables of ids take seconds and memory; threads that come together must not make several.
            with self._making_tables:
                tables = [shard.id_rows for shard in shards]
            found = tuple(shard.select(ids, table) for shard, table in zip(shards, tables, strict=True))
            self._selections[ids] = found
        return found

    def take_filters(self, older: "LoadedRelease") -> None:
        """Find the rows of every filter that the older release has in use, so that no search waits for them."""
        for reference in older._selections.keyrefs():
            ids = reference()
            if ids is not None and ids.collection in self.shards:
                self.select(ids)

    def search(
        self, pool: SearchPool, vectors: Vectors, collection: str, k: int, ids: IdFilter | None = None
    ) -> list[list[Place]]:
        """Return at most k places per vector (q, d), best first, among the rows that the filter leaves."""
        shards = self.shards_of(collection)
        selections = tuple(shard.live for shard in shards) if ids is None else self.select(ids)
        ef_search = next(item.ef_search for item in self.manifest.collections if item.name == collection)
        return search_shards(pool, shards, selections, vectors, k, ef_search)


def fetch_files(manifest: Manifest, cache: ObjectCache) -> dict[str, Path]:
    """Return the file of each object that a consumer reads, verified; raises IntegrityError where one is not whole."""
    return {item.key: cache.fetch(item) for item in manifest.downloads}


def open_release(
    sequence: int,
    manifest: Manifest,
    files: Mapping[str, Path],
    *,
    threads: int,
    mapped: bool,
    place: str,
    tell: Callable[[str], None] = lambda _: None,
) -> LoadedRelease:
    """Load or map verified files; raises IntegrityError where they are not as the manifest says.

    `tell` is given the key of each object that a parser is about to see.
    """
    tell(manifest.encoder.files["encoder.onnx"].key)
    try:
        named = {name: files[item.key] for name, item in manifest.encoder.files.items()}
        encoder = load_encoder(named, threads=threads)
    except EncoderError as error:
        raise IntegrityError(f"{place}: the encoder of the release: {error}") from None
    shards: dict[str, tuple[LoadedShard, ...]] = {}
    for collection in manifest.collections:
        if collection.dimension != encoder.dimension:
            raise IntegrityError(
                f"{place}: {collection.name} has {collection.dimension} dimensions, its encoder {encoder.dimension}"
            )
        opened = []
        for shard in collection.shards:
            tell(shard.index.key)
            opened.append(open_shard(collection, shard, files, mapped=mapped))
        shards[collection.name] = tuple(opened)
    return LoadedRelease(sequence=sequence, manifest=manifest, encoder=encoder, shards=shards, mapped=mapped)


def search_shards(
    pool: SearchPool,
    shards: Sequence[LoadedShard],
    selections: Selections,
    vectors: Vectors,
    k: int,
    ef_search: int,
) -> list[list[Place]]:
    """Return the k best places over all shards per vector (q, d); equal scores are ordered by shard and row.

    A task is one shard and a part of the queries, searched by one thread: answers are the same for any number of them.
    """
    parts = np.array_split(np.arange(len(vectors)), min(len(vectors), pool.threads))
    tasks = [
        partial(_search_alone, shard.index, vectors[part[0] : part[-1] + 1], k, ef_search, selection)
        for part in parts
        for shard, selection in zip(shards, selections, strict=True)
    ]
    found = pool.run(tasks)
    answers: list[list[Place]] = []
    for start in range(0, len(found), len(shards)):
        answers += _merge(shards, found[start : start + len(shards)], k)
    return answers


def _search_alone(
    index: Any, vectors: Vectors, k: int, ef_search: int, selection: Selection | None
) -> tuple[Scores, Rows]:
    """Search a shard by this thread alone; OpenMP keeps one number of threads per thread that calls it."""
    faiss.omp_set_num_threads(1)
    return search_shard(index, vectors, k, ef_search, selection)


def _merge(shards: Sequence[LoadedShard], found: list[tuple[Scores, Rows]], k: int) -> list[list[Place]]:
    """Return the k best over all shards for every query."""
    scores = np.concatenate([part[0] for part in found], axis=1)
    rows = np.concatenate([part[1] for part in found], axis=1)
    owners = np.repeat(np.arange(len(found)), k)
    answers = []
    for own_scores, own_rows in zip(scores, rows, strict=True):
        best = np.lexsort((own_rows, owners, -own_scores))
        kept = best[own_rows[best] >= 0][:k]
        answers.append([Place(float(own_scores[at]), shards[owners[at]], int(own_rows[at])) for at in kept])
    return answers
