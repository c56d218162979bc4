"""The Gram matrix of two blocks of queries, in numpy: the work of one Spark task."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse

from indexer.contracts.schemas import QUERY_GRAM
from spark.block_rows import Block, Pairs, best_pairs, write_pairs
from spark.sparse_product import (
    Candidates,
    Doubles,
    Integers,
    align_columns,
    column_values,
    count_matrix,
    dot_rows,
    find_columns,
    multiply_rows,
)

EXACT, LARGEST = 2.0**53, 2.0**63
GRAM_SCHEMA = pa.schema([pa.field(field.name, field.type) for field in QUERY_GRAM.schema])


def multiply_blocks(one: Block, other: Block, top_k: int) -> Iterator[pa.RecordBatch]:
    """Yield QUERY_GRAM of two blocks, or of one with itself; above 0, `top_k` drops what is beyond it here already."""
    pairs = _multiply(one, other)
    for part in best_pairs(pairs, one, other, score="strength", top_k=top_k) if top_k else pairs:
        yield from write_pairs(part, one, other, GRAM_SCHEMA)


def _multiply(one: Block, other: Block) -> Iterator[Pairs]:
    columns = align_columns(one.codes, other.codes)
    places = find_columns(one.codes, columns)
    weights = column_values(places, one.weights, len(columns))
    side = count_matrix(one.starts, places, one.counts, len(columns))
    others = side if other is one else _count_columns(other, columns)
    sides = [side, others]
    ones = [_with_data(side, np.ones_like(side.data)) for side in sides]
    # Every product is symmetric to the last bit: which block is on the left depends on their number.
    weighed = [_with_data(side, side.data * np.sqrt(weights)[side.indices]) for side in sides]
    left, right = ([side, scaled, one_] for side, scaled, one_ in zip(sides, weighed, ones, strict=True))
    for found in multiply_rows(left, right, triangle=one is other):
        pairs, (overlap, joint, shared) = found.pairs, found.values
        figures = {
            "overlap": _whole(overlap, sides, pairs),
            "gram": overlap / (one.factors[pairs.left] * other.factors[pairs.right]),
            "joint": joint,
            # Ranks are told apart by absolute differences, and joints may all be smaller than these.
            "strength": np.log(joint),
            "shared_products": shared.astype(np.int64),
        }
        yield Pairs(pairs.left, pairs.right, figures)


def _count_columns(block: Block, columns: Integers) -> sparse.csr_array:
    return count_matrix(block.starts, find_columns(block.codes, columns), block.counts, len(columns))


def _whole(overlap: Doubles, sides: list[sparse.csr_array], pairs: Candidates) -> Integers:
    """Return sums of count products as whole numbers; raises OverflowError beyond 64 bits."""
    if overlap.max(initial=0) < EXACT:
        return overlap.astype(np.int64)
    if overlap.max() >= LARGEST:
        raise OverflowError("ARITHMETIC_OVERFLOW: a sum of products of counts")
    left, right = (_with_data(side, side.data.astype(np.int64)) for side in sides)
    return dot_rows(left, right, pairs.left, pairs.right)


def _with_data(matrix: sparse.csr_array, data: npt.NDArray[Any]) -> sparse.csr_array:
    return sparse.csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape)
