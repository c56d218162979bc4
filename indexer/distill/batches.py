"""Which pairs stand in which step: every labelled pair once per epoch, query pairs beside them by their shares."""

from collections.abc import Collection, Mapping
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


LABELS = "labels"
"""Source of the labelled pairs; `labels:llm` has those of one source of labels that has terms of its own."""


def kind_of(name: str) -> str:
    """Return what a source is, without the source of its labels."""
    return name.partition(":")[0]


def label_sources(data: TrainingData, names: Collection[str]) -> dict[str, PairSource]:
    """Return the training labels: those of each source that `names` has (`labels:llm`), and the others together."""
    whole = label_source(data)
    numbers = {f"{LABELS}:{source}": row for row, source in enumerate(data.sources)}
    own = {name: row for name, row in numbers.items() if name in names}
    if data.train.source is None or not own:
        return {LABELS: whole}
    parts = {name: np.flatnonzero(data.train.source == row) for name, row in own.items()}
    parts[LABELS] = np.flatnonzero(~np.isin(data.train.source, list(own.values())))
    return {name: whole.take(rows) for name, rows in parts.items()}


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
    shares: Mapping[str, float | None],
    batch_size: int,
    seed: int,
    epoch: int,
    grouped: bool = False,
) -> list[Step]:
    """Cut the sources into steps of nearly equal size, in an order fixed by (seed, epoch).

    A source without a share stands in full; each other one brings `share` pairs per labelled pair, drawn in turn so
    that none is used more than once more than another. `grouped` keeps the pairs of a query together, in one step or
    in two that follow each other.
    """
    labelled = [source for name, source in sources.items() if kind_of(name) == LABELS] or sources.values()
    size = sum(len(source) for source in labelled)
    steps = count_steps(size, batch_size)
    parts: dict[str, list[Rows]] = {}
    for place, (name, source) in enumerate(sorted(sources.items())):
        rng = np.random.default_rng((seed, epoch, place))
        share = shares.get(name)
        wanted = len(source) if share is None else round(share * size)
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
