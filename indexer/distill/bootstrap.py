"""Paired bootstrap by query: how far a difference of two models could be chance.

A draw takes as many queries as there are, with replacement, the same for every model. It is a vector of weights, one
per query, so that no pair is copied: a mean over queries becomes a weighted mean, and the pooled ROC-AUC a rank
statistic of weighted pairs, which one sort of the scores serves for all draws.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexer.distill.metrics import POSITIVE_GRADE, query_aucs, query_ndcgs

DRAWS = 1_000
BLOCK_NUMBERS = 1 << 22
"""Numbers that are held at once."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A difference of two models with the 2.5 % and 97.5 % points of its bootstrap distribution."""

    difference: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True)
class JudgedPairs:
    """What the models are compared on; aligned arrays, one entry per pair."""

    query: NDArray[np.int64]
    grade: NDArray[np.int64]
    product_ids: Sequence[str]
    fold: NDArray[np.int64] | None = None
    """Where several models scored the pairs, each one those of a fold."""

    @property
    def positive(self) -> NDArray[np.bool_]:
        """Whether a pair counts as relevant."""
        return self.grade >= POSITIVE_GRADE


def draw_weights(queries: int, *, draws: int = DRAWS, seed: int) -> Floats:
    """Return (draws, queries): how often each query was drawn; the first row is the data as they are, all ones."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(queries, np.full(queries, 1 / queries), size=draws)
    return np.concatenate([np.ones((1, queries)), drawn.astype(np.float64)])


def bootstrap_figures(runs: Sequence[Floats], pairs: JudgedPairs, weights: Floats) -> dict[str, Floats]:
    """Return each figure of each draw, (draws,), as the mean over a model's runs; NaN where a draw defines none.

    `runs` are the model's scores of the pairs, one array per seed; `weights` are those of `draw_weights`. Pairs that
    have folds give `fold_auc`, too, the mean of the ROC-AUC within a fold.
    """
    found: dict[str, list[Floats]] = defaultdict(list)
    places = np.unique(pairs.query, return_inverse=True)[1]
    for scores in runs:
        found["auc"].append(weighted_aucs(scores, pairs.positive, places, weights))
        if pairs.fold is not None:
            folds = [pairs.fold == fold for fold in np.unique(pairs.fold)]
            within = [weighted_aucs(scores[own], pairs.positive[own], places[own], weights) for own in folds]
            found["fold_auc"].append(_mean_defined(np.stack(within)))
        found["query_auc"].append(weighted_means(query_aucs(scores, pairs.positive, pairs.query), weights))
        for depth in (5, 10):
            ndcgs = query_ndcgs(scores, pairs.grade, pairs.product_ids, pairs.query, depth=depth)
            found[f"ndcg_{depth}"].append(weighted_means(ndcgs, weights))
    return {name: np.mean(values, axis=0) for name, values in found.items()}


def compare_figures(figures: Mapping[str, Floats], baseline: Mapping[str, Floats]) -> dict[str, Interval | None]:
    """Return the difference of two models' figures of the same draws; None where the data do not define it."""
    return {name: _find_interval(values - baseline[name]) for name, values in figures.items()}


def weighted_means(values: Floats, weights: Floats) -> Floats:
    """Return the mean of the values under each row of weights, leaving out those that are NaN."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        means: Floats = weights[:, defined] @ values[defined] / weights[:, defined].sum(axis=1)
    return means


def weighted_aucs(scores: Floats, positive: NDArray[np.bool_], places: NDArray[np.int64], weights: Floats) -> Floats:
    """Return the pooled ROC-AUC under each row of weights: exact, ties count half.

    `places` is the column of `weights` that each pair's query has. With u and v the weights of positives and negatives
    of one score, AUC = sum over scores, rising, of u (all v below + v / 2) / (sum u * sum v).
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)
    block = max(1, BLOCK_NUMBERS // max(1, len(scores)))
    found = []
    for start in range(0, len(weights), block):
        of_pairs = weights[start : start + block][:, places[order]]
        relevant = np.add.reduceat(of_pairs * positive[order], starts, axis=1)
        irrelevant = np.add.reduceat(of_pairs * ~positive[order], starts, axis=1)
        below = np.cumsum(irrelevant, axis=1) - irrelevant / 2
        with np.errstate(invalid="ignore"):
            found.append((relevant * below).sum(axis=1) / (relevant.sum(axis=1) * irrelevant.sum(axis=1)))
    return np.concatenate(found)


def _mean_defined(values: Floats) -> Floats:
    """Return the mean of each column without what is NaN: a fold of one class tells nothing."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        means: Floats = np.where(defined, values, 0.0).sum(axis=0) / defined.sum(axis=0)
    return means


def _find_interval(differences: Floats) -> Interval | None:
    """Read the interval off the draws; the first is the data as they are."""
    drawn = differences[1:][np.isfinite(differences[1:])]
    if not np.isfinite(differences[0]) or not len(drawn):
        return None
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(difference=float(differences[0]), low=float(low), high=float(high))
