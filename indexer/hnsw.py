"""FAISS HNSW indexes with the same bytes for the same vectors."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from indexer.config import IndexConfig

BYTES_PER_NUMBER = {"flat": 4, "sqfp16": 2, "sq8": 1}


def build_index(vectors: npt.NDArray[np.float32], options: IndexConfig) -> Any:
    """Build an inner-product HNSW index of unit vectors (KD-Boost section 5.2: M = 64, efConstruction = 256).

    All rows go into one `add`: FAISS 1.15.1 gives equal bytes for any number of threads, but other bytes for
    another split of the rows.
    """
    index: Any = _empty_index(vectors.shape[1], options)
    index.hnsw.efConstruction = options.ef_construction
    index.hnsw.efSearch = options.stated_ef_search
    index.train(vectors)
    index.add(vectors)
    return index


def write_index(index: Any, path: Path) -> None:
    """Write an index to a file."""
    faiss.write_index(index, str(path))


def estimate_bytes(rows: int, dimension: int, options: IndexConfig) -> int:
    """Return the memory at the peak of a build: the vectors, their copy in the index, links, and per-row lists."""
    stored = BYTES_PER_NUMBER[options.storage] * dimension
    return rows * (4 * dimension + stored + 8 * options.m + 300)


def _empty_index(dimension: int, options: IndexConfig) -> Any:
    if options.storage == "flat":
        return faiss.IndexHNSWFlat(dimension, options.m, faiss.METRIC_INNER_PRODUCT)
    quantiser: Any = {"sqfp16": faiss.ScalarQuantizer.QT_fp16, "sq8": faiss.ScalarQuantizer.QT_8bit}[options.storage]
    return faiss.IndexHNSWSQ(dimension, quantiser, options.m, faiss.METRIC_INNER_PRODUCT)
