"""What shoppers bought after the queries that a training knows, from the run's PURCHASES."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.contracts.schemas import PURCHASES
from indexer.contracts.tables import read_table
from indexer.distill.query_pairs import smallest_hashes
from indexer.distill.slices import Traffic

SUMS = pa.schema([("query", pa.string()), ("purchases", pa.int64())])

Bought = tuple[str, str, int]
"""Query, product id, purchases."""


def read_bought_pairs(work: str | Path, run_date: str, *, queries: Iterable[str], limit: int) -> list[Bought]:
    """Return the `limit` products bought most after each query, in order of query, purchases (most first) and id."""
    names = pa.array(sorted(queries), pa.string())
    batches = [
        batch.filter(pc.is_in(batch["query"], value_set=names)) for batch in read_table(work, run_date, PURCHASES)
    ]
    order = [("query", "ascending"), ("purchases", "descending"), ("product_id", "ascending")]
    table = pa.Table.from_batches(batches, schema=PURCHASES.schema).sort_by(order)
    starts = np.flatnonzero(pc.not_equal(table["query"][1:], table["query"][:-1]).to_numpy()) + 1
    sizes = np.diff([0, *starts, len(table)])
    rank = np.arange(len(table)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    near = table.filter(pa.array(rank < limit))
    return list(zip(*(near[name].to_pylist() for name in ("query", "product_id", "purchases")), strict=True))


def sample_bought_queries(
    work: str | Path, run_date: str, *, known: Collection[str], limit: int, seed: int
) -> set[str]:
    """Return at most `limit` queries that led to purchases and are not known; memory holds no more of them."""
    batches = read_table(work, run_date, PURCHASES, ("query",))
    queries = (query for batch in batches for query in pc.unique(batch["query"]).to_pylist() if query not in known)
    return smallest_hashes(queries, limit=limit, key=str(seed))


def read_traffic(work: str | Path, run_date: str, queries: Sequence[str]) -> Traffic:
    """Return the purchases after each of the given queries, 0 where there are none, and after every query."""
    batches = read_table(work, run_date, PURCHASES, ("query", "purchases"))
    parts = [_sum_purchases(pa.Table.from_batches([batch])) for batch in batches]
    table = _sum_purchases(pa.concat_tables([SUMS.empty_table(), *parts]))
    places = pc.index_in(pa.array(queries, pa.string()), value_set=table["query"])
    return Traffic(own=pc.fill_null(table["purchases"].take(places), 0).to_numpy(), shop=table["purchases"].to_numpy())


def _sum_purchases(table: pa.Table) -> pa.Table:
    summed = table.group_by("query").aggregate([("purchases", "sum")])
    return summed.select(["query", "purchases_sum"]).rename_columns(SUMS.names).cast(SUMS)
