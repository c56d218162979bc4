"""FAISS index files: their bytes are checked against an allow-list before FAISS parses any of them.

Accepted are an HNSW graph over flat or scalar-quantised vectors (`IHNf` over `IxFI`, `IHNs` over `IxSQ`) with
inner product, whose counts add up to the file's exact length and whose links lead to rows of it (`index_graph`).
Everything else FAISS could open is refused, inverted lists and pre-transforms among them.
"""

import math
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import faiss

from indexer.errors import IntegrityError
from indexer.index_graph import GraphLayout, Span, check_graph_links

HEADER = "<iqqqBi"
"""Dimension, rows, two unused numbers, trained, metric: what every FAISS index starts with."""
GRAPH_VECTORS = (("level probabilities", 8), ("neighbours per level", 4), ("levels", 4), ("offsets", 8), ("links", 4))
GRAPH_TAIL = "<iiiii"
"""Entry point, highest level, efConstruction, efSearch, one unused number."""
STORED_AS = {"flat": (b"IHNf", b"IxFI", None), "sqfp16": (b"IHNs", b"IxSQ", 4), "sq8": (b"IHNs", b"IxSQ", 0)}
"""Storage -> graph tag, storage tag, quantiser type."""
CODE_BYTES = {"flat": 4, "sqfp16": 2, "sq8": 1}
"""Bytes per stored number."""
MAX_LINKS = 1_024

_limits = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class IndexShape:
    """What an index must be."""

    rows: int
    dimension: int
    m: int
    storage: str


class _File:
    """An index file read number by number; every step checks that the bytes are there."""

    def __init__(self, file: IO[bytes], size: int, place: str) -> None:
        self.file = file
        self.size = size
        self.left = size
        self.place = place

    def numbers(self, form: str, what: str) -> tuple[Any, ...]:
        return struct.unpack(form, self.take(struct.calcsize(form), what))

    def take(self, count: int, what: str) -> bytes:
        self._use(count, what)
        data = self.file.read(count)
        return data if len(data) == count else self.refuse(what, f"{count} bytes", f"{len(data)}")

    def skip_vector(self, item_bytes: int, what: str) -> Span:
        """Pass over a vector and return where it lies."""
        (length,) = self.numbers("<Q", what)
        start = self.size - self.left
        self._use(int(length) * item_bytes, what)
        self.file.seek(int(length) * item_bytes, 1)
        return Span(start, int(length))

    def expect(self, found: object, expected: object, what: str) -> None:
        if found != expected:
            self.refuse(what, expected, found)

    def refuse(self, what: str, expected: object, found: object) -> Any:
        raise IntegrityError(f"{self.place}: {what}: expected {expected}, found {found}; the index was not opened")

    def _use(self, count: int, what: str) -> None:
        self.left -= count
        if self.left < 0:
            self.refuse(what, f"{count} bytes", f"{self.left + count} left in the file")


def check_index_file(path: Path, shape: IndexShape) -> None:
    """Raise IntegrityError unless the file is laid out exactly as an index of this shape and its graph stays in it."""
    check_graph_links(path, read_layout(path, shape), rows=shape.rows, m=shape.m)


def read_layout(path: Path, shape: IndexShape) -> GraphLayout:
    """Return where the parts of the graph lie; raises IntegrityError unless counts and types are those of the shape."""
    graph_tag, storage_tag, quantiser = STORED_AS[shape.storage]
    with path.open("rb") as handle:
        file = _File(handle, path.stat().st_size, str(path))
        file.expect(file.take(4, "type"), graph_tag, "type")
        _check_header(file, shape)
        layout = _read_graph(file, shape)
        file.expect(file.take(4, "storage type"), storage_tag, "storage type")
        _check_header(file, shape)
        if quantiser is None:
            file.expect(file.skip_vector(4, "vectors").length, shape.rows * shape.dimension, "numbers of the vectors")
        else:
            _check_quantiser(file, shape, quantiser)
        file.expect(file.left, 0, "bytes after the index")
    return layout


def read_index(path: Path, shape: IndexShape, *, mapped: bool = False) -> Any:
    """Open an index file that was checked; raises IntegrityError where FAISS refuses it or it is not of this shape.

    Mapped are vectors and links, all but 12 bytes a row (levels and offsets), by IO_FLAG_MMAP_IFC: IO_FLAG_MMAP maps
    inverted lists only and loads an HNSW index as a whole.
    """
    check_index_file(path, shape)
    with _limits:
        before = faiss.get_deserialization_vector_byte_limit()
        faiss.set_deserialization_vector_byte_limit(max(path.stat().st_size, 1 << 20))
        try:
            index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
        except RuntimeError as error:
            raise IntegrityError(f"{path}: FAISS refused the file: {str(error)[:200]}") from None
        finally:
            faiss.set_deserialization_vector_byte_limit(before)
    links = index.hnsw.nb_neighbors(0)
    found = (index.ntotal, index.d, links, index.metric_type)
    expected = (shape.rows, shape.dimension, 2 * shape.m, faiss.METRIC_INNER_PRODUCT)
    if found != expected:
        raise IntegrityError(f"{path}: rows, dimension, links, metric: expected {expected}, found {found}")
    return index


def _check_header(file: _File, shape: IndexShape) -> None:
    dimension, rows, _, _, trained, metric = file.numbers(HEADER, "header")
    file.expect(dimension, shape.dimension, "dimension")
    file.expect(rows, shape.rows, "rows")
    file.expect((trained, metric), (1, faiss.METRIC_INNER_PRODUCT), "trained flag and metric")


def _read_graph(file: _File, shape: IndexShape) -> GraphLayout:
    spans = {what: file.skip_vector(size, what) for what, size in GRAPH_VECTORS}
    file.expect(spans["levels"].length, shape.rows, "levels")
    file.expect(spans["offsets"].length, shape.rows + 1, "offsets")
    levels = spans["level probabilities"].length
    if not 1 <= levels <= 64 or spans["neighbours per level"].length != levels + 1:
        file.refuse("levels of the graph", "1 to 64", levels)
    links = spans["links"].length
    if links > shape.rows * MAX_LINKS * 64 or links < shape.rows * 2 * shape.m:
        file.refuse("links", f"at least {shape.rows * 2 * shape.m}", links)
    entry, highest, ef_construction, ef_search, _ = file.numbers(GRAPH_TAIL, "entry point")
    if not 0 <= entry < shape.rows or not 0 <= highest < 64:
        file.refuse("entry point and highest level", f"below {shape.rows} and 64", (entry, highest))
    return GraphLayout(
        per_level=spans["neighbours per level"],
        levels=spans["levels"],
        offsets=spans["offsets"],
        links=spans["links"],
        entry=entry,
        highest=highest,
        ef=(ef_construction, ef_search),
    )


def _check_quantiser(file: _File, shape: IndexShape, quantiser: int) -> None:
    kind, _, _ = file.numbers("<iif", "quantiser")
    file.expect(kind, quantiser, "quantiser type")
    dimension, code_bytes = file.numbers("<QQ", "quantiser")
    file.expect(dimension, shape.dimension, "dimension of the quantiser")
    file.expect(code_bytes, shape.dimension * CODE_BYTES[shape.storage], "bytes per vector")
    (trained,) = file.numbers("<Q", "trained numbers")
    file.expect(trained, 2 * shape.dimension if shape.storage == "sq8" else 0, "trained numbers")
    if not all(map(math.isfinite, file.numbers(f"<{trained}f", "trained numbers"))):
        file.refuse("trained numbers", "finite ones", "others")
    file.expect(file.skip_vector(1, "codes").length, shape.rows * code_bytes, "bytes of the codes")
