"""Rows with the vector of an earlier row: left out while the graph is made, and hung below that row afterwards.

More equal rows than a node has links would link to each other alone: nothing leads into such a group or out of it,
and of 16,000 rows with 20 texts 200 times each, 12 % could not be found. Left out they cost next to nothing to insert,
and a search that finds the first row finds them all: they hang below it as a tree.
"""

from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt

BLOCK_ROWS = 16_384

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


class Copies(NamedTuple):
    """Which rows have the vector of an earlier one."""

    first: Rows
    """Rows whose vectors differ from all before, rising."""
    owner: Rows
    """Of every row the place in `first` of the row whose vector it has."""

    @property
    def found(self) -> bool:
        """Whether there is any copy."""
        return len(self.first) < len(self.owner)


def find_copies(vectors: Vectors) -> Copies:
    """Return which rows of float32 (n, d) have the numbers of an earlier row; -0.0 is not 0.0."""
    hashes = _hash_rows(vectors)
    _, first, owner = np.unique(hashes, return_index=True, return_inverse=True)
    rising = np.argsort(first, kind="stable")
    place = np.empty_like(rising)
    place[rising] = np.arange(len(rising))
    found = Copies(first[rising], place[owner])
    for start in range(0, len(vectors), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        if not np.array_equal(vectors[block].view(np.uint32), vectors[found.first[found.owner[block]]].view(np.uint32)):
            # Two of 2**64 hashes met, as good as never: nothing is lost but the gain.
            return Copies(np.arange(len(vectors)), np.arange(len(vectors)))
    return found


def drop_copies(codes: Vectors, copies: Copies) -> Vectors:
    """Move the first rows to the front of the array, which is lost, and return them."""
    for start in range(0, len(copies.first), BLOCK_ROWS):
        # A first row never moves back, so none is overwritten before its turn.
        moved = codes[copies.first[start : start + BLOCK_ROWS]]
        codes[start : start + len(moved)] = moved
    return codes[: len(copies.first)]


def hang_copies(graph: Any, copies: Copies) -> None:
    """Turn the graph of the first rows into the graph of all rows."""
    width = graph.nb_neighbors(0)
    first, rows = copies.first, len(copies.owner)
    levels = np.ones(rows, dtype=np.int32)
    levels[first] = faiss.vector_to_array(graph.levels)
    sizes = np.full(rows, width, dtype=np.int64)
    sizes[first] = np.diff(faiss.vector_to_array(graph.offsets).astype(np.int64))
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
    links = np.full(offsets[-1], -1, dtype=np.int32)
    is_first = np.zeros(rows, dtype=np.bool_)
    is_first[first] = True
    made = faiss.vector_to_array(graph.neighbors)
    # First rows rise, so their lists follow each other as they did.
    links[np.repeat(is_first, sizes)] = np.where(made >= 0, first[np.maximum(made, 0)], -1)
    _link_copies(links, offsets, copies, np.flatnonzero(~is_first), width)
    faiss.copy_array_to_vector(levels, graph.levels)
    faiss.copy_array_to_vector(offsets.astype(np.uint64), graph.offsets)
    faiss.copy_array_to_vector(links, graph.neighbors)
    graph.entry_point = int(first[graph.entry_point])


def _link_copies(links: npt.NDArray[np.int32], offsets: Rows, copies: Copies, rows: Rows, width: int) -> None:
    """Link the copies (`rows`) of each row as a tree: of a node's links one leads up, one out, the others down."""
    rows = rows[np.argsort(copies.owner[rows], kind="stable")]
    groups, starts, counts = np.unique(copies.owner[rows], return_index=True, return_counts=True)
    tops = copies.first[groups]
    serial = np.arange(len(rows)) - np.repeat(starts, counts)
    parents = rows[np.repeat(starts, counts) + np.maximum(serial - 1, 0) // (width - 2)]
    parents[starts] = tops
    links[offsets[rows]] = parents
    links[offsets[rows] + 1] = np.repeat(_link_tops(links, offsets[tops], tops, rows[starts], width), counts)
    below = serial > 0
    links[offsets[parents[below]] + 2 + (serial[below] - 1) % (width - 2)] = rows[below]


def _link_tops(links: npt.NDArray[np.int32], places: Rows, tops: Rows, copies: Rows, width: int) -> Rows:
    """Link each first row, whose list begins at its place, to its first copy; return where its copies lead out to.

    A full list gives up its last link, and the copies lead there: what could be reached still can be.
    """
    outs = np.empty_like(tops)
    for start in range(0, len(tops), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        found = links[places[block][:, None] + np.arange(width)]
        used = np.minimum((found >= 0).sum(axis=1), width - 1)
        links[places[block] + used] = copies[block]
        given_up = found[:, -1]
        outs[block] = np.where(given_up >= 0, given_up, np.where(found[:, 0] >= 0, found[:, 0], tops[block]))
    return outs


def _hash_rows(vectors: Vectors) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash of every row's bits."""
    rng = np.random.default_rng(0)
    # Odd factors lose no bit of what they multiply.
    factors = rng.integers(0, 1 << 63, (2, vectors.shape[1]), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    hashes = np.empty(len(vectors), dtype=np.uint64)
    for start in range(0, len(vectors), BLOCK_ROWS):
        block = np.ascontiguousarray(vectors[start : start + BLOCK_ROWS])
        mixed = (block.view(np.uint32).astype(np.uint64) + np.uint64(1)) * factors[0]
        mixed ^= mixed >> np.uint64(32)
        hashes[start : start + BLOCK_ROWS] = (mixed * factors[1]).sum(axis=1, dtype=np.uint64)
    return hashes
