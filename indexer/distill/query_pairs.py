"""The run's own query tables, as arrays of query rows: similar pairs, dissimilar pairs, nodes per query."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
from numpy.typing import NDArray

from indexer.config import NodesConfig
from indexer.contracts.schemas import QUERY_NEGATIVES, QUERY_NODES, QUERY_PAIRS, Table
from indexer.errors import ContractError
from indexer.runs import StepFolder

Pair = tuple[str, str]


def read_query_pairs(work: str | Path, run_date: str) -> tuple[list[Pair], list[Pair]]:
    """Return D_QQ+ and D_QQ- of the run, sorted, so that the order of part files does not matter."""
    similar = {_ordered(row["query_a"], row["query_b"]) for row in _read_rows(work, run_date, QUERY_PAIRS)}
    dissimilar = {_ordered(row["query_a"], row["query_b"]) for row in _read_rows(work, run_date, QUERY_NEGATIVES)}
    return sorted(similar), sorted(dissimilar)


def read_node_sets(work: str | Path, run_date: str, config: NodesConfig) -> dict[str, frozenset[str]]:
    """Return the label set of each query whose nodes are sure enough.

    The set is the smallest one that holds `label_mass` of the query's purchases; a query whose first node holds
    less than `min_top_share` has none.
    """
    shares: dict[str, list[tuple[float, str]]] = {}
    for row in _read_rows(work, run_date, QUERY_NODES):
        shares.setdefault(row["query"], []).append((-row["share"], row["node_id"]))
    sets = {query: _smallest_set(sorted(found), config) for query, found in sorted(shares.items())}
    return {query: nodes for query, nodes in sets.items() if nodes}


def index_pairs(pairs: Sequence[Pair], rows: Mapping[str, int]) -> NDArray[np.int64]:
    """Return (pairs, 2) row numbers."""
    return np.array([(rows[a], rows[b]) for a, b in pairs], dtype=np.int64).reshape(-1, 2)


def index_node_sets(sets: Mapping[str, frozenset[str]], queries: Sequence[str]) -> NDArray[np.int32]:
    """Return (queries, largest set) node numbers; -1 fills the rest, and the rows of queries without nodes."""
    numbers = {node: number for number, node in enumerate(sorted(set().union(*sets.values())))} if sets else {}
    width = max((len(nodes) for nodes in sets.values()), default=1)
    table = np.full((len(queries), width), -1, dtype=np.int32)
    for row, query in enumerate(queries):
        found = sorted(numbers[node] for node in sets.get(query, ()))
        table[row, : len(found)] = found
    return table


def _smallest_set(ranked: list[tuple[float, str]], config: NodesConfig) -> frozenset[str]:
    """Take nodes by falling share until `label_mass` is reached; `ranked` holds (-share, node)."""
    if -ranked[0][0] < config.min_top_share:
        return frozenset()
    held, nodes = 0.0, []
    for negative_share, node in ranked:
        nodes.append(node)
        held -= negative_share
        if held >= config.label_mass - 1e-9:
            break
    return frozenset(nodes)


def _read_rows(work: str | Path, run_date: str, table: Table) -> Iterator[dict[str, Any]]:
    folder = StepFolder(work, table.written_by, run_date).table_folder(table.name)
    if not folder.is_dir():
        raise ContractError(f"table {table.name}: no folder {folder}; run the step {table.written_by} again")
    for batch in ds.dataset(folder, schema=table.schema, format="parquet").to_batches():
        yield from batch.to_pylist()


def _ordered(a: str, b: str) -> Pair:
    return (a, b) if a <= b else (b, a)
