"""Products of sparse count rows: which pairs of rows reach a threshold, found without forming every pair.

With weights per column and a scale per row, a pair is wanted when <x_i, x_j> >= 1, x_ik = scale_i C_ik sqrt(weight_k).
One side is indexed without the longest prefix of each row that cannot reach 1 alone (All-Pairs prefix filter), so
a wanted pair always shares an indexed column; what the index finds is bounded again and finished by the prefix.
Columns go from the most to the least frequent, so the hubs, which would form most pairs, are what is left out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

SLACK = 1e-7
"""Bounds and dot products may round below 1; the caller decides by the exact figures."""
BATCH = 4_000_000
"""Multiply-adds or entries that are worked on at once: about 100 MB."""
NUMBERS = 2**26
"""Codes below may index a table: 512 MiB at most, and less than 10 MiB for a million products."""
STRIPS = 8
"""A block times itself is cut so often, since a strip only meets itself and the rows below."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Counts of one block of rows, the columns in one order for both blocks of a product."""

    counts: sparse.csr_array
    """(rows, columns), float64, indices sorted."""
    scales: Doubles
    """(rows,); x_ik = scale_i C_ik sqrt(weight_k)."""


@dataclass(frozen=True)
class Candidates:
    """Pairs that may be wanted, and what finding them cost."""

    left: Integers
    right: Integers
    multiply_adds: int


@dataclass(frozen=True)
class Products:
    """Pairs and, per pair of matrices, their dot products."""

    pairs: Candidates
    values: list[npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a pair of rows has in common: joint = sum_k C_ik C_jk weight_k, support = sum_k min(C_ik, C_jk)."""

    joint: Doubles
    support: Integers
    shared: Integers


def align_columns(left: Integers, right: Integers) -> Integers:
    """Return the sorted codes that both blocks have: others form no pair."""
    if not _are_numbers(left, right):
        return np.intersect1d(left, right)
    width = 1 + max(left.max(initial=0), right.max(initial=0))
    present = np.zeros((2, width), dtype=bool)
    present[0, left] = present[1, right] = True
    return np.flatnonzero(present.all(axis=0))


def find_columns(codes: Integers, columns: Integers) -> Integers:
    """Return the place of each code among the sorted columns, -1 where it is not there."""
    if not len(columns):
        return np.full(len(codes), -1)
    if _are_numbers(codes, columns):
        table = np.full(1 + max(codes.max(initial=0), columns[-1]), -1)
        table[columns] = np.arange(len(columns))
        return table[codes]
    place = np.minimum(np.searchsorted(columns, codes), len(columns) - 1)
    return np.where(columns[place] == codes, place, -1)


def count_matrix(starts: Integers, places: Integers, counts: Integers, width: int) -> sparse.csr_array:
    """Return (rows, width) of the entries that have a place; row i holds entries starts[i] to starts[i + 1]."""
    known = places >= 0
    indptr = np.concatenate([[0], np.cumsum(known)])[starts]
    matrix = sparse.csr_array((counts[known].astype(np.float64), places[known], indptr), shape=(len(starts) - 1, width))
    matrix.sort_indices()
    return matrix


def column_values(places: Integers, values: Doubles, width: int) -> Doubles:
    """Return the value of each column; every entry of a column carries the same one."""
    known = places >= 0
    found = np.zeros(width)
    found[places[known]] = values[known]
    return found


def find_candidates(left: Rows, right: Rows | None, weights: Doubles) -> Iterator[Candidates]:
    """Yield every pair (i of left, j of right) with <x_i, x_j> >= 1, and few others; each pair comes once.

    Without `right` the block meets itself: pairs i > j.
    """
    order = _rank_columns(left if right is None else right)
    index = _scale(left, weights, order)
    if right is not None:
        yield from _probe(index, _scale(right, weights, order), triangle=False)
        return
    for first, last in _strips(index.shape[0]):
        for found in _probe(index[first:], index[first:last], triangle=True):
            yield Candidates(found.left + first, found.right + first, found.multiply_adds)


def find_all(left: Rows, right: Rows | None) -> Iterator[Candidates]:
    """Yield every pair that shares a column, as `find_candidates` does, at the cost of forming all of them."""
    for found in multiply_rows([left.counts], [(left if right is None else right).counts], triangle=right is None):
        yield found.pairs


def multiply_rows(
    left: Sequence[sparse.csr_array], right: Sequence[sparse.csr_array], *, triangle: bool
) -> Iterator[Products]:
    """Yield every pair (i of left, j of right; i > j in a triangle) that shares a column, and its dot products.

    The matrices of a side differ in their values alone: product n is <left[n]_i, right[n]_j>.
    """
    if not triangle:
        yield from _multiply(left, right)
        return
    for first, last in _strips(left[0].shape[0]):
        below, strip = [matrix[first:] for matrix in left], [matrix[first:last] for matrix in right]
        for found in _multiply(below, strip):
            i, j = found.pairs.left, found.pairs.right
            kept = i > j
            pairs = Candidates(i[kept] + first, j[kept] + first, found.pairs.multiply_adds)
            yield Products(pairs, [values[kept] for values in found.values])


def measure_pairs(left: Rows, right: Rows, pairs: Candidates, weights: Doubles) -> Figures:
    """Return the exact figures of pairs; sums run in the order of the columns, so blocks do not change a bit."""
    joint, support = np.empty(len(pairs.left)), np.empty(len(pairs.left), dtype=np.int64)
    shared = np.empty(len(pairs.left), dtype=np.int64)
    for part in _portions(left.counts, right.counts, pairs.left, pairs.right):
        one, other = left.counts[pairs.left[part]], right.counts[pairs.right[part]]
        product = sparse.csr_array(one.multiply(other))
        rows, number = _row_of(product), part.stop - part.start
        joint[part] = np.bincount(rows, weights=product.data * weights[product.indices], minlength=number)
        shared[part] = np.diff(product.indptr)
        least = sparse.csr_array(one.minimum(other))
        support[part] = np.bincount(_row_of(least), weights=least.data, minlength=number).astype(np.int64)
    return Figures(joint=joint, support=support, shared=shared)


def dot_rows(one: sparse.csr_array, other: sparse.csr_array, i: Integers, j: Integers) -> npt.NDArray[Any]:
    """Return <one_i, other_j> of pairs in the type of the matrices, summed in the order of the columns."""
    dots = np.zeros(len(i), dtype=one.dtype)
    for part in _portions(one, other, i, j):
        product = sparse.csr_array(one[i[part]].multiply(other[j[part]]))
        np.add.at(dots[part], _row_of(product), product.data)
    return dots


def _multiply(left: Sequence[sparse.csr_array], right: Sequence[sparse.csr_array]) -> Iterator[Products]:
    columns = [sparse.csr_array(matrix.T) for matrix in left]
    for first, last, cost in _batches(right[0], np.diff(columns[0].indptr)):
        found = [sparse.csr_array(rows[first:last] @ other) for rows, other in zip(right, columns, strict=True)]
        pairs = Candidates(found[0].indices.astype(np.int64), _row_of(found[0]) + first, cost)
        yield Products(pairs, [product.data for product in found])


def _probe(index: sparse.csr_array, probe: sparse.csr_array, *, triangle: bool) -> Iterator[Candidates]:
    """Yield candidates (row of index, row of probe); in a triangle the probe rows are the index's first ones."""
    suffix, prefix, bound = _split(index, _column_maxima(probe))
    lengths, prefix_norms, norms = np.diff(prefix.indptr), _norms(prefix), _norms(probe)
    columns = sparse.csr_array(suffix.T)
    for start, stop, cost in _batches(probe, np.diff(columns.indptr)):
        product = sparse.csr_array(probe[start:stop] @ columns)
        i, j = product.indices.astype(np.int64), _row_of(product) + start
        rest = np.minimum(bound[i], prefix_norms[i] * norms[j])
        hopeful = product.data + rest >= 1 - SLACK
        if triangle:
            hopeful &= i > j
        i, j, dot = i[hopeful], j[hopeful], product.data[hopeful]
        open_ = np.flatnonzero(lengths[i] > 0)
        dot[open_] += dot_rows(prefix, probe, i[open_], j[open_])
        reached = dot >= 1 - SLACK
        yield Candidates(i[reached], j[reached], cost)


def _split(rows: sparse.csr_array, maxima: Doubles) -> tuple[sparse.csr_array, sparse.csr_array, Doubles]:
    """Cut each row where the running sum of x_ik max_j x_jk reaches 1: suffix, prefix, and the prefix's sum."""
    owner = _row_of(rows)
    # One sum runs through all rows: capped at 1, where a row is cut anyway, and in the widest float, it stays exact
    # enough for a row that comes after millions of heavier entries.
    running = np.cumsum(np.minimum(rows.data * maxima[rows.indices], 1.0), dtype=np.longdouble)
    before = np.concatenate([[0.0], running])[rows.indptr[:-1]]
    running = (running - before[owner]).astype(np.float64)
    indexed = running >= 1 - SLACK
    bound = np.zeros(rows.shape[0])
    np.maximum.at(bound, owner[~indexed], running[~indexed])
    return _select(rows, indexed), _select(rows, ~indexed), bound


def _select(rows: sparse.csr_array, chosen: npt.NDArray[np.bool_]) -> sparse.csr_array:
    indptr = np.concatenate([[0], np.cumsum(chosen)])[rows.indptr]
    return sparse.csr_array((rows.data[chosen], rows.indices[chosen], indptr), shape=rows.shape)


def _are_numbers(*codes: Integers) -> bool:
    """Return whether codes are small enough for a table of all: numbers of products, not hashes of their names."""
    return all(not len(some) or (some.min() >= 0 and some.max() < NUMBERS) for some in codes)


def _scale(rows: Rows, weights: Doubles, order: Integers) -> sparse.csr_array:
    """Return x with its columns from the most frequent on."""
    counts = rows.counts
    data = counts.data * np.sqrt(weights)[counts.indices] * np.repeat(rows.scales, np.diff(counts.indptr))
    scaled = sparse.csr_array((data, order[counts.indices], counts.indptr), shape=counts.shape)
    scaled.sort_indices()
    return scaled


def _rank_columns(rows: Rows) -> Integers:
    frequency = np.bincount(rows.counts.indices, minlength=rows.counts.shape[1])
    rank = np.empty(len(frequency), dtype=np.int64)
    rank[np.argsort(-frequency, kind="stable")] = np.arange(len(frequency))
    return rank


def _column_maxima(rows: sparse.csr_array) -> Doubles:
    maxima = np.zeros(rows.shape[1])
    np.maximum.at(maxima, rows.indices, rows.data)
    return maxima


def _norms(rows: sparse.csr_array) -> Doubles:
    return np.sqrt(np.bincount(_row_of(rows), weights=rows.data**2, minlength=rows.shape[0]))


def _portions(one: sparse.csr_array, other: sparse.csr_array, i: Integers, j: Integers) -> Iterator[slice]:
    """Cut pairs so that the rows gathered for a portion hold few entries."""
    entries = np.cumsum(np.diff(one.indptr)[i] + np.diff(other.indptr)[j], dtype=np.int64)
    for start, stop in _cut(entries):
        yield slice(start, stop)


def _batches(probe: sparse.csr_array, degrees: Integers) -> Iterator[tuple[int, int, int]]:
    """Yield first row, last row and multiply-adds of batches of probe rows."""
    running = np.concatenate([[0], np.cumsum(degrees[probe.indices], dtype=np.int64)])[probe.indptr]
    for start, stop in _cut(running[1:]):
        yield start, stop, int(running[stop] - running[start])


def _cut(running: Integers) -> Iterator[tuple[int, int]]:
    """Cut a running sum into ranges of at most BATCH each, one item at least."""
    start = 0
    while start < len(running):
        before = running[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(running, before + BATCH, side="right")))
        yield start, stop
        start = stop


def _strips(rows: int) -> Iterator[tuple[int, int]]:
    edges = np.unique(np.linspace(0, rows, STRIPS + 1).astype(int))
    yield from zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)


def _row_of(matrix: sparse.csr_array) -> Integers:
    """Return the row of every entry."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
