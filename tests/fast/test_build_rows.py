"""Rows on their way to a shard: text, shards by hash, duplicates; none is lost."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.build.catalogue import (
    MAX_SHARDS,
    Row,
    count_shards,
    hash_id,
    product_row,
    query_row,
    read_rows,
    sample_rows,
    shard_of,
    split_spool,
    spool_products,
    spool_queries,
)
from indexer.build.duplicates import resolve_duplicates
from indexer.build.embed import embed_rows
from indexer.build.plan import plan_collection
from indexer.config import Config
from indexer.encoder import EncoderDescription, open_encoder
from indexer.errors import ConfigError, ContractError
from indexer.index_config import IndexConfig
from indexer.strict_json import write_document

Shop = Callable[..., Config]


@pytest.fixture(scope="module")
def description(encoder_directory: Path) -> EncoderDescription:
    return open_encoder(encoder_directory, threads=1).description


def test_a_product_becomes_its_text_and_its_title(make_shop: Shop, description: EncoderDescription, tmp_path: Path):
    config = make_shop([("B07X", "Steel  sipper\u200b 300 ml", "Acme"), ("B08", " Mug ", None)])
    spool = spool_products(config, description, tmp_path, progress=False)
    assert list(read_rows(spool.path)) == [
        Row("B07X", "Steel sipper 300 ml | Acme", "Steel sipper 300 ml", lengths="19,0,4,0"),
        Row("B08", "Mug", "Mug", lengths="3,0,0,0"),
    ]
    assert (spool.rows_in, spool.rows, spool.rejected) == (2, 2, Counter())


def test_cut_texts_are_counted_by_the_fields_that_lost_something(encoder_directory: Path):
    encoder = open_encoder(encoder_directory, threads=1)
    # 32 tokens, two of them marks: 30 words are read, the separator being one.
    texts = {
        "whole": ("desk " * 28, "mug"),
        "title alone": ("desk " * 30, ""),
        "brand cut": ("desk " * 28, "mug cup"),
        "brand lost": ("desk " * 30, "mug"),
        "both": ("desk " * 31, "mug"),
    }
    rows = [
        product_row(
            {"product_id": name, "title": title, "brand": brand, "updated_at": None},
            fields=encoder.description.text_fields,
            separator=" | ",
        )
        for name, (title, brand) in texts.items()
    ]
    found = embed_rows(encoder, "products", rows, label="", progress=False)
    assert (found.truncated, found.cut_fields) == (3, {"title": 1, "brand": 3})
    assert write_document(found.cut_fields)
    asked = [query_row({"query_id": "Q", "query": "desk " * 40})]
    found = embed_rows(encoder, "queries", asked, label="", progress=False)
    assert (found.truncated, found.cut_fields) == (1, {})


def test_rejected_rows_are_counted_by_reason(make_shop: Shop, description: EncoderDescription, tmp_path: Path):
    config = make_shop([("A", "mug"), ("B", ""), ("", "cup"), ("C", "\u200b"), ("D", "lamp")])
    spool = spool_products(config, description, tmp_path, progress=False)
    assert spool.rows_in == 5
    assert spool.rows == 2
    assert spool.rejected.total() == 3
    assert sum(row["count"] for row in spool.rejects) == 3


def test_an_encoder_trained_on_another_text_is_refused(
    make_shop: Shop, description: EncoderDescription, tmp_path: Path
):
    from dataclasses import replace

    config = make_shop([("A", "mug")])
    with pytest.raises(ConfigError, match="the encoder tiny was trained on"):
        spool_products(config, replace(description, text_separator=" ; "), tmp_path, progress=False)


def test_curated_queries_come_from_the_commit(make_shop: Shop, tmp_path: Path):
    config = make_shop([("A", "mug")], queries=["red mug", "cup"])
    spool = spool_queries(config, "2026-11-20", tmp_path, progress=False)
    assert [row[1:3] for row in read_rows(spool.path)] == [("red mug", "red mug"), ("cup", "cup")]
    with pytest.raises(ContractError, match="run the step curated_queries for this date first"):
        spool_queries(config, "2026-11-21", tmp_path, progress=False)


def test_the_shard_of_an_id_never_changes():
    assert [shard_of(each, 16) for each in ("B07X", "B08", "007", "7", "ünï")] == [
        13,
        13,
        13,
        2,
        7,
    ]  # last hex digit of `b2sum -l 64`


def test_every_row_lands_in_the_shard_of_its_id(
    make_shop: Shop, description: EncoderDescription, tmp_path: Path, products: Any
):
    spool = spool_products(make_shop(products(500)), description, tmp_path, progress=False)
    before = Counter(read_rows(spool.path))
    paths = split_spool(spool, 5)
    after = [list(read_rows(path)) for path in paths]
    assert Counter(row for rows in after for row in rows) == before
    for number, rows in enumerate(after):
        assert rows
        assert {shard_of(row.id, 5) for row in rows} == {number}
    assert not spool.path.exists()


@pytest.mark.parametrize(
    ("rows", "wanted", "limit", "expected"),
    [
        (1, 0, 200_000, 1),
        (200_000, 0, 200_000, 1),
        (200_001, 0, 200_000, 2),
        (10_000_000, 0, 200_000, 50),
        (10_000, 8, 200_000, 8),
        (10, 8, 200_000, 8),
    ],
)
def test_the_number_of_shards(rows: int, wanted: int, limit: int, expected: int):
    assert count_shards(rows, wanted=wanted, max_shard_rows=limit) == expected


def test_too_many_shards_are_refused():
    with pytest.raises(ConfigError, match=r"200000 makes 5000 shards .*expected at most 512; raise it"):
        count_shards(10**9, wanted=0, max_shard_rows=200_000)
    assert IndexConfig(shards=MAX_SHARDS).shards == MAX_SHARDS
    with pytest.raises(ConfigError, match="shards"):
        IndexConfig(shards=MAX_SHARDS + 1)


@pytest.mark.parametrize(("rows", "wanted"), [(40, 1), (40, 2), (100, 8), (40, 40), (3, 2)])
def test_shards_are_fewer_than_wanted_only_where_one_would_have_hardly_a_row(
    make_shop: Shop, description: EncoderDescription, tmp_path: Path, products: Any, rows: int, wanted: int
):
    config = make_shop(products(rows), shards=wanted)
    spool = spool_products(config, description, tmp_path, progress=False)
    ids = [row.id for row in read_rows(spool.path)]
    plan = plan_collection(config, spool)
    filled = [1]
    for shards in range(2, wanted + 1):
        sizes = Counter(shard_of(each, shards) for each in ids)
        filled += [shards] if all(sizes[number] >= 4 for number in range(shards)) else []
    assert (plan.shards, plan.shards_wanted) == (max(filled), wanted)
    assert (plan.shards < wanted) == ((rows, wanted) in [(40, 40), (3, 2)])
    assert all(list(read_rows(path)) for path in split_spool(spool, plan.shards))


def test_a_sample_depends_on_the_rows_and_not_on_their_order(
    make_shop: Shop, description: EncoderDescription, tmp_path: Path, products: Any
):
    samples = []
    for order in (1, -1):
        spool = spool_products(make_shop(products(300)[::order]), description, tmp_path, progress=False)
        samples.append([row.display for row in sample_rows(read_rows(spool.path), 25)])
    assert samples[0] == samples[1]
    assert len(set(samples[0])) == 25


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 12)), max_size=60),
    st.integers(0, 8),
    st.integers(1, 4),
)
def test_a_sample_is_that_of_its_parts_and_has_a_text_once(pairs: list[tuple[int, int]], count: int, parts: int):
    rows = [Row(f"P{at}", "t", f"title {text}" if text else "") for at, text in pairs]
    smallest: dict[str, str] = {}
    for each in rows:
        if each.display:
            smallest[each.display] = min(smallest.get(each.display, each.id), each.id)
    expected = sorted(smallest, key=hash_id)[:count]
    found = sample_rows(rows, count)
    assert [(each.display, each.id) for each in found] == [(display, smallest[display]) for display in expected]
    picked = [each for part in range(parts) for each in sample_rows(rows[part::parts], count)]
    assert [each.display for each in sample_rows(picked[::-1], count)] == expected


def test_a_title_of_many_variants_takes_no_place_of_others():
    rows = [Row(f"{title}-{variant}", "t", f"title {title}") for title in range(300) for variant in range(20)]
    assert len({each.display for each in sample_rows(rows, 200)}) == 200


def row(name: str, text: str, time: str | None = None) -> Row:
    return Row(name, text, text, time)


def test_rows_come_in_id_order():
    unique = resolve_duplicates([row("b", "1"), row("a", "2"), row("B", "3")])
    assert [each.id for each in unique.rows] == ["B", "a", "b"]


def test_the_same_content_counts_once():
    unique = resolve_duplicates([row("a", "mug", "2026-01-01"), row("a", "mug"), row("a", "mug", "2026-01-01")])
    assert (unique.rows, unique.duplicates, unique.rejected) == ([row("a", "mug", "2026-01-01")], 2, Counter())


def test_of_different_contents_the_newest_stands():
    rows = [row("a", "old", "2026-01-01T10:00:00+02:00"), row("a", "new", "2026-01-01T09:00:00Z"), row("a", "older")]
    unique = resolve_duplicates(rows)
    assert [each.text for each in unique.rows] == ["new"]
    assert unique.rejected == {"duplicate_id": 2}
    assert unique.examples == {"duplicate_id": "a"}


@pytest.mark.parametrize("time", [None, "2026-01-01", "not a time"])
def test_a_tie_rejects_every_row_of_the_id(time: str | None):
    unique = resolve_duplicates([row("a", "x", time), row("a", "y", time), row("a", "x"), row("b", "z")])
    assert [each.id for each in unique.rows] == ["b"]
    assert unique.rejected == {"duplicate_id": 3}


def test_an_older_copy_of_the_newest_is_a_duplicate():
    unique = resolve_duplicates([row("a", "x", "2026-02-01"), row("a", "x", "2026-01-01"), row("a", "y", "2026-01-15")])
    assert unique.rows == [row("a", "x", "2026-02-01")]
    assert (unique.duplicates, unique.rejected) == (1, {"duplicate_id": 1})


TIMES = st.sampled_from([None, "2026-01-01", "2026-01-02", "2026-01-02T00:00:00+00:00"])


@given(st.lists(st.builds(row, st.sampled_from("abc"), st.sampled_from("xyz"), TIMES)))
def test_rows_in_are_rows_out_duplicates_and_rejects(rows: list[Row]):
    unique = resolve_duplicates(rows)
    assert len(rows) == len(unique.rows) + unique.duplicates + unique.rejected.total()
    ids = [each.id for each in unique.rows]
    assert ids == sorted(set(ids))
    assert set(unique.rows) <= set(rows)
    again = resolve_duplicates(rows[::-1])
    assert [each[:3] for each in again.rows] == [each[:3] for each in unique.rows]
