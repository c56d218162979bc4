"""The canaries of a release: queries that were measured, with what the builder itself found."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from indexer.build.finished import FinishedCollection
from indexer.build.recall import TIE, Scores, find_rung
from indexer.canaries import HITS, Canary, CollectionCanaries, render_canaries

QUERIES = 8
"""Canaries of a collection at most, about 10 kB each."""


def write_canaries(path: Path, finished: Sequence[FinishedCollection]) -> Path:
    """Write the canaries of a release whose shards are all there, and return the path."""
    described = (_describe_collection(item) for item in finished)
    path.write_bytes(render_canaries([item for item in described if item]))
    return path


def _describe_collection(item: FinishedCollection) -> CollectionCanaries | None:
    """Return the canaries of a collection, None where no query found all that there is to find.

    A shard that had found enough was searched no further, and answers the others at less than the release's efSearch:
    a consumer, or another processor's rounding, may find more, but not than all.
    """
    rung = find_rung(item.probe.narrow, item.ef_search)
    hits = item.probe.narrow[rung]
    depth = min(HITS, int(np.isfinite(item.probe.exact[0]).sum()))
    # Place by place: where several tie for the last one, their scores alone do not show that a better row was missed.
    whole = np.all(-np.sort(-hits.true[:, :depth], axis=1) >= item.probe.exact[:, :depth] - TIE, axis=1)
    chosen = np.flatnonzero(whole[: item.probe.sampled])[:QUERIES]
    if not len(chosen):
        return None
    return CollectionCanaries(
        collection=item.name,
        shards=tuple(sorted(item.shard_curves)),
        ef_search=rung,
        queries=tuple(_describe_query(item, rung, query) for query in chosen.tolist()),
    )


def _describe_query(item: FinishedCollection, rung: int, query: int) -> Canary:
    hits = item.probe.narrow[rung]
    found = hits.places[query] >= 0
    return Canary(
        query=item.queries.texts[query],
        vector=tuple(_shorten(item.queries.vectors[query])),
        ids=tuple(item.probe.names[place][0] for place in hits.places[query][found].tolist()),
        scores=tuple(_shorten(hits.reported[query][found])),
    )


def _shorten(numbers: Scores) -> list[float]:
    """Return float32 numbers as the shortest that give them back."""
    return [float(f"{number:.9g}") for number in numbers.tolist()]
