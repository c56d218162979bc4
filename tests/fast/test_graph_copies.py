"""Rows of equal vectors: found, left out of the graph, and reached through the first of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer import hnsw
from indexer.graph_copies import find_copies
from indexer.hnsw import build_index, write_index
from indexer.index_config import IndexConfig
from indexer.index_file import IndexShape, read_index

OPTIONS = IndexConfig(m=8, ef_construction=40, ef_search=64)


def draw(rows: int, dimension: int = 24) -> np.ndarray:
    found = np.random.default_rng(3).standard_normal((rows, dimension)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def crowd(groups: int, size: int, others: int) -> np.ndarray:
    """Return so many groups of equal rows among others, mixed."""
    base = draw(others + groups)
    rows = np.concatenate([base, np.repeat(base[:groups], size - 1, axis=0)])
    return rows[np.random.default_rng(4).permutation(len(rows))]


def lists(index: object) -> list[list[int]]:
    """Return the links of every row on the lowest level; free ones must come last, for a search stops at the first."""
    graph = index.hnsw  # type: ignore[attr-defined]
    offsets, links = faiss.vector_to_array(graph.offsets).astype(int), faiss.vector_to_array(graph.neighbors)
    found = []
    for start in offsets[:-1]:
        own = links[start : start + graph.nb_neighbors(0)].tolist()
        used = sum(link >= 0 for link in own)
        assert own[used:] == [-1] * (len(own) - used)
        found.append(own[:used])
    return found


def recall(index: object, vectors: np.ndarray, queries: np.ndarray) -> float:
    """Share of the 10 hits that score as high as the tenth exact one."""
    exact = -np.sort(-(queries @ vectors.T), axis=1)[:, 9:10]
    scores, _ = index.search(queries, 10)  # type: ignore[attr-defined]
    return float((scores >= exact - 1e-6).mean())


def test_a_copy_belongs_to_the_first_row_of_its_numbers():
    a, b, c = np.eye(3, dtype=np.float32)
    found = find_copies(np.stack([b, a, b, c, a, b]))
    assert (found.first.tolist(), found.owner.tolist()) == ([0, 1, 3], [0, 1, 0, 2, 1, 0])
    assert not find_copies(np.stack([a, b, c])).found
    # The same numbers in another order, and another sign of zero, are other vectors.
    assert not find_copies(np.stack([a, b, -0.0 * c])).found
    assert len(find_copies(np.zeros((0, 3), dtype=np.float32)).first) == 0


@settings(max_examples=40)
@given(st.lists(st.integers(1, 45), min_size=1, max_size=6), st.integers(0, 30), st.integers(0, 99))
def test_every_copy_is_reached_and_no_list_is_broken(sizes: Sequence[int], others: int, seed: int):
    base = draw(len(sizes) + others)
    rows = np.concatenate([base[len(sizes) :], np.repeat(base[: len(sizes)], sizes, axis=0)])
    rows = rows[np.random.default_rng(seed).permutation(len(rows))]
    index = build_index(rows, replace(OPTIONS, m=4))
    links = faiss.vector_to_array(index.hnsw.neighbors)
    assert ((links >= -1) & (links < len(rows))).all()
    assert (index.hnsw.offsets.size(), index.hnsw.levels.size()) == (len(rows) + 1, len(rows))
    level_0 = lists(index)
    # What the graph of the distinct rows reaches on this level, and every copy of it.
    copies = find_copies(rows)
    distinct = build_index(rows[copies.first], replace(OPTIONS, m=4))
    reached = reach(distinct.hnsw.entry_point, lists(distinct))
    expected = {row for row, owner in enumerate(copies.owner.tolist()) if owner in reached}
    assert reach(index.hnsw.entry_point, level_0) == expected


def reach(start: int, links: list[list[int]]) -> set[int]:
    found, front = set(), [start]
    while front:
        row = front.pop()
        if row not in found:
            found.add(row)
            front += links[row]
    return found


def test_crowds_of_equal_rows_hide_nothing():
    vectors = crowd(groups=20, size=60, others=3_000)
    queries = draw(3_300)[-200:]
    plain = faiss.IndexHNSWFlat(vectors.shape[1], OPTIONS.m, faiss.METRIC_INNER_PRODUCT)
    plain.hnsw.efConstruction = OPTIONS.ef_construction
    plain.add(vectors)
    plain.hnsw.efSearch = 128
    index = build_index(vectors, OPTIONS)
    index.hnsw.efSearch = 128
    scores, _ = index.search(vectors, 1)
    hidden, _ = plain.search(vectors, 1)
    assert (scores > 1 - 1e-5).mean() > 0.995
    assert (hidden > 1 - 1e-5).mean() < 0.98
    assert recall(index, vectors, queries) > recall(plain, vectors, queries) + 0.02


@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize("storage", ["flat", "sqfp16", "sq8"])
def test_a_file_with_copies_is_a_stock_index_with_every_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str, coded: bool
):
    monkeypatch.setattr(hnsw, "CODED_ROWS", 100)
    vectors = crowd(groups=5, size=40, others=400)
    options = replace(OPTIONS, storage=storage, graph_dimensions=16 if coded else 0)
    found = []
    for threads in (1, 2):
        faiss.omp_set_num_threads(threads)
        write_index(build_index(vectors, options), tmp_path / "index")
        found.append((tmp_path / "index").read_bytes())
    faiss.omp_set_num_threads(1)
    assert found[0] == found[1]
    shape = IndexShape(rows=len(vectors), dimension=vectors.shape[1], m=OPTIONS.m, storage=storage)
    index = read_index(tmp_path / "index", shape)
    assert np.allclose(index.reconstruct_n(0, len(vectors)), vectors, atol=0.02)
    index.hnsw.efSearch = 128
    _, rows = index.search(vectors[:50], 50)
    for query, hits in zip(vectors[:50], rows, strict=True):
        equal = set(np.flatnonzero((vectors == query).all(axis=1)).tolist())
        assert equal <= set(hits.tolist())


def test_rows_without_copies_are_built_as_by_stock_faiss(tmp_path: Path):
    vectors = draw(500)
    stock = faiss.IndexHNSWFlat(vectors.shape[1], OPTIONS.m, faiss.METRIC_INNER_PRODUCT)
    stock.hnsw.efConstruction, stock.hnsw.efSearch = OPTIONS.ef_construction, OPTIONS.ef_search
    stock.add(vectors)
    for name, index in (("stock", stock), ("ours", build_index(vectors, OPTIONS))):
        write_index(index, tmp_path / name)
    assert (tmp_path / "stock").read_bytes() == (tmp_path / "ours").read_bytes()
