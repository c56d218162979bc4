"""Graphs whose numbers lead out of the file: each one is refused before FAISS sees it."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.errors import IntegrityError
from indexer.hnsw import build_index, write_index
from indexer.index_config import IndexConfig
from indexer.index_file import IndexShape, read_index, read_layout
from indexer.shard_search import search_shard

ROWS, DIMENSION, M = 400, 8, 4
SHAPE = IndexShape(rows=ROWS, dimension=DIMENSION, m=M, storage="flat")


def make_index() -> Any:
    vectors = np.random.default_rng(5).standard_normal((ROWS, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return build_index(vectors, IndexConfig(m=M, ef_construction=20))


def levels_of(hnsw: Any) -> np.ndarray:
    return np.array([hnsw.levels.at(row) for row in range(ROWS)])


def upper_row(hnsw: Any) -> int:
    return int(np.flatnonzero(levels_of(hnsw) > 1)[0])


def low_row(hnsw: Any) -> int:
    return int(np.flatnonzero(levels_of(hnsw) == 1)[0])


def patch(path: Path, name: str, place: int, value: int) -> None:
    """Overwrite one number in the file."""
    span = getattr(read_layout(path, SHAPE), name)
    width = {"offsets": 8}.get(name, 4)
    data = bytearray(path.read_bytes())
    start = span.start + width * place
    data[start : start + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
    path.write_bytes(data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_index(make_index(), tmp_path / "index")
    return tmp_path / "index"


INDEX = make_index()
HNSW = INDEX.hnsw
OFFSETS = faiss.vector_to_array(HNSW.offsets).astype(np.int64)
UPPER, LOW = upper_row(HNSW), low_row(HNSW)

CHANGES = [
    ("links", 0, ROWS, "links: expected -1, or a row below 400, found 400"),
    ("links", 7, -2, "links: expected -1, or a row below 400, found -2"),
    ("links", 7, 2**31 - 1, "links: expected -1, or a row below 400, found 2147483647"),
    (
        "links",
        int(OFFSETS[UPPER]) + 2 * M,
        LOW,
        f"links of level 1: expected rows of level 1 or more, found row {LOW} of",
    ),
    ("levels", 3, 0, "levels of the rows: expected 1 to"),
    ("levels", 3, -5, "levels of the rows: expected 1 to"),
    ("levels", 3, 60, "levels of the rows: expected 1 to"),
    ("levels", LOW, 2, f"links of row {LOW}: expected 12, found 8"),
    ("offsets", 0, 1, "first and last offset: expected"),
    ("offsets", ROWS, 2**40, "first and last offset: expected"),
    ("offsets", 5, 2**63, "links of row 4: expected"),
    ("offsets", 5, 0, "links of row 4: expected"),
    ("per_level", 1, M, "neighbours per level: expected"),
    ("per_level", 0, -1, "neighbours per level: expected"),
]


@pytest.mark.parametrize(("name", "place", "value", "message"), CHANGES)
def test_a_number_that_leads_astray_is_refused(
    path: Path, name: str, place: int, value: int, message: str, monkeypatch: pytest.MonkeyPatch
):
    patch(path, name, place, value)
    monkeypatch.setattr(faiss, "read_index", lambda *_: pytest.fail("parsed a graph that was not checked"))
    with pytest.raises(IntegrityError, match=message) as caught:
        read_index(path, SHAPE)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("entry_point", LOW, "level of the entry point: expected"),
        ("max_level", int(HNSW.max_level) + 1, "highest level: expected"),
        ("max_level", 0, "highest level: expected"),
        ("efSearch", 0, "efConstruction and efSearch: expected 1 to"),
        ("efConstruction", 2**30, "efConstruction and efSearch: expected 1 to"),
    ],
)
def test_a_graph_that_begins_elsewhere_is_refused(tmp_path: Path, field: str, value: int, message: str):
    index = make_index()
    setattr(index.hnsw, field, value)
    write_index(index, tmp_path / "index")
    with pytest.raises(IntegrityError, match=message):
        read_index(tmp_path / "index", SHAPE)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_quantiser_without_numbers_is_refused(tmp_path: Path, bad: float):
    vectors = np.random.default_rng(5).standard_normal((ROWS, DIMENSION)).astype(np.float32)
    index = build_index(vectors, IndexConfig(m=M, ef_construction=20, storage="sq8"))
    trained = faiss.vector_to_array(faiss.downcast_index(index.storage).sq.trained)
    trained[3] = bad
    faiss.copy_array_to_vector(trained, faiss.downcast_index(index.storage).sq.trained)
    write_index(index, tmp_path / "index")
    with pytest.raises(IntegrityError, match="trained numbers: expected finite ones"):
        read_index(tmp_path / "index", IndexShape(rows=ROWS, dimension=DIMENSION, m=M, storage="sq8"))


@settings(max_examples=150)
@given(data=st.data())
def test_whatever_passes_is_searched_within_its_bounds(tmp_path_factory: Any, data: st.DataObject):
    """Bytes of the graph changed at random: refused, or an index that gives rows of its own."""
    original = tmp_path_factory.getbasetemp() / "graph.index"
    if not original.exists():
        write_index(make_index(), original)
    layout = read_layout(original, SHAPE)
    content = bytearray(original.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        span = data.draw(st.sampled_from([layout.per_level, layout.levels, layout.offsets, layout.links]))
        content[span.start + data.draw(st.integers(0, 4 * span.length - 1))] = data.draw(st.integers(0, 255))
    changed = tmp_path_factory.getbasetemp() / "changed.index"
    changed.write_bytes(content)
    try:
        index = read_index(changed, SHAPE)
    except IntegrityError:
        return
    _, rows = search_shard(index, np.eye(DIMENSION, dtype=np.float32), 10, 500)
    assert ((rows >= -1) & (rows < ROWS)).all()


def test_a_graph_of_one_row_is_whole(tmp_path: Path):
    write_index(build_index(np.ones((1, 4), np.float32) / 2, IndexConfig(m=2, ef_construction=4)), tmp_path / "index")
    assert read_index(tmp_path / "index", IndexShape(rows=1, dimension=4, m=2, storage="flat")).ntotal == 1
