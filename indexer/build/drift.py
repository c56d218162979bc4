"""How far a new release lies from the one that an earlier night left live: its ids, and the answers to canary queries.

The live shards are read one at a time, from the build's cache, as a consumer reads them.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from indexer.build.catalogue import Hashes, hash_ids
from indexer.build.live import LiveCollection
from indexer.build.recall import NARROW, Name, Places, Probe, Scores, name_row
from indexer.encoder import Encoder, load_encoder
from indexer.errors import EncoderError, IntegrityError
from indexer.manifest import CollectionEntry, Manifest
from indexer.object_cache import ObjectCache
from indexer.shard_file import read_lines
from indexer.shard_search import search_shard, select_rows

SAMPLED_IDS = 100_000
"""Ids that are compared, those of the smallest hashes; fewer are compared completely."""


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A collection of an earlier night's release that tonight's is compared with."""

    manifest: Manifest
    collection: CollectionEntry
    """The one of its collections that is looked at."""
    cache: ObjectCache


@dataclass(frozen=True, kw_only=True)
class IdChurn:
    """Ids that were live and are gone, and those that are new, of a sample."""

    live: int
    gone: int
    new: int

    @property
    def exchanged(self) -> float:
        """Share of the live ids that are gone while new ones took their place; what shrinks or grows does not count."""
        return min(self.gone, self.new) / self.live if self.live else 0.0


@dataclass(frozen=True, kw_only=True)
class Canary:
    """A query's first hits in the live release and in the new one."""

    query: str
    live: list[Name]
    new: list[Name]

    @property
    def overlap(self) -> float:
        """Share of the live hits that are among the new ones."""
        new = {name for name, _ in self.new}
        return sum(name in new for name, _ in self.live) / len(self.live) if self.live else 1.0


@dataclass(frozen=True, kw_only=True)
class Drift:
    """What changed in one collection since the live release."""

    live_rows: int
    churn: IdChurn
    same_encoder: bool
    canaries: list[Canary] = field(default_factory=list)

    @property
    def overlap(self) -> float:
        """Median over the canary queries."""
        return float(np.median([canary.overlap for canary in self.canaries])) if self.canaries else 1.0


class IdSample:
    """The hashes of at most 200,000 ids, those up to a limit that sinks as more come in."""

    def __init__(self) -> None:
        self._last = (1 << 64) - 1
        self._settled = np.empty(0, dtype=np.uint64)
        self._waiting: list[Hashes] = []
        self._waiting_count = 0

    def add(self, ids: Iterable[str]) -> None:
        """Take in ids; again has no effect."""
        self._take(hash_ids(ids))

    def merge(self, other: "IdSample") -> None:
        """Take in what another part of the same ids has sampled."""
        self._take(other.settle(self._last))
        self.settle(other._last)

    def settle(self, last: int) -> Hashes:
        """Return the different hashes, rising; from now on none above `last` counts."""
        self._last = min(self._last, last)
        self._settled = _up_to(self._last, np.unique(np.concatenate([self._settled, *self._waiting])))
        self._waiting, self._waiting_count = [], 0
        while len(self._settled) > 2 * SAMPLED_IDS:
            self._last //= 2
            self._settled = _up_to(self._last, self._settled)
        return self._settled

    def compare(self, new: "IdSample") -> IdChurn:
        """Compare with the ids of a new release, both up to the lower of the limits."""
        last = min(self._last, new._last)
        ours, theirs = self.settle(last), new.settle(last)
        both = len(np.intersect1d(ours, theirs, assume_unique=True))
        return IdChurn(live=len(ours), gone=len(ours) - both, new=len(theirs) - both)

    def _take(self, hashes: Hashes) -> None:
        kept = hashes[hashes <= np.uint64(self._last)]
        self._waiting.append(kept)
        self._waiting_count += len(kept)
        if self._waiting_count >= SAMPLED_IDS:
            self.settle(self._last)


def _up_to(last: int, hashes: Hashes) -> Hashes:
    """Return those of rising hashes that are not above the last."""
    return hashes[: np.searchsorted(hashes, np.uint64(last), side="right")]


def survey_ids(batches: Iterable[list[str]], wanted: Collection[str]) -> tuple[IdSample, set[str]]:
    """Return a sample of ids, which come in batches, and which of the wanted ones are among them."""
    sample, known = IdSample(), set[str]()
    for ids in batches:
        sample.add(ids)
        known.update(set(wanted).intersection(ids))
    return sample, known


def measure_drift(
    baseline: Baseline,
    *,
    new_ids: IdSample,
    encoder: Encoder,
    canaries: Sequence[str],
    vectors: Scores,
    answers: tuple[Probe, int],
) -> Drift:
    """Compare a collection with the live one; raises IntegrityError where an object of it was changed.

    `canaries` are queries with their vectors (canaries, d) by tonight's encoder. `answers` are the merged probe, whose
    first queries they are, and its efSearch. Memory holds one live shard; what
    was read of it leaves the cache.
    """
    live, ids = baseline.collection, IdSample()
    same_encoder = baseline.manifest.encoder.fingerprint == encoder.fingerprint
    if canaries and not same_encoder:
        vectors = _embed_as_live(baseline, canaries)
    found = _LiveHits(len(canaries))
    collection = LiveCollection(entry=live, cache=baseline.cache)
    for number, shard in enumerate(live.shards):
        lines = read_lines(baseline.cache.fetch(shard.ids), shard.rows)
        dead = collection.read_dead(number)
        gone = set(dead.tolist())
        ids.add(name for row, name in enumerate(lines) if row not in gone)
        if canaries:
            selector = select_rows(dead, shard.rows) if len(dead) else None
            index = collection.open_index(number)
            scores, rows = search_shard(index, vectors, min(NARROW, shard.live_rows), live.ef_search, selector)
            texts = read_lines(baseline.cache.fetch(shard.texts), shard.rows) if shard.texts else None
            found.add(scores, rows, partial(name_row, lines, texts))
        # All shards together are a release, which the disk need not hold.
        for entry in filter(None, (shard.ids, shard.index, shard.texts)):
            baseline.cache.drop(entry)
    probe, ef_search = answers
    return Drift(
        live_rows=live.rows,
        churn=ids.compare(new_ids),
        same_encoder=same_encoder,
        canaries=[
            Canary(query=query, live=found.list_names(place), new=probe.list_names(ef_search, place))
            for place, query in enumerate(canaries)
        ],
    )


class _LiveHits:
    """The best hits of each query over the shards that were searched, ties in the order of shards and rows."""

    def __init__(self, queries: int) -> None:
        self._best: list[list[tuple[float, Name]]] = [[] for _ in range(queries)]

    def add(self, scores: Scores, rows: Places, name: Callable[[int], Name]) -> None:
        """Take in the hits of a shard, (queries, hits), row -1 where there was none."""
        for place, (values, numbers) in enumerate(zip(scores.tolist(), rows.tolist(), strict=True)):
            hits = sorted((-value, row) for value, row in zip(values, numbers, strict=True) if row >= 0)
            merged = self._best[place] + [(value, name(row)) for value, row in hits]
            self._best[place] = sorted(merged, key=lambda hit: hit[0])[:NARROW]

    def list_names(self, place: int) -> list[Name]:
        """Return the names of a query's hits, best first."""
        return [name for _, name in self._best[place]]


def _embed_as_live(baseline: Baseline, queries: Sequence[str]) -> Scores:
    """Embed queries by the encoder of the live release, read for it; raises IntegrityError where that fails."""
    files = {name: baseline.cache.fetch(entry) for name, entry in baseline.manifest.encoder.files.items()}
    try:
        return load_encoder(files).encode(queries, kind="query").vectors
    except EncoderError as error:
        # On another machine than its own it may fail its self-test: no reason to refuse a new one.
        raise IntegrityError(f"the encoder of the live release: {error}") from None
