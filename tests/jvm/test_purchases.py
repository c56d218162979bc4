"""Purchases to pairs: merging, days, decay, limits per user, the minimum, and an account that adds up."""

from datetime import date, timedelta
from decimal import Decimal

import numpy as np
import pytest

from indexer.contracts.days import span_days
from indexer.contracts.schemas import RAW_PURCHASES
from indexer.input_config import PurchasesConfig
from jobs.purchase_input import PurchaseInput, sum_pairs
from spark.inputs import Location
from spark.purchases import count_purchases, fill_purchases, halving_weights
from spark.tables import Input

pytestmark = pytest.mark.jvm

TODAY = date(2026, 11, 20)
COLUMNS = "query string, product_id string, purchases bigint, event_date date, user_id string, _file string"
RAW = [
    ("Baby  Sipper ", "B07X", 31),
    ("baby sipper", "B07X", 9),
    ("ＢＡＢＹ\u3000sipper", "B07X", 1),
    ("baby sipper", "B07Y", 19),
    ("\u200b", "B07X", 50),
    ("bottle", "B07X", None),
]


def day(age):
    return TODAY - timedelta(days=age)


@pytest.fixture
def sums(session):
    """Sum rows of (query, product, purchases, age in days, user, day of the file) into pairs with a reason."""

    def go(rows, *, default_purchases=1, **settings):
        full = []
        for query, product, count, *rest in rows:
            age, user, file = [*rest, None, None, None][:3]
            path = f"file:///in%202026/a%2F{file}.csv" if file else "file:///in/a.csv"
            full.append((query, product, count, None if age is None else day(age), user, path))
        config = PurchasesConfig(**({"min_purchases": 1} | settings))
        found = PurchaseInput(
            table=RAW_PURCHASES,
            source=Input(rows=None, counts={}, rejects=[]),
            location=Location(
                section="purchases", shown="x", files=("x",), format="csv", identity=None, days=(TODAY,) * config.daily
            ),
            rows=fill_purchases(session.createDataFrame(full, COLUMNS), default_purchases=default_purchases),
        )
        return sum_pairs(found, config, span_days(TODAY, lookback_days=config.lookback_days))

    return go


def purchases_of(pairs):
    return {(row.reason, row.query, row.product_id): row.purchases for row in pairs.collect()}


def kept(pairs):
    return {(row.query, row.product_id): row.purchases for row in pairs.collect() if row.reason is None}


def test_pairs_are_merged_before_the_minimum_is_asked_and_every_row_is_accounted_for(sums):
    pairs = sums(RAW, default_purchases=20, min_purchases=20).cache()
    assert kept(pairs) == {("baby sipper", "B07X"): 41, ("bottle", "B07X"): 20}
    counts = {
        row.reason: (row.pairs, row["rows"], row.purchases, row.largest) for row in count_purchases(pairs).collect()
    }
    assert counts == {
        None: (2, 4, 61, 41),
        "query_empty": (1, 1, 50, 50),
        "below_min_purchases": (1, 1, 19, 19),
    }
    assert sum(rows for _, rows, _, _ in counts.values()) == len(RAW)
    pairs.unpersist()


def test_splitting_and_shuffling_rows_changes_nothing(sums):
    rng = np.random.default_rng(3)
    whole = [(f"q{i % 5}", f"p{i % 7}", int(rng.integers(2, 60)), i % 11, f"u{i % 3}") for i in range(40)]
    split = [part for q, p, n, a, u in whole for part in ((q, p, 1, a, u), (q.upper(), p, n - 1, a, u))]
    rng.shuffle(split)
    split = [(q, p, int(n), int(a), u) for q, p, n, a, u in split]
    settings = {"min_purchases": 5, "half_life_days": 7, "lookback_days": 9}
    settings |= {"max_user_pair_day": 15, "max_user_day": 15, "min_users": 1}
    first, second = purchases_of(sums(whole, **settings)), purchases_of(sums(split, **settings))
    assert first == second
    assert {reason for reason, *_ in first} >= {None, "outside_window", "over_user_limit"}


def test_days_that_count(sums):
    rows = [
        ("today", "p", 1, 0),
        ("first", "p", 1, 2),
        ("before", "p", 1, 3),
        ("tomorrow", "p", 1, -1),
        ("future", "p", 1, -2),
        ("far", "p", 1, -36_500),
    ]
    assert {query: reason for reason, query, _ in purchases_of(sums(rows, lookback_days=3))} == {
        "today": None,
        "first": None,
        "before": "outside_window",
        "tomorrow": "outside_window",
        "future": "event_date_future",
        "far": "event_date_future",
    }
    assert set(kept(sums(rows))) == {("today", "p"), ("first", "p"), ("before", "p")}
    assert kept(sums([("no day", "p", 7)])) == {("no day", "p"): 7}


def test_days_of_daily_files(sums):
    rows = [
        ("same", "p", 1, 1, None, "event_date=2026-11-19/part-0"),
        ("late", "p", 1, 2, None, "%C3%A92026-11-19"),
        ("undated", "p", 1, None, None, "2026-11-01/2026-11-19-1"),
        ("undated", "q", 1, None, None, "2026-11-12"),
        ("later", "p", 1, 0, None, "2026-11-19"),
    ]
    pairs = sums(rows, daily=True, lookback_days=7)
    found = {(row.query, row.product_id): (row.reason, row.late, row.sample) for row in pairs.collect()}
    assert found == {
        ("same", "p"): (None, 0, None),
        ("late", "p"): (None, 1, None),
        ("undated", "p"): (None, 0, None),
        ("undated", "q"): ("outside_window", 0, "2026-11-12"),
        ("later", "p"): ("event_date_wrong_day", 0, "2026-11-20"),
    }


def test_a_purchase_counts_half_after_each_half_life(sums):
    rows = [
        # 8 + 8/2 + 8/4 = 14
        *[("whole", "p", 8, age) for age in (0, 10, 20)],
        # 3 * 0.707106781187 = 2.12
        ("part", "p", 3, 5),
        # 1/2 is rounded up, and so are 1/4 + 1/4 together
        ("half", "p", 1, 10),
        *[("quarters", "p", 1, 20)] * 2,
        # 0.466516495768 is rounded down: the pair was not bought even once
        ("less", "p", 1, 11),
        # exact where float64 has no digits left: (10^17 + 1) * 0.707106781187 = 70710678118700000.707...
        ("huge", "p", 10**17 + 1, 5),
        ("old", "p", 10**9, 4_000),
    ]
    pairs = sums(rows, half_life_days=10, max_purchases=2**62)
    assert kept(pairs) == {
        ("whole", "p"): 14,
        ("part", "p"): 2,
        ("half", "p"): 1,
        ("quarters", "p"): 1,
        ("huge", "p"): 70710678118700001,
    }
    assert {query for reason, query, _ in purchases_of(pairs) if reason == "below_min_purchases"} == {"less", "old"}


def test_weights_halve_and_end():
    weights = dict(halving_weights(10, longest=1_000))
    assert [weights[age] for age in (0, 5, 10, 20)] == [1, Decimal("0.707106781187"), Decimal("0.5"), Decimal("0.25")]
    # 2 ** -40.8 = 0.52e-12, and a day later 0.49e-12
    assert max(weights) == 408
    assert weights[408] == Decimal("1E-12")
    assert len(halving_weights(365, longest=30)) == 31


@pytest.mark.line(52)
def test_a_click_farm_counts_little(sums):
    farm = [("q", "p", 10, 0, "bot")] * 3 + [
        ("q", "p", 4, 1, "bot"),
        ("other", "p", 9, 0, "bot"),
        ("z", "p", 1, 0, "bot"),
    ]
    others = [("q", "p", 3, 0, "ann"), ("q", "p", 50, 0, None), ("other", "p", 60, 0, None)]
    pairs = sums(farm + others, max_user_pair_day=5, max_user_day=8)
    # bot today: `other` 5 of 9, then `q` 3 of 30 up to the limit of all, then `z` none; yesterday 4.
    assert kept(pairs) == {("other", "p"): 65, ("q", "p"): 3 + 4 + 3 + 50}
    rows = {(row.reason, row.query): (row["rows"], row.over_limit) for row in pairs.collect()}
    assert rows == {(None, "other"): (2, 4), (None, "q"): (6, 27), ("over_user_limit", "z"): (1, 1)}
    assert kept(sums(farm + others, max_user_pair_day=5))[("q", "p")] == 5 + 4 + 3 + 50
    assert kept(sums(farm + others, max_user_day=8))[("other", "p")] == 8 + 60


@pytest.mark.line(58)
def test_pairs_of_too_few_users_are_dropped(sums):
    rows = [("two", "p", 5, 0, "ann"), ("two", "p", 5, 1, "bea"), ("one", "p", 50, 0, "ann"), ("one", "p", 9, 1, "ann")]
    rows += [("nobody", "p", 99, 0, None), ("two", "q", 1, 0, "ann"), ("two", "q", 1, 0, "bea")]
    assert purchases_of(sums(rows, min_users=2, min_purchases=3)) == {
        (None, "two", "p"): 10,
        ("below_min_users", "one", "p"): 59,
        ("below_min_users", "nobody", "p"): 99,
        ("below_min_purchases", "two", "q"): 2,
    }
