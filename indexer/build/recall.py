"""Recall of approximate search against exact search, per shard and over all shards together.

A shard is probed while its float32 vectors are at hand, so quantised storage is measured against the truth.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from indexer.shard_search import search_shard, select_rows

DEPTH = 100
TIE = 1e-6
"""Scores closer than this count as equal: a row that ties with the last exact hit is as good as it."""
BLOCK_BYTES = 64 << 20

Scores = npt.NDArray[np.float32]


class Probe(NamedTuple):
    """What the probe queries found in one shard, each (queries, depth), -inf where there was no row."""

    exact: Scores
    """Scores of the best rows by exact search."""
    reported: Scores
    """Scores that the index gave its hits, best first."""
    true: Scores
    """Exact scores of these hits."""


class Recall(NamedTuple):
    """Share of the k best rows that were found, averaged over queries."""

    at_10: float
    at_100: float


def probe_shard(
    index: Any, vectors: Scores, queries: Scores, ef_search: int, dead: npt.NDArray[np.uint32] | None = None
) -> Probe:
    """Search a shard exactly and through its index; `vectors` (n, d) are the rows as they were embedded.

    `dead` has the numbers of rows that nobody finds any more.
    """
    gone = np.empty(0, dtype=np.uint32) if dead is None else dead
    depth = min(DEPTH, len(vectors) - len(gone))
    reported, rows = search_shard(
        index, queries, depth, ef_search, select_rows(gone, len(vectors)) if len(gone) else None
    )
    shape = (len(queries), DEPTH)
    probe = Probe(*(np.full(shape, -np.inf, dtype=np.float32) for _ in range(3)))
    block = max(1, BLOCK_BYTES // (4 * len(vectors)))
    for start in range(0, len(queries), block):
        part = slice(start, start + block)
        scores = queries[part] @ vectors.T
        scores[:, gone] = -np.inf
        probe.exact[part, :depth] = -np.sort(-np.partition(scores, -depth, axis=1)[:, -depth:], axis=1)
        found = np.take_along_axis(scores, np.maximum(rows[part], 0), axis=1)
        probe.true[part, :depth] = np.where(rows[part] >= 0, found, -np.inf)
        probe.reported[part, :depth] = np.where(rows[part] >= 0, reported[part], -np.inf)
    return probe


def merge_probes(probes: Sequence[Probe]) -> Probe:
    """Combine shards as a consumer does: the best reported scores over all of them."""
    exact = np.concatenate([probe.exact for probe in probes], axis=1)
    reported = np.concatenate([probe.reported for probe in probes], axis=1)
    true = np.concatenate([probe.true for probe in probes], axis=1)
    order = np.argsort(-reported, axis=1, kind="stable")[:, :DEPTH]
    return Probe(
        exact=-np.sort(-exact, axis=1)[:, :DEPTH],
        reported=np.take_along_axis(reported, order, axis=1),
        true=np.take_along_axis(true, order, axis=1),
    )


def measure_recall(probe: Probe) -> Recall:
    """Return recall at 10 and at 100, or at the number of rows where there are fewer."""
    return Recall(_recall_at(probe, 10), _recall_at(probe, DEPTH))


def _recall_at(probe: Probe, k: int) -> float:
    rows = int(np.isfinite(probe.exact[0]).sum())
    depth = min(k, rows)
    last = probe.exact[:, depth - 1 : depth]
    return float(np.mean(probe.true[:, :depth] >= last - TIE))
