"""What a student learns from: anything that scores pairs of texts, on the scale of cosines unless said."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TILE_PAIRS = 16_384

Pairs = NDArray[np.int64]
"""(pairs, 2) text rows: queries first, then products, then unlabelled products."""


class Teacher(Protocol):
    """Anything with an opinion about pairs of texts."""

    def score_pairs(self, pairs: Pairs, /) -> NDArray[np.float32]:
        """Return the score of each pair on the scale of cosines, NaN where there is no opinion."""


@dataclass(frozen=True)
class VectorTeacher:
    """A bi-encoder, by its unit vectors of the texts: any pair is one dot product."""

    vectors: Tensor

    def score_pairs(self, pairs: Pairs) -> NDArray[np.float32]:
        """Return the cosine of each pair."""
        return pair_scores(self.vectors, pairs)


class TableTeacher:
    """A table of scores; it has no opinion about other pairs."""

    def __init__(self, pairs: Pairs, scores: NDArray[np.float32]) -> None:
        """Hold (pairs, 2) rows and their scores; a pair that stands twice has the mean of both."""
        self._width = int(pairs.max(initial=0)) + 1
        self._keys, places = np.unique(pairs[:, 0] * self._width + pairs[:, 1], return_inverse=True)
        sums = np.bincount(places, weights=scores, minlength=len(self._keys))
        self._scores = (sums / np.bincount(places, minlength=len(self._keys))).astype(np.float32)

    @property
    def pairs(self) -> Pairs:
        """The pairs of the table, each once, in order."""
        return np.stack([self._keys // self._width, self._keys % self._width], axis=1)

    def score_pairs(self, pairs: Pairs) -> NDArray[np.float32]:
        """Return the table's score of each pair, NaN where it has none."""
        found = np.full(len(pairs), np.nan, dtype=np.float32)
        if len(self._keys):
            keys = pairs[:, 0] * self._width + pairs[:, 1]
            places = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
            known = (self._keys[places] == keys) & (pairs[:, 1] < self._width)
            found[known] = self._scores[places[known]]
        return found


def collect_opinions(teachers: Sequence[Teacher], pairs: Pairs) -> NDArray[np.float32]:
    """Return (teachers, pairs) scores, NaN where a teacher has no opinion."""
    return np.stack([np.empty(0, np.float32) if not len(pairs) else each.score_pairs(pairs) for each in teachers])


def mean_opinion(teachers: Sequence[Teacher], pairs: Pairs) -> NDArray[np.float32]:
    """Return the ensemble's score of each pair, the mean of those that have one; NaN where none has."""
    opinions = collect_opinions(teachers, pairs)
    known = np.isfinite(opinions)
    counts = known.sum(0)
    sums = np.where(known, opinions, 0).sum(0)
    return np.where(counts > 0, sums / counts.clip(min=1), np.nan).astype(np.float32)


def pair_scores(vectors: Tensor, pairs: Pairs) -> NDArray[np.float32]:
    """Return the cosine of each pair of rows of unit vectors, in tiles."""
    blocks = [
        (vectors[torch.from_numpy(tile[:, 0])] * vectors[torch.from_numpy(tile[:, 1])]).sum(-1).numpy()
        for tile in cut_tiles(pairs)
    ]
    return np.concatenate([np.empty(0, dtype=np.float32), *blocks])


def cut_tiles(pairs: Pairs) -> list[Pairs]:
    """Cut pairs into tiles that bound the memory of what is computed for each."""
    return [pairs[start : start + TILE_PAIRS] for start in range(0, len(pairs), TILE_PAIRS)]
