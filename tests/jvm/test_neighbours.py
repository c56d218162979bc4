"""Neighbours in the graph of queries and products: by hand, against numpy, and through the job."""

import json

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis.extra.numpy import arrays
from pyspark.sql import functions as F

from indexer.config_file import load_config
from jobs import graph_neighbours, purchase_gram
from spark.neighbours import count_steps, kept_steps
from spark.neighbours import graph_neighbours as neighbours_of

pytestmark = pytest.mark.jvm

MATRIX = [[40, 20, 0], [20, 20, 0], [0, 20, 80]]
"""Row sums 60, 40, 100; column sums 60, 60, 80."""


def find(purchases, neighbours):
    rows = neighbours_of(kept_steps(purchases, neighbours=neighbours), neighbours=neighbours).collect()
    found = {(row.kind, row.node, row.neighbour, row.order): row.weight for row in rows}
    assert len(found) == len(rows)
    return found


def test_three_queries_and_three_products_by_hand(purchases):
    found = find(purchases(MATRIX), 10)
    assert {key[1:3]: weight for key, weight in found.items() if key[0] == "query"} == pytest.approx(
        {
            **{("q0", "p0"): 2 / 3, ("q0", "p1"): 1 / 3, ("q1", "p0"): 1 / 2, ("q1", "p1"): 1 / 2},
            **{("q2", "p1"): 1 / 5, ("q2", "p2"): 4 / 5},
            ("q0", "q1"): 2 / 3 * 1 / 3 + 1 / 3 * 1 / 3,
            ("q0", "q2"): 1 / 3 * 1 / 3,
            ("q1", "q0"): 1 / 2 * 2 / 3 + 1 / 2 * 1 / 3,
            ("q1", "q2"): 1 / 2 * 1 / 3,
            ("q2", "q0"): 1 / 5 * 1 / 3,
            ("q2", "q1"): 1 / 5 * 1 / 3,
        }
    )
    assert {key[1:3]: weight for key, weight in found.items() if key[0] == "product" and key[3] == 2} == pytest.approx(
        {
            ("p0", "p1"): 2 / 3 * 1 / 3 + 1 / 3 * 1 / 2,
            ("p1", "p0"): 1 / 3 * 2 / 3 + 1 / 3 * 1 / 2,
            ("p1", "p2"): 1 / 3 * 4 / 5,
            ("p2", "p1"): 1 / 1 * 1 / 5,
        }
    )


def test_one_neighbour_follows_the_heaviest_steps_alone(purchases):
    assert find(purchases(MATRIX), 1) == pytest.approx(
        {
            ("query", "q0", "p0", 1): 2 / 3,
            ("query", "q1", "p0", 1): 1 / 2,  # as heavy as p1: by the text
            ("query", "q2", "p2", 1): 4 / 5,
            ("product", "p0", "q0", 1): 2 / 3,
            ("product", "p1", "q0", 1): 1 / 3,
            ("product", "p2", "q2", 1): 1.0,
            ("query", "q1", "q0", 2): 1 / 2 * 2 / 3,
            ("product", "p1", "p0", 2): 1 / 3 * 2 / 3,
        }
    )


def oracle(counts, neighbours):
    """The module's equation in loops over one matrix."""
    steps = {"query": counts / counts.sum(1, keepdims=True), "product": (counts / counts.sum(0)).T}
    names = {"query": "qp", "product": "pq"}

    def best(row, allowed):
        order = sorted(np.flatnonzero((row > 0) & allowed), key=lambda at: (-round(row[at], 12), str(at)))
        return order[:neighbours]

    expected = {}
    cut = {kind: np.zeros_like(step) for kind, step in steps.items()}
    for kind, step in steps.items():
        for node, row in enumerate(step):
            for at in best(row, np.ones(len(row), bool)):
                cut[kind][node, at] = row[at]
                expected[kind, f"{names[kind][0]}{node}", f"{names[kind][1]}{at}", 1] = row[at]
    for kind, other in (("query", "product"), ("product", "query")):
        for node, row in enumerate(cut[kind] @ cut[other]):
            for at in best(row, np.arange(len(row)) != node):
                expected[kind, f"{names[kind][0]}{node}", f"{names[kind][0]}{at}", 2] = row[at]
    return expected


MATRICES = arrays(np.int64, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.integers(0, 4)).map(
    lambda counts: counts * 7 + np.eye(*counts.shape, dtype=np.int64) * 5
)


@settings(max_examples=3, phases=[Phase.generate], deadline=None)
@given(st.lists(MATRICES, min_size=8, max_size=12), st.integers(1, 7))
def test_any_matrix_agrees_with_numpy(session, matrices, neighbours):
    """Many matrices at once, as parts of one graph that share no node: Spark is slow to start."""
    rows, expected = [], {}
    for number, matrix in enumerate(matrices):
        counts = matrix[matrix.sum(1) > 0][:, matrix.sum(0) > 0]
        places = zip(*np.nonzero(counts), strict=True)
        rows += [(f"{number}-q{i}", f"{number}-p{k}", int(counts[i, k])) for i, k in places]
        for (kind, node, neighbour, order), weight in oracle(counts.astype(float), neighbours).items():
            expected[kind, f"{number}-{node}", f"{number}-{neighbour}", order] = float(weight)
    frame = session.createDataFrame(rows, "query string, product_id string, purchases bigint")
    found = find(frame, neighbours)
    # Sums that are equal on paper differ in their last digits, and then so does the last neighbour that is kept.
    ours, theirs = weights_of(found), weights_of(expected)
    assert ours.keys() == theirs.keys()
    for key, weights in theirs.items():
        assert ours[key] == pytest.approx(weights, abs=1e-12)
    both = found.keys() & expected.keys()
    assert {key: found[key] for key in both} == pytest.approx({key: expected[key] for key in both}, abs=1e-12)
    assert max(map(sum, ours.values())) <= 1 + 1e-12
    assert find(frame.orderBy(F.rand(3)).repartition(3), neighbours) == found


def weights_of(found):
    """Return the weights per kind, node and order, largest first."""
    weights: dict[tuple[str, str, int], list[float]] = {}
    for (kind, node, _, order), weight in found.items():
        weights.setdefault((kind, node, order), []).append(weight)
    return {key: sorted(values, reverse=True) for key, values in weights.items()}


def test_a_hub_forms_no_more_walks_than_its_lists_allow(session):
    """3,000 queries of one product: a full join would form nine million walks."""
    rows = [(f"q{i:04d}", "hub", 3_000 - i) for i in range(3_000)]
    frame = session.createDataFrame(rows, "query string, product_id string, purchases bigint")
    counts = count_steps(frame, neighbours=4).collect()[0].asDict()
    assert counts == {"nodes": 3_001, "most_edges": 3_000, "nodes_cut": 1, "steps": 3_004, "most_walks": 12_016}
    found = find(frame, 4)
    best = {neighbour for kind, node, neighbour, order in found if (node, order) == ("q2999", 2)}
    assert best == {"q0000", "q0001", "q0002", "q0003"}
    assert sum(order == 2 for *_, order in found) == 4 * 3_000 - 4


def test_the_job_counts_what_it_writes(session, tmp_path):
    (tmp_path / "purchases.csv").write_text(
        "query,product_id,purchases\n"
        + "".join(f"q{i},p{k},{n}\n" for i, row in enumerate(MATRIX) for k, n in enumerate(row) if n)
    )
    (tmp_path / "shop.toml").write_text('[shop]\nwork = "work"\n[purchases]\npath = "purchases.csv"\n')
    config = load_config(str(tmp_path / "shop.toml"), options=["graph.neighbours=1"], environment={})
    purchase_gram.run(session, config, "2026-11-20")
    commit = graph_neighbours.run(session, config, "2026-11-20")
    assert commit.counts["figures"] == {
        **{"nodes": 6, "most_edges": 3, "nodes_cut": 5, "steps": 6, "most_walks": 6, "second_order": 2}
    }
    assert commit.counts["tables"] == {"GRAPH_NEIGHBOURS": 8}
    assert json.dumps(commit.counts)
    assert graph_neighbours.run(session, config, "2026-11-20") == commit
