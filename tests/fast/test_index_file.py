"""Index files: only the types we write are opened, and only whole."""

import struct
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.errors import IntegrityError
from indexer.hnsw import build_index, estimate_bytes, write_index
from indexer.index_config import IndexConfig
from indexer.index_file import IndexShape, check_index_file, read_index
from indexer.shard_file import Lines, as_one_line, write_lines
from indexer.shard_search import search_shard

ROWS, DIMENSION, M = 300, 16, 4


def make_vectors(rows: int = ROWS, seed: int = 3) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, DIMENSION)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_file(path: Path, storage: str = "flat") -> tuple[Path, IndexShape]:
    options = IndexConfig(m=M, ef_construction=20, storage=storage)
    write_index(build_index(make_vectors(), options), path)
    return path, IndexShape(rows=ROWS, dimension=DIMENSION, m=M, storage=storage)


@pytest.mark.parametrize("storage", ["flat", "sqfp16", "sq8"])
def test_what_we_write_opens_and_finds_its_own_rows(tmp_path: Path, storage: str):
    path, shape = make_file(tmp_path / "index", storage)
    index = read_index(path, shape)
    scores, rows = search_shard(index, make_vectors(), 1, 64)
    assert (rows[:, 0] == np.arange(ROWS)).mean() > 0.99
    assert np.allclose(scores[:, 0], 1, atol=0.02)


@pytest.mark.parametrize("storage", ["flat", "sqfp16", "sq8"])
def test_the_same_vectors_give_the_same_bytes_on_any_number_of_threads(tmp_path: Path, storage: str):
    found = []
    for threads in (1, 2, 2):
        faiss.omp_set_num_threads(threads)
        found.append(make_file(tmp_path / f"index{len(found)}", storage)[0].read_bytes())
    faiss.omp_set_num_threads(1)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (IndexShape(rows=ROWS + 1, dimension=DIMENSION, m=M, storage="flat"), "rows: expected 301, found 300"),
        (IndexShape(rows=ROWS, dimension=8, m=M, storage="flat"), "dimension: expected 8, found 16"),
        (IndexShape(rows=ROWS, dimension=DIMENSION, m=M + 1, storage="flat"), "links|rows, dimension"),
        (IndexShape(rows=ROWS, dimension=DIMENSION, m=M, storage="sq8"), "type: expected b'IHNs', found b'IHNf'"),
    ],
)
@pytest.mark.line(94)
def test_an_index_of_another_shape_is_refused(tmp_path: Path, shape: IndexShape, message: str):
    path, _ = make_file(tmp_path / "index")
    with pytest.raises(IntegrityError, match=message):
        read_index(path, shape)


def foreign_indexes() -> list[tuple[str, Any]]:
    vectors = make_vectors()
    flat = faiss.IndexFlatIP(DIMENSION)
    flat.add(vectors)
    inverted = faiss.index_factory(DIMENSION, "IVF4,Flat", faiss.METRIC_INNER_PRODUCT)
    inverted.train(vectors)
    inverted.add(vectors)
    euclidean = faiss.IndexHNSWFlat(DIMENSION, M)
    euclidean.add(vectors)
    mapped = faiss.IndexIDMap2(faiss.IndexHNSWFlat(DIMENSION, M, faiss.METRIC_INNER_PRODUCT))
    mapped.add_with_ids(vectors, np.arange(ROWS))
    rotated = faiss.index_factory(DIMENSION, "PCA8,HNSW4", faiss.METRIC_INNER_PRODUCT)
    rotated.train(vectors)
    rotated.add(vectors)
    return [("flat", flat), ("ivf", inverted), ("l2", euclidean), ("ids", mapped), ("pca", rotated)]


@pytest.mark.parametrize("name", ["flat", "ivf", "l2", "ids", "pca"])
@pytest.mark.line(96)
def test_other_kinds_of_index_are_never_opened(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "index"
    write_index(dict(foreign_indexes())[name], path)
    monkeypatch.setattr(faiss, "read_index", lambda *_: pytest.fail("parsed a file that was not checked"))
    with pytest.raises(IntegrityError, match="the index was not opened"):
        read_index(path, IndexShape(rows=ROWS, dimension=DIMENSION, m=M, storage="flat"))


def test_a_foreign_storage_under_our_graph_is_refused(tmp_path: Path):
    path, shape = make_file(tmp_path / "index")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"IxFI", b"IwFl", 1))
    with pytest.raises(IntegrityError, match="storage type: expected b'IxFI', found b'IwFl'"):
        read_index(path, shape)


@pytest.mark.parametrize("storage", ["flat", "sq8"])
def test_cut_and_lengthened_files_are_refused(tmp_path: Path, storage: str):
    path, shape = make_file(tmp_path / "index", storage)
    data = path.read_bytes()
    for damaged in (b"", data[:3], data[:40], data[: len(data) // 2], data[:-1], data + b"\0", data + bytes(64)):
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError):
            check_index_file(path, shape)


@pytest.mark.line(97)
def test_a_header_that_claims_a_terabyte_is_refused_without_reading_it(tmp_path: Path):
    path, shape = make_file(tmp_path / "index")
    data = bytearray(path.read_bytes())
    start = 4 + struct.calcsize("<iqqqBi")
    data[start : start + 8] = struct.pack("<Q", 2**40)
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="level probabilities: expected 8796093022208 bytes, found"):
        read_index(path, shape)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_header_is_refused_or_opens_as_the_same_shape(tmp_path_factory: Any, data: st.DataObject):
    path = tmp_path_factory.getbasetemp() / "damaged.index"
    original, shape = make_file(tmp_path_factory.getbasetemp() / "original.index")
    content = bytearray(original.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, 150))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        index = read_index(path, shape)
    except IntegrityError:
        return
    assert (index.ntotal, index.d) == (ROWS, DIMENSION)


def test_memory_of_a_build_follows_the_formula():
    options = IndexConfig(m=64, ef_construction=256)
    # The vectors, the distinct ones of them, their copy in the index; links and lists.
    assert estimate_bytes(1, 384, options) == 4 * 384 + 4 * 384 + 4 * 384 + 8 * 64 + 300
    assert estimate_bytes(10, 384, IndexConfig(storage="sq8")) == 10 * (4 * 384 + 4 * 384 + 384 + 512 + 300)


def test_lines_come_back_by_number(tmp_path: Path):
    path = tmp_path / "ids"
    write_lines(path, ["a", "", "ünïcode 中", "last"])
    lines = Lines(path.read_bytes(), "ids")
    assert [lines[row] for row in range(len(lines))] == ["a", "", "ünïcode 中", "last"]
    assert len(Lines(b"", "ids")) == 0
    with pytest.raises(IntegrityError, match="the last line has no end"):
        Lines(b"a\nb", "ids")
    with pytest.raises(IntegrityError, match="line 2: not UTF-8"):
        Lines(b"a\n\xff\n", "ids")[1]
    with pytest.raises(IntegrityError, match="spans several lines"):
        write_lines(path, ["a\nb"])


@given(st.text())
def test_any_text_becomes_one_line(text: str):
    assert len(as_one_line(text).splitlines()) <= 1


def test_a_line_that_is_not_utf8_is_found_before_it_is_asked_for():
    lines = [b"a", "\u00fcn\u00efcode".encode(), b"", b"\xd0!", b"z"] + [b"more"] * 70_000 + [b"\xff"]
    with pytest.raises(IntegrityError, match="ids: line 4: not UTF-8"):
        Lines(b"".join(line + b"\n" for line in lines), "ids").check_encoding()
    lines[3] = b"whole"
    with pytest.raises(IntegrityError, match="ids: line 70006: not UTF-8"):
        Lines(b"".join(line + b"\n" for line in lines), "ids").check_encoding()
    Lines(b"".join(line + b"\n" for line in lines[:-1]), "ids").check_encoding()
    Lines(b"", "ids").check_encoding()
