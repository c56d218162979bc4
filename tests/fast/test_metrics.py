"""Metrics against worked values, sklearn and plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score, precision_recall_curve, precision_score, recall_score, roc_auc_score

from indexer.distill.metrics import (
    GAINS,
    SWAPPED_GAINS,
    mean_ndcg,
    mean_query_auc,
    ndcg,
    precision_recall,
    query_ndcgs,
    recall_at_precision,
    roc_auc,
)

SCORES = np.array([0.91, 0.82, 0.75, 0.74, 0.40, 0.20])
GRADES = np.array([3, 2, 0, 3, 1, 2])
IDS = list("abcdef")
LEVELS = {3: 3.0, 2: 2.0, 1: 1.0, 0: 0.0}


def near(value: float) -> object:
    return pytest.approx(value, abs=5e-7)


def test_worked_list():
    assert roc_auc(SCORES, GRADES >= 2) == near(0.625)
    assert precision_recall(SCORES, GRADES >= 2, threshold=0.7) == (near(0.75), near(0.75))


@pytest.mark.parametrize(
    ("gains", "at_5", "at_10"),
    [(GAINS, 0.866756, 0.887371), (SWAPPED_GAINS, 0.873641, 0.87575), (LEVELS, 0.831921, 0.931685)],
    ids=["ours", "swapped", "levels"],
)
def test_worked_ndcg(gains, at_5, at_10):
    assert ndcg(SCORES, GRADES, IDS, depth=5, gains=gains) == near(at_5)
    assert ndcg(SCORES, GRADES, IDS, depth=10, gains=gains) == near(at_10)
    assert ndcg(SCORES, GRADES, IDS, gains=gains) == near(at_10)


@pytest.mark.parametrize(
    ("length", "gains", "floors"), [(19, GAINS, (0.588, 0.606, 0.823)), (19, LEVELS, (0.755, 0.758, 0.904))]
)
def test_random_order_floors(length, gains, floors):
    """Labels drawn from the mix of the large ESCI version, ranked at random; sampling error about .004."""
    rng = np.random.default_rng(7)
    totals = np.zeros(3)
    lists = 0
    for _ in range(2_500):
        grades = rng.choice([3, 2, 1, 0], size=length, p=np.array([0.567, 0.250, 0.058, 0.126]) / 1.001)
        scores = rng.random(length)
        values = [ndcg(scores, grades, [str(i) for i in range(length)], depth=k, gains=gains) for k in (5, 10, None)]
        if None not in values:
            totals += values
            lists += 1
    assert (totals / lists).tolist() == pytest.approx(list(floors), abs=0.012)


scored_labels = st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.7, 0.9]), st.integers(0, 3)), min_size=2)


@given(scored_labels)
def test_auc_equals_sklearn_and_a_plain_loop(rows):
    scores, positive = np.array([s for s, _ in rows]), np.array([g >= 2 for _, g in rows])
    found = roc_auc(scores, positive)
    if positive.all() or not positive.any():
        assert found is None
        return
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in scores[positive] for b in scores[~positive]]
    assert found == pytest.approx(sum(wins) / len(wins), abs=1e-12)
    assert found == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)


@given(scored_labels)
def test_precision_and_recall_equal_sklearn(rows):
    scores, positive = np.array([s for s, _ in rows]), np.array([g >= 2 for _, g in rows])
    precision, recall = precision_recall(scores, positive, threshold=0.7)
    assert (precision is None) == bool((scores < 0.7).all())
    assert (recall is None) == (not positive.any())
    if precision is not None:
        assert precision == pytest.approx(precision_score(positive, scores >= 0.7))
    if recall is not None:
        assert recall == pytest.approx(recall_score(positive, scores >= 0.7))


def test_worked_recall_at_a_precision():
    # Precision after 1 to 6 pairs: 1, 1, 2/3, 3/4, 3/5, 4/6; recall 1/4, 2/4, 2/4, 3/4, 3/4, 1.
    for precision, expected in {0.98: (0.5, 0.82), 0.75: (0.75, 0.74), 0.6: (1.0, 0.2)}.items():
        assert recall_at_precision(SCORES, GRADES >= 2, precision=precision) == (near(expected[0]), near(expected[1]))
    # The best pair is irrelevant and ties with a relevant one: one half is the most that can be had.
    tied, positive = np.array([0.9, 0.9, 0.1]), np.array([False, True, False])
    assert recall_at_precision(tied, positive, precision=0.98) == (None, None)
    assert recall_at_precision(tied, positive, precision=0.5) == (1.0, 0.9)
    assert recall_at_precision(tied, ~tied.astype(bool), precision=0.98) == (None, None)


@given(scored_labels, st.sampled_from([0.5, 0.75, 0.98]))
def test_recall_at_a_precision_equals_sklearn(rows, wanted):
    scores, positive = np.array([s for s, _ in rows]), np.array([g >= 2 for _, g in rows])
    found, threshold = recall_at_precision(scores, positive, precision=wanted)
    if not positive.any():
        assert (found, threshold) == (None, None)
        return
    precision, recall, thresholds = precision_recall_curve(positive, scores)
    # The curve's last point (precision 1, recall 0) belongs to no threshold.
    reached = precision[:-1] >= wanted
    assert (found is None) == (not reached.any())
    if found is not None:
        assert found == pytest.approx(recall[:-1][reached].max(), abs=1e-12)
        best = reached & (recall[:-1] == recall[:-1][reached].max())
        assert threshold in thresholds[best]


@given(st.lists(st.integers(0, 3), min_size=2, max_size=15), st.randoms(use_true_random=False))
def test_ndcg_equals_sklearn_without_ties(grades, random):
    scores = list(range(len(grades)))
    random.shuffle(scores)
    gain = [GAINS[grade] for grade in grades]
    found = ndcg(np.array(scores, float), np.array(grades), [str(i) for i in scores], depth=10)
    if max(gain) == 0:
        assert found is None
    else:
        assert found == pytest.approx(ndcg_score([gain], [scores], k=10), abs=1e-12)


def test_ties_stand_in_order_of_product_id():
    scores, grades = np.array([0.5, 0.5]), np.array([0, 3])
    assert ndcg(scores, grades, ["b", "a"]) == near(1.0)
    assert ndcg(scores, grades, ["a", "b"]) == near(1 / np.log2(3))


def test_means_by_query_skip_and_count():
    queries = np.array([5, 5, 2, 2, 9, 9])
    scores = np.array([0.1, 0.9, 0.2, 0.8, 0.3, 0.7])
    grades = np.array([3, 0, 0, 3, 0, 0])
    assert mean_query_auc(scores, grades >= 2, queries) == (near(0.5), 2)
    value, skipped = mean_ndcg(scores, grades, list("abcdef"), queries, depth=10)
    assert (value, skipped) == (near((1 / np.log2(3) + 1) / 2), 1)
    by_query = query_ndcgs(scores, grades, list("abcdef"), queries)
    assert by_query.tolist() == pytest.approx([1.0, 1 / np.log2(3), np.nan], nan_ok=True)


def test_nothing_to_average():
    empty = np.array([])
    assert mean_query_auc(empty, empty.astype(bool), empty.astype(int)) == (None, 0)
    assert mean_ndcg(empty, empty.astype(int), [], empty.astype(int)) == (None, 0)
