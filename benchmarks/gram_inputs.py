"""Purchases for `benchmarks/gram.py`: three shapes of a shop, the same for the same seed."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

Integers = npt.NDArray[np.int64]
HUBS, HUB_SHARE = 10, 0.3


class Shape(NamedTuple):
    """Pairs per query and per product, and how purchases are drawn."""

    pairs_per_query: int
    pairs_per_product: int
    skew: float
    """Zipf exponent of products that are bought after queries of any topic; 0 draws evenly."""
    hubs: int


SHAPES = {
    "shop": Shape(6, 8, 0.86, 0),
    "hubs": Shape(60, 8, 0.5, HUBS),
    "uniform": Shape(6, 24, 0.0, 0),
}
"""shop: topics with their own products and a Zipf tail of products for all; hubs: besides, ten products that 30 % of
the queries lead to; uniform: no skew, so pruning has least to win."""


def make_purchases(shape: str, pairs: int, *, seed: int = 0) -> tuple[Integers, Integers, Integers]:
    """Return query, product and count of `pairs` distinct pairs, sorted by query."""
    rng, kind = np.random.default_rng(seed), SHAPES[shape]
    queries, products = pairs // kind.pairs_per_query, pairs // kind.pairs_per_product
    drawn = int(pairs * 1.3)
    if kind.skew:
        query, product = _draw_topics(rng, queries, products, drawn, kind.skew)
        count = np.minimum(20 + rng.pareto(1.2, drawn) * 10, 1e6).astype(np.int64)
    else:
        query, product = rng.integers(0, queries, drawn), rng.integers(0, products, drawn)
        count = 20 + rng.geometric(0.05, drawn)
    width = products + kind.hubs
    buyers = int(HUB_SHARE * queries)
    hubs = [rng.choice(queries, buyers, replace=False) * width + products + hub for hub in range(kind.hubs)]
    keys, first = np.unique(query * width + product, return_index=True)
    chosen = np.sort(rng.permutation(len(keys))[: pairs - buyers * kind.hubs])
    keys = np.concatenate([keys[chosen], *hubs])
    counts = np.concatenate([count[first[chosen]], 20 + rng.geometric(0.05, buyers * kind.hubs)])
    order = np.argsort(keys)
    return keys[order] // width, keys[order] % width, counts[order]


def write_purchases(folder: Path, shape: str, pairs: int) -> Path:
    """Write the purchases as PURCHASES in Parquet, once, and return the file."""
    file = folder / f"{shape}-{pairs}.parquet"
    if not file.exists():
        query, product, count = make_purchases(shape, pairs)
        columns = {
            "query": pa.array([f"query number {number}" for number in query]),
            "product_id": pa.array([f"B{number:09d}" for number in product]),
            "purchases": pa.array(count),
        }
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), file, row_group_size=100_000)
    return file


def _draw_topics(
    rng: np.random.Generator, queries: int, products: int, drawn: int, skew: float
) -> tuple[Integers, Integers]:
    topics = max(1, queries // 30)
    each = products // topics
    query = _draw_zipf(rng, queries, drawn, 0.6)
    local = rng.integers(0, topics, queries)[query] * each + _draw_zipf(rng, each, drawn, 0.7)
    everywhere = _draw_zipf(rng, products, drawn, skew)
    return query, np.where(rng.random(drawn) < 0.75, local, everywhere)


def _draw_zipf(rng: np.random.Generator, items: int, size: int, exponent: float) -> Integers:
    weights = np.cumsum(1 / np.arange(1, items + 1) ** exponent)
    return np.searchsorted(weights, rng.random(size) * weights[-1])
