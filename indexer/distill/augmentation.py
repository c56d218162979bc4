"""Unlabelled pairs for the teacher to score: for every query products it ranks high, further down, and at random.

The sampling of Shang et al. 2025 is not in its abstract; this one (10 of the first 20, 10 of the ranks to 200, 5 at
random) is a reconstruction.
"""

import numpy as np
import torch
from torch import Tensor

from indexer.distill.mining import nearest_places
from indexer.distill.teachers import Pairs

TOP, DEEP = 20, 200
FROM_TOP, FROM_DEEP, AT_RANDOM = 10, 10, 5
PER_QUERY = FROM_TOP + FROM_DEEP + AT_RANDOM
TILE_ROWS = 1_024


def sample_pairs(teacher: Tensor, queries: Pairs, products: Pairs, *, seed: int) -> Pairs:
    """Return (pairs, 2) of a query row and a product row, each pair once; `teacher` holds unit vectors by row."""
    rng = np.random.default_rng(seed)
    shown = teacher[torch.from_numpy(products)]
    found = [np.empty((0, 2), dtype=np.int64)]
    for start in range(0, len(queries), TILE_ROWS):
        rows = queries[start : start + TILE_ROWS]
        ranked = nearest_places(teacher[torch.from_numpy(rows)], shown, count=min(DEEP, len(products))).numpy()
        drawn = [
            _draw_columns(ranked[:, :TOP], FROM_TOP, rng),
            _draw_columns(ranked[:, TOP:], FROM_DEEP, rng),
            rng.integers(0, len(products), (len(rows), AT_RANDOM)),
        ]
        chosen = np.concatenate(drawn, axis=1)
        found.append(np.stack([np.repeat(rows, chosen.shape[1]), products[chosen.ravel()]], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _draw_columns(ranked: Pairs, number: int, rng: np.random.Generator) -> Pairs:
    """Draw so many columns of each row without replacement, or all where there are fewer."""
    order = np.argsort(rng.random(ranked.shape), axis=1)[:, :number]
    return np.take_along_axis(ranked, order, axis=1)
