"""The graph inside an index file: levels, offsets and links are checked on a map of the file, before FAISS follows any.

FAISS trusts these numbers: a search reads the links of row r at level l from `offsets[r] + per_level[l]` on, so one
wrong number leads it out of its memory. What passes here leads to rows and links of the file alone.
"""

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from indexer.errors import IntegrityError
from indexer.index_config import MAX_EF

BLOCK = 1 << 22
"""Links looked at together, 16 MiB."""

Numbers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Span:
    """Where a vector of the file lies."""

    start: int
    length: int


@dataclass(frozen=True, kw_only=True)
class GraphLayout:
    """The parts of a graph in its file, whose bytes are there."""

    per_level: Span
    levels: Span
    offsets: Span
    links: Span
    entry: int
    highest: int
    ef: tuple[int, int]
    """efConstruction and efSearch, which no search of ours uses."""


class _Graph:
    """A graph on a map of its file."""

    def __init__(self, data: mmap.mmap, layout: GraphLayout, rows: int, m: int, place: str) -> None:
        self.layout = layout
        self.rows = rows
        self.m = m
        self.place = place
        self._data = data
        self.per_level = self.read("<i4", layout.per_level).astype(np.int64)
        self.levels = self.read("<i4", layout.levels)
        self.offsets = self.read("<u8", layout.offsets)

    def read(self, kind: str, span: Span, first: int = 0, count: int | None = None) -> Numbers:
        wanted = span.length if count is None else count
        start = span.start + first * np.dtype(kind).itemsize
        return np.frombuffer(self._data, dtype=kind, count=wanted, offset=start)

    def refuse(self, what: str, expected: object, found: object) -> NoReturn:
        raise IntegrityError(f"{self.place}: {what}: expected {expected}, found {found}; the index was not opened")


def check_graph_links(path: Path, layout: GraphLayout, *, rows: int, m: int) -> None:
    """Raise IntegrityError unless every number of the graph leads to a row or a link of the file.

    Reads the file once, on a map: 4 bytes a link and 12 a row, in memory of some bytes a row.
    """
    with path.open("rb") as file:
        # Not closed here: arrays look at the map as long as an error's frames live. The last of them frees it.
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    graph = _Graph(data, layout, rows, m, str(path))
    _check_levels(graph)
    _check_offsets(graph)
    _check_links(graph)
    _check_upper_links(graph)


def _check_levels(graph: _Graph) -> None:
    layout, levels = graph.layout, graph.levels
    expected = np.array([0, *(graph.m * np.arange(2, len(graph.per_level) + 1))], dtype=np.int64)
    if not np.array_equal(graph.per_level, expected):
        graph.refuse("neighbours per level", expected.tolist()[:4], graph.per_level.tolist()[:4])
    lowest, highest = int(levels.min()), int(levels.max())
    if lowest < 1 or highest > len(graph.per_level) - 1:
        graph.refuse("levels of the rows", f"1 to {len(graph.per_level) - 1}", (lowest, highest))
    if highest != layout.highest + 1:
        graph.refuse("highest level", highest - 1, layout.highest)
    if int(levels[layout.entry]) != highest:
        graph.refuse("level of the entry point", highest - 1, int(levels[layout.entry]) - 1)
    if not all(1 <= value <= MAX_EF for value in layout.ef):
        graph.refuse("efConstruction and efSearch", f"1 to {MAX_EF}", layout.ef)


def _check_offsets(graph: _Graph) -> None:
    offsets, links = graph.offsets, graph.layout.links.length
    if int(offsets[0]) != 0 or int(offsets[-1]) != links:
        graph.refuse("first and last offset", (0, links), (int(offsets[0]), int(offsets[-1])))
    # Unsigned: an offset that falls gives a huge difference, no negative one.
    wrong = np.flatnonzero(np.diff(offsets) != graph.per_level.astype(np.uint64)[graph.levels])
    if len(wrong):
        row = int(wrong[0])
        graph.refuse(
            f"links of row {row}", int(graph.per_level[graph.levels[row]]), int(offsets[row + 1]) - int(offsets[row])
        )


def _check_links(graph: _Graph) -> None:
    span = graph.layout.links
    for start in range(0, span.length, BLOCK):
        block = graph.read("<i4", span, start, min(BLOCK, span.length - start))
        lowest, highest = int(block.min()), int(block.max())
        if lowest < -1 or highest >= graph.rows:
            graph.refuse("links", f"-1, or a row below {graph.rows}", lowest if lowest < -1 else highest)


def _check_upper_links(graph: _Graph) -> None:
    """A link of an upper level must lead to a row that has that level: its links are read from there."""
    links = graph.read("<i4", graph.layout.links)
    upper = np.flatnonzero(graph.levels > 1)
    for level in range(1, graph.layout.highest + 1):
        upper = upper[graph.levels[upper] > level]
        starts = graph.offsets[upper].astype(np.int64) + graph.per_level[level]
        targets = links[(starts[:, None] + np.arange(graph.m)).ravel()]
        targets = targets[targets >= 0]
        low = targets[graph.levels[targets] <= level]
        if len(low):
            graph.refuse(f"links of level {level}", f"rows of level {level} or more", f"row {low[0]} of a lower one")
