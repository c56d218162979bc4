"""Search of one shard by one thread: its best rows for each query, among all rows or among the selected ones.

Selected rows are found through the graph or, where that is cheaper, scored one by one. The graph has so many more
places as rows are left out, and where they gave fewer hits than there are, the selected rows are scored after all: k
rows come back wherever k are selected.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

ROOM, ROOM_SLOPE = 2, 4
"""Times as many selected rows as the search of a whole shard considers, from a quarter of the rows left out on, and
less room the fewer they are: what is left out may lie around the query."""
PLACE_COST = 16
"""Rows scored one by one in the time of one place of the graph search (`benchmarks/search.py`)."""
BLOCK_ROWS = 512
"""Rows unpacked at a time, so that they stay in a core's cache."""
SCORES = 16 << 20
"""Scores held at a time, 4 bytes each; at least those of one query."""

Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The rows of a shard that may be found: one bit a row, the lowest first."""

    bits: npt.NDArray[np.uint8]
    count: int
    size: int
    """Rows of the shard."""
    few: Rows | None = None
    """The selected rows, where their numbers take no more memory than the bits."""

    @property
    def rows(self) -> Rows:
        """The selected rows in rising order."""
        if self.few is not None:
            return self.few
        return np.flatnonzero(np.unpackbits(self.bits, count=self.size, bitorder="little")).astype(np.int64)

    @cached_property
    def selector(self) -> Any:
        """FAISS's selector of these rows."""
        select: Any = faiss.IDSelectorBitmap
        return select(self.bits)


def select_rows(dead: npt.NDArray[np.integer[Any]], size: int) -> Selection:
    """Return the selection of a shard's rows that are not dead."""
    alive = np.ones(size, dtype=np.bool_)
    alive[dead] = False
    return Selection(bits=np.packbits(alive, bitorder="little"), count=size - len(dead), size=size)


def select_only(rows: Rows, size: int) -> Selection:
    """Return the selection of these rows, which rise."""
    bits = np.zeros((size + 7) // 8, dtype=np.uint8)
    np.bitwise_or.at(bits, rows >> 3, np.left_shift(1, rows & 7).astype(np.uint8))
    return Selection(bits=bits, count=len(rows), size=size, few=rows if 8 * len(rows) <= len(bits) else None)


def search_shard(
    index: Any, vectors: Scores, k: int, ef_search: int, selection: Selection | None = None
) -> tuple[Scores, Rows]:
    """Return scores and rows (q, k) of each query's best that are selected; row -1 means that there was no more."""
    wanted = max(ef_search, k)
    if selection is None:
        return _search_graph(index, vectors, k, wanted)
    if is_scored(selection, wanted):
        return _score_rows(index, vectors, k, selection.rows)
    scores, rows = _search_graph(index, vectors, k, _count_places(selection, wanted), selection.selector)
    short = rows[:, min(k, selection.count) - 1] < 0
    if short.any():
        scores[short], rows[short] = _score_rows(index, vectors[short], k, selection.rows)
    return scores, rows


def is_scored(selection: Selection, wanted: int) -> bool:
    """Tell whether scoring the selected rows one by one is cheaper than the graph search that would find `wanted`.

    They cost `count` and PLACE_COST times the places, ROOM * wanted * size / count: scoring is cheaper up to
    count = sqrt(PLACE_COST * ROOM * wanted * size).
    """
    return selection.count <= PLACE_COST * _count_places(selection, wanted)


def _count_places(selection: Selection, wanted: int) -> int:
    """Return how many of the nearest rows hold `wanted` selected ones with room, were these strewn at random."""
    left_out = 1 - selection.count / selection.size
    room = min(ROOM, 1 + ROOM_SLOPE * left_out)
    return int(room * wanted * selection.size / max(1, selection.count))


def _search_graph(index: Any, vectors: Scores, k: int, places: int, selector: Any = None) -> tuple[Scores, Rows]:
    parameters = faiss.SearchParametersHNSW(efSearch=places, sel=selector)  # type: ignore[attr-defined]
    scores, rows = index.search(vectors, k, params=parameters)
    return scores, rows


def _score_rows(index: Any, vectors: Scores, k: int, rows: Rows) -> tuple[Scores, Rows]:
    """Return what `search_shard` does, by scoring each of the rows."""
    best_scores = np.full((len(vectors), k), -np.inf, dtype=np.float32)
    best_rows = np.full((len(vectors), k), -1, dtype=np.int64)
    together = max(1, SCORES // max(1, len(rows)))
    for start in range(0, len(vectors), together):
        for line, scores in enumerate(_score_all(index, vectors[start : start + together], rows), start):
            kept = np.flatnonzero(scores >= np.partition(scores, -k)[-k]) if len(scores) > k else np.arange(len(scores))
            best = kept[np.argsort(-scores[kept], kind="stable")][:k]
            best_scores[line, : len(best)], best_rows[line, : len(best)] = scores[best], rows[best]
    return best_scores, best_rows


def _score_all(index: Any, vectors: Scores, rows: Rows) -> Scores:
    """Return the scores (q, rows) of every query with every row.

    The products are FAISS's own, one pair at a time: BLAS would round a batch otherwise than a single query.
    """
    scores = np.empty((len(vectors), len(rows)), dtype=np.float32)
    queries = np.ascontiguousarray(vectors, dtype=np.float32)
    # One for all blocks: what is given back to the system is cleared anew, which takes longer than the products.
    unpacked = np.empty((min(BLOCK_ROWS, len(rows)), index.d), dtype=np.float32)
    for start in range(0, len(rows), BLOCK_ROWS):
        part = rows[start : start + BLOCK_ROWS]
        block = index.reconstruct_batch(part, unpacked[: len(part)])
        found = np.empty(len(block), dtype=np.float32)
        for line, vector in enumerate(queries):
            pointers = [faiss.swig_ptr(values) for values in (found, vector, block)]
            faiss.fvec_inner_products_ny(*pointers, block.shape[1], len(block))  # type: ignore[attr-defined]
            scores[line, start : start + BLOCK_ROWS] = found
    return scores
