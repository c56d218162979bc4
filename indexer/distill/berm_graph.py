"""The graph of queries and products that BERM looks along (EMNLP 2022 Industry, arXiv 2210.01701; a reconstruction).

Nodes are text rows, queries first and products after them. Of the paper only the abstract is known: the keep rule,
its thresholds and the form of the metapaths are this project's.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class RelevanceGraph:
    """Edges between queries and products, and the neighbours a walk may take."""

    neighbours: Rows
    """(texts, limit): text rows of the neighbours bought most, most first; -1 fills."""
    edges: Rows
    """Keys of all edges, in order."""

    def has_edges(self, queries: Rows, products: Rows) -> NDArray[np.bool_]:
        """Return which (query, product) pairs of text rows are edges; both arrays have one shape."""
        keys = queries * len(self.neighbours) + products
        if not len(self.edges):
            return np.zeros(keys.shape, dtype=np.bool_)
        places = np.minimum(np.searchsorted(self.edges, keys), len(self.edges) - 1)
        found: NDArray[np.bool_] = self.edges[places] == keys
        return found


def keep_edges(
    count: NDArray[np.int64], probability: NDArray[np.floating], *, bought: float, unbought: float
) -> NDArray[np.bool_]:
    """Return which pairs become edges: bought ones (count above 0) from `bought` on, others from `unbought` on.

    `probability` is the transformer's, so that it cleans the noise of behaviour and adds what nobody bought yet.
    """
    kept: NDArray[np.bool_] = probability >= np.where(count > 0, bought, unbought)
    return kept


def merge_pairs(pairs: Rows, count: NDArray[np.int64], *, texts: int) -> tuple[Rows, NDArray[np.int64]]:
    """Return each pair of rows once, in order, with the sum of its counts."""
    keys, places = np.unique(pairs[:, 0] * texts + pairs[:, 1], return_inverse=True)
    sums = np.zeros(len(keys), dtype=np.int64)
    np.add.at(sums, places, count)
    return np.stack([keys // texts, keys % texts], axis=1), sums


def build_graph(pairs: Rows, count: NDArray[np.int64], *, texts: int, limit: int) -> RelevanceGraph:
    """Make the graph of distinct (query, product) pairs; on a tie of counts the smaller text row is nearer."""
    neighbours = np.full((texts, limit), -1, dtype=np.int64)
    node, other = np.concatenate([pairs, pairs[:, ::-1]]).T
    order = np.lexsort((other, -np.concatenate([count, count]), node))
    node, other = node[order], other[order]
    rank = np.arange(len(node)) - np.searchsorted(node, node)
    near = rank < limit
    neighbours[node[near], rank[near]] = other[near]
    return RelevanceGraph(neighbours=neighbours, edges=np.sort(pairs[:, 0] * texts + pairs[:, 1]))


def find_metapaths(graph: RelevanceGraph, pairs: Rows) -> Rows:
    """Return the instances (q, v', q', v) of each pair (q, v) as (pairs, most instances, 2) rows v', q'; -1 fills.

    v' is a neighbour of q, q' one of v, and (q', v') an edge. Paths along the pair's own edge are left out: whether
    that is there depends on the probability that is to be learnt.
    """
    query, product = pairs[:, :1, None], pairs[:, 1:, None]
    passed = np.broadcast_arrays(graph.neighbours[pairs[:, 0]][:, :, None], graph.neighbours[pairs[:, 1]][:, None, :])
    other_product, other_query = passed
    whole = (other_product >= 0) & (other_query >= 0) & (other_product != product) & (other_query != query)
    row, one, two = np.nonzero(whole & graph.has_edges(other_query, other_product))
    place = np.arange(len(row)) - np.searchsorted(row, row)
    paths = np.full((len(pairs), int(place.max(initial=-1)) + 1, 2), -1, dtype=np.int64)
    paths[row, place] = np.stack([other_product[row, one, two], other_query[row, one, two]], axis=1)
    return paths
