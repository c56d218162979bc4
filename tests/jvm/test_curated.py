"""Curated queries: near-duplicates, personal data, coverage of nodes, and bad queries through the jobs."""

import hashlib
import json
import random

import pyarrow.dataset as ds
import pytest
from pyspark.sql import functions as F

from indexer.config_file import load_config
from indexer.contracts import schemas
from indexer.job_config import SCRIPTS
from indexer.runs import StepFolder
from jobs import curated_queries, purchase_gram, taxonomy_labels
from spark import curated
from spark.personal_data import has_personal_data, mask_text, passes_luhn
from spark.variants import find_variants, with_families

pytestmark = pytest.mark.jvm

DATE = "2026-11-20"

PERSONAL = [
    "jane.doe@example.com",
    "order for jane_doe+shop@mail.example.co.uk please",
    "メール@例え.テスト",
    "+44 20 7946 0958",
    "call (212) 555-0143",
    "212-555-0143",
    "212.555.0143 refund",
    "4111 1111 1111 1111",
    "card 4111111111111111 declined",
    "3782-822463-10005",
    "378282246310005",
    "5555-5555-5555-4444",
]
HARMLESS = [
    "@home speaker",
    "6@home",
    "usb c to usb c",
    "4111 1111 1111 1112",  # one off: Luhn fails
    "9780131103627",  # ISBN
    "978-0-13-110362-7",
    "4006381333931",  # EAN-13 that passes Luhn
    "2125550143",  # bare digits: a part number as likely
    "212-555 0143",
    "212 555 0143",  # three numbers as likely
    "+4x2 raised garden bed",
    "8 16 32 64 128 256 512 1024",
    "iphone 13 pro max 256",
    "0000 0000 0000 0000",
    "a@b.1",
]


def test_personal_data_is_found_and_numbers_of_products_are_not(session):
    frame = session.createDataFrame([(text,) for text in PERSONAL + HARMLESS], "query string")
    found = {row.query for row in frame.where(has_personal_data(F.col("query"))).collect()}
    assert sorted(found) == sorted(PERSONAL)


def test_check_digits_agree_with_a_plain_loop(session):
    draw = random.Random(3)
    numbers = ["".join(draw.choices("0123456789", k=draw.randint(1, 19))) for _ in range(400)]

    def passes(number):
        digits = [int(digit) for digit in reversed(number)]
        return (sum(digits[::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])) % 10 == 0

    rows = session.createDataFrame([(number,) for number in numbers], "number string")
    found = {row.number: row.ok for row in rows.select("number", passes_luhn(F.col("number")).alias("ok")).collect()}
    assert found == {number: passes(number) for number in numbers}
    assert any(found.values())


def test_a_mask_keeps_the_shape_alone(session):
    frame = session.createDataFrame([("zoë o'neil@x.de +49 30",)], "query string")
    assert frame.select(mask_text(F.col("query")).alias("mask")).collect()[0].mask == "xxx x'xxxx@x.xx +00 00"


FAMILIES = [
    ["black t shirt", "t-shirt black", "tshirts black", "black tshirt", "black t-shirts"],
    ["women's shoe", "womens shoes", "shoes women"],
    ["hoodie", "hoodies"],
    ["boxes", "box"],
    ["iphone 13 case", "case iphone 13"],
    ["0.3cc syringe", "0.3 cc syringe", "syringes 0.3cc"],
    ["10x50 binoculars", "10 x 50 binocular"],
    ["size 5 age 7"],
    ["size 7 age 5"],
    ["5 6 hose"],
    ["56 hose"],
    ["10-20 socks"],
    ["10 20 socks"],
    ["iphone 5"],
    ["iphone 5s"],
    ["glass"],
    ["gas"],
    ["bus"],
    ["'"],
    ["-"],
    ["кот черный", "черный кот"],
]


def test_families_hold_orders_plurals_spaces_and_hyphens(session):
    texts = [query for family in FAMILIES for query in family]
    frame = with_families(session.createDataFrame([(text,) for text in texts], "query string"))
    found: dict[str, set[str]] = {}
    for row in frame.collect():
        found.setdefault(row.family, set()).add(row.query)
    assert sorted(map(sorted, found.values())) == sorted(map(sorted, FAMILIES))


def test_the_most_bought_stands_for_its_variants_unless_their_labels_are_disjoint(session):
    queries = [("milk chocolate", 90), ("chocolate milk", 70), ("chocolates milk", 60), ("milk-chocolate", 90)]
    queries += [("pipes", 5), ("pipe", 5)]
    lineages = [
        ("milk chocolate", ["sweets"], ["food", "sweets"]),
        ("chocolate milk", ["drinks"], ["drinks"]),
        ("milk-chocolate", ["food"], ["food"]),  # a node above the other: related
    ]
    schema = "query string, labels array<string>, lineage array<string>"
    frame = session.createDataFrame(queries, "query string, purchases bigint")
    for rows in (frame, frame.orderBy(F.desc("query"))):
        variants = find_variants(rows, session.createDataFrame(lineages, schema)).collect()
        assert {row.query: (row.main_query, row.apart) for row in variants} == {
            "milk chocolate": ("milk chocolate", False),
            "milk-chocolate": ("milk chocolate", False),  # equally bought: by the text
            "chocolates milk": ("milk chocolate", False),  # no labels, nothing against it
            "chocolate milk": ("chocolate milk", True),
            "pipe": ("pipe", False),
            "pipes": ("pipe", False),
        }


def test_each_node_keeps_its_first_query_when_the_number_is_limited(session):
    mains = [("tv", 900, 3), ("hdmi", 800, 2), ("novel", 50, 1), ("poem", 40, 1), ("tie a", 30, 2), ("tie b", 30, 3)]
    mains += [("few", 5, 1)]
    nodes = [("tv", "screens", 900.0), ("hdmi", "screens", 80.0), ("hdmi", "cables", 720.0), ("tv", "cables", 9.0)]
    nodes += [("novel", "books", 50.0), ("poem", "books", 40.0), ("few", "rare", 5.0)]
    frames = (
        session.createDataFrame(mains, "main_query string, weight bigint, products bigint"),
        session.createDataFrame(nodes, "main_query string, node_id string, part double"),
    )
    limits = {"min_purchases": 20, "min_products": 1}

    def kept(**options):
        judged = curated.judge_mains(*frames, **(limits | options)).collect()
        assert len(judged) == len(mains)
        return {row.main_query for row in judged if row.reason is None}

    assert kept(max_queries=2) == {"tv", "hdmi"}
    assert kept(max_queries=3) == {"tv", "hdmi", "novel"}
    assert kept(max_queries=5) == {"tv", "hdmi", "novel", "poem", "tie b"}  # more products decide
    assert kept(max_queries=9) == {"tv", "hdmi", "novel", "poem", "tie a", "tie b"}
    assert kept(max_queries=9, min_products=2) == {"tv", "hdmi", "tie a", "tie b"}


def test_blocked_phrases_are_whole_words(session):
    words = session.createDataFrame([("Damn",), ("hell  hound",), ("!!",), ("grün-kohl",)], "word string")
    phrases = curated.blocked_phrases(words)
    assert {(row.phrase, row.words) for row in phrases.collect()} == {
        ("damn", 1),
        ("hell hound", 2),
        ("", 0),
        ("grün kohl", 2),
    }
    texts = ["damn it", "goddamn", "hell-hound toy", "hell is a hound", "the grün kohl", "grün", "???", "damn"]
    queries = session.createDataFrame([(text,) for text in texts], "query string")
    blocked = curated.blocked_queries(queries, phrases.where("words > 0"), longest=2)
    assert {row.query for row in blocked.collect()} == {"damn it", "hell-hound toy", "the grün kohl", "damn"}


def test_every_script_of_the_configuration_is_one_of_java(session):
    queries = session.createDataFrame(
        [("привет 12",), ("hello \u03bcm",), ("ʼn tower",), ("東京 タワー",), ("12",)], "query string"
    )
    limits = {"max_characters": 200, "reject_personal_data": True}
    queries = queries.withColumn("purchases", F.lit(1))
    for scripts, refused in ((SCRIPTS, set()), (("Latin",), {"привет 12", "hello \u03bcm", "東京 タワー"})):
        judged = curated.judge_texts(queries, None, scripts=scripts, **limits).collect()
        assert {row.query for row in judged if row.reason == "other_script"} == refused


@pytest.fixture
def shop(tmp_path):
    """Queries 41 to 47 of the catalogue of bad inputs: bad ones, and odd ones that are accepted."""
    rows = [
        *(("", "p1", 30), (" \u200b ", "p1", 30)),  # empty
        *(("Blue  CUP", "p1", 30), ("blue cup", "p1", 30), ("Cups blue", "p2", 25)),  # one query, and its variant
        *(("zero", "p1", 0), ("minus", "p1", -3)),
        *(("y" * 100_000, "p1", 30), ("y" * 201, "p1", 30)),
        *(("jane@example.com", "p1", 40), ("4111 1111 1111 1111", "p1", 40)),
        *(("قميص أزرق", "p1", 30), ("b07x", "p2", 30), ("damn cup", "p2", 30), ("once", "p1", 20)),
    ]
    lines = [json.dumps({"query": query, "product_id": product, "purchases": n}) for query, product, n in rows]
    lines.append('{"query": "nan", "product_id": "p1", "purchases": NaN}')
    (tmp_path / "purchases.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "catalogue.csv").write_text(
        "product_id,title,category_path\np1,Cup,Kitchen > Cups\np2,Mug,Kitchen > Cups\nB07X,Id,Other\n"
    )
    (tmp_path / "words.csv").write_text("word\ndamn\n!\n")
    (tmp_path / "shop.toml").write_text(
        '[shop]\nwork = "work"\n[purchases]\npath = "purchases.jsonl"\nmax_reject_share = 0.9\n'
        '[catalogue]\npath = "catalogue.csv"\n[blocked_words]\npath = "words.csv"\nmax_reject_share = 0.5\n'
    )

    def make(*options):
        return load_config(str(tmp_path / "shop.toml"), options=options, environment={})

    return make


def read(config, table):
    folder = StepFolder(config.shop.work, table.written_by, DATE).table_folder(table.name)
    return {row.pop("query"): row for row in ds.dataset(folder, format="parquet").to_table().to_pylist()}


@pytest.mark.line(41, 42, 43, 44, 45, 46, 47)
def test_bad_and_odd_queries_through_the_jobs(session, shop):
    config = shop()
    gram = purchase_gram.run(session, config, DATE)
    assert {reject["reason"]: reject["count"] for reject in gram.rejects} == {
        "query_empty": 1,
        "query_missing": 1,
        "query_too_long": 1,
        "purchases_range": 2,
        "malformed": 1,
    }
    taxonomy_labels.run(session, config, DATE)
    commit = curated_queries.run(session, config, DATE)
    cup = hashlib.sha256(b"blue cup").hexdigest()[:16]
    queries = read(config, schemas.CURATED_QUERIES)
    assert queries["blue cup"] == {"query_id": cup, "weight": 85.0, "products": 2, "is_product_id": False}
    assert {query: row["is_product_id"] for query, row in queries.items()} == {
        "blue cup": False,
        "قميص أزرق": False,
        "b07x": True,
        "once": False,
    }
    assert read(config, schemas.QUERY_VARIANTS) == {"cups blue": {"query_id": cup, "purchases": 25}}
    assert commit.counts["filters"] == {"above_max_characters": 1, "blocked_word": 1, "merged_variants": 1}
    assert commit.counts["tables"] == {"QUERY_VARIANTS": 1, "CURATED_QUERIES": 4}
    assert commit.counts["figures"] == {
        **{"purchases": 305, "purchases_covered": 165, "products": 2, "products_covered": 2},
        **{"nodes": 1, "nodes_covered": 1, "variants_kept_apart": 0, "queries_that_are_product_ids": 1},
    }
    assert {reject["reason"]: (reject["count"], reject["sample"]) for reject in commit.rejects} == {
        "pii": (2, "0000 0000 0000 0000"),
        "word_empty": (1, None),
    }
    assert "jane" not in json.dumps(commit.counts) + json.dumps(commit.rejects)
    assert curated_queries.run(session, config, DATE) == commit
    open_shop = shop(
        *("curated.merge_variants=false", "curated.reject_personal_data=false", 'curated.scripts=["Latin"]'),
        "blocked_words.path=",
    )
    commit = curated_queries.run(session, open_shop, DATE)
    assert set(read(open_shop, schemas.CURATED_QUERIES)) == {
        *("blue cup", "cups blue", "b07x", "once", "damn cup", "jane@example.com", "4111 1111 1111 1111")
    }
    assert commit.counts["filters"] == {"above_max_characters": 1, "other_script": 1}
    assert commit.rejects == []
