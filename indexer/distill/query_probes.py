"""Q-Q irrelevance: how often the query that answers a held-out one belongs elsewhere in the taxonomy.

KD-Boost has it judged by hand (table 3) and does not state its sampling. Here a held-out query is answered by the
nearest of the other queries, from a score of 0.7 on, and the answer is irrelevant where the nodes of the two are
unrelated: neither has a node that is one of the other's or stands above one.
The measure shares its signal with the loss, so a fifth of the nodes is kept from the mining of negatives, and the
queries of these nodes are counted apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from indexer.distill.data import TrainingData
from indexer.distill.mining import relate_pairs
from indexer.distill.retrieval import Vectors, find_nearest
from indexer.distill.splits import hash_to_unit

PROBE_SHARE = 0.1
MAX_PROBES = 10_000
"""KD-Boost table 3 audits as many."""
UNSEEN_SHARE = 0.2
ANSWERED_FROM = 0.7

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
Texts = NDArray[np.str_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class QueryProbes:
    """Rows of a training's queries, all of them with nodes."""

    asked: Rows
    """Queries that no training sees."""
    answers: Rows
    """Queries that may answer them."""
    unseen: Rows
    """Queries with a node that is kept from negatives, asked or not."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a model answered; aligned arrays, one entry per query asked."""

    queries: Texts
    answered: Mask
    """Whether the nearest query is near enough."""
    irrelevant: Mask
    """Whether it is and belongs elsewhere."""
    unseen: Mask
    """Whether the query has a node that is kept from negatives."""


NOBODY = np.zeros(0, dtype=np.bool_)
NO_ANSWERS = Answers(queries=np.zeros(0, dtype=np.str_), answered=NOBODY, irrelevant=NOBODY, unseen=NOBODY)


def choose_probes(data: TrainingData, *, seed: int) -> QueryProbes:
    """Choose the queries with the smallest hashes, whatever others there are, and a fifth of the nodes."""
    rows = data.mining_queries
    # Not the hash that splits the labelled queries: a fold would hold out the very queries that are to be asked.
    places = np.array([hash_to_unit(f"asked {data.queries[row]}", seed) for row in rows])
    chosen = np.zeros(len(rows), dtype=np.bool_)
    chosen[np.argsort(places, kind="stable")[:MAX_PROBES]] = True
    chosen &= places < PROBE_SHARE
    nodes = data.query_nodes.labels[rows]
    kinds = np.unique(nodes[nodes >= 0])
    kept = np.random.default_rng(seed).permutation(kinds)[: round(UNSEEN_SHARE * len(kinds))]
    return QueryProbes(asked=rows[chosen], answers=rows[~chosen], unseen=rows[np.isin(nodes, kept).any(axis=1)])


def hide_probes(data: TrainingData, probes: QueryProbes) -> TrainingData:
    """Return the data without any pair of a query that is asked, and without negatives of the unseen nodes."""
    closed = np.union1d(probes.asked, probes.unseen)
    return replace(
        data,
        train=data.train.take(~np.isin(data.train.query, probes.asked)),
        similar=data.similar[~np.isin(data.similar, probes.asked).any(axis=1)],
        dissimilar=data.dissimilar[~np.isin(data.dissimilar, closed).any(axis=1)],
        mining_queries=data.mining_queries[~np.isin(data.mining_queries, closed)],
        open_queries=data.open_queries[~np.isin(data.open_queries, probes.asked)],
        free_queries=data.free_queries[~np.isin(data.free_queries, probes.asked)],
        bought=data.bought[~np.isin(data.bought[:, 0], probes.asked)],
    )


def find_answers(asked: Vectors, answers: Vectors, probes: QueryProbes, data: TrainingData) -> Answers:
    """Return what becomes of each query asked; `asked` and `answers` are unit vectors of the rows of the same names."""
    if not len(probes.asked) or not len(probes.answers):
        return NO_ANSWERS
    nearest = find_nearest(asked, answers, count=1)[:, 0]
    answered = np.einsum("nd,nd->n", asked, answers[nearest]) >= ANSWERED_FROM
    pairs = np.stack([probes.asked, probes.answers[nearest]], axis=1)
    return Answers(
        queries=np.array([data.queries[row] for row in probes.asked]),
        answered=answered,
        irrelevant=answered & ~relate_pairs(data.query_nodes, pairs),
        unseen=np.isin(probes.asked, probes.unseen),
    )


def join_answers(found: Sequence[Answers]) -> Answers:
    """Put the answers of several models one after another."""
    return Answers(
        **{field.name: np.concatenate([getattr(one, field.name) for one in found]) for field in fields(Answers)}
    )


def measure_rates(found: Answers, queries: Texts, weights: Floats) -> dict[str, Floats]:
    """Return the share of queries that were answered, and of answers that were irrelevant, under each row of weights.

    `weights`, (draws, queries), are those of the sorted `queries`, in which each query asked stands; NaN where a draw
    asks or answers none.
    """
    places = np.searchsorted(queries, found.queries)

    def count(mask: Mask) -> Floats:
        counts: Floats = weights @ np.bincount(places, weights=mask, minlength=len(queries))
        return counts

    asked, answered = count(np.ones(len(places), dtype=np.bool_)), count(found.answered)
    unseen, wrong = count(found.answered & found.unseen), count(found.irrelevant & found.unseen)
    with np.errstate(invalid="ignore"):
        return {
            "qq_answered": answered / asked,
            "qq_irrelevant": count(found.irrelevant) / answered,
            "qq_irrelevant_unseen": wrong / unseen,
        }
