"""The purchases of a night that fit one task, as arrays straight from the files: no shuffle, no join, no strings."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from scipy import sparse

from indexer.contracts.raw import readable
from spark.block_rows import Block
from spark.gram import Totals
from spark.sparse_product import Doubles, Integers

LARGEST = 2.0**63
NAMES = ("query", "product_id")


@dataclass(frozen=True)
class PurchaseMatrix:
    """Counts C_ik of queries (rows) and products (columns), both in code point order of their names."""

    queries: pa.StringArray
    products: pa.StringArray
    counts: sparse.csr_array
    """(queries, products), int64, indices sorted."""


@dataclass(frozen=True)
class Margins:
    """Sums of a matrix in the letters of `spark.npmi`."""

    product: Doubles
    """N_k."""
    bought: Doubles
    """n_i."""
    met_others: Doubles
    """r_i."""
    shares: Doubles
    """sum_k A_ik T_k."""
    shared: Integers
    """d_k, the queries of each product."""
    totals: Totals


def read_matrix(folder: Path) -> PurchaseMatrix:
    """Read PURCHASES; the order of files and rows makes no difference.

    Raises ContractError where a file is damaged, OverflowError where all counts together exceed 64 bits.
    """
    parquet = ds.ParquetFileFormat(
        dictionary_columns=set(NAMES),
        default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True),
    )
    with readable(folder):
        dataset = ds.dataset(str(folder), format=parquet, exclude_invalid_files=False)
        table = dataset.to_table(columns=[*NAMES, "purchases"]).unify_dictionaries()
    (queries, rows), (products, columns) = (_number_names(table.column(name)) for name in NAMES)
    counts = table.column("purchases").to_numpy().astype(np.int64)
    if counts.sum(dtype=np.float64) >= LARGEST:
        raise OverflowError("ARITHMETIC_OVERFLOW: the sum of all purchases")
    matrix = sparse.csr_array((counts, (rows, columns)), shape=(len(queries), len(products)))
    matrix.sort_indices()
    return PurchaseMatrix(queries, products, matrix)


def measure_matrix(matrix: PurchaseMatrix) -> Margins:
    """Add up what the readings of NPMI and the forecast ask for."""
    counts = matrix.counts
    row = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    count = counts.data.astype(np.float64)
    product, bought = (counts.sum(axis=axis).astype(np.float64) for axis in (0, 1))
    shared = np.bincount(counts.indices, minlength=counts.shape[1])
    of_product = product[counts.indices]
    share = np.bincount(counts.indices, weights=count / bought[row], minlength=counts.shape[1])
    # Products of one query meet nobody: their part is 0 exactly.
    met = np.bincount(row, count * (of_product - count) / of_product, counts.shape[0]).astype(np.float64)
    totals = Totals(
        entries=int(shared[shared > 1].sum()),
        shared_pairs=int((shared * (shared - 1) // 2).sum()),
        purchases=int(counts.data.sum()),
        met_others=float(met.sum()),
        share_squares=float((share * share).sum()),
        mixed_codes=0,
    )
    return Margins(
        product=product,
        bought=bought,
        met_others=met,
        shares=np.bincount(row, weights=count * share[counts.indices], minlength=counts.shape[0]) / bought,
        shared=shared,
        totals=totals,
    )


def name_most_shared(matrix: PurchaseMatrix, margins: Margins, *, number: int) -> list[tuple[str, int]]:
    """Return the products after most queries, with their number of queries."""
    best = np.argsort(-margins.shared, kind="stable")[:number]
    return [(matrix.products[int(place)].as_py(), int(margins.shared[place])) for place in best]


def cut_blocks(
    matrix: PurchaseMatrix, margins: Margins, reading: Mapping[str, Any], *, blocks: int, wanted: Iterable[int]
) -> dict[int, Block]:
    """Return the wanted ones of so many blocks, by number; `reading` is that of `spark.npmi`.

    Products of one query alone are left out, and so are queries without others.
    """
    counts = matrix.counts
    known = margins.shared[counts.indices] > 1
    indptr = np.concatenate([[0], np.cumsum(known)])[counts.indptr]
    codes, data = counts.indices[known].astype(np.int64), counts.data[known]
    weights = np.broadcast_to(reading["weight"], margins.product.shape)[codes]
    factors, marginals = (np.broadcast_to(reading[name], margins.bought.shape) for name in ("factor", "marginal"))
    lengths = np.diff(indptr)
    found = {}
    for block in wanted:
        rows = np.arange(block, len(lengths), blocks)
        rows = rows[lengths[rows] > 0]
        starts = np.concatenate([[0], np.cumsum(lengths[rows])])
        entries = np.repeat(indptr[rows] - starts[:-1], lengths[rows]) + np.arange(starts[-1])
        found[block] = Block(
            names=matrix.queries.take(pa.array(rows)),
            marginals=marginals[rows],
            factors=factors[rows],
            starts=starts,
            codes=codes[entries],
            counts=data[entries],
            weights=weights[entries],
        )
    return found


def _number_names(column: pa.ChunkedArray) -> tuple[pa.StringArray, Integers]:
    """Return the distinct names in code point order, and the number of each row's name."""
    if not column.num_chunks:
        return pa.array([], pa.string()), np.zeros(0, dtype=np.int64)
    names = column.chunk(0).dictionary.cast(pa.string())
    order = pc.sort_indices(names).to_numpy()
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    rows = np.concatenate([chunk.indices.to_numpy(zero_copy_only=False) for chunk in column.chunks])
    return names.take(pa.array(order)), place[rows]
