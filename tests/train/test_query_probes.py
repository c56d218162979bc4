"""Q-Q irrelevance on vectors and nodes worked by hand, and what training no longer sees."""

from dataclasses import replace

import numpy as np
import pytest

from indexer.distill.query_pairs import QueryNodes
from indexer.distill.query_probes import (
    NO_ANSWERS,
    Answers,
    QueryProbes,
    choose_probes,
    find_answers,
    hide_probes,
    join_answers,
    measure_rates,
)
from indexer.distill.splits import hash_to_unit

pytestmark = pytest.mark.train


def unit(*degrees):
    angles = np.radians(np.array(degrees, dtype=np.float32))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_worked_answers(data):
    # Rows 0 to 3 are asked, 4 to 6 may answer, at 0, 60 and 180 degrees; the cosine of 45 degrees is 0.707.
    labels = np.array([[1, -1], [1, 2], [3, -1], [1, -1], [1, -1], [2, -1], [4, -1]], dtype=np.int32)
    nodes = QueryNodes(labels=labels, lineages=labels)
    probes = QueryProbes(asked=np.arange(4), answers=np.arange(4, 7), unseen=np.array([2, 6]))
    known = replace(data, queries=list("dcbaefg"), query_nodes=nodes)
    found = find_answers(unit(10, 50, 170, 270), unit(0, 60, 180), probes, known)
    # 10 degrees: row 4, node 1 shared. 50: row 5, node 2 shared. 170: row 6, none shared. 270: no answer.
    assert found.queries.tolist() == list("dcba")
    assert found.answered.tolist() == [True, True, True, False]
    assert found.irrelevant.tolist() == found.unseen.tolist() == [False, False, True, False]


def answers_of(text):
    """`a+` is answered, `a-` irrelevantly, `a.` not at all; capitals are unseen."""
    found = text.split()
    return Answers(
        queries=np.array([one[0].lower() for one in found]),
        answered=np.array([one[1] != "." for one in found]),
        irrelevant=np.array([one[1] == "-" for one in found]),
        unseen=np.array([one[0].isupper() for one in found]),
    )


def test_rates_under_weights_worked_by_hand():
    # Two folds: `a` was answered well and wrongly, `b` wrongly and not, `c` (unseen) well and wrongly.
    found = join_answers([answers_of("b- C+ a+"), answers_of("a- b. C-")])
    weights = np.array([[1, 1, 1], [0, 3, 0], [1, 0, 2], [0, 0, 0]], dtype=np.float64)
    rates = measure_rates(found, np.array(["a", "b", "c"]), weights)
    np.testing.assert_allclose(rates["qq_answered"], [5 / 6, 1 / 2, 1, np.nan])
    np.testing.assert_allclose(rates["qq_irrelevant"], [3 / 5, 1, 3 / 6, np.nan])
    np.testing.assert_allclose(rates["qq_irrelevant_unseen"], [1 / 2, np.nan, 1 / 2, np.nan])


def test_nobody_asked_has_no_rates():
    rates = measure_rates(NO_ANSWERS, np.array(["a"]), np.ones((2, 1)))
    assert all(np.isnan(values).all() for values in rates.values())


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
    assert find_answers(none, none, probes, bare) is NO_ANSWERS
    assert set(hide_probes(bare, probes).open_queries) == set(data.open_queries)
