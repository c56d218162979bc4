"""A shard as files: the index, its ids and its texts, one line per row, in the same order."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from indexer.errors import IntegrityError
from indexer.index_file import IndexShape, read_index
from indexer.manifest import CollectionEntry, ShardEntry
from indexer.strict_json import shorten

NEWLINE = 10
DEAD_ROOM = 2
"""Times as many places as a search has in a shard with dead rows."""
_BREAKS = {ord(mark): " " for mark in "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"}


class Lines:
    """The lines of a UTF-8 file by number; memory holds the file's bytes and 8 bytes a line."""

    def __init__(self, data: bytes, place: str) -> None:
        if data and data[-1] != NEWLINE:
            raise IntegrityError(f"{place}: the last line has no end; the file is cut")
        self._data = data
        self._place = place
        self._ends = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == NEWLINE)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: int) -> str:
        start = int(self._ends[row - 1]) + 1 if row else 0
        try:
            return self._data[start : int(self._ends[row])].decode("utf-8")
        except UnicodeDecodeError as error:
            raise IntegrityError(f"{self._place}: line {row + 1}: not UTF-8: {error}") from None


@dataclass(frozen=True, kw_only=True)
class LoadedShard:
    """A shard that is ready to search."""

    index: Any
    ids: Lines
    texts: Lines | None
    selector: Any = None
    """FAISS's selector of the rows that are not dead, where any are."""

    def id(self, row: int) -> str:
        """Return the id of a row."""
        return self.ids[row]

    def text(self, row: int) -> str | None:
        """Return the text of a row, None where the release carries none."""
        return self.texts[row] if self.texts is not None else None


def open_shard(collection: CollectionEntry, shard: ShardEntry, files: Mapping[str, Path]) -> LoadedShard:
    """Load a shard from verified files; raises IntegrityError where it is not as the manifest says."""
    shape = IndexShape(rows=shard.rows, dimension=collection.dimension, m=collection.m, storage=collection.storage)
    return LoadedShard(
        index=read_index(files[shard.index.key], shape),
        ids=read_lines(files[shard.ids.key], shard.rows),
        texts=read_lines(files[shard.texts.key], shard.rows) if shard.texts else None,
        selector=select_rows(read_dead(files[shard.dead.rows.key], shard.rows), shard.rows) if shard.dead else None,
    )


def read_dead(path: Path, rows: int) -> npt.NDArray[np.uint32]:
    """Return the numbers of a shard's dead rows; raises IntegrityError unless they rise and are of the shard."""
    found = np.fromfile(path, dtype="<u4")
    if len(found) and (int(found[-1]) >= rows or (np.diff(found.astype(np.int64)) <= 0).any()):
        raise IntegrityError(f"{path}: expected rising row numbers below {rows}")
    return found


def select_rows(dead: npt.NDArray[np.uint32], rows: int) -> Any:
    """Return FAISS's selector of the rows that are not dead."""
    alive = np.ones(rows, dtype=np.bool_)
    alive[dead] = False
    bits: Any = np.packbits(alive, bitorder="little")
    select: Any = faiss.IDSelectorBitmap
    return select(bits)


def search_shard(
    index: Any, vectors: npt.NDArray[np.float32], k: int, ef_search: int, selector: Any = None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return scores and rows (q, k) of each query's best that are selected; row -1 means that there was no more."""
    if selector is None:
        parameters = faiss.SearchParametersHNSW(efSearch=max(ef_search, k))  # type: ignore[attr-defined]
    else:
        # Dead rows take places of the search; where a whole kind of product died they would take nearly all.
        wider = DEAD_ROOM * max(ef_search, k)
        parameters = faiss.SearchParametersHNSW(efSearch=wider, sel=selector)  # type: ignore[attr-defined]
    scores, rows = index.search(vectors, k, params=parameters)
    return scores, rows


def read_lines(path: Path, rows: int) -> Lines:
    """Read a file of one line per row; raises IntegrityError for another number of lines."""
    lines = Lines(path.read_bytes(), str(path))
    if len(lines) != rows:
        raise IntegrityError(f"{path}: expected {rows} lines, found {len(lines)}")
    return lines


def write_lines(path: Path, values: Iterable[str]) -> None:
    """Write one line per value; raises IntegrityError for a value that is not one line."""
    with path.open("w", encoding="utf-8", newline="") as file:
        for value in values:
            if "\n" in value:
                raise IntegrityError(f"{path}: {shorten(value)} spans several lines")
            file.write(value + "\n")


def as_one_line(text: str) -> str:
    """Return the text with every line break turned into a space."""
    return text.translate(_BREAKS)
