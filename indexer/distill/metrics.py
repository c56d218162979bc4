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
"""ESCI's training gains, which are reported."""
SWAPPED_GAINS: Mapping[int, float] = MappingProxyType({3: 1.0, 2: 0.01, 1: 0.1, 0: 0.0})
"""Those of the scorer published with ESCI, which swaps S and C: for comparison with figures made by it alone."""


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


def query_aucs(scores: Floats, positive: NDArray[np.bool_], queries: Integers) -> NDArray[np.float64]:
    """Return the ROC-AUC of each query, in order of the query's number; NaN where it has one class only."""
    found = [roc_auc(scores[rows], positive[rows]) for rows in rows_by_query(queries)]
    return np.array([np.nan if value is None else value for value in found], dtype=np.float64)


def mean_query_auc(scores: Floats, positive: NDArray[np.bool_], queries: Integers) -> tuple[float | None, int]:
    """Return the mean ROC-AUC over the queries that have both classes, and how many these are."""
    values = query_aucs(scores, positive, queries)
    return _mean_found(values), int(np.isfinite(values).sum())


def precision_recall(
    scores: Floats, positive: NDArray[np.bool_], *, threshold: float
) -> tuple[float | None, float | None]:
    """Return precision and recall of `score >= threshold`; None where nothing is counted below the line."""
    chosen = scores >= threshold
    hits = int((chosen & positive).sum())
    precision = hits / int(chosen.sum()) if chosen.any() else None
    return precision, (hits / int(positive.sum()) if positive.any() else None)


def recall_at_precision(
    scores: Floats, positive: NDArray[np.bool_], *, precision: float
) -> tuple[float | None, float | None]:
    """Return the greatest recall at which the precision is still reached, and its threshold; None where none is."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    # A threshold takes all pairs of a score or none.
    lasts = np.flatnonzero(np.diff(scores[order], append=np.nan) != 0)
    reached = lasts[hits[lasts] / (lasts + 1) >= precision]
    if not len(reached) or not positive.any():
        return None, None
    return float(hits[reached[-1]] / hits[-1]), float(scores[order][reached[-1]])


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


def query_ndcgs(
    scores: Floats,
    grades: Integers,
    product_ids: Sequence[str],
    queries: Integers,
    *,
    depth: int | None = None,
    gains: Mapping[int, float] = GAINS,
) -> NDArray[np.float64]:
    """Return the NDCG of each query, in order of the query's number; NaN where no judged product has a gain."""
    ids = np.asarray(product_ids, dtype=object)
    found = [
        ndcg(scores[rows], grades[rows], ids[rows].tolist(), depth=depth, gains=gains)
        for rows in rows_by_query(queries)
    ]
    return np.array([np.nan if value is None else value for value in found], dtype=np.float64)


def mean_ndcg(
    scores: Floats,
    grades: Integers,
    product_ids: Sequence[str],
    queries: Integers,
    *,
    depth: int | None = None,
    gains: Mapping[int, float] = GAINS,
) -> tuple[float | None, int]:
    """Return the mean NDCG over the queries that have an ideal above zero, and how many were skipped."""
    values = query_ndcgs(scores, grades, product_ids, queries, depth=depth, gains=gains)
    return _mean_found(values), int(np.isnan(values).sum())


def rows_by_query(queries: Integers) -> list[NDArray[np.intp]]:
    """Return the row numbers of each query, in order of the query's number."""
    order = np.argsort(queries, kind="stable")
    starts = np.flatnonzero(np.diff(queries[order])) + 1
    return np.split(order, starts) if len(queries) else []


def _mean_found(values: Floats) -> float | None:
    found = values[np.isfinite(values)]
    return float(found.mean()) if len(found) else None


def _discounted(gain: Floats) -> float:
    return float((gain / np.log2(np.arange(len(gain)) + 2)).sum())
