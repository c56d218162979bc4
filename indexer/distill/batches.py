"""Which pairs stand in which step: every labelled pair once per epoch, query pairs beside them by their shares."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.contracts import inputs
from indexer.distill.data import TrainingData
from indexer.distill.losses import HIGH, IRRELEVANT, LOW

NUMBERS = {"irrelevant": IRRELEVANT, "low": LOW, "high": HIGH}
LABEL_OF_GRADE = np.array([NUMBERS[label] for label in inputs.LABEL_OF_GRADE], dtype=np.int64)

Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class PairSource:
    """Pairs of text rows (queries first, then products) with what their loss needs."""

    left: Rows
    right: Rows
    label: Rows | None = None
    weight: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.left)

    def take(self, rows: NDArray[Any]) -> "PairSource":
        """Return the pairs of these row numbers."""
        return PairSource(
            left=self.left[rows],
            right=self.right[rows],
            label=None if self.label is None else self.label[rows],
            weight=None if self.weight is None else self.weight[rows],
        )


Step = dict[str, PairSource]


def label_source(data: TrainingData) -> PairSource:
    """Return the training labels as pairs of text rows."""
    return PairSource(
        left=data.train.query,
        right=data.train.product + len(data.queries),
        label=LABEL_OF_GRADE[data.train.grade],
        weight=data.train.weight,
    )


def query_source(pairs: Rows) -> PairSource:
    """Return (pairs, 2) query rows as a source."""
    return PairSource(left=pairs[:, 0], right=pairs[:, 1])


def text_source(rows: Rows) -> PairSource:
    """Return texts as pairs with themselves, for what is asked of the texts alone."""
    return PairSource(left=rows, right=rows)


def count_steps(labels: int, batch_size: int) -> int:
    """Return the steps of an epoch."""
    return -(-labels // batch_size)


def plan_epoch(
    sources: Mapping[str, PairSource],
    *,
    shares: Mapping[str, float],
    batch_size: int,
    seed: int,
    epoch: int,
    grouped: bool = False,
) -> list[Step]:
    """Cut the sources into steps of nearly equal size, in an order fixed by (seed, epoch).

    `labels`, or else the only source, stands in full; each other one brings `share` pairs per labelled pair, its pairs
    drawn in turn so that none is used more than once more than another. `grouped` keeps the pairs of a query together,
    in one step or in two that follow each other.
    """
    whole = "labels" if "labels" in sources else next(iter(sources))
    size = len(sources[whole])
    steps = count_steps(size, batch_size)
    parts: dict[str, list[Rows]] = {}
    for place, (name, source) in enumerate(sorted(sources.items())):
        rng = np.random.default_rng((seed, epoch, place))
        wanted = size if name == whole else round(shares[name] * size)
        group = source.left if grouped else np.arange(len(source))
        parts[name] = np.array_split(_draw_in_turn(group, wanted, rng), steps)
    return [{name: sources[name].take(rows[step]) for name, rows in parts.items()} for step in range(steps)]


def _draw_in_turn(group: Rows, wanted: int, rng: np.random.Generator) -> Rows:
    """Draw places of `group`, all of them in each round, those of one group one after another."""
    if len(group) == 0:
        return np.empty(0, dtype=np.int64)
    numbers = np.unique(group, return_inverse=True)[1].reshape(-1)
    rounds = [
        rng.permutation(numbers.max() + 1)[numbers].argsort(kind="stable") for _ in range(-(-wanted // len(group)))
    ]
    return np.concatenate([*rounds, np.empty(0, dtype=np.int64)])[:wanted]
