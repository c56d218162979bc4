"""Which texts share a padded pass: those of like length, cut where padding would cost more than another pass."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MAX_CHUNK_TOKENS = 4_096
"""Tokens of one pass, padding included; bounds memory."""
PASS_TOKENS = 64
"""Tokens that take about as long as what a pass costs beside them."""


def cut_chunks(lengths: Sequence[int]) -> list[list[int]]:
    """Return the rows of each pass, shortest texts first, so that tokens, padding and passes cost least in sum.

    Rows are grouped by length; the best last group ends at each length in turn (dynamic programming over the distinct
    lengths), and a group that is too large for one pass is cut into even parts.
    """
    sizes, counts = np.unique(np.asarray(lengths, dtype=np.int64), return_counts=True)
    before = np.concatenate([[0], np.cumsum(counts)])
    costs, starts = np.zeros(len(sizes) + 1), np.zeros(len(sizes) + 1, dtype=np.int64)
    for stop in range(1, len(sizes) + 1):
        padded = (before[stop] - before[:stop]) * sizes[stop - 1]
        sums = costs[:stop] + padded + PASS_TOKENS * np.ceil(padded / MAX_CHUNK_TOKENS)
        starts[stop] = sums.argmin()
        costs[stop] = sums[starts[stop]]
    order = np.argsort(lengths, kind="stable")
    chunks: list[list[int]] = []
    stop = len(sizes)
    while stop:
        group = order[before[starts[stop]] : before[stop]]
        chunks = [*_cut_evenly(group, int(sizes[stop - 1])), *chunks]
        stop = int(starts[stop])
    return chunks


def _cut_evenly(group: NDArray[np.int64], length: int) -> list[list[int]]:
    most = max(1, MAX_CHUNK_TOKENS // max(1, length))
    return [part.tolist() for part in np.array_split(group, -(-len(group) // most))]
