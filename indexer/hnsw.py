"""FAISS HNSW indexes with the same bytes for the same vectors.

The graph of a large shard is made on cheap codes, and the vectors are put in their place afterwards: what decides who
neighbours whom needs fewer numbers than what decides who is best. Of equal vectors one alone takes part. The file is
that of a stock HNSW index.
"""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from indexer.graph_copies import Copies, drop_copies, find_copies, hang_copies
from indexer.index_config import IndexConfig

BYTES_PER_NUMBER = {"flat": 4, "sqfp16": 2, "sq8": 1}
CODED_ROWS = 10_000
"""With fewer rows the vectors lie in the processor's caches, and codes save little."""
SAMPLED_ROWS = 20_000
"""Rows that directions are computed from."""
LEAST_KEPT = 0.9
"""Share of the vectors' squared length that the directions of codes must keep: with .94 the graph of real texts finds
what one made on vectors finds, with .87 it loses .003 of recall@100, with .5 (random directions) a tenth."""
LARGEST_CODE = 127
BLOCK_ROWS = 16_384

Vectors = npt.NDArray[np.float32]


def build_index(vectors: Vectors, options: IndexConfig) -> Any:
    """Build an inner-product HNSW index of unit vectors (KD-Boost section 5.2: M = 64, efConstruction = 256).

    All distinct rows go into one `add`: FAISS 1.15.1 gives equal bytes for any number of threads, but other bytes for
    another split of the rows.
    """
    copies, directions = find_copies(vectors), find_directions(vectors, options)
    index: Any = _empty_index(vectors.shape[1], options)
    index.train(vectors)
    if copies.found or directions is not None:
        made = (
            _build_distinct(vectors, copies, options)
            if directions is None
            else _build_coded(vectors, directions, copies, options)
        )
        index.hnsw = made.hnsw
        # Its storage goes before there is another.
        del made
        if copies.found:
            hang_copies(index.hnsw, copies)
        index.storage.add(vectors)
        index.ntotal = len(vectors)
    else:
        index.hnsw.efConstruction = options.ef_construction
        index.add(vectors)
    index.hnsw.efSearch = options.stated_ef_search
    return index


def is_coded(vectors: Vectors, options: IndexConfig) -> bool:
    """Whether the graph of these vectors is made on codes."""
    return find_directions(vectors, options) is not None


def find_directions(vectors: Vectors, options: IndexConfig) -> Vectors | None:
    """Return the orthonormal columns (d, graph_dimensions) that codes are projections on, None where there are none.

    They are the leading eigenvectors of the vectors' second moments, which of all projections keep inner products best
    in the least squares. Few rows need no codes, and vectors that lie in all directions alike are not served by any.
    """
    if not 0 < options.graph_dimensions < vectors.shape[1] or len(vectors) < CODED_ROWS:
        return None
    sample = vectors[:: -(-len(vectors) // SAMPLED_ROWS)].astype(np.float64)
    # The last bits of BLAS and LAPACK depend on the number of threads, and so would the bytes of the index.
    with threadpool_limits(limits=1, user_api="blas"):
        moments, directions = np.linalg.eigh(sample.T @ sample)
    if moments[-options.graph_dimensions :].sum() < LEAST_KEPT * moments.sum():
        return None
    return np.ascontiguousarray(directions[:, ::-1][:, : options.graph_dimensions].astype(np.float32))


def encode_vectors(vectors: Vectors, directions: Vectors) -> Vectors:
    """Return whole numbers within +-127 (n, k) whose inner products rank nearly as the vectors' (n, d).

    The vectors are projected on the directions (d, k); one scale for all numbers keeps their proportions.
    """
    codes = np.empty((len(vectors), directions.shape[1]), dtype=np.float32)
    with threadpool_limits(limits=1, user_api="blas"):
        for start in range(0, len(vectors), BLOCK_ROWS):
            codes[start : start + BLOCK_ROWS] = vectors[start : start + BLOCK_ROWS] @ directions
    largest = float(np.abs(codes).max())
    codes *= LARGEST_CODE / largest if largest else 0.0
    return np.rint(codes, out=codes)


def write_index(index: Any, path: Path) -> None:
    """Write an index to a file; raises OSError where it does not fit."""
    # FAISS's own writer does not notice what fails when it closes the file, the last bytes of a full disk.
    with path.open("wb") as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]


def estimate_bytes(rows: int, dimension: int, options: IndexConfig) -> int:
    """Return the memory at the peak of a build: the vectors, their copy in the index, links, and per-row lists.

    It is that of a build without codes, which the vectors may turn out to need: the distinct ones are gathered beside
    their copy in the index, and nobody knows yet how many there are.
    """
    stored = BYTES_PER_NUMBER[options.storage] * dimension
    return rows * (8 * dimension + stored + 8 * options.m + 300)


def _build_coded(vectors: Vectors, directions: Vectors, copies: Copies, options: IndexConfig) -> Any:
    kind: Any = faiss.ScalarQuantizer.QT_8bit_direct_signed
    coded: Any = faiss.IndexHNSWSQ(options.graph_dimensions, kind, options.m, faiss.METRIC_INNER_PRODUCT)
    coded.hnsw.efConstruction = options.ef_construction
    codes = encode_vectors(vectors, directions)
    if copies.found:
        codes = drop_copies(codes, copies)
    coded.train(codes)
    coded.add(codes)
    return coded


def _build_distinct(vectors: Vectors, copies: Copies, options: IndexConfig) -> Any:
    index: Any = _empty_index(vectors.shape[1], options)
    index.train(vectors)
    index.hnsw.efConstruction = options.ef_construction
    index.add(vectors[copies.first])
    return index


def _empty_index(dimension: int, options: IndexConfig) -> Any:
    if options.storage == "flat":
        return faiss.IndexHNSWFlat(dimension, options.m, faiss.METRIC_INNER_PRODUCT)
    quantiser: Any = {"sqfp16": faiss.ScalarQuantizer.QT_fp16, "sq8": faiss.ScalarQuantizer.QT_8bit}[options.storage]
    return faiss.IndexHNSWSQ(dimension, quantiser, options.m, faiss.METRIC_INNER_PRODUCT)
