"""Events of a UBI log as purchases: every fate an event can have, every kind of file, and a real log."""

import csv
import io
import itertools
import json
import math
import os
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from indexer.config import Config, ShopConfig
from indexer.contracts.schemas import PURCHASES, QUERY_PAIRS
from indexer.errors import ConfigError, ContractError
from indexer.input_config import PurchasesConfig, QueriesConfig
from indexer.job_config import NpmiConfig
from indexer.runs import StepFolder
from jobs import npmi_pairs, purchase_gram

pytestmark = pytest.mark.jvm

ROOT = Path(__file__).resolve().parents[2]
LOG = Path(os.environ.get("SHOP_TEST_DATA", ROOT.parent / "shared" / "data")) / "icecat_shop" / "ubi_log_events.zip"
DATE = "2026-11-20"
NOON = 1_795_176_000_000
"""2026-11-20 12:00 UTC in milliseconds."""
USER = "somebody-known"


def event(action="purchase", product="p1", time=NOON, *, quantity=None, **fields):
    attributes = {"position": {"ordinal": 1}, "object": {} if product is None else {"object_id": product}}
    attributes |= {} if quantity is None else {"quantity": quantity}
    record = {"action_name": action, "timestamp": time, "client_id": USER, "event_attributes": attributes}
    return {name: value for name, value in (record | fields).items() if value is not None}


EVENTS = [
    event(user_query="Baby  Sipper", time="2026-11-19T23:30:00-01:00"),
    event(query_id="q1", quantity=2),
    event(query_id="q1", quantity=2),
    event(user_query="bottle", product=42, event_id="e1"),
    event(user_query="bottle", product=42, event_id="e1", session_id="another"),
    event("add_to_cart", query_id="q1", quantity=3),
    event("click", query_id="q1", product=None, time="no time"),
    event("checkout", query_id="q1"),
]
BAD_EVENTS = {
    "duplicate_id": [event(user_query="a", product=product, event_id="e2") for product in ("p1", "p2")],
    "query_missing": [event(), event(user_query=" ", query_id="")],
    "query_id_unknown": [event(query_id="q404"), event(query_id="q2")],
    "query_empty": [event(query_id="q3")],
    "query_too_long": [event(user_query="long " * 400), event(query_id="q4")],
    "object_id_missing": [event(user_query="a", product=None)],
    "object_id_chars": [event(user_query="a", product="p\n1")],
    "timestamp_type": [event(user_query="a", time=time) for time in ("yesterday", -5, "0000-00-00", "2026-02-30")],
    "quantity_range": [event(user_query="a", quantity=quantity) for quantity in (-1, 0, 10**9)],
    "quantity_type": [event(user_query="a", quantity=2.5)],
    "action_name_missing": [event(None, user_query="a")],
    "event_date_future": [event(user_query="a", time="2099-01-01")],
    "timestamp_range": [event(user_query="a", time="9999-01-01"), event(user_query="a", time=0)],
}
QUERIES = [
    {"query_id": "q1", "user_query": "toddler cup"},
    {"query_id": "q1", "user_query": "Toddler  cup"},
    {"query_id": "q2", "user_query": "one"},
    {"query_id": "q2", "user_query": "two"},
    {"query_id": "q3", "user_query": ""},
    {"query_id": "q4", "user_query": "x" * 100_000},
]


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture
def shop(tmp_path):
    def make(path, queries=QUERIES, **settings):
        return Config(
            shop=ShopConfig(work=str(tmp_path / "work")),
            purchases=PurchasesConfig(
                path=str(path), kind="events", **({"min_purchases": 1, "max_reject_share": 1.0} | settings)
            ),
            queries=QueriesConfig(
                path=write_lines(tmp_path / "queries.jsonl", queries) if queries else "", max_reject_share=1.0
            ),
        )

    return make


def read_pairs(config, run_date=DATE):
    folder = StepFolder(config.shop.work, "purchase_gram", run_date).table_folder(PURCHASES.name)
    rows = ds.dataset(folder, format="parquet").to_table().to_pylist()
    return {(row["query"], row["product_id"]): row["purchases"] for row in rows}


@pytest.mark.line(50, 51, 53, 55)
def test_every_event_counts_or_is_accounted_for(session, shop, tmp_path):
    path = tmp_path / "log.ndjson"
    records = [*EVENTS, *itertools.chain.from_iterable(BAD_EVENTS.values())]
    write_lines(path, records)
    with path.open("a") as file:
        file.write(json.dumps(EVENTS[0])[:-9] + "\n")
    config = shop(path, weights={"add_to_cart": 2})
    commit = purchase_gram.run(session, config, DATE)
    assert read_pairs(config) == {("baby sipper", "p1"): 1, ("toddler cup", "p1"): 2 + 3 * 2, ("bottle", "42"): 1}
    found = {(row["table"], row["reason"]): row["count"] for row in commit.rejects}
    expected = {("RAW_EVENTS", reason): len(rows) for reason, rows in BAD_EVENTS.items()}
    assert found == expected | {("RAW_EVENTS", "malformed"): 1, ("RAW_QUERIES", "duplicate_id"): 2}
    rows_in = len(records) + 1 - 2
    rejected = sum(expected.values()) + 1
    assert commit.counts["inputs"]["RAW_EVENTS"] == {
        "rows_in": rows_in,
        "valid": rows_in - rejected,
        "rejected": rejected,
        "unknown_columns": "session_id",
    }
    assert commit.counts["inputs"]["RAW_QUERIES"] == {"rows_in": 6, "valid": 4, "rejected": 2}
    assert commit.counts["filters"] == {
        "merged_queries": 1,
        "action_without_weight": 1,
        "action_unknown": 1,
        "merged": 1,
        "repeated": 2,
        "below_min_purchases": 0,
    }
    assert commit.counts["figures"]["events"] == len(records) + 1
    # Nobody who bought is found in what the step leaves behind.
    files = [file for file in Path(config.shop.work).rglob("*") if file.is_file()]
    assert not [file for file in files if USER.encode() in file.read_bytes()]


def write_csv(path, records):
    names = ["query_id", "user_query", "event_id", "session_id", "client_id", "action_name", "timestamp"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "event_attributes.object.object_id", "event_attributes.quantity"])
        for record in records:
            attributes = record["event_attributes"]
            cells = [attributes["object"].get("object_id"), attributes.get("quantity")]
            writer.writerow([*(record.get(name) for name in names), *cells])


def write_parquet(path, records, unit="ms", per_millisecond=1):
    whole = pa.struct([("object_id", pa.int64())])
    attributes = pa.struct([("object", whole), ("quantity", pa.int32())])
    names = ["query_id", "user_query", "event_id", "session_id", "client_id", "action_name"]
    fields = [*((name, pa.string()) for name in names), ("timestamp", pa.timestamp(unit))]
    rows = [record | {"timestamp": NOON * per_millisecond} for record in records]
    for row in rows:
        number = str(row["event_attributes"]["object"].get("object_id", "")).removeprefix("p")
        inside = {"object": {"object_id": int(number) if number else None}}
        row["event_attributes"] = row["event_attributes"] | inside
    schema = pa.schema([*fields, ("event_attributes", attributes)])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def write_nanoseconds(path, records):
    write_parquet(path, records, unit="ns", per_millisecond=1_000_000)


@pytest.mark.parametrize(
    ("name", "write"), [("log.csv", write_csv), ("log.parquet", write_parquet), ("log.parquet", write_nanoseconds)]
)
def test_flat_and_nested_columns_give_the_same_purchases(session, shop, tmp_path, name, write):
    write(tmp_path / name, EVENTS)
    config = shop(tmp_path / name, remove_repeats=False)
    commit = purchase_gram.run(session, config, DATE)
    assert commit.rejects[0]["table"] == "RAW_QUERIES"
    # Equal events without an id are two here.
    found = {(query, product.removeprefix("p")): count for (query, product), count in read_pairs(config).items()}
    assert found == {("baby sipper", "1"): 1, ("toddler cup", "1"): 4, ("bottle", "42"): 1}
    assert commit.counts["filters"]["repeated"] == 1


def test_a_time_is_read_in_whatever_part_of_a_second_it_is(session, shop, tmp_path):
    times = {"seconds": NOON // 1_000, "milli": NOON, "micro": NOON * 1_000, "nano": NOON * 1_000_000 + 999}
    # As near to midnight as a millionth and a thousandth of it.
    times["last"] = (NOON + 12 * 3_600_000) * 1_000_000 - 1
    late = {"day before": (NOON - 12 * 3_600_000) * 1_000 - 1, "day after": (NOON + 12 * 3_600_000) * 1_000_000}
    events = [event(user_query=query, time=time) for query, time in (times | late).items()]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in events))
    config = shop(tmp_path / "log.jsonl", lookback_days=1)
    commit = purchase_gram.run(session, config, DATE)
    assert read_pairs(config) == {(query, "p1"): 1 for query in times}
    assert commit.counts["filters"]["outside_window"] == 2


def test_a_file_that_lacks_a_nested_column_is_refused(session, shop, tmp_path):
    (tmp_path / "log").mkdir()
    write_parquet(tmp_path / "log" / "1.parquet", EVENTS)
    table = pq.read_table(tmp_path / "log" / "1.parquet")
    place = table.schema.get_field_index("event_attributes")
    kept = [field for field in table.schema.field(place).type if field.name != "quantity"]
    assert len(kept) == table.schema.field(place).type.num_fields - 1
    inside = table.column(place).combine_chunks()
    fewer = pa.StructArray.from_arrays([inside.field(field.name) for field in kept], fields=kept)
    pq.write_table(table.set_column(place, "event_attributes", fewer), tmp_path / "log" / "0.parquet")
    with pytest.raises(ContractError, match=r"0\.parquet: no .*quantity.*, which other files of the table have"):
        purchase_gram.run(session, shop(tmp_path / "log"), DATE)


def test_the_search_of_a_purchase_may_lie_in_the_file_of_the_day_before(session, tmp_path):
    for kind, days in (("events", ("2026-11-20", "2026-11-19")), ("queries", ("2026-11-19", "2026-11-18"))):
        (tmp_path / kind).mkdir()
        for number, day in enumerate(days):
            record = event(query_id="q0") if kind == "events" else {"query_id": f"q{number}", "user_query": "late"}
            write_lines(tmp_path / kind / f"{day}.jsonl", [record])
    config = Config(
        shop=ShopConfig(work=str(tmp_path / "work")),
        purchases=PurchasesConfig(
            path=str(tmp_path / "events"), kind="events", min_purchases=1, daily=True, lookback_days=1
        ),
        queries=QueriesConfig(path=str(tmp_path / "queries"), daily=True),
    )
    commit = purchase_gram.run(session, config, DATE)
    assert read_pairs(config) == {("late", "p1"): 1}
    assert {name: counts["rows_in"] for name, counts in commit.counts["inputs"].items()} == {
        "RAW_EVENTS": 1,
        "RAW_QUERIES": 1,
    }


def test_logs_that_cannot_be_used(session, shop, tmp_path):
    path = tmp_path / "log.jsonl"
    write_lines(path, [event("checkout", user_query="a"), event("click", user_query="a")])
    with pytest.raises(
        ContractError, match=r"no row of RAW_EVENTS counts: 1 action_unknown, such as 'checkout / .*; 1 a"
    ):
        purchase_gram.run(session, shop(path), DATE)
    write_lines(path, [event(query_id="q1")] + [event("click")] * 10_000)
    with pytest.raises(ContractError, match=r"1 of 1 rows rejected.*1 query_id_unknown .such as 'q1' of 'p1'"):
        purchase_gram.run(session, shop(path, queries=None, max_reject_share=0.5), DATE)
    write_lines(path, [event(user_query="a", product=None)])
    with pytest.raises(ContractError, match=r"the column 'event_attributes\.object\.object_id', found action_name"):
        purchase_gram.run(session, shop(path), DATE)
    with pytest.raises(ConfigError, match="weights: expected an action that counts"):
        PurchasesConfig(weights={"purchase": 0})


def walk_npmi(purchases, a, b):
    """NPMI of two queries by the sums of its definition."""
    total = sum(purchases.values())
    of_query, of_product = Counter(), Counter()
    for (query, product), count in purchases.items():
        of_query[query] += count
        of_product[product] += count
    joint = sum(
        purchases.get((a, product), 0) * purchases.get((b, product), 0) / (bought * total)
        for product, bought in of_product.items()
    )
    return math.log(joint * total * total / of_query[a] / of_query[b]) / -math.log(joint)


@pytest.mark.skipif(not LOG.exists(), reason="the icecat_shop data set is not here; set SHOP_TEST_DATA to its parent")
def test_purchases_of_a_real_log(session, shop, tmp_path):
    records = {"ubi_events": [], "ubi_queries": []}
    with zipfile.ZipFile(LOG) as archive, archive.open(archive.namelist()[0]) as file:
        for line in io.TextIOWrapper(file, encoding="utf-8"):
            index, _, record = line.rstrip("\n").partition("\t")
            records[index].append(record)
    (tmp_path / "log.jsonl").write_text("\n".join(records["ubi_events"]))
    config = shop(tmp_path / "log.jsonl", queries=map(json.loads, records["ubi_queries"]), max_reject_share=0.0)
    commit = purchase_gram.run(session, config, "2024-06-04")
    pairs = read_pairs(config, "2024-06-04")

    # What the log says, read without any code of the project.
    texts = {query["query_id"]: query["user_query"] for query in map(json.loads, records["ubi_queries"])}
    bought = [line for line in records["ubi_events"] if json.loads(line)["action_name"] == "purchase"]
    assert len(bought) == 414
    assert len(set(bought)) == 413, "one purchase is there twice, to the millisecond and the dwell time"
    expected = Counter(
        (texts[purchase["query_id"]], purchase["event_attributes"]["object"]["object_id"])
        for purchase in map(json.loads, set(bought))
    )
    assert pairs == expected
    assert len(pairs) == 259

    # Three of them, counted by hand.
    assert pairs["phone", "5413050007977"] == 7
    assert pairs["notebook", "0882780391659"] == 3
    assert pairs["briefcase", "0092636243159"] == 5
    assert commit.rejects == []
    assert commit.counts["inputs"]["RAW_EVENTS"].items() >= {"rows_in": 414, "valid": 414, "rejected": 0}.items()
    assert commit.counts["figures"]["events"] == 26_828
    filters = commit.counts["filters"]
    assert (filters["repeated"], filters["merged"]) == (1, 413 - 259)
    clicks_and_carts = 425
    assert filters["action_without_weight"] == clicks_and_carts
    assert filters["action_unknown"] == 26_828 - 414 - clicks_and_carts

    # 23 times two queries share a product; four of the 17 pairs of queries share several.
    by_product = {}
    for query, product in pairs:
        by_product.setdefault(product, set()).add(query)
    shared = [pair for queries in by_product.values() for pair in itertools.combinations(sorted(queries), 2)]
    assert len(shared) == 23
    assert len(set(shared)) == 17
    assert Counter(shared)[("laptop", "laptops")] == 4
    assert Counter(shared)[("notebook", "notebooks")] == 3

    everything = replace(config, npmi=NpmiConfig(tau=-0.99, min_support=0, top_k=100))
    figures = npmi_pairs.run(session, everything, "2024-06-04").counts["figures"]
    assert (figures["shared_pairs"], figures["candidates"]) == (23, 17)
    folder = StepFolder(config.shop.work, "npmi_pairs", "2024-06-04").table_folder(QUERY_PAIRS.name)
    rows = ds.dataset(folder, format="parquet").to_table().to_pylist()
    scores = {(row["query_a"], row["query_b"]): row["npmi"] for row in rows}
    assert scores == pytest.approx({pair: walk_npmi(pairs, *pair) for pair in set(shared)}, abs=1e-12)
