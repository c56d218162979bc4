"""Q-Q irrelevance: how often the query that answers a held-out one belongs elsewhere in the taxonomy.

KD-Boost has it judged by hand (table 3) and does not state its sampling. Here a held-out query is answered by the
nearest of the other queries, from a score of 0.7 on, and the answer is irrelevant where the nodes of the two are
unrelated: neither has a node that is one of the other's or stands above one.
The measure shares its signal with the loss, so a fifth of the nodes is kept from the mining of negatives, and the
queries of these nodes are counted apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from indexer.distill.data import TrainingData
from indexer.distill.mining import relate_pairs
from indexer.distill.query_pairs import QueryNodes
from indexer.distill.retrieval import Vectors, find_nearest
from indexer.distill.splits import hash_to_unit

PROBE_SHARE = 0.1
MAX_PROBES = 10_000
"""KD-Boost table 3 audits as many."""
UNSEEN_SHARE = 0.2
ANSWERED_FROM = 0.7

Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class QueryProbes:
    """Rows of a training's queries, all of them with nodes."""

    asked: Rows
    """Queries that no training sees."""
    answers: Rows
    """Queries that may answer them."""
    unseen: Rows
    """Queries with a node that is kept from negatives, asked or not."""


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


def count_answers(asked: Vectors, answers: Vectors, probes: QueryProbes, nodes: QueryNodes) -> dict[str, int]:
    """Count the queries asked, answered and answered irrelevantly; of those with an unseen node once more.

    `asked` and `answers` are unit vectors of the rows of the same names, `nodes` the nodes of all queries.
    """
    names = ("asked", "answered", "irrelevant")
    if not len(probes.asked) or not len(probes.answers):
        return dict.fromkeys([*names, *(f"unseen_{name}" for name in names)], 0)
    nearest = find_nearest(asked, answers, count=1)[:, 0]
    answered = np.einsum("nd,nd->n", asked, answers[nearest]) >= ANSWERED_FROM
    irrelevant = answered & ~relate_pairs(nodes, np.stack([probes.asked, probes.answers[nearest]], axis=1))
    unseen = np.isin(probes.asked, probes.unseen)
    masks = dict(zip(names, (np.ones_like(answered), answered, irrelevant), strict=True))
    return {
        **{name: int(mask.sum()) for name, mask in masks.items()},
        **{f"unseen_{name}": int((mask & unseen).sum()) for name, mask in masks.items()},
    }


def irrelevance_rates(counts: Mapping[str, int]) -> dict[str, float | None]:
    """Return the share of queries that were answered, and of answers that were irrelevant, from summed counts."""

    def share(part: str, whole: str) -> float | None:
        return counts[part] / counts[whole] if counts.get(whole) else None

    return {
        "qq_answered": share("answered", "asked"),
        "qq_irrelevant": share("irrelevant", "answered"),
        "qq_irrelevant_unseen": share("unseen_irrelevant", "unseen_answered"),
    }
