"""Blocks of named sparse rows as tasks receive them, and pairs of their rows as tasks return them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from spark.sparse_product import Doubles, Integers

TIE = 1e-11
"""Scores this close may change places when they are ranked: neither is dropped before all partners are known."""
BATCH_ROWS = 65_536
BUFFER = 2_000_000
"""Pairs a task holds before it drops those beyond the best of both their rows: about 150 MB."""


@dataclass(frozen=True)
class Block:
    """Rows of one block: names, a marginal and a factor each, and their entries from starts[i] to starts[i + 1]."""

    names: pa.StringArray
    marginals: Doubles
    factors: Doubles
    starts: Integers
    codes: Integers
    counts: Integers
    weights: Doubles


@dataclass(frozen=True)
class Pairs:
    """Pairs of a row of one block and a row of another, with figures of equal length."""

    left: Integers
    right: Integers
    figures: Mapping[str, npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(self.left)

    def take(self, chosen: npt.NDArray[Any]) -> "Pairs":
        """Return the chosen pairs."""
        figures = {name: values[chosen] for name, values in self.figures.items()}
        return Pairs(self.left[chosen], self.right[chosen], figures)


def read_block(rows: pa.Table) -> Block:
    """Take rows (name, marginal, factor, codes, counts, weights) apart; the first column is the name."""
    columns = {name: rows.column(name).combine_chunks() for name in rows.column_names}
    lengths = pc.list_value_length(columns["codes"]).to_numpy(zero_copy_only=False)
    return Block(
        names=columns[rows.column_names[0]],
        marginals=columns["marginal"].to_numpy(zero_copy_only=False),
        factors=columns["factor"].to_numpy(zero_copy_only=False),
        starts=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        codes=columns["codes"].flatten().to_numpy(zero_copy_only=False),
        counts=columns["counts"].flatten().to_numpy(zero_copy_only=False),
        weights=columns["weights"].flatten().to_numpy(zero_copy_only=False),
    )


def join_pairs(parts: list[Pairs]) -> Pairs:
    """Return all pairs of one part or more."""
    names = parts[0].figures
    return Pairs(
        np.concatenate([part.left for part in parts]),
        np.concatenate([part.right for part in parts]),
        {name: np.concatenate([part.figures[name] for part in parts]) for name in names},
    )


def best_pairs(parts: Iterable[Pairs], one: Block, other: Block, *, score: str, top_k: int) -> Iterator[Pairs]:
    """Yield the pairs that may be among the `top_k` best of one of their rows, in as few parts as the buffer allows."""
    held: list[Pairs] = []
    for pairs in parts:
        held.append(pairs)
        if sum(map(len, held)) > BUFFER:
            held = [_keep_best(join_pairs(held), one, other, score=score, top_k=top_k)]
            if len(held[0]) > BUFFER // 2:
                yield held.pop()
    if held:
        yield _keep_best(join_pairs(held), one, other, score=score, top_k=top_k)


def write_pairs(pairs: Pairs, one: Block, other: Block, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield pairs as the two names in code point order and the figures; columns without a figure are null.

    Figures named `..._a` and `..._b` belong to the two names and change places with them.
    """
    swapped = _order_names(one, other, pairs)
    for start in range(0, len(pairs), BATCH_ROWS):
        part = slice(start, start + BATCH_ROWS)
        names = one.names.take(pa.array(pairs.left[part])), other.names.take(pa.array(pairs.right[part]))
        turn = pa.array(swapped[part])
        columns = [pc.if_else(turn, names[1], names[0]), pc.if_else(turn, names[0], names[1])]
        for field in list(schema)[2:]:
            columns.append(_figure(pairs, field, part, swapped[part]))
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _keep_best(pairs: Pairs, one: Block, other: Block, *, score: str, top_k: int) -> Pairs:
    """Drop pairs that are beyond the `top_k` best of both their rows within these pairs; ties stay."""
    if not len(pairs):
        return pairs
    scores = pairs.figures[score]
    # A block that meets itself has one list of partners per row, whichever side the row stands on.
    shift = 0 if one is other else len(one.names)
    rows = np.concatenate([pairs.left, pairs.right + shift])
    if np.bincount(rows).max() <= top_k:
        return pairs
    limits = _kth_best(rows, np.concatenate([scores, scores]), len(one.names) + len(other.names), top_k)
    return pairs.take((scores >= limits[pairs.left] - TIE) | (scores >= limits[pairs.right + shift] - TIE))


def _figure(pairs: Pairs, field: pa.Field, part: slice, swapped: npt.NDArray[np.bool_]) -> pa.Array:
    if field.name not in pairs.figures:
        return pa.nulls(len(swapped), field.type)
    values = pairs.figures[field.name][part]
    if field.name.endswith(("_a", "_b")):
        other = pairs.figures[field.name[:-1] + ("b" if field.name.endswith("a") else "a")][part]
        values = np.where(swapped, other, values)
    return pa.array(values, field.type)


def _order_names(one: Block, other: Block, pairs: Pairs) -> npt.NDArray[np.bool_]:
    """Tell which pairs have the larger name on the left."""
    names = one.names if one is other else pa.concat_arrays([one.names, other.names])
    rank = np.empty(len(names), dtype=np.int64)
    rank[pc.sort_indices(names).to_numpy()] = np.arange(len(names))
    shift = 0 if one is other else len(one.names)
    swapped: npt.NDArray[np.bool_] = rank[pairs.left] > rank[pairs.right + shift]
    return swapped


def _kth_best(rows: Integers, scores: Doubles, number: int, top_k: int) -> Doubles:
    """Return each row's `top_k`-th best score, -inf where it has fewer."""
    order = np.lexsort((-scores, rows))
    ends = np.cumsum(np.bincount(rows, minlength=number))
    starts = np.concatenate([[0], ends[:-1]])
    place = starts + top_k - 1
    limits = np.full(number, -np.inf)
    full = place < ends
    limits[full] = scores[order[place[full]]]
    return limits
