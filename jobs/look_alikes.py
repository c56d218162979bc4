"""Look-alikes by an exported encoder: the exact nearest neighbours of every query, block by block on the executors.

A task holds two blocks of vectors and a slice of their cosines, whatever the number of queries; n queries cost
n^2 * dimension multiplications.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from spark.session import local_address

BLOCK_ROWS = 10_000
SLICE_ROWS = 1_000
COSINE_DIGITS = 6
"""What float32 leaves of a cosine."""

Vectors = npt.NDArray[np.float32]
Names = npt.NDArray[np.object_]


def write_vectors(queries: DataFrame, encoder: Path, folder: Path, *, blocks: int) -> None:
    """Embed the queries on the executors and write them by block; those of unknown words alone are left out."""

    def embed(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from indexer.encoder import open_encoder

        model = open_encoder(encoder, threads=1)
        for batch in batches:
            encoded = model.encode(batch.column("query").to_pylist(), kind="query")
            vectors = pa.array(list(encoded.vectors), pa.list_(pa.float32()))
            table = batch.append_column("vector", vectors)
            yield table.filter(pa.array(~encoded.empty))

    block = F.pmod(F.xxhash64("query"), F.lit(blocks)).cast("int").alias("block")
    placed = queries.select("query", block).repartition(blocks, "block")
    vectors = placed.mapInArrow(embed, "query string, block int, vector array<float>")
    vectors.write.partitionBy("block").parquet(local_address(folder.resolve()))


def nearest_pairs(session: SparkSession, folder: Path, *, blocks: int, neighbours: int) -> DataFrame:
    """Return (query_a, query_b, similarity): each pair of which one query is among the other's nearest."""
    root = folder.resolve()

    def search(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for block in batch.column("id").to_pylist():
                names, vectors = read_block(root, block)
                others = (read_block(root, other) for other in range(blocks))
                yield _as_batch(names, *search_blocks(vectors, others, count=neighbours + 1))

    numbers = session.range(0, blocks, 1, blocks)
    found = numbers.mapInArrow(search, "query string, neighbour string, cosine double")
    pair = (F.least("query", "neighbour").alias("query_a"), F.greatest("query", "neighbour").alias("query_b"))
    others = found.where(F.col("query") != F.col("neighbour"))
    cosine = F.round(F.least(F.lit(1.0), F.max("cosine")), COSINE_DIGITS)
    return others.groupBy(*pair).agg(cosine.alias("similarity"))


def search_blocks(
    vectors: Vectors, others: Iterable[tuple[Names, Vectors]], *, count: int
) -> tuple[Names, npt.NDArray[np.float32]]:
    """Return the names of the `count` nearest vectors of all blocks, and their cosines, nearest first.

    Vectors are of unit length. A vector is its own neighbour. Fewer columns come back where there are fewer vectors.
    """
    found: Names = np.empty((len(vectors), 0), dtype=object)
    cosines: Vectors = np.empty((len(vectors), 0), dtype=np.float32)
    for names, block in others:
        parts = [
            _best(np.broadcast_to(names, (len(rows), len(names))), rows @ block.T, count)
            for rows in (vectors[at : at + SLICE_ROWS] for at in range(0, len(vectors), SLICE_ROWS))
        ]
        if parts:
            found = np.hstack([found, np.vstack([part[0] for part in parts])])
            cosines = np.hstack([cosines, np.vstack([part[1] for part in parts])])
            found, cosines = _best(found, cosines, count)
    return found, cosines


def read_block(root: Path, block: int) -> tuple[Names, Vectors]:
    """Return the queries of a block in the order of their text, and their vectors; a block may be empty."""
    folder = root / f"block={block}"
    if not folder.is_dir():
        return np.empty(0, dtype=object), np.empty((0, 0), dtype=np.float32)
    table = pq.read_table(folder, columns=["query", "vector"], partitioning=None).sort_by("query")
    flat: Any = table.column("vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return table.column("query").to_numpy(), flat.reshape(table.num_rows, -1)


def _best(names: Names, cosines: Vectors, count: int) -> tuple[Names, Vectors]:
    if cosines.shape[1] > count:
        nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        names, cosines = np.take_along_axis(names, nearest, 1), np.take_along_axis(cosines, nearest, 1)
    order = np.argsort(-cosines, axis=1, kind="stable")
    return np.take_along_axis(names, order, 1), np.take_along_axis(cosines, order, 1)


def _as_batch(names: Names, found: Names, cosines: Vectors) -> pa.RecordBatch:
    columns = [np.repeat(names, found.shape[1]).tolist(), found.ravel().tolist(), cosines.ravel().tolist()]
    types = (pa.string(), pa.string(), pa.float64())
    arrays = [pa.array(values, kind) for values, kind in zip(columns, types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, names=["query", "neighbour", "cosine"])
