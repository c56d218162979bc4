"""The paired bootstrap against scikit-learn on copied pairs, and a difference worked by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from indexer.distill.bootstrap import (
    JudgedPairs,
    bootstrap_figures,
    compare_figures,
    draw_weights,
    weighted_aucs,
    weighted_means,
)
from indexer.distill.metrics import mean_ndcg, mean_query_auc, roc_auc


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.5, 0.7]), st.booleans(), st.integers(0, 3)), min_size=1),
    st.lists(st.integers(0, 3), min_size=4, max_size=4),
)
def test_weighted_auc_is_the_auc_of_copied_pairs(rows, times):
    scores, positive, places = (np.array([row[at] for row in rows]) for at in range(3))
    found = weighted_aucs(scores, positive, places, np.array([times], dtype=float))[0]
    copied = np.repeat(np.arange(len(rows)), np.array(times)[places])
    if positive[copied].all() or not positive[copied].any():
        assert np.isnan(found)
    else:
        assert found == pytest.approx(roc_auc_score(positive[copied], scores[copied]), abs=1e-12)


def test_weighted_mean_leaves_out_what_is_not_defined():
    found = weighted_means(np.array([1.0, np.nan, 4.0]), np.array([[1, 1, 1], [2, 5, 1], [0, 3, 0]], dtype=float))
    assert found.tolist() == pytest.approx([2.5, 2.0, np.nan], nan_ok=True)


def test_draws_are_seeded_and_keep_the_number_of_queries():
    weights = draw_weights(7, draws=50, seed=3)
    assert weights.shape == (51, 7)
    assert (weights[0] == 1).all()
    assert (weights.sum(axis=1) == 7).all()
    assert np.array_equal(weights, draw_weights(7, draws=50, seed=3))
    assert not np.array_equal(weights, draw_weights(7, draws=50, seed=4))


def judged(seed, queries=12, each=9):
    rng = np.random.default_rng(seed)
    # Numbers with gaps, as after a split.
    query = np.repeat(np.arange(queries) * 3 + 1, each)
    pairs = JudgedPairs(
        query=query, grade=rng.integers(0, 4, len(query)), product_ids=[f"p{row:03d}" for row in range(len(query))]
    )
    return pairs, [pairs.grade / 3 + rng.normal(size=len(query)).round(1) for _ in range(2)], rng


@settings(max_examples=10)
@given(st.integers(0, 1_000))
def test_a_draw_has_the_figures_of_its_queries_copied(seed):
    pairs, runs, _ = judged(seed)
    # The last fold has one query, which not every draw has.
    pairs = replace(pairs, fold=np.array([0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 2])[pairs.query // 3])
    weights = draw_weights(12, draws=3, seed=seed)
    found = bootstrap_figures(runs, pairs, weights)
    for draw, times in enumerate(weights.astype(int)):
        # Every copy of a query is a query of its own.
        rows = [
            (row, place * 100 + copy)
            for place, (number, count) in enumerate(zip(np.unique(pairs.query), times, strict=True))
            for copy in range(count)
            for row in np.flatnonzero(pairs.query == number)
        ]
        chosen, numbers = np.array(rows).T
        ids = [pairs.product_ids[row] for row in chosen]
        expected = {"auc": [], "fold_auc": [], "query_auc": [], "ndcg_5": [], "ndcg_10": []}
        for scores in runs:
            positive, folds = pairs.positive[chosen], pairs.fold[chosen]
            within = [roc_auc(scores[chosen][folds == fold], positive[folds == fold]) for fold in np.unique(folds)]
            expected["fold_auc"].append(np.mean([value for value in within if value is not None]))
            expected["auc"].append(roc_auc(scores[chosen], positive))
            expected["query_auc"].append(mean_query_auc(scores[chosen], positive, numbers)[0])
            for depth in (5, 10):
                found_ndcg, _ = mean_ndcg(scores[chosen], pairs.grade[chosen], ids, numbers, depth=depth)
                expected[f"ndcg_{depth}"].append(found_ndcg)
        assert {name: values[draw] for name, values in found.items()} == pytest.approx(
            {name: np.mean(values) for name, values in expected.items()}, abs=1e-12
        )


def test_intervals_tell_a_better_model_from_an_equal_one():
    pairs, runs, rng = judged(5, queries=60)
    weights = draw_weights(60, seed=1)
    base = bootstrap_figures(runs, pairs, weights)
    better = compare_figures(bootstrap_figures([scores + pairs.grade for scores in runs], pairs, weights), base)
    same = compare_figures(bootstrap_figures(runs, pairs, weights), base)
    assert all(interval.certain and interval.low > 0 for interval in better.values())
    assert {(interval.difference, interval.low, interval.high) for interval in same.values()} == {(0.0, 0.0, 0.0)}
    noise = [scores + rng.normal(scale=0.05, size=len(scores)) for scores in runs]
    alike = compare_figures(bootstrap_figures(noise, pairs, weights), base)
    assert all(interval.low <= interval.difference <= interval.high for interval in alike.values())


def test_one_class_defines_no_auc():
    pairs = JudgedPairs(query=np.array([0, 0, 1]), grade=np.array([3, 3, 3]), product_ids=["a", "b", "c"])
    figures = bootstrap_figures([np.array([0.1, 0.2, 0.3])], pairs, draw_weights(2, draws=5, seed=1))
    assert {name: interval is None for name, interval in compare_figures(figures, figures).items()} == {
        "auc": True,
        "query_auc": True,
        "ndcg_5": False,
        "ndcg_10": False,
    }
