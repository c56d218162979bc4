"""Recall of approximate search against exact search at a ladder of efSearch, per shard and over all shards together.

A shard is probed while its float32 vectors are at hand, so quantised storage is measured against the truth. Only the
best hits are kept, and merging keeps no more, so memory holds two probes whatever the number of shards.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt

from indexer.config import Config
from indexer.shard_file import Lines
from indexer.shard_search import search_shard, select_rows

LADDER = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Values of efSearch that are measured: the time at each, the hits up to the first that finds nearly all."""
NARROW, DEPTH = 10, 100
"""Hits of the two searches: one of 100 hits looks at 100 candidates at least, which would flatter the 10."""
TIE = 1e-6
"""Scores closer than this count as equal: a row that ties with the last exact hit is as good as it."""
BLOCK_BYTES = 64 << 20
WIDE_QUERIES = 200
"""Sampled queries, the first ones, that measure recall@100: with 20,000 hits among them they are enough."""
TIMED_QUERIES = 50
"""Probe queries that are searched once more, one at a time on one thread, for the latency."""
CONFIDENCE_Z = 1.96
"""Half-width of a 95 % interval in standard errors."""

Scores = npt.NDArray[np.float32]
Places = npt.NDArray[np.integer[Any]]
Name = tuple[str, str | None]
"""Id and text of a row, None where the release carries no texts."""


@dataclass(frozen=True, kw_only=True)
class ProbeQueries:
    """Vectors of the queries for one collection: sampled ones, then rows' own texts, then golden ones."""

    vectors: Scores
    texts: tuple[str, ...]
    sampled: int
    """Queries, the first ones, that measure recall, hubs and drift."""
    owners: tuple[str, ...] = ()
    """Ids of the rows whose own texts are the next ones."""

    @property
    def golden_start(self) -> int:
        """Place of the first golden query."""
        return self.sampled + len(self.owners)

    @property
    def golden(self) -> Mapping[str, int]:
        """Golden query -> its place."""
        return {self.texts[place]: place for place in range(self.golden_start, len(self.texts))}


class Hits(NamedTuple):
    """What the queries found at one efSearch, best first, each (queries, hits), -inf or -1 where there was no row."""

    reported: Scores
    """Scores that the index gave."""
    true: Scores
    """Exact scores."""
    places: Places
    """Places in the probe's names; -1 where the name was not kept."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What the probe queries found in one shard or, merged, in several."""

    sampled: int
    """Queries, the first ones, that measure recall."""
    exact: Scores
    """Scores of the best rows by exact search, (queries, at most 100)."""
    narrow: Mapping[int, Hits]
    """efSearch -> the 10 hits of each query."""
    wide: Mapping[int, Hits]
    """efSearch, 100 or more -> the 100 hits of the first WIDE_QUERIES and of golden queries; names of these alone."""
    seconds: Mapping[int, Scores]
    """efSearch, every rung that was climbed -> time of each of the first queries, in seconds, one thread."""
    names: tuple[Name, ...]

    @property
    def rungs(self) -> tuple[int, ...]:
        """What was climbed of the ladder, in rising order."""
        return tuple(sorted(self.seconds))

    def hits(self, ef_search: int, *, wide: bool = False) -> Hits:
        """Return the hits at the largest measured efSearch up to this one, or at the smallest there is."""
        found = self.wide if wide else self.narrow
        return found[find_rung(found, ef_search)]

    def list_names(self, ef_search: int, query: int, *, wide: bool = False) -> list[Name]:
        """Return the names of a query's hits, best first."""
        return [self.names[place] for place in self.hits(ef_search, wide=wide).places[query].tolist() if place >= 0]


class Recall(NamedTuple):
    """Share of the k best rows that were found, averaged over queries."""

    at_10: float
    at_100: float


ENOUGH = Recall(0.999, 0.999)
"""Recall from which a wider search is not measured any more: the last one stands for it."""


def list_rungs(ef_search: int, rows: int) -> tuple[int, ...]:
    """Return the ladder, with a chosen efSearch in its place, up to the first rung that looks at every row."""
    ladder = sorted({*LADDER, *((ef_search,) if ef_search else ())})
    return tuple(ladder[: sum(rung < rows for rung in ladder) + 1])


def find_rung(rungs: Iterable[int], ef_search: int) -> int:
    """Return the largest rung up to efSearch, or the smallest of all."""
    known = sorted(rungs)
    return max((rung for rung in known if rung <= ef_search), default=known[0])


def probe_shard(
    index: Any,
    vectors: Scores,
    queries: ProbeQueries,
    ef_search: int,
    dead: npt.NDArray[np.uint32] | None = None,
    *,
    name: Callable[[int], Name],
    least: int = 0,
    enough: Recall = ENOUGH,
) -> Probe:
    """Search a shard exactly and through its index; `vectors` (n, d) are the rows as they were embedded.

    `ef_search` 0 climbs the ladder from `least` on until a search finds `enough`, another value measures that one as
    well. `dead` has the numbers of rows that nobody finds any more, `name` gives the name of a row.
    """
    gone = np.empty(0, dtype=np.uint32) if dead is None else dead
    selector = select_rows(gone, len(vectors)) if len(gone) else None
    rungs = list_rungs(ef_search or least, len(vectors))
    rungs = tuple(rung for rung in rungs if rung >= least) or rungs[-1:]
    wide = tuple(sorted({max(rung, DEPTH) for rung in rungs}))
    depth = min(DEPTH, len(vectors) - len(gone))
    asked = {NARROW: np.ones(len(queries.vectors), dtype=np.bool_), DEPTH: _ask_wide(queries)}
    exact = _score_exactly(vectors, queries.vectors, gone, depth)
    found: dict[tuple[int, int], Hits] = {}
    for k, ladder, share in ((NARROW, rungs, enough.at_10), (DEPTH, wide, enough.at_100)):
        for rung in ladder:
            found[k, rung] = _search(index, vectors, queries.vectors, asked[k], min(k, depth), rung, selector)
            if _is_enough(exact, found[k, rung].true, queries, asked[k], share):
                break
    hits, names = _name_rows(found, queries, name)
    highest = max(rung for _, rung in found)
    return Probe(
        sampled=queries.sampled,
        exact=exact,
        narrow={rung: hits[NARROW, rung] for k, rung in hits if k == NARROW},
        wide={rung: hits[DEPTH, rung] for k, rung in hits if k == DEPTH},
        seconds={
            rung: _time_searches(index, queries, min(NARROW, depth), rung, selector)
            for rung in rungs
            if rung <= highest or rung == rungs[0]
        },
        names=names,
    )


def merge_probes(probes: Sequence[Probe]) -> Probe:
    """Combine shards as a consumer does: the best reported scores over all of them, ties in the order of the shards."""
    first = probes[0]
    starts = np.cumsum([0, *(len(probe.names) for probe in probes)]).tolist()
    narrow, wide = (_merge_hits(probes, starts, kind) for kind in ("narrow", "wide"))
    every = [name for probe in probes for name in probe.names]
    used = np.unique(np.concatenate([hits.places.ravel() for hits in (*narrow.values(), *wide.values())]))
    used = used[used >= 0]
    exact = np.concatenate([probe.exact for probe in probes], axis=1)
    return Probe(
        sampled=first.sampled,
        exact=-np.sort(-exact, axis=1)[:, :DEPTH],
        narrow=_renumber(narrow, used),
        wide=_renumber(wide, used),
        seconds={
            rung: np.sum([probe.seconds[find_rung(probe.seconds, rung)] for probe in probes], axis=0, dtype=np.float32)
            for rung in sorted({rung for probe in probes for rung in probe.rungs})
        },
        names=tuple(every[place] for place in used.tolist()),
    )


def measure_recall(probe: Probe, ef_search: int) -> Recall:
    """Return recall at 10 and at 100, or at the number of rows where there are fewer."""
    return Recall(
        _recall_at(probe, probe.hits(ef_search), NARROW), _recall_at(probe, probe.hits(ef_search, wide=True), DEPTH)
    )


def find_targets(config: Config) -> Recall:
    """Return the recalls that a chosen efSearch reaches: those of `index`, or of the gates where they are more."""
    options, gates = config.index, config.gates
    return Recall(
        max(options.target_recall_10, gates.min_recall_10), max(options.target_recall_100, gates.min_recall_100)
    )


def choose_ef_search(curves: Sequence[Mapping[int, Recall]], targets: Recall) -> int:
    """Return the smallest efSearch at which every curve, of a shard or merged, has the target recalls.

    Where none has, the largest that was measured: the gates judge it.
    """
    rungs = sorted({rung for curve in curves for rung in curve})
    for rung in rungs:
        reached = [curve[find_rung(curve, rung)] for curve in curves]
        if all(found.at_10 >= targets.at_10 and found.at_100 >= targets.at_100 for found in reached):
            return rung
    return rungs[-1]


def estimate_interval(share: float, sample: int) -> tuple[float, float]:
    """Return the 95 % interval of a mean of so many numbers from 0 to 1 (Wilson 1927, equation 4).

    Such numbers vary no more than a coin of the same mean, so it is no narrower than theirs; with 0 and 1 it has a
    width, too.
    """
    z = CONFIDENCE_Z**2 / sample
    centre, half = share + z / 2, (z * (share * (1 - share) + z / 4)) ** 0.5
    return max(0.0, (centre - half) / (1 + z)), min(1.0, (centre + half) / (1 + z))


def name_row(ids: Sequence[str] | Lines, texts: Sequence[str] | Lines | None, row: int) -> Name:
    """Return the name of a row of a shard."""
    return ids[row], texts[row] if texts is not None else None


def _recall_at(probe: Probe, hits: Hits, k: int) -> float:
    rows = int(np.isfinite(probe.exact[0]).sum())
    depth, asked = min(k, rows), count_asked(probe.sampled, k)
    last = probe.exact[:asked, depth - 1 : depth]
    return float(np.mean(hits.true[:asked, :depth] >= last - TIE))


def count_asked(sampled: int, k: int) -> int:
    """Return how many of the sampled queries measure recall at k."""
    return min(sampled, WIDE_QUERIES) if k == DEPTH else sampled


def _ask_wide(queries: ProbeQueries) -> npt.NDArray[np.bool_]:
    places = np.arange(len(queries.vectors))
    return (places < count_asked(queries.sampled, DEPTH)) | (places >= queries.golden_start)


def _search(
    index: Any, vectors: Scores, queries: Scores, asked: npt.NDArray[np.bool_], k: int, ef_search: int, selector: Any
) -> Hits:
    """Return the hits of the queries that are asked; the others have none."""
    found = _order_ties(vectors, queries[asked], *search_shard(index, queries[asked], k, ef_search, selector))
    shape = (len(queries), k)
    hits = Hits(np.full(shape, -np.inf, np.float32), np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int32))
    for every, part in zip(hits, found, strict=True):
        every[asked] = part
    return hits


def _order_ties(vectors: Scores, queries: Scores, reported: Scores, rows: Places) -> Hits:
    """Put rows of equal scores in their order, as a consumer does, and score them exactly."""
    order = np.lexsort((rows, -reported), axis=1)
    reported, rows = np.take_along_axis(reported, order, axis=1), np.take_along_axis(rows, order, axis=1)
    true = np.empty(rows.shape, dtype=np.float32)
    block = max(1, BLOCK_BYTES // (4 * vectors.shape[1] * rows.shape[1]))
    for start in range(0, len(queries), block):
        part = slice(start, start + block)
        true[part] = np.einsum("qd,qkd->qk", queries[part], vectors[np.maximum(rows[part], 0)])
    return Hits(np.where(rows >= 0, reported, -np.inf), np.where(rows >= 0, true, -np.inf), rows)


def _score_exactly(vectors: Scores, queries: Scores, gone: npt.NDArray[np.uint32], depth: int) -> Scores:
    """Return the best exact scores, (queries, depth)."""
    exact = np.empty((len(queries), depth), dtype=np.float32)
    block = max(1, BLOCK_BYTES // (4 * len(vectors)))
    for start in range(0, len(queries), block):
        part = slice(start, start + block)
        scores = queries[part] @ vectors.T
        scores[:, gone] = -np.inf
        exact[part] = -np.sort(-np.partition(scores, -depth, axis=1)[:, -depth:], axis=1)
    return exact


def _is_enough(exact: Scores, true: Scores, queries: ProbeQueries, asked: npt.NDArray[np.bool_], share: float) -> bool:
    """Whether the sampled queries that are asked have such a share of their best hits."""
    found = true >= exact[:, true.shape[1] - 1 : true.shape[1]] - TIE
    sampled = found[: queries.sampled][asked[: queries.sampled]]
    return bool(sampled.mean() >= share)


def _name_rows(
    found: Mapping[tuple[int, int], Hits], queries: ProbeQueries, name: Callable[[int], Name]
) -> tuple[dict[tuple[int, int], Hits], tuple[Name, ...]]:
    """Turn the rows of all narrow hits and of the golden queries' wide ones into places, and return the names there."""
    rows = {key: hits.places.copy() for key, hits in found.items()}
    for (k, _), kept in rows.items():
        kept[: queries.golden_start if k == DEPTH else 0] = -1
    used = np.unique(np.concatenate([kept.ravel() for kept in rows.values()]))
    used = used[used >= 0]
    named = {
        key: hits._replace(places=np.where(rows[key] >= 0, np.searchsorted(used, rows[key]), -1).astype(np.int32))
        for key, hits in found.items()
    }
    return named, tuple(name(row) for row in used.tolist())


def _merge_hits(probes: Sequence[Probe], starts: Sequence[int], kind: str) -> dict[int, Hits]:
    merged = {}
    for rung in sorted({rung for probe in probes for rung in getattr(probe, kind)}):
        parts = [probe.hits(rung, wide=kind == "wide") for probe in probes]
        places = [np.where(hits.places >= 0, hits.places + at, -1) for hits, at in zip(parts, starts, strict=False)]
        reported = np.concatenate([hits.reported for hits in parts], axis=1)
        depth = DEPTH if kind == "wide" else NARROW
        order = np.argsort(-reported, axis=1, kind="stable")[:, :depth]
        columns = (reported, np.concatenate([hits.true for hits in parts], axis=1), np.concatenate(places, axis=1))
        merged[rung] = Hits(*(np.take_along_axis(column, order, axis=1) for column in columns))
    return merged


def _renumber(found: Mapping[int, Hits], used: Places) -> dict[int, Hits]:
    return {
        rung: hits._replace(places=np.where(hits.places >= 0, np.searchsorted(used, hits.places), -1).astype(np.int32))
        for rung, hits in found.items()
    }


def _time_searches(index: Any, queries: ProbeQueries, k: int, ef_search: int, selector: Any) -> Scores:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        seconds = []
        for row in range(min(TIMED_QUERIES, queries.sampled)):
            started = time.perf_counter()
            search_shard(index, queries.vectors[row : row + 1], k, ef_search, selector)
            seconds.append(time.perf_counter() - started)
        return np.array(seconds, dtype=np.float32)
    finally:
        faiss.omp_set_num_threads(before)
