"""Cleaning purchases: sums per pair, the minimum, and an account that adds up."""

import numpy as np
import pytest

from spark.purchases import clean_purchases, count_purchases, fill_purchases, sum_purchases

pytestmark = pytest.mark.jvm

RAW = [
    ("Baby  Sipper ", "B07X", 31),
    ("baby sipper", "B07X", 9),
    ("ＢＡＢＹ\u3000sipper", "B07X", 1),
    ("baby sipper", "B07Y", 19),
    ("\u200b", "B07X", 50),
    ("bottle", "B07X", None),
]


@pytest.fixture
def raw(session):
    return session.createDataFrame(RAW, "query string, product_id string, purchases bigint")


def test_pairs_are_merged_before_the_minimum_is_asked(raw):
    sums = sum_purchases(fill_purchases(raw, default_purchases=20))
    kept = {tuple(row) for row in clean_purchases(sums, min_purchases=20).collect()}
    assert kept == {("baby sipper", "B07X", 41), ("bottle", "B07X", 20)}


def test_every_row_is_accounted_for(raw):
    sums = sum_purchases(fill_purchases(raw, default_purchases=20))
    counts = count_purchases(sums, min_purchases=20).collect()[0].asDict()
    assert counts == {
        "query_empty": 1,
        "merged": 2,
        "below_min_purchases": 1,
        "purchases_below_min": 19,
        "pairs": 2,
        "purchases": 61,
        "largest": 41,
    }
    assert counts["query_empty"] + counts["merged"] + counts["below_min_purchases"] + counts["pairs"] == len(RAW)


def test_splitting_and_shuffling_rows_changes_nothing(session):
    rng = np.random.default_rng(3)
    whole = [(f"q{i % 5}", f"p{i % 7}", int(rng.integers(2, 60))) for i in range(30)]
    split = [part for q, p, n in whole for part in ((q, p, 1), (q.upper(), p, n - 1))]
    rng.shuffle(split)
    columns = "query string, product_id string, purchases bigint"
    results = []
    for rows in (whole, [(q, p, int(n)) for q, p, n in split]):
        sums = sum_purchases(session.createDataFrame(rows, columns))
        results.append({tuple(row) for row in clean_purchases(sums, min_purchases=20).collect()})
    assert results[0] == results[1]
    assert results[0]
