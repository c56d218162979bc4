"""What shoppers bought after the queries that a training knows, from the run's PURCHASES."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.contracts.schemas import PURCHASES
from indexer.contracts.tables import read_table

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
