"""Bad purchases (tests/bad_inputs) through the job `purchase_gram`: what counts, what does not, and that it adds up."""

import csv
import random
from collections import Counter

import pyarrow.dataset as ds
import pytest

from indexer.config import Config, ShopConfig
from indexer.contracts.schemas import PURCHASES
from indexer.errors import ContractError
from indexer.input_config import PurchasesConfig
from indexer.runs import StepFolder
from jobs import purchase_gram
from tests.bad_inputs.lines import line

pytestmark = pytest.mark.jvm

DATE, TODAY = "2026-11-20", "2026-11-20"
GOOD = [("steel mug", "p1", 30, TODAY, "u1"), ("steel mug", "p1", 30, TODAY, "u2")]
USERS = {"max_user_day": 50, "max_user_pair_day": 20}


@pytest.fixture
def bought(session, tmp_path):
    """Return a function that runs the job on rows and returns its commit and the pairs that it wrote."""

    def go(rows, **settings):
        path = tmp_path / "purchases.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("query", "product_id", "purchases", "event_date", "user_id"), *rows])
        known = {"path": str(path), "min_purchases": 1, "max_reject_share": 1.0}
        config = Config(shop=ShopConfig(work=str(tmp_path / "work")), purchases=PurchasesConfig(**known | settings))
        commit = purchase_gram.run(session, config, DATE)
        folder = StepFolder(config.shop.work, "purchase_gram", DATE).table_folder(PURCHASES.name)
        written = ds.dataset(folder, format="parquet").to_table().to_pylist()
        return commit, {(row["query"], row["product_id"]): row["purchases"] for row in written}

    return go


MUG = {("steel mug", "p1"): 60}
CASES = [
    line(41, [("\u200b", "p1", 1, TODAY, "u")], {}, MUG, {"query_empty": 1}, {}),
    line(42, [("Steel  MUG", "p1", 5, TODAY, "u")], {}, {("steel mug", "p1"): 65}, {}, {"merged": 2}),
    line(
        50,
        [("mug", "p1", -2, TODAY, "u"), ("mug", "p1", "1.5", TODAY, "u")],
        {},
        MUG,
        {"purchases_range": 1, "purchases_type": 1},
        {},
    ),
    line(51, [("mug", "p1", 10**9, TODAY, "u")], {}, MUG, {"purchases_range": 1}, {}),
    line(
        52,
        [("farm", f"p{n % 40}", 9, TODAY, "bot") for n in range(2_000)],
        USERS,
        {("steel mug", "p1"): 40, ("farm", "p0"): 20, ("farm", "p1"): 20, ("farm", "p10"): 10},
        {},
        {"over_user_limit": 37 * 50},
    ),
    line(53, [("mug", "p1", 1, "2026-12-24", "u")], {}, MUG, {"event_date_future": 1}, {}),
    line(
        54,
        [("mug", "p1", 1, "2026-11-18", "u")],
        {"lookback_days": 2},
        MUG,
        {},
        {"outside_window": 1},
        case="some of them",
    ),
    line(
        58,
        [("mug", "p1", 30, TODAY, "u"), ("mug", "p2", 30, TODAY, "")],
        {"min_users": 2},
        MUG,
        {},
        {"below_min_users": 2},
    ),
]


@pytest.mark.parametrize(("rows", "settings", "pairs", "rejected", "filtered"), CASES)
def test_every_purchase_counts_or_is_accounted_for(bought, rows, settings, pairs, rejected, filtered):
    commit, found = bought([*GOOD, *rows], **settings)
    assert found == pairs
    assert {reject["reason"]: reject["count"] for reject in commit.rejects} == rejected
    filters = {name: count for name, count in commit.counts["filters"].items() if count}
    assert filters == {"merged": filters["merged"]} | filtered
    account = commit.counts["inputs"]["RAW_PURCHASES"]
    assert account["rows_in"] == account["valid"] + account["rejected"] == len(GOOD) + len(rows)
    assert account["valid"] == sum(filters.values()) + len(found)


@pytest.mark.parametrize("day", [line(54, "2026-11-01"), line(54, "2026-11-19", case="yesterday")])
def test_purchases_of_another_day_alone_are_refused(bought, day):
    with pytest.raises(ContractError, match=r"no purchase is of the days that count \(1 outside_window"):
        bought([("mug", "p1", 30, day, "u")], lookback_days=1)


@pytest.mark.parametrize("count", [line(56, 9 * 10**17)])
def test_a_sum_beyond_64_bits_is_refused(bought, count):
    with pytest.raises(ContractError, match="does not fit into 64 bits"):
        bought([("mug", "p1", count, TODAY, f"u{n}") for n in range(12)], max_purchases=10**18)


@pytest.mark.parametrize("share", [line(61, 0.3)])
def test_one_key_with_a_third_of_all_rows_counts_as_any(bought, share):
    draw = random.Random(5)
    rows = [
        (
            "hub" if draw.random() < share else f"query {draw.randrange(3_000)}",
            f"p{draw.randrange(2_000)}",
            1,
            TODAY,
            "u",
        )
        for _ in range(40_000)
    ]
    expected = Counter((query, product) for query, product, *_ in rows)
    commit, found = bought(rows)
    assert sum(1 for query, *_ in rows if query == "hub") > 11_000
    assert found == expected
    assert commit.counts["filters"]["merged"] == len(rows) - len(expected)
