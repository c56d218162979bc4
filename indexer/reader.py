"""Open a published release, search it, and follow newer ones: all that a serving process needs.

Every file is verified by size and SHA-256 before any parser sees it. A release is swapped in as a whole;
whatever goes wrong on the way leaves the one that is being served.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

from indexer.encoder import Encoder, Vectors, load_encoder
from indexer.errors import ConfigError, IntegrityError, StoreError
from indexer.log import live_entry, log_key, read_head, read_manifest
from indexer.manifest import Manifest
from indexer.object_cache import ObjectCache, default_cache
from indexer.shard_file import LoadedShard, open_shard, search_shard
from indexer.store import Store, open_store
from indexer.text import normalise_query

MAX_HITS = 10_000
ALL_CORES = faiss.omp_get_max_threads()
"""What FAISS takes of itself; asked before anything sets another number."""


@dataclass(frozen=True)
class Hit:
    """One result: the id, its text where the release carries texts, and the cosine."""

    id: str
    text: str | None
    score: float


@dataclass(frozen=True, kw_only=True)
class ReleaseInfo:
    """Which release is being served."""

    run_id: str
    run_date: str
    sequence: int
    created_at: str
    age_seconds: float
    """Since the release was built; a number that grows without end says that nothing new arrives."""
    collections: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Release:
    """A release that is loaded completely; never changed."""

    sequence: int
    manifest: Manifest
    encoder: Encoder
    shards: dict[str, list[LoadedShard]]


class Index:
    """The live release of a store; safe to share between threads."""

    def __init__(self, store: Store, cache: ObjectCache, threads: int) -> None:
        self._store = store
        self._cache = cache
        self._threads = threads
        self._refreshing = threading.Lock()
        self._release = self._load(read_head(store))

    @property
    def release(self) -> ReleaseInfo:
        """The release that is being served, and its age."""
        served = self._release
        created = datetime.fromisoformat(served.manifest.created_at)
        return ReleaseInfo(
            run_id=served.manifest.run_id,
            run_date=served.manifest.run_date,
            sequence=served.sequence,
            created_at=served.manifest.created_at,
            age_seconds=max(0.0, (datetime.now(UTC) - created).total_seconds()),
            collections=tuple(served.shards),
        )

    def search(self, query: str, collection: str = "products", k: int = 10) -> list[Hit]:
        """Return at most k hits, best first; a query without a known word has none."""
        return self.search_batch([query], collection=collection, k=k)[0]

    def reformulate(self, query: str, k: int = 10) -> list[str]:
        """Return at most k other curated queries that mean the same, best first (KD-Boost section 5.2)."""
        same = normalise_query(query)
        found = [hit.text or "" for hit in self.search(query, collection="queries", k=min(k + 1, MAX_HITS))]
        return [text for text in found if text != same][:k]

    def search_batch(self, queries: Sequence[str], collection: str = "products", k: int = 10) -> list[list[Hit]]:
        """Search many queries in one release; raises ConfigError for an unknown collection or a wrong k.

        Sets FAISS's number of threads for the calling thread, because OpenMP keeps one number per thread.
        """
        served = self._release
        if collection not in served.shards:
            raise ConfigError(f"collection {collection!r}: expected one of {', '.join(served.shards)}")
        if not 1 <= k <= MAX_HITS:
            raise ConfigError(f"k: expected 1 to {MAX_HITS}, found {k}")
        if not queries:
            return []
        vectors, _, empty = served.encoder.encode([normalise_query(query) for query in queries], kind="query")
        faiss.omp_set_num_threads(self._threads or ALL_CORES)
        shards = served.shards[collection]
        entry = next(item for item in served.manifest.collections if item.name == collection)
        parts = [search_shard(shard.index, vectors, k, entry.ef_search, shard.selector) for shard in shards]
        scores = np.concatenate([part[0] for part in parts], axis=1)
        rows = np.concatenate([part[1] for part in parts], axis=1)
        owners = np.concatenate([np.full(part[1].shape[1], number) for number, part in enumerate(parts)])
        return [
            [] if empty[line] else _merge(shards, scores[line], rows[line], owners, k) for line in range(len(queries))
        ]

    def refresh(self) -> bool:
        """Swap to the newest live release and return whether there was one.

        Searches in flight finish on the release they began with. Any error keeps the served release and is
        raised; a log that is shorter than before is an IntegrityError.
        """
        with self._refreshing:
            head = read_head(self._store)
            if head < self._release.sequence:
                raise IntegrityError(
                    f"{self._store.url}: log ends at {head}, but {self._release.sequence} was served already; "
                    "the log lost entries, restore them"
                )
            entry = live_entry(self._store, head)
            if entry is not None and entry.sequence == self._release.sequence:
                return False
            self._release = self._load(head)
            return True

    def _load(self, head: int) -> _Release:
        entry = live_entry(self._store, head)
        if entry is None:
            raise StoreError(f"{self._store.url}: no release is published here (no {log_key(1)}); build one first")
        manifest = read_manifest(self._store, entry)
        files = {item.key: self._cache.fetch(item) for item in manifest.downloads}
        encoder = load_encoder(
            {name: files[item.key] for name, item in manifest.encoder.files.items()}, threads=self._threads
        )
        shards: dict[str, list[LoadedShard]] = {}
        for collection in manifest.collections:
            if collection.dimension != encoder.dimension:
                raise IntegrityError(
                    f"{self._store.url}: {collection.name} has {collection.dimension} dimensions, "
                    f"its encoder {encoder.dimension}"
                )
            shards[collection.name] = [open_shard(collection, shard, files) for shard in collection.shards]
        self._cache.prune()
        return _Release(sequence=entry.sequence, manifest=manifest, encoder=encoder, shards=shards)


def open_index(url: str, *, cache: Path | None = None, threads: int = 1) -> Index:
    """Open the live release of a folder or `s3://bucket/prefix`.

    Objects of a bucket are kept in `cache` under their hash (by default below the user's cache folder) and are
    downloaded once. `threads` is for encoding and searching: 1 gives the steadiest latency, 0 takes one per core.
    Raises StoreError where nothing is published or storage fails, IntegrityError where bytes are not as promised.
    """
    store = open_store(url)
    return Index(store, ObjectCache(store, cache or default_cache()), threads)


def _merge(
    shards: list[LoadedShard], scores: Vectors, rows: npt.NDArray[np.int64], owners: npt.NDArray[np.int64], k: int
) -> list[Hit]:
    """Take the k best over all shards; equal scores are ordered by shard and row, so that answers repeat."""
    best = np.lexsort((rows, owners, -scores))
    kept = [(shards[owners[at]], int(rows[at]), float(scores[at])) for at in best if rows[at] >= 0][:k]
    return [Hit(shard.id(row), shard.text(row), score) for shard, row, score in kept]
