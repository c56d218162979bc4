"""Hard negatives of an epoch: queries the model in training holds alike although their nodes are unrelated.

Algorithm: before each epoch take every query's nearest neighbours, keep those with a score between two bounds,
unrelated label sets, no place in D_QQ+ and no veto by the teacher; draw at most a few per query, the more alike
the likelier; keep a part of the last epoch's pairs so that the set does not swing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from indexer.distill.data import TrainingData
from indexer.distill.query_pairs import QueryNodes
from indexer.distill.teachers import Pairs, Teacher, cut_tiles, mean_opinion, pair_scores
from indexer.distill_config import DistillConfig

TILE_ROWS = 1_024
TILE_COLUMNS = 16_384


@dataclass(frozen=True, kw_only=True)
class MinedPairs:
    """(pairs, 2) query rows, smaller row first, and what happened on the way."""

    pairs: Pairs
    counts: dict[str, float]


def mine_negatives(
    data: TrainingData,
    vectors: Tensor,
    *,
    last: Pairs,
    teachers: Sequence[Teacher] = (),
    config: DistillConfig,
    epoch: int,
) -> MinedPairs:
    """Mine one epoch's D_QQ-; the result depends on the vectors and (seed, epoch) alone.

    `vectors` are unit vectors by query row; `last` is the pool of the epoch before, or the taxonomy job's table in the
    first one. Pairs of that table are candidates as well.
    """
    rng = np.random.default_rng((config.seed, epoch))
    neighbours = find_neighbours(vectors, data.mining_queries, count=config.mining_neighbours)
    found = unique_pairs(np.concatenate([neighbours, data.dissimilar]))
    scores = pair_scores(vectors, found)
    within = (scores >= config.mining_low) & (scores <= config.mining_high)
    unrelated = ~relate_pairs(data.query_nodes, found)
    unlike = unrelated & ~contains_pairs(data.similar, found)
    refused = veto_pairs(teachers, found, theta=config.theta_low)
    allowed = within & unlike & ~refused
    drawn = draw_per_query(found[allowed], scores[allowed], limit=config.mining_per_query, rng=rng)
    kept = _keep_share(last, share=config.mining_kept_share, rng=rng)
    kept = kept[~veto_pairs(teachers, kept, theta=config.theta_low)]
    pairs = unique_pairs(np.concatenate([drawn, kept]))
    counts = {
        "candidates": len(found),
        "out_of_bounds": int((~within).sum()),
        "related_nodes": int((within & ~unrelated).sum()),
        "also_similar": int((within & unrelated & ~unlike).sum()),
        "vetoed": int((within & unlike & refused).sum()),
        "drawn": len(drawn),
        "kept": len(kept),
        "pairs": len(pairs),
        "mean_score": round(float(pair_scores(vectors, pairs).mean()), 6) if len(pairs) else 0.0,
    }
    return MinedPairs(pairs=pairs, counts=counts)


def find_neighbours(vectors: Tensor, rows: Pairs, *, count: int) -> Pairs:
    """Return (row, neighbour) pairs of the `count` nearest other rows of each row, by exact tiled search."""
    count = min(count, len(rows) - 1)
    if count < 1:
        return np.empty((0, 2), dtype=np.int64)
    numbers = torch.from_numpy(rows)
    chosen = vectors[numbers]
    found = []
    for start in range(0, len(rows), TILE_ROWS):
        tile = chosen[start : start + TILE_ROWS]
        places = nearest_places(tile, chosen, own=start, count=count)
        left = numbers[start : start + len(tile)].unsqueeze(1).expand_as(places)
        found.append(torch.stack([left, numbers[places]], dim=-1).reshape(-1, 2))
    return torch.cat(found).numpy()


def relate_pairs(nodes: QueryNodes, pairs: Pairs) -> NDArray[np.bool_]:
    """Return whether a label of one query is a label of the other or stands above one (`spark.negatives`)."""
    blocks = [np.empty(0, dtype=np.bool_)]
    for tile in cut_tiles(pairs):
        related = np.zeros(len(tile), dtype=np.bool_)
        for one, other in (tile.T, tile.T[::-1]):
            labels, lineages = nodes.labels[one, :, None], nodes.lineages[other, None, :]
            related |= ((labels == lineages) & (labels >= 0)).any(axis=(1, 2))
        blocks.append(related)
    return np.concatenate(blocks)


def unique_pairs(pairs: Pairs) -> Pairs:
    """Return each pair once, smaller row first, in order."""
    width = int(pairs.max(initial=0)) + 1
    keys = np.unique(_pair_keys(pairs, width))
    return np.stack([keys // width, keys % width], axis=1)


def contains_pairs(known: Pairs, pairs: Pairs) -> NDArray[np.bool_]:
    """Return which pairs stand in `known`, in either order."""
    width = int(max(known.max(initial=0), pairs.max(initial=0))) + 1
    return np.isin(_pair_keys(pairs, width), _pair_keys(known, width))


def veto_pairs(teachers: Sequence[Teacher], pairs: Pairs, *, theta: float) -> NDArray[np.bool_]:
    """Return which pairs the teachers with an opinion score `theta` or more on average, likely false negatives."""
    if not teachers:
        return np.zeros(len(pairs), dtype=np.bool_)
    # NaN, nobody's opinion, is not at or above anything.
    veto: NDArray[np.bool_] = mean_opinion(teachers, pairs) >= theta
    return veto


def draw_per_query(pairs: Pairs, scores: NDArray[np.float32], *, limit: int, rng: np.random.Generator) -> Pairs:
    """Draw at most `limit` pairs per left or right query without replacement, with chances in proportion to score.

    Exponential keys (Efraimidis and Spirakis 2006) give the draw in one sort.
    """
    keys = np.log(np.maximum(scores, 1e-9)) + rng.gumbel(size=len(pairs))
    drawn: dict[int, int] = {}
    chosen = []
    for row in np.argsort(-keys, kind="stable"):
        left, right = int(pairs[row, 0]), int(pairs[row, 1])
        if drawn.get(left, 0) < limit and drawn.get(right, 0) < limit:
            drawn[left] = drawn.get(left, 0) + 1
            drawn[right] = drawn.get(right, 0) + 1
            chosen.append(row)
    return pairs[np.array(sorted(chosen), dtype=np.int64)]


def nearest_places(tile: Tensor, chosen: Tensor, *, count: int, own: int | None = None) -> Tensor:
    """Return the places of the nearest rows of `chosen`, best first, by exact search; (tile rows, count).

    Where the tile's rows stand in `chosen` from place `own` on, each leaves out itself.
    """
    best_scores = tile.new_empty(len(tile), 0)
    best_places = torch.empty(len(tile), 0, dtype=torch.long)
    for start in range(0, len(chosen), TILE_COLUMNS):
        block = chosen[start : start + TILE_COLUMNS]
        places = torch.arange(start, start + len(block)).expand(len(tile), -1)
        scores = tile @ block.T
        if own is not None:
            scores = scores.masked_fill(places == (own + torch.arange(len(tile))).unsqueeze(1), -2.0)
        all_scores, all_places = torch.cat([best_scores, scores], 1), torch.cat([best_places, places], 1)
        best_scores, picked = all_scores.topk(min(count, all_scores.shape[1]), dim=1)
        best_places = all_places.gather(1, picked)
    return best_places


def _keep_share(last: Pairs, *, share: float, rng: np.random.Generator) -> Pairs:
    return last[np.sort(rng.permutation(len(last))[: round(share * len(last))])]


def _pair_keys(pairs: Pairs, width: int) -> Pairs:
    keys: Pairs = np.min(pairs, axis=1) * width + np.max(pairs, axis=1)
    return keys
