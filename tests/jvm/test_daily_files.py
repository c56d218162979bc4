"""Daily files: only the days that count are read, and half a million real purchase lines of 305 days."""

import csv
import os
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from indexer.config import Config, ShopConfig
from indexer.errors import ContractError
from indexer.input_config import PurchasesConfig
from indexer.runs import StepFolder
from jobs import purchase_gram

pytestmark = pytest.mark.jvm

ROOT = Path(__file__).resolve().parents[2]
RETAIL = (
    Path(os.environ.get("SHOP_TEST_DATA", ROOT.parent / "shared" / "data")) / "online_retail" / "retail_by_day.tar.gz"
)
DATE = "2026-11-20"


def write_days(folder, days):
    for name, rows in days.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("query,product_id,purchases,event_date,user_id\n" + "".join(f"{row}\n" for row in rows))


def test_only_the_days_that_count_are_read_and_tell_the_step_from_another(session, tmp_path):
    shop = tmp_path / "in" / "2026-11-20 shop"
    write_days(
        shop,
        {
            "event_date=2026-11-20/part-0.csv": ["a,p,3,2026-11-20,", "a,p,2,2026-11-18,", "b,p,7,2026-11-17,"],
            "event_date=2026-11-19/part-0.csv": ["a,p,4,,ann", "later,p,1,2026-11-20,ann", "ragged,ann"],
            "orders 50% 2026-11-18.csv": ["c,p,1,2026-11-18,"],
            "old/2026-11-17.csv": ["this file is never opened"],
            "2026-11-21.csv": ["a,p,1000,2026-11-21,"],
        },
    )
    settings = PurchasesConfig(
        path=str(shop), daily=True, lookback_days=3, min_purchases=1, max_reject_share=0.3, max_user_pair_day=3
    )
    config = Config(shop=ShopConfig(work=str(tmp_path / "work")), purchases=settings)
    commit = purchase_gram.run(session, config, DATE)
    assert [(row["reason"], row["count"], row["sample"]) for row in commit.rejects] == [
        ("malformed", 1, "withheld, since the record may name a person"),
        ("event_date_wrong_day", 1, "2026-11-20"),
    ]
    assert commit.counts["inputs"] == {"RAW_PURCHASES": {"rows_in": 7, "valid": 5, "rejected": 2}}
    assert commit.counts["filters"] == {"merged": 2, "outside_window": 1, "below_min_purchases": 0}
    figures = commit.counts["figures"]
    assert (figures["purchases"], figures["days"], figures["late"]) == (3 + 2 + 3 + 1, 3, 1)
    assert figures["purchases_over_user_limit"] == 1

    # Other days have no part in the step, its own have.
    (shop / "old" / "2026-11-17.csv").unlink()
    write_days(shop, {"2026-11-22.csv": ["a,p,1,2026-11-22,"]})
    assert purchase_gram.run(session, config, DATE) == commit
    (shop / "orders 50% 2026-11-18.csv").rename(shop / "2026-11-19.csv")
    assert purchase_gram.run(session, config, DATE).fingerprint != commit.fingerprint


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        (
            "2026-11-19.csv",
            "a,p,9,2026-11-20",
            r"no purchase is of the days that count \(1 event_date_wrong_day, such as",
        ),
        (
            "2026-11-19.csv",
            "a,p,9,2026-11-01",
            r"no purchase is of the days that count \(1 outside_window, such as 2026-11",
        ),
        (
            "2026-11-01.csv",
            "a,p,9,2026-11-01",
            "no file of the days 2026-11-18 to 2026-11-20, the newest is of 2026-11-01",
        ),
        ("part-0.csv", "a,p,9,2026-11-19", "part-0.csv names no day; expected YYYY-MM-DD"),
    ],
)
@pytest.mark.line(54)
def test_only_other_days_are_refused(session, tmp_path, name, row, message):
    write_days(tmp_path / "in", {name: [f"{row},"]})
    settings = PurchasesConfig(
        path=str(tmp_path / "in"), daily=True, lookback_days=3, min_purchases=1, max_reject_share=1.0
    )
    config = Config(shop=ShopConfig(work=str(tmp_path / "work")), purchases=settings)
    with pytest.raises(ContractError, match=message):
        purchase_gram.run(session, config, DATE)
    assert list(StepFolder(config.shop.work, "purchase_gram", DATE).folder.glob("*")) == []


def test_days_and_users_that_are_needed_must_be_there(session, tmp_path):
    (tmp_path / "in.csv").write_text("query,product_id\na,p\n")
    settings = PurchasesConfig(path=str(tmp_path / "in.csv"), min_purchases=1)
    config = Config(shop=ShopConfig(work=str(tmp_path / "work")), purchases=settings)
    for change, message in (
        ({"half_life_days": 7}, "RAW_PURCHASES needs the column 'event_date'"),
        ({"min_users": 2}, r"no purchase names its user, .* map the column, \[purchases.columns\] user_id ="),
    ):
        with pytest.raises(ContractError, match=message):
            purchase_gram.run(session, replace(config, purchases=replace(settings, **change)), DATE)


@pytest.mark.skipif(
    not RETAIL.exists(), reason="the online_retail data set is not here; set SHOP_TEST_DATA to its parent"
)
def test_half_a_million_lines_of_305_days(session, tmp_path):
    with tarfile.open(RETAIL) as archive:
        archive.extractall(tmp_path, filter="data")
    lines = []
    for file in sorted((tmp_path / "by-day").glob("*.csv")):
        with file.open(newline="", encoding="utf-8") as text:
            lines += [line | {"day": file.stem} for line in csv.DictReader(text)]
    # The dirt of the set as it is stated, counted without any code of the project.
    assert len(lines) == 541_909
    assert sum(line["InvoiceNo"].startswith("C") for line in lines) == 9_288
    assert sum(int(line["Quantity"]) <= 0 for line in lines) == 10_624
    assert sum(line["CustomerID"] == "" for line in lines) == 135_080
    assert sum(count - 1 for count in Counter(tuple(line.values()) for line in lines).values()) == 5_268

    settings = PurchasesConfig(
        path=str(tmp_path / "by-day"),
        columns={"query": "CustomerID", "product_id": "StockCode", "purchases": "Quantity", "user_id": "CustomerID"},
        daily=True,
        lookback_days=374,
        max_reject_share=0.3,
        max_user_pair_day=5_000,
        max_user_day=20_000,
    )
    config = Config(shop=ShopConfig(work=str(tmp_path / "work")), purchases=settings)
    commit = purchase_gram.run(session, config, "2011-12-09")

    bought, rows, bad = Counter(), Counter(), 0
    for line in lines:
        if line["CustomerID"] and int(line["Quantity"]) > 0:
            group = line["CustomerID"], line["day"], line["StockCode"]
            bought[group] += int(line["Quantity"])
            rows[group] += 1
        elif line["CustomerID"]:
            bad += 1
    # The set has outliers of 74,215 and 80,995 pieces.
    sums, of_day, nothing = Counter(), Counter(), 0
    for group, count in sorted(bought.items()):
        customer, day, product = group
        counted = min(count, 5_000, 20_000 - of_day[customer, day])
        of_day[customer, day] += counted
        sums[customer, product] += counted
        nothing += rows[group] if counted == 0 else 0
    sums = +sums
    enough = {pair: count for pair, count in sums.items() if count >= 20}
    # A line without a customer is rejected for that, whatever its quantity.
    assert {row["reason"]: row["count"] for row in commit.rejects} == {"query_missing": 135_080, "purchases_range": bad}
    assert bad == 10_624 - sum(int(line["Quantity"]) <= 0 for line in lines if not line["CustomerID"]) == 8_905
    valid = 541_909 - 135_080 - bad
    assert commit.counts["inputs"]["RAW_PURCHASES"] == {
        "rows_in": 541_909,
        "valid": valid,
        "rejected": 135_080 + bad,
        "unknown_columns": "Country, Description, InvoiceDate, InvoiceNo, UnitPrice",
    }
    assert commit.counts["filters"] == {
        "merged": valid - nothing - len(sums),
        "over_user_limit": nothing,
        "below_min_purchases": len(sums) - len(enough),
    }
    assert nothing > 0
    assert commit.counts["tables"]["PURCHASES"] == len(enough)
    assert commit.counts["figures"]["purchases"] == sum(enough.values())
    assert commit.counts["figures"]["days"] == 305
    over = sum(bought.values()) - sum(sums.values())
    assert commit.counts["figures"]["purchases_over_user_limit"] == over > 150_000
