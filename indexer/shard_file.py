"""A shard as files: one line per row with its id or its text, and the numbers of its dead rows."""

import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from indexer.errors import IntegrityError
from indexer.text import shorten

NEWLINE = 10
SCAN_BYTES = 64 << 20
PART_ROWS = 65_536
"""Lines read at a time where all are."""
_BREAKS = {ord(mark): " " for mark in "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"}


class Lines:
    """The lines of a UTF-8 file by number; memory holds 8 bytes a line and the file's bytes, unless they are mapped."""

    def __init__(self, data: bytes | mmap.mmap, place: str) -> None:
        if len(data) and data[-1] != NEWLINE:
            raise IntegrityError(f"{place}: the last line has no end; the file is cut")
        self._data = data
        self._place = place
        self._ends = _find_ends(data)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: int) -> str:
        try:
            return self.line(row).decode("utf-8")
        except UnicodeDecodeError as error:
            raise IntegrityError(f"{self._place}: line {row + 1}: not UTF-8: {error}") from None

    def __iter__(self) -> Iterator[str]:
        for part in self._decode_parts():
            yield from part.split("\n")

    def line(self, row: int) -> bytes:
        """Return a line's bytes without its end."""
        start, end = self._span(row, row + 1)
        return self._data[start:end]

    def check_encoding(self) -> None:
        """Raise IntegrityError unless every line is UTF-8; otherwise the first search that finds a wrong one would."""
        for _ in self._decode_parts():
            pass

    def hash_all(self) -> npt.NDArray[np.int64]:
        """Return Python's hash of every line's bytes, which is the same as long as the process lives."""
        hashes = np.empty(len(self), dtype=np.int64)
        for start in range(0, len(self), PART_ROWS):
            end = min(start + PART_ROWS, len(self))
            first, last = self._span(start, end)
            lines = self._data[first:last].split(b"\n")
            hashes[start:end] = np.fromiter(map(hash, lines), dtype=np.int64, count=end - start)
        return hashes

    def _decode_parts(self) -> Iterator[str]:
        """Yield PART_ROWS lines at a time, without the end of the last; raises IntegrityError naming a wrong one."""
        for start in range(0, len(self), PART_ROWS):
            first, end = self._span(start, min(start + PART_ROWS, len(self)))
            try:
                yield self._data[first:end].decode("utf-8")
            except UnicodeDecodeError as error:
                row = int(np.searchsorted(self._ends, first + error.start))
                raise IntegrityError(f"{self._place}: line {row + 1}: not UTF-8: {error.reason}") from None

    def _span(self, start: int, end: int) -> tuple[int, int]:
        """Return where the bytes of some lines begin, and where the end of the last one stands."""
        return int(self._ends[start - 1]) + 1 if start else 0, int(self._ends[end - 1])


def read_dead(path: Path, rows: int) -> npt.NDArray[np.uint32]:
    """Return the numbers of a shard's dead rows; raises IntegrityError unless they rise and are of the shard."""
    found = np.fromfile(path, dtype="<u4")
    if len(found) and (int(found[-1]) >= rows or (np.diff(found.astype(np.int64)) <= 0).any()):
        raise IntegrityError(f"{path}: expected rising row numbers below {rows}")
    return found


def read_lines(path: Path, rows: int, *, mapped: bool = False) -> Lines:
    """Read or map a file of one line per row; raises IntegrityError for another number of lines."""
    lines = Lines(_map_file(path) if mapped else path.read_bytes(), str(path))
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
    return text if text.isprintable() else text.translate(_BREAKS)


def _map_file(path: Path) -> bytes | mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""


def _find_ends(data: bytes | mmap.mmap) -> npt.NDArray[np.int64]:
    everything = np.frombuffer(data, dtype=np.uint8)
    parts = [
        np.flatnonzero(everything[start : start + SCAN_BYTES] == NEWLINE) + start
        for start in range(0, len(everything), SCAN_BYTES)
    ]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
