"""Hard negatives: what may never be among them, against plain loops."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.distill.mining import (
    contains_pairs,
    draw_per_query,
    find_neighbours,
    mine_negatives,
    relate_pairs,
    unique_pairs,
)
from indexer.distill.query_pairs import index_node_sets
from indexer.distill.teachers import VectorTeacher

pytestmark = pytest.mark.train


def unit_rows(count, seed):
    vectors = np.random.default_rng(seed).normal(size=(count, 8))
    return torch.tensor(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=torch.float32)


def mine(data, config, *, seed=0, epoch=1, teachers=(), last=None, **changes):
    return mine_negatives(
        data,
        unit_rows(len(data.queries), seed),
        last=data.dissimilar if last is None else last,
        teachers=teachers,
        config=replace(config.distill, **changes),
        epoch=epoch,
    )


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000))
def test_neighbours_equal_a_plain_loop(seed):
    vectors, rows = unit_rows(40, seed), np.arange(3, 33)
    found = find_neighbours(vectors, rows, count=5).reshape(len(rows), 5, 2)
    for place, row in enumerate(rows):
        scores = {other: float(vectors[row] @ vectors[other]) for other in rows if other != row}
        assert (found[place, :, 0] == row).all()
        assert set(found[place, :, 1]) == set(sorted(scores, key=scores.get)[-5:])


def test_tiles_change_nothing(monkeypatch):
    vectors, rows = unit_rows(50, 3), np.arange(50)
    whole = find_neighbours(vectors, rows, count=7)
    monkeypatch.setattr("indexer.distill.mining.TILE_ROWS", 8)
    monkeypatch.setattr("indexer.distill.mining.TILE_COLUMNS", 11)
    np.testing.assert_array_equal(find_neighbours(vectors, rows, count=7), whole)


@pytest.mark.parametrize("seed", range(5))
def test_never_a_similar_pair_nor_related_nodes(data, config, seed):
    # Labels by noun: pairs of one noun share it; one similar pair crosses nouns and must be kept out all the same.
    first, *others = data.mining_queries.tolist()
    crossing = np.array([[first, next(row for row in others if data.queries[row][-3:] != data.queries[first][-3:])]])
    data = replace(data, similar=np.concatenate([data.similar, crossing]))
    mined = mine(data, config, seed=seed, mining_per_query=50, mining_neighbours=19)
    similar = {frozenset(pair) for pair in data.similar.tolist()}
    assert len(mined.pairs) > 20
    for a, b in mined.pairs.tolist():
        assert a < b
        assert data.queries[a][-3:] != data.queries[b][-3:]
        assert frozenset((a, b)) not in similar
    assert mined.counts["also_similar"] >= 1
    assert mined.counts["related_nodes"] > 0


def test_scores_stay_between_the_bounds(data, config):
    mined = mine(data, config, mining_low=0.2, mining_high=0.6, last=data.dissimilar[:0])
    vectors = unit_rows(len(data.queries), 0)
    scores = [float(vectors[a] @ vectors[b]) for a, b in mined.pairs.tolist()]
    assert scores
    assert min(scores) >= 0.2
    assert max(scores) <= 0.6
    assert mined.counts["mean_score"] == pytest.approx(np.mean(scores), abs=1e-5)


def test_teacher_vetoes_what_it_holds_alike(data, config):
    teacher = unit_rows(len(data.queries), 0)
    free = mine(data, config, mining_per_query=50)
    vetoed = mine(data, config, mining_per_query=50, teachers=(VectorTeacher(teacher),), theta_low=0.1)
    assert vetoed.counts["vetoed"] > 0
    assert len(vetoed.pairs) < len(free.pairs)
    assert all(float(teacher[a] @ teacher[b]) < 0.1 for a, b in vetoed.pairs.tolist())


def test_same_seed_and_epoch_give_the_same_pairs(data, config):
    np.testing.assert_array_equal(mine(data, config).pairs, mine(data, config).pairs)
    assert mine(data, config, epoch=2).pairs.tolist() != mine(data, config).pairs.tolist()


def test_a_share_of_the_last_epoch_stays(data, config):
    last = mine(data, config, mining_per_query=50).pairs
    fresh = mine(data, config, seed=9, last=last, mining_kept_share=0.25)
    assert fresh.counts["kept"] == round(0.25 * len(last))
    assert contains_pairs(fresh.pairs, last).sum() >= fresh.counts["kept"]
    everything = mine(data, config, seed=9, last=last, mining_kept_share=1.0)
    assert contains_pairs(everything.pairs, last).all()


def test_without_nodes_the_table_alone_is_used(data, config):
    data = replace(data, mining_queries=np.empty(0, dtype=np.int64))
    mined = mine(data, config)
    assert contains_pairs(data.dissimilar, mined.pairs).all()
    nothing = mine(replace(data, dissimilar=np.empty((0, 2), dtype=np.int64)), config)
    assert (len(nothing.pairs), nothing.counts["mean_score"]) == (0, 0.0)


def test_draw_keeps_the_limit_and_prefers_high_scores():
    pairs = np.array([[0, partner] for partner in range(1, 11)])
    scores = np.array([0.9] + [0.1] * 9, dtype=np.float32)
    first = 0
    for seed in range(300):
        drawn = draw_per_query(pairs, scores, limit=1, rng=np.random.default_rng(seed))
        assert len(drawn) == 1
        first += drawn[0].tolist() == [0, 1]
    # The chance is 0.9 / (0.9 + 9 * 0.1) = 1/2; 300 draws have a deviation of 0.029.
    assert first / 300 == pytest.approx(0.5, abs=0.1)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30))
def test_pair_sets_equal_python_sets(pairs):
    array = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    expected = sorted({(min(pair), max(pair)) for pair in pairs})
    assert [tuple(pair) for pair in unique_pairs(array).tolist()] == expected
    known = np.array([[3, 1], [2, 2]])
    assert contains_pairs(known, array).tolist() == [{*pair} in ({1, 3}, {2}) for pair in pairs]


def test_related_nodes_by_hand():
    sets = {"pots": {"pans", "lids"}, "lid": {"lids"}, "cook": {"kitchen"}, "wok": {"woks"}, "knife": {"knives"}}
    queries = [*sets, "vague"]
    parents = {"pans": "kitchen", "lids": "kitchen", "woks": "pans", "knives": "kitchen"}
    nodes = index_node_sets({query: frozenset(found) for query, found in sets.items()}, queries, parents)

    def related(*names):
        pairs = np.array([[queries.index(name) for name in names]])
        assert relate_pairs(nodes, pairs).tolist() == relate_pairs(nodes, pairs[:, ::-1]).tolist()
        return relate_pairs(nodes, pairs)[0]

    # The same node; a node and one above it, one level or two; two below the same one; no node at all.
    assert related("pots", "lid")
    assert related("pots", "cook")
    assert related("cook", "wok")
    assert related("pots", "wok")
    assert not related("lid", "wok")
    assert not related("pots", "knife")
    assert not related("vague", "lid")
    assert not related("vague", "vague")
