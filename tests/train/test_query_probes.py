"""Q-Q irrelevance on vectors and nodes worked by hand, and what training no longer sees."""

from dataclasses import replace

import numpy as np
import pytest

from indexer.distill.query_pairs import QueryNodes
from indexer.distill.query_probes import (
    QueryProbes,
    choose_probes,
    count_answers,
    hide_probes,
    irrelevance_rates,
)
from indexer.distill.splits import hash_to_unit

pytestmark = pytest.mark.train


def unit(*degrees):
    angles = np.radians(np.array(degrees, dtype=np.float32))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_worked_counts():
    # Rows 0 to 3 are asked, 4 to 6 may answer, at 0, 60 and 180 degrees; the cosine of 45 degrees is 0.707.
    labels = np.array([[1, -1], [1, 2], [3, -1], [1, -1], [1, -1], [2, -1], [4, -1]], dtype=np.int32)
    nodes = QueryNodes(labels=labels, lineages=labels)
    probes = QueryProbes(asked=np.arange(4), answers=np.arange(4, 7), unseen=np.array([2, 6]))
    counts = count_answers(unit(10, 50, 170, 270), unit(0, 60, 180), probes, nodes)
    # 10 degrees: row 4, node 1 shared. 50: row 5, node 2 shared. 170: row 6, none shared. 270: no answer.
    assert counts == {
        "asked": 4,
        "answered": 3,
        "irrelevant": 1,
        "unseen_asked": 1,
        "unseen_answered": 1,
        "unseen_irrelevant": 1,
    }
    rates = irrelevance_rates(counts)
    assert rates == {"qq_answered": 0.75, "qq_irrelevant": pytest.approx(1 / 3), "qq_irrelevant_unseen": 1.0}
    assert set(irrelevance_rates({}).values()) == {None}


def test_a_tenth_of_the_queries_that_a_fold_trains_on_are_asked(data):
    # Both the fold and the probes are drawn by hashes of one seed.
    queries = [f"query {number}" for number in range(4_000)]
    trained = np.array([row for row, query in enumerate(queries) if hash_to_unit(query, 13) >= 0.2])
    labels = np.zeros((len(queries), 1), dtype=np.int32)
    nodes = QueryNodes(labels=labels, lineages=labels)
    probes = choose_probes(replace(data, queries=queries, mining_queries=trained, query_nodes=nodes), seed=13)
    assert len(probes.asked) == pytest.approx(0.1 * len(trained), rel=0.2)


def test_training_sees_no_probe_and_no_negative_of_an_unseen_node(data, monkeypatch):
    monkeypatch.setattr("indexer.distill.query_probes.PROBE_SHARE", 0.5)
    # One node in four is kept.
    monkeypatch.setattr("indexer.distill.query_probes.UNSEEN_SHARE", 0.25)
    probes = choose_probes(data, seed=13)
    assert 0 < len(probes.asked) < len(data.mining_queries)
    assert sorted([*probes.asked, *probes.answers]) == sorted(data.mining_queries)
    ends = {data.queries[row][-3:] for row in probes.unseen}
    assert len(ends) == 1
    assert {row for row in data.mining_queries if data.queries[row][-3:] in ends} == set(probes.unseen)
    seen = hide_probes(data, probes)
    for pairs in (seen.similar, seen.dissimilar, seen.mining_queries, seen.open_queries):
        assert not set(pairs.ravel()) & set(probes.asked)
    for pairs in (seen.dissimilar, seen.mining_queries):
        assert not set(pairs.ravel()) & set(probes.unseen)
    assert set(seen.similar.ravel()) & set(probes.unseen)
    assert len(data.similar) > len(seen.similar) > 0
    # A query may be both bought after and labelled.
    assert set(data.train.query) & set(probes.asked)
    assert set(seen.train.query) == set(data.train.query) - set(probes.asked)
    again = choose_probes(data, seed=13)
    assert np.array_equal(again.asked, probes.asked)
    assert np.array_equal(again.unseen, probes.unseen)


def test_a_shop_without_nodes_asks_nothing(data):
    bare = replace(data, mining_queries=np.empty(0, dtype=np.int64))
    probes = choose_probes(bare, seed=13)
    none = np.empty((0, 2), dtype=np.float32)
    assert set(count_answers(none, none, probes, bare.query_nodes).values()) == {0}
    assert set(hide_probes(bare, probes).open_queries) == set(data.open_queries)
