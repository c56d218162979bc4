"""The run's own query tables, as arrays of query rows: similar pairs, dissimilar pairs, nodes per query.

QUERY_NODES has a row for every query of the shop. It is streamed twice, so that memory holds the nodes of the
queries that training asks for and of no others.
"""

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from indexer.contracts.schemas import QUERY_NEGATIVES, QUERY_NODES, QUERY_PAIRS, TAXONOMY, Table
from indexer.contracts.tables import read_table
from indexer.job_config import NodesConfig

SHARE_DIGITS = 12
"""Shares that differ later than this are equal: their sums depend on the order of the addition."""
SHARE_TOLERANCE = 1e-9
"""Ten shares of 0.1 add up to a little less than 1."""

Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class QueryNodes:
    """Node numbers by query row, -1 where there are no more; a query without nodes has none of either."""

    labels: NDArray[np.int32]
    """(queries, largest set): the nodes of each query."""
    lineages: NDArray[np.int32]
    """(queries, largest lineage): these and all nodes above them."""


def read_query_pairs(work: str | Path, run_date: str) -> tuple[list[Pair], list[Pair]]:
    """Return D_QQ+ and D_QQ- of the run, sorted, so that the order of part files does not matter."""
    names: dict[str, str] = {}
    similar = _read_pairs(work, run_date, QUERY_PAIRS, names)
    return similar, _read_pairs(work, run_date, QUERY_NEGATIVES, names)


def sample_queries(work: str | Path, run_date: str, config: NodesConfig, *, limit: int, seed: int) -> list[str]:
    """Return at most `limit` queries that have nodes, in order; memory holds no more of them.

    Those with the smallest hashes under the seed are taken, so that most of tonight's are also tomorrow's.
    """
    sure = (
        query
        for batch in read_table(work, run_date, QUERY_NODES, ("query", "share"))
        for query in batch.filter(pc.greater_equal(batch["share"], config.min_top_share))["query"].to_pylist()
    )
    # The split goes by the hash under the seed alone: by that, the smallest are those that are held out.
    return sorted(smallest_hashes(sure, limit=limit, key=f"mined {seed}"))


def read_node_sets(
    work: str | Path, run_date: str, config: NodesConfig, *, wanted: Iterable[str]
) -> dict[str, frozenset[str]]:
    """Return the label set of each wanted query whose nodes are sure enough, by query."""
    names = pa.array(sorted(wanted), pa.string())
    shares: dict[str, list[tuple[str, float]]] = {}
    for batch in read_table(work, run_date, QUERY_NODES, ("query", "node_id", "share")):
        chosen = batch.filter(pc.is_in(batch["query"], value_set=names))
        for query, node, share in zip(*(column.to_pylist() for column in chosen.columns), strict=True):
            shares.setdefault(query, []).append((node, share))
    sets = {query: choose_labels(found, config) for query, found in sorted(shares.items())}
    return {query: nodes for query, nodes in sets.items() if nodes}


def choose_labels(shares: Sequence[tuple[str, float]], config: NodesConfig) -> frozenset[str]:
    """Return the smallest set of a query's nodes that holds `label_mass` of its purchases.

    A query whose largest share is below `min_top_share` has none. The rule is that of
    `spark.taxonomy.query_labels`, to the last digit.
    """
    if max(share for _, share in shares) < config.min_top_share:
        return frozenset()
    held, nodes = 0.0, []
    for node, share in sorted(shares, key=lambda item: (-round(item[1], SHARE_DIGITS), item[0])):
        if held >= config.label_mass - SHARE_TOLERANCE:
            break
        nodes.append(node)
        held += share
    return frozenset(nodes)


def smallest_hashes(texts: Iterable[str], *, limit: int, key: str) -> set[str]:
    """Return the `limit` distinct texts with the smallest hashes under the key; memory holds no more of them."""
    largest_first: list[tuple[int, str]] = []
    kept: set[str] = set()
    for text in texts:
        if text in kept:
            continue
        digest = hashlib.blake2b(text.encode(), digest_size=8, key=key.encode()).digest()
        entry = (-int.from_bytes(digest, "big"), text)
        if len(kept) < limit:
            heapq.heappush(largest_first, entry)
        elif entry > largest_first[0]:
            kept.remove(heapq.heapreplace(largest_first, entry)[1])
        else:
            continue
        kept.add(text)
    return kept


def index_pairs(pairs: Sequence[Pair], rows: Mapping[str, int]) -> NDArray[np.int64]:
    """Return (pairs, 2) row numbers."""
    return np.array([(rows[a], rows[b]) for a, b in pairs], dtype=np.int64).reshape(-1, 2)


def read_parents(work: str | Path, run_date: str) -> dict[str, str]:
    """Return the parent of each node of the run's taxonomy that has one."""
    return {
        node: parent
        for batch in read_table(work, run_date, TAXONOMY, ("node_id", "parent_id"))
        for node, parent in zip(*(column.to_pylist() for column in batch.columns), strict=True)
        if parent is not None
    }


def index_node_sets(
    sets: Mapping[str, frozenset[str]], queries: Sequence[str], parents: Mapping[str, str]
) -> QueryNodes:
    """Number the nodes of each query, and those above them by `parents`."""
    lineages = {query: frozenset(_climb(nodes, parents)) for query, nodes in sets.items()}
    numbers = {node: number for number, node in enumerate(sorted(set().union(*lineages.values())))}
    return QueryNodes(labels=_number_sets(sets, queries, numbers), lineages=_number_sets(lineages, queries, numbers))


def _climb(nodes: Iterable[str], parents: Mapping[str, str]) -> Iterator[str]:
    for start in nodes:
        node: str | None = start
        while node is not None:
            yield node
            node = parents.get(node)


def _number_sets(
    sets: Mapping[str, frozenset[str]], queries: Sequence[str], numbers: Mapping[str, int]
) -> NDArray[np.int32]:
    width = max((len(nodes) for nodes in sets.values()), default=1)
    table = np.full((len(queries), width), -1, dtype=np.int32)
    for row, query in enumerate(queries):
        found = sorted(numbers[node] for node in sets.get(query, ()))
        table[row, : len(found)] = found
    return table


def _read_pairs(work: str | Path, run_date: str, table: Table, names: dict[str, str]) -> list[Pair]:
    """Return each pair once, smaller query first; `names` keeps one string per query, which many pairs share."""
    pairs: set[Pair] = set()
    for batch in read_table(work, run_date, table, ("query_a", "query_b")):
        for a, b in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            pairs.add((names.setdefault(min(a, b), min(a, b)), names.setdefault(max(a, b), max(a, b))))
    return sorted(pairs)
