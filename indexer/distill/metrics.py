"""Ranking and classification metrics of judged (query, product) pairs; plain numpy.

Grades are 3 exact, 2 substitute, 1 complement, 0 irrelevant; grades 2 and 3 are the positives
(KD-Boost appendix A.1).
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]

POSITIVE_GRADE = 2
GAINS: Mapping[int, float] = MappingProxyType({3: 1.0, 2: 0.1, 1: 0.01, 0: 0.0})
"""ESCI's training gains. The scorer published with ESCI swaps those of S and C; we report these."""


def roc_auc(scores: Floats, positive: NDArray[np.bool_]) -> float | None:
    """Return the chance that a positive scores above a negative, ties counting half; None with one class only."""
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if positives == 0 or negatives == 0:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last_rank = np.cumsum(counts)
    mean_rank = last_rank - (counts - 1) / 2
    rank_sum = float(mean_rank[inverse][positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def mean_query_auc(scores: Floats, positive: NDArray[np.bool_], queries: Integers) -> tuple[float | None, int]:
    """Return the mean ROC-AUC over the queries that have both classes, and how many these are."""
    found = [roc_auc(scores[rows], positive[rows]) for rows in rows_by_query(queries)]
    values = [value for value in found if value is not None]
    return (float(np.mean(values)) if values else None), len(values)


def precision_recall(
    scores: Floats, positive: NDArray[np.bool_], *, threshold: float
) -> tuple[float | None, float | None]:
    """Return precision and recall of `score >= threshold`; None where nothing is counted below the line."""
    chosen = scores >= threshold
    hits = int((chosen & positive).sum())
    precision = hits / int(chosen.sum()) if chosen.any() else None
    return precision, (hits / int(positive.sum()) if positive.any() else None)


def ndcg(
    scores: Floats,
    grades: Integers,
    product_ids: Sequence[str],
    *,
    depth: int | None = None,
    gains: Mapping[int, float] = GAINS,
) -> float | None:
    """Return the NDCG of one query's judged list: linear gains, log2(rank + 1), ties in order of product id.

    None where no judged product has a gain.
    """
    by_id = np.argsort(np.asarray(product_ids, dtype=object), kind="stable")
    order = by_id[np.argsort(-scores[by_id], kind="stable")]
    gain = np.array([gains[int(grade)] for grade in grades])
    ideal = _discounted(np.sort(gain)[::-1][:depth])
    return _discounted(gain[order][:depth]) / ideal if ideal > 0 else None


def mean_ndcg(
    scores: Floats, grades: Integers, product_ids: Sequence[str], queries: Integers, *, depth: int | None = None
) -> tuple[float | None, int]:
    """Return the mean NDCG over the queries that have an ideal above zero, and how many were skipped."""
    ids = np.asarray(product_ids, dtype=object)
    found = [ndcg(scores[rows], grades[rows], ids[rows].tolist(), depth=depth) for rows in rows_by_query(queries)]
    values = [value for value in found if value is not None]
    return (float(np.mean(values)) if values else None), len(found) - len(values)


def rows_by_query(queries: Integers) -> list[NDArray[np.intp]]:
    """Return the row numbers of each query, in order of the query's number."""
    order = np.argsort(queries, kind="stable")
    starts = np.flatnonzero(np.diff(queries[order])) + 1
    return np.split(order, starts) if len(queries) else []


def _discounted(gain: Floats) -> float:
    return float((gain / np.log2(np.arange(len(gain)) + 2)).sum())
