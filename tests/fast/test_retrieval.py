"""Retrieval through the index and by exact search against plain loops."""

import numpy as np
import pytest

from indexer.distill.judgements import LabelledPairs
from indexer.distill.retrieval import find_nearest, mean_recall, measure_retrieval
from indexer.index_config import IndexConfig


def label(rows):
    query, product, grade = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    return LabelledPairs(query=query, product=product, grade=grade, weight=np.ones(len(rows), dtype=np.float32))


def unit(rows, dimension, seed):
    vectors = np.random.default_rng(seed).normal(size=(rows, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_worked_recall():
    hits = np.array([[4, 2, 0], [1, -1, -1], [3, 4, 5]])
    # Query 0 finds 1 of 2, query 1 finds 1 of 1; query 2 has none, and -1 is no product.
    assert mean_recall(hits, label([(0, 2, 3), (0, 9, 3), (1, 1, 3)]), products=10) == pytest.approx(0.75)
    assert mean_recall(hits, label([(2, 9, 3)]), products=10) == 0.0
    assert mean_recall(hits, label([(0, 2, 3)]).take(np.zeros(1, dtype=bool)), products=10) is None


def test_exact_search_equals_a_full_sort(monkeypatch):
    monkeypatch.setattr("indexer.distill.retrieval.BLOCK_BYTES", 4 * 50 * 3)
    queries, products = unit(7, 8, 1), unit(50, 8, 2)
    products[20] = products[10]
    expected = [sorted(range(50), key=lambda row: (-float(query @ products[row]), row))[:50] for query in queries]
    found = find_nearest(queries, products, count=50)
    assert [set(row) for row in found.tolist()] == [set(row) for row in expected]
    scores = np.take_along_axis(queries @ products.T, found, axis=1)
    # Blocks of another size may differ in the last digit of a score.
    assert (np.diff(scores, axis=1) <= 1e-6).all()
    best = np.take_along_axis(queries @ products.T, find_nearest(queries, products, count=5), axis=1)
    assert best == pytest.approx(scores[:, :5], abs=1e-6)


def test_figures_equal_plain_loops():
    queries, products = unit(6, 16, 3), unit(400, 16, 4)
    rng = np.random.default_rng(5)
    rows = [(query, product, rng.integers(0, 4)) for query in range(5) for product in rng.permutation(400)[:60]]
    options = IndexConfig(m=8, ef_construction=40, ef_search=16)
    found = measure_retrieval(queries, products, label(rows), options)
    ranked = np.argsort(-(queries @ products.T), axis=1)
    for name, least in {"e": 3, "es": 2}.items():
        for count in (10, 100):
            shares = []
            for query in range(5):
                relevant = {product for asked, product, grade in rows if asked == query and grade >= least}
                shares.append(len(relevant & set(ranked[query, :count].tolist())) / len(relevant))
            assert found[f"exact_{name}_{count}"] == pytest.approx(np.mean(shares), abs=1e-6)
    assert 0.5 < found["index_recall_100"] <= 1
    # A wide search of so few rows loses none.
    wide = measure_retrieval(queries, products, label(rows), IndexConfig(m=32, ef_construction=400, ef_search=400))
    assert wide["index_recall_10"] == 1.0
    assert {wide[f"index_{name}"] - wide[f"exact_{name}"] for name in ("e_10", "e_100", "es_10", "es_100")} == {0.0}
