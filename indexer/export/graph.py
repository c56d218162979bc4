"""A FAISS HNSW graph in the file layout of hnswlib: the same links, so nothing is built a second time.

hnswlib (nmslib/hnswlib, `saveIndex` of hnswalg.h) writes, little-endian on every 64-bit machine that it runs on: a
header; per row its links on level 0, its vector and its label; per row the bytes of its links on higher levels, and
these. A list of links is a count and as many places as its level allows.
"""

import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt

from indexer.errors import IntegrityError
from indexer.export.arrays import append_ids
from indexer.export.rows import BATCH_ROWS, ShardRows

HEADER = "<6QiI3QdQ"
"""Offset of level 0, places, rows, bytes per row, offsets of label and vector, highest level, entry point, links per
level above 0, links on level 0, M, 1 / ln M, efConstruction."""

Links = npt.NDArray[np.int32]


class Graph(NamedTuple):
    """The links of a FAISS index, copied."""

    neighbours: Links
    """Places of all rows and levels; -1 ends a list early."""
    offsets: npt.NDArray[np.int64]
    """Where a row's places begin: 2 m on level 0, then m on each level above."""
    levels: npt.NDArray[np.int64]
    """Highest level of each row, from 0."""
    m: int

    def read_links(self, rows: npt.NDArray[np.int64], level: int) -> npt.NDArray[np.uint32]:
        """Return (rows, 1 + places): the number of links on the level, and the links, 0 where a place is empty."""
        places = 2 * self.m if level == 0 else self.m
        start = self.offsets[rows] + (0 if level == 0 else self.m * (level + 1))
        links = self.neighbours[start[:, None] + np.arange(places)]
        linked = np.logical_and.accumulate(links >= 0, axis=1)
        return np.column_stack([linked.sum(axis=1), np.where(linked, links, 0)]).astype("<u4")


def write_hnswlib(shard: ShardRows, folder: Path) -> None:
    """Write the shard as a file for hnswlib's `load_index` in the space `ip`, and append its ids.

    A label is the line of the row's id in ids.txt, from 0, over all shards. Dead rows carry links that searches need,
    so they stay, marked as deleted: hnswlib passes through and never returns them. Their labels lie past the last line.
    """
    graph = _copy_graph(shard.loaded.index, shard.collection.m)
    with (folder / f"index-{shard.number:05d}.hnsw").open("wb") as file:
        file.write(_pack_header(shard))
        for start in range(0, len(shard.live), BATCH_ROWS):
            rows = np.arange(start, min(start + BATCH_ROWS, len(shard.live)))
            file.write(_pack_rows(shard, graph, rows).tobytes())
            shard.advance(int(shard.live[rows].sum()))
        file.write(_pack_levels(graph).tobytes())
    append_ids(folder, (shard.loaded.id(row) for row in np.flatnonzero(shard.live).tolist()))


def _copy_graph(index: Any, m: int) -> Graph:
    """Copy the links; raises IntegrityError where one leads out of the shard."""
    neighbours = faiss.vector_to_array(index.hnsw.neighbors)
    if neighbours.min() < -1 or neighbours.max() >= index.ntotal:
        raise IntegrityError(f"a graph of {index.ntotal} rows has links to rows that it lacks; build the shard again")
    offsets = faiss.vector_to_array(index.hnsw.offsets)[:-1].astype(np.int64)
    return Graph(neighbours, offsets, faiss.vector_to_array(index.hnsw.levels).astype(np.int64) - 1, m)


def _row_type(m: int, dimension: int) -> np.dtype[Any]:
    """Return the layout of a row: hnswlib reads the count from two bytes and the mark from the third."""
    links = [("count", "<u2"), ("deleted", "u1"), ("unused", "u1"), ("links", "<u4", (2 * m,))]
    return np.dtype([*links, ("vector", "<f4", (dimension,)), ("label", "<u8")])


def _pack_header(shard: ShardRows) -> bytes:
    entry, hnsw, rows = shard.collection, shard.loaded.index.hnsw, len(shard.live)
    layout = _row_type(entry.m, entry.dimension)
    fields: Any = layout.fields
    return struct.pack(
        HEADER,
        *(0, rows, rows, layout.itemsize, fields["label"][1], fields["vector"][1]),
        *(hnsw.max_level, hnsw.entry_point),
        *(entry.m, 2 * entry.m, entry.m, 1 / math.log(entry.m), entry.ef_construction),
    )


def _pack_rows(shard: ShardRows, graph: Graph, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    links, live = graph.read_links(rows, level=0), shard.live[rows]
    packed = np.zeros(len(rows), dtype=_row_type(graph.m, shard.collection.dimension))
    packed["count"], packed["links"], packed["deleted"] = links[:, 0], links[:, 1:], ~live
    packed["vector"] = shard.loaded.index.reconstruct_batch(rows)
    passed = int(shard.live[: rows[0]].sum())
    packed["label"][live] = shard.first + passed + np.arange(live.sum())
    packed["label"][~live] = shard.collection.rows + rows[0] - passed + np.arange((~live).sum())
    return packed


def _pack_levels(graph: Graph) -> npt.NDArray[np.uint32]:
    """Return for each row the bytes of its links above level 0, then the lists, level after level."""
    words = 1 + graph.m
    ends = np.cumsum(1 + graph.levels * words)
    starts = ends - (1 + graph.levels * words)
    packed = np.zeros(ends[-1], dtype="<u4")
    packed[starts] = 4 * words * graph.levels
    for level in range(1, int(graph.levels.max()) + 1):
        rows = np.flatnonzero(graph.levels >= level)
        places = starts[rows] + 1 + (level - 1) * words
        packed[places[:, None] + np.arange(words)] = graph.read_links(rows, level)
    return packed
