"""Open a published release, search it, and follow newer ones: all that a serving process needs.

Every file is verified by size and SHA-256 before any parser sees it. A release is swapped in as a whole;
whatever goes wrong on the way leaves the one that is being served: a newer release is opened in a child process first.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

import faiss
import numpy as np

from indexer.encoder import Vectors
from indexer.errors import ConfigError, IntegrityError, StoreError
from indexer.guard import try_release
from indexer.id_filter import IdFilter, make_filter
from indexer.loaded_release import LoadedRelease, Place, fetch_files, open_release
from indexer.log import LogEntry, live_entry, read_head, read_manifest, refuse_empty
from indexer.log_signature import trust
from indexer.object_cache import ObjectCache, default_cache
from indexer.search_pool import SearchPool
from indexer.served_marks import ServedMarks
from indexer.signature import PublicKey, open_public_key
from indexer.store import Store, open_store
from indexer.text import normalise_query

MAX_HITS = 10_000
MAX_REFORMULATIONS = 100
ALL_CORES = faiss.omp_get_max_threads()
"""What FAISS takes of itself; asked before anything sets another number."""
Guard = Literal["always", "refresh", "never"]
"""When a release is opened in a child process first."""


@dataclass(frozen=True)
class Hit:
    """One result: the id, its text where the release carries texts, and the cosine."""

    id: str
    text: str | None
    score: float


@dataclass(frozen=True)
class SourcedHit(Hit):
    """A product and the query that it was found through: the one that was asked, or a curated one."""

    through: str


@dataclass(frozen=True, kw_only=True)
class ReleaseInfo:
    """Which release is being served, and what it holds."""

    run_id: str
    run_date: str
    sequence: int
    created_at: str
    age_seconds: float
    """Since the release was built; a number that grows without end says that nothing new arrives."""
    collections: tuple[str, ...]
    rows: Mapping[str, int]
    """Collection -> rows that can be found."""
    shards: Mapping[str, int]
    """Collection -> shards, deltas among them."""
    loaded_bytes: int
    """Size of the files that were read into this process's own memory."""
    mapped_bytes: int
    """Size of the files that are mapped; processes of one machine share their pages."""


class Index:
    """The live release of a store; safe to share between threads."""

    def __init__(
        self,
        store: Store,
        cache: ObjectCache,
        threads: int,
        mapped: bool,
        guard: Guard,
        key: PublicKey | None,
        marks: ServedMarks | None,
    ) -> None:
        self._store = store
        self._guard = guard
        self._check = trust(key, store.url)
        self._cache = cache
        self._threads = threads
        self._mapped = mapped
        self._pool = SearchPool(threads or ALL_CORES)
        self._refreshing = threading.Lock()
        self._marks = marks
        self._release = self._load(self._find_live(0), tried=guard == "always")

    @property
    def release(self) -> ReleaseInfo:
        """The release that is being served, its age and its size."""
        served = self._release
        manifest = served.manifest
        created = datetime.fromisoformat(manifest.created_at)
        total = sum(item.bytes for item in manifest.downloads)
        return ReleaseInfo(
            run_id=manifest.run_id,
            run_date=manifest.run_date,
            sequence=served.sequence,
            created_at=manifest.created_at,
            age_seconds=max(0.0, (datetime.now(UTC) - created).total_seconds()),
            collections=tuple(served.shards),
            rows={item.name: item.rows for item in manifest.collections},
            shards={item.name: len(item.shards) for item in manifest.collections},
            loaded_bytes=total - served.mapped_bytes,
            mapped_bytes=served.mapped_bytes,
        )

    def search(
        self,
        query: str,
        collection: str = "products",
        k: int = 10,
        *,
        among: Iterable[str] | None = None,
        without: Iterable[str] | None = None,
        ids: IdFilter | None = None,
    ) -> list[Hit]:
        """Return at most k hits, best first; a query without a known word has none.

        Only ids of `among` are found, none of `without`; `ids` is both of them, prepared by `prepare_filter`.
        """
        return self.search_batch([query], collection, k, among=among, without=without, ids=ids)[0]

    def search_batch(
        self,
        queries: Sequence[str],
        collection: str = "products",
        k: int = 10,
        *,
        among: Iterable[str] | None = None,
        without: Iterable[str] | None = None,
        ids: IdFilter | None = None,
    ) -> list[list[Hit]]:
        """Search many queries in one release; raises ConfigError for an unknown collection, a wrong k or filter."""
        served = self._release
        wanted = _check(served, collection, k, among, without, ids)
        if not queries:
            return []
        vectors, _, empty = served.encoder.encode([normalise_query(query) for query in queries], kind="query")
        found = served.search(self._pool, vectors, collection, k, wanted)
        return [
            [] if nothing else [Hit(shard.id(row), shard.text(row), score) for score, shard, row in places]
            for places, nothing in zip(found, empty, strict=True)
        ]

    def reformulate(self, query: str, k: int = 10) -> list[str]:
        """Return at most k other curated queries that mean the same, best first (KD-Boost section 5.2)."""
        served = self._release
        _check(served, "queries", k, None, None, None)
        asked = normalise_query(query)
        own, _, empty = served.encoder.encode([asked], kind="query")
        return [] if empty[0] else [_name(place) for place in self._find_others(served, own, asked, k)]

    def source(
        self,
        query: str,
        k: int = 10,
        *,
        reformulations: int = 5,
        among: Iterable[str] | None = None,
        without: Iterable[str] | None = None,
        ids: IdFilter | None = None,
    ) -> list[SourcedHit]:
        """Return at most k products found through the query or one of so many curated queries that mean the same.

        A product that is found through a reformulation r scores cos(query, r) * cos(r, product), through the query
        itself cos(query, product), and counts once, by its best score; negative cosines with r or its products do not
        count. KD-Boost (appendix D) sends reformulations to the search index and names no rule of merging: this one
        is a reading. Raises ConfigError as `search` does, and unless 0 <= reformulations <= 100.
        """
        served = self._release
        wanted = _check(served, "products", k, among, without, ids)
        if not 0 <= reformulations <= MAX_REFORMULATIONS:
            raise ConfigError(f"reformulations: expected 0 to {MAX_REFORMULATIONS}, found {reformulations}")
        asked = normalise_query(query)
        own, _, empty = served.encoder.encode([asked], kind="query")
        if empty[0]:
            return []
        others = self._find_others(served, own, asked, reformulations) if reformulations else []
        others = [place for place in others if place.score > 0]
        vectors = np.stack([own[0], *(_find_vector(place) for place in others)])
        found = served.search(self._pool, vectors, "products", k, wanted)
        through = [(asked, 1.0), *((_name(place), place.score) for place in others)]
        return _join(found, through)[:k]

    def prepare_filter(
        self, *, among: Iterable[str] | None = None, without: Iterable[str] | None = None, collection: str = "products"
    ) -> IdFilter:
        """Return a filter for many searches, whose rows are found now; `refresh` finds them in what it brings.

        The first filter of a release makes a table of its ids, 12 bytes a row.
        """
        made = make_filter(collection, among, without)
        self._release.select(made)
        return made

    def refresh(self) -> bool:
        """Swap to the newest live release and return whether there was one.

        Searches in flight finish on the release they began with. Any error keeps the served release and is
        raised; a log that is shorter than before is an IntegrityError, and so is a release that a child process does
        not survive.
        """
        with self._refreshing:
            entry = self._find_live(self._release.sequence)
            if entry.sequence == self._release.sequence:
                return False
            newer = self._load(entry, tried=self._guard != "never")
            newer.take_filters(self._release)
            self._release = newer
            return True

    def _find_live(self, served: int) -> LogEntry:
        """Return the live entry; raises IntegrityError where it is older than one that was served already."""
        forget = ""
        if self._marks:
            # Before the head: another consumer may serve and mark what is newer than a head that was read first.
            served = max(served, self._marks.newest())
            forget = f"; if they were taken back on purpose, delete {self._marks.folder} and start anew"
        head = read_head(self._store)
        if head < served:
            raise IntegrityError(
                f"{self._store.url}: log ends at {head}, but {served} was served already; "
                f"the log lost entries, restore them{forget}"
            )
        entry = live_entry(self._store, head, self._check)
        if entry is None and not served:
            raise refuse_empty(self._store.url)
        if entry is None or entry.sequence < served:
            raise IntegrityError(
                f"{self._store.url}: log entry {served} was served already, but "
                f"{entry.sequence if entry else 'none'} is live; entries were changed, restore them{forget}"
            )
        return entry

    def _load(self, entry: LogEntry, *, tried: bool) -> LoadedRelease:
        manifest = read_manifest(self._store, entry)
        # First: the disk of the cache may hold two releases and no third.
        self._cache.prune(manifest.downloads)
        files = fetch_files(manifest, self._cache)
        if tried:
            try_release(manifest, files, place=self._store.url)
        try:
            loaded = open_release(
                entry.sequence, manifest, files, threads=self._threads, mapped=self._mapped, place=self._store.url
            )
        except OSError as error:
            raise StoreError(
                f"{error.filename or self._store.url}: cannot be opened: {error.strerror or error}; let the process "
                "open more files (`ulimit -n`) where it is their number, else check the disk"
            ) from error
        if self._marks:
            self._marks.add(entry)
        return loaded

    def _find_others(self, served: LoadedRelease, own: Vectors, asked: str, count: int) -> list[Place]:
        """Return the nearest curated queries that are not the one asked."""
        found = served.search(self._pool, own, "queries", min(count + 1, MAX_HITS))[0]
        return [place for place in found if _name(place) != asked][:count]


def open_index(
    url: str,
    *,
    cache: Path | None = None,
    threads: int = 1,
    mapped: bool = False,
    guard: Guard = "refresh",
    public_key: str | Path | None = None,
) -> Index:
    """Open the live release of a folder or `s3://bucket/prefix`.

    Objects of a bucket, and with `public_key` those of a folder, too, are kept in `cache` under their hash (by default
    below the user's cache folder) and are copied once. `threads` is for encoding and searching: 1 gives the steadiest
    latency, 0 takes one per core.
    With `mapped`, files of indexes, ids and texts are mapped instead of read, so that processes share their memory;
    they must not be changed while they are served. Searching sets FAISS's number of threads to 1 in the calling thread.
    `guard` says when a release is opened in a child process first, so that one that cannot be survived takes nothing
    down: before a `refresh` swaps (the default), `always`, or `never`. With `public_key`, a PEM file, only releases are
    served that one of its Ed25519 keys signed and that have not expired, and none older than `cache` has seen served;
    this needs the extra `signing`.
    Raises StoreError where nothing is published or storage fails, IntegrityError where bytes are not as promised.
    """
    if guard not in get_args(Guard):
        raise ConfigError(f"guard: expected one of {', '.join(get_args(Guard))}, found {guard!r}")
    store, key = open_store(url), open_public_key(public_key)
    objects = ObjectCache(store, cache, copied=key is not None)
    # Without a key, who may write to the store decides what is served in any case.
    marks = ServedMarks(cache or default_cache(), store, key) if key else None
    return Index(store, objects, threads, mapped, guard, key, marks)


def _check(
    served: LoadedRelease,
    collection: str,
    k: int,
    among: Iterable[str] | None,
    without: Iterable[str] | None,
    ids: IdFilter | None,
) -> IdFilter | None:
    """Return the filter that a search asks for; raises ConfigError for arguments that make no sense."""
    served.shards_of(collection)
    if not 1 <= k <= MAX_HITS:
        raise ConfigError(f"k: expected 1 to {MAX_HITS}, found {k}")
    if among is None and without is None:
        if ids is not None and ids.collection != collection:
            raise ConfigError(f"ids: expected a filter of {collection}, found one of {ids.collection}")
        return ids
    if ids is not None:
        raise ConfigError("ids: expected a prepared filter or among and without, found both")
    return make_filter(collection, among, without)


def _find_vector(place: Place) -> Vectors:
    """Return a row's vector, at unit length also where its storage rounds."""
    vector: Vectors = place.shard.index.reconstruct(place.row)
    return vector / np.linalg.norm(vector)


def _name(place: Place) -> str:
    return place.shard.text(place.row) or ""


def _join(found: list[list[Place]], through: list[tuple[str, float]]) -> list[SourcedHit]:
    """Return each product once, by its best score, best first; of equal scores the earlier query's."""
    ranked = sorted(
        (-weight * place.score, number, rank)
        for number, (places, (_, weight)) in enumerate(zip(found, through, strict=True))
        for rank, place in enumerate(places)
        if number == 0 or place.score > 0
    )
    hits: dict[tuple[int, int], SourcedHit] = {}
    for score, number, rank in ranked:
        _, shard, row = found[number][rank]
        if (id(shard), row) not in hits:
            hits[id(shard), row] = SourcedHit(shard.id(row), shard.text(row), -score, through[number][0])
    return list(hits.values())
