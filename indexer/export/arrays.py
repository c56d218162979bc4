"""Vectors as columns of Parquet and as one array of NumPy."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from indexer.export.rows import ShardRows


def write_parquet(shard: ShardRows, folder: Path) -> None:
    """Write a file of id, text and vector (a list of fixed size, float32), one row group per batch."""
    dimension = shard.collection.dimension
    schema = pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("text", pa.string()),
            pa.field("vector", pa.list_(pa.float32(), dimension), nullable=False),
        ]
    )
    # Neither ids nor numbers repeat, so dictionaries would only cost memory.
    with pq.ParquetWriter(folder / f"part-{shard.number:05d}.parquet", schema, use_dictionary=["text"]) as writer:
        for batch in shard.read_batches():
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(batch.vectors.reshape(-1)), dimension)
            columns = [pa.array(batch.ids), pa.array(batch.texts, pa.string()), vectors]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema), row_group_size=len(batch.ids))


def write_npy(shard: ShardRows, folder: Path) -> None:
    """Append the shard's rows to vectors.npy, float32 (n, dimension), and their ids; its first shard has the header."""
    entry = shard.collection
    # Not through a memory map: a full disk kills whoever writes to one.
    with (folder / "vectors.npy").open("ab") as file:
        if shard.number == 0:
            header = {"descr": "<f4", "fortran_order": False, "shape": (entry.rows, entry.dimension)}
            np.lib.format.write_array_header_1_0(file, header)
        for batch in shard.read_batches():
            file.write(batch.vectors.astype("<f4", copy=False).tobytes())
            append_ids(folder, batch.ids)


def append_ids(folder: Path, ids: Iterable[str]) -> None:
    """Append ids to ids.txt, one per line."""
    with (folder / "ids.txt").open("a", encoding="utf-8", newline="") as file:
        file.writelines(f"{name}\n" for name in ids)
