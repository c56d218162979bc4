"""What the first hits of a release say about it: rows that are everywhere, and those that their own text finds."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from indexer.build.catalogue import shard_of
from indexer.build.recall import Probe, ProbeQueries
from indexer.text import normalise_query


class Hub(NamedTuple):
    """The row that the most sampled queries have among their first 10."""

    name: str
    queries: int
    """Queries that were asked."""
    share: float


class OwnTitles(NamedTuple):
    """Rows that were searched for by their own text."""

    asked: int
    found: int
    """Those, or others of the same text, among the first 10."""


def find_hub(probe: Probe, ef_search: int) -> Hub | None:
    """Return the most frequent row of the first 10 hits (N_10 of Radovanovic et al. 2010), None without any hit."""
    places = probe.hits(ef_search).places[: probe.sampled]
    counts = np.bincount(places[places >= 0])
    if not len(counts):
        return None
    most = int(np.argmax(counts))
    return Hub(probe.names[most][0], probe.sampled, float(counts[most]) / probe.sampled)


def count_own_titles(
    probe: Probe, queries: ProbeQueries, ef_search: int, *, base: int, measured: Collection[int]
) -> OwnTitles:
    """Count the rows that their own text finds, of those whose base shard, one of so many, was measured."""
    asked = found = 0
    for place, owner in enumerate(queries.owners, start=queries.sampled):
        if shard_of(owner, base) not in measured:
            continue
        asked += 1
        names = probe.list_names(ef_search, place)
        found += any(name == owner or normalise_query(text or "") == queries.texts[place] for name, text in names)
    return OwnTitles(asked, found)
