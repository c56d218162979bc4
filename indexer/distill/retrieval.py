"""What a search of the whole catalogue finds, exactly and through the index: model loss and index loss apart."""

import numpy as np
from numpy.typing import NDArray

from indexer.distill.judgements import LabelledPairs
from indexer.hnsw import build_index
from indexer.index_config import IndexConfig
from indexer.shard_search import search_shard

DEPTHS = (10, 100)
RELEVANT = {"e": 3, "es": 2}
"""Name in a figure -> lowest grade that counts as relevant."""
BLOCK_BYTES = 64 << 20

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]


def measure_retrieval(
    queries: Vectors, products: Vectors, pairs: LabelledPairs, options: IndexConfig
) -> dict[str, float | None]:
    """Return recall by exact search and through an HNSW index built as a release's, averaged over queries.

    `pairs` number the rows of both. `exact_e_10` is the share of a query's products of grade E among its first 10,
    `index_es_100` that of E and S among the first 100 that the index finds; queries without any are left out.
    `index_recall_10` is the share of the 10 exact hits that the index finds.
    """
    depth = min(max(DEPTHS), len(products))
    exact = find_nearest(queries, products, count=depth)
    _, found = search_shard(build_index(products, options), queries, depth, options.stated_ef_search)
    asked = np.unique(pairs.query)
    figures: dict[str, float | None] = {}
    for kind, rows in {"exact": exact, "index": found}.items():
        for name, grade in RELEVANT.items():
            relevant = pairs.take(pairs.grade >= grade)
            for count in DEPTHS:
                figures[f"{kind}_{name}_{count}"] = mean_recall(rows[:, :count], relevant, products=len(products))
    for count in DEPTHS:
        same = [np.isin(exact[row, :count], found[row, :count]).mean() for row in asked]
        figures[f"index_recall_{count}"] = round(float(np.mean(same)), 6) if same else None
    return figures


def find_least_grade(figure: str) -> int:
    """Return the least grade of which a query needs a product to count in a figure of `measure_retrieval`."""
    return RELEVANT.get(figure.split("_")[1], 0)


def find_nearest(queries: Vectors, products: Vectors, *, count: int) -> Rows:
    """Return the rows of each query's nearest products, best first, (queries, count), those of equal scores by row.

    Which of several that tie for the last place are among them is numpy's to say.
    """
    block = max(1, BLOCK_BYTES // (4 * max(1, len(products))))
    found = [np.empty((0, count), dtype=np.int64)]
    for start in range(0, len(queries), block):
        scores = queries[start : start + block] @ products.T
        best = np.sort(np.argpartition(-scores, count - 1, axis=1)[:, :count], axis=1)
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
        found.append(np.take_along_axis(best, order, axis=1))
    return np.concatenate(found)


def mean_recall(hits: Rows, relevant: LabelledPairs, *, products: int) -> float | None:
    """Return the mean over queries of the share of their relevant products that stand among their hits.

    `hits` has a row per query, -1 where there were no more; None where no query has a relevant product.
    """
    wanted = np.bincount(relevant.query, minlength=len(hits))
    keys = np.arange(len(hits))[:, None] * products + hits
    got = (np.isin(keys, relevant.query * products + relevant.product) & (hits >= 0)).sum(axis=1)
    asked = wanted > 0
    return round(float((got[asked] / wanted[asked]).mean()), 6) if asked.any() else None
