"""The same rows through Spark and through the reader without it: the same values, the same rejects."""

import json
from collections import Counter

import pyarrow as pa
import pytest

from indexer.contracts import schemas
from indexer.contracts.inputs import open_input

pytestmark = pytest.mark.jvm


def reasons(result):
    return {reject["reason"]: reject["count"] for reject in result.rejects}


@pytest.mark.parametrize("name", ["bad.tsv", "bad.csv", "bad.jsonl"])
def test_the_reader_without_spark_agrees_row_by_row(read, bad_tsv, name):
    lines = [line.decode(errors="surrogateescape").split("\t") for line in bad_tsv.splitlines()]
    if name == "bad.tsv":
        content = bad_tsv
    elif name == "bad.csv":
        quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in line) for line in lines]
        content = "\n".join(quoted).encode(errors="surrogateescape")
    else:
        # An undecodable byte becomes a lone surrogate; a ragged row becomes half a record.
        records = [json.dumps(dict(zip(lines[0], line, strict=False))) for line in lines[1:]]
        content = "\n".join([*records[:2], records[2][:-3], *records[3:]])
    assert_twins_agree(schemas.RAW_PURCHASES, *read(name, content))


def assert_twins_agree(table, result, source):
    twin = open_input(table, source)
    rows = Counter(json.dumps(row, sort_keys=True, default=str) for batch in twin for row in batch.to_pylist())
    found = (row.asDict(recursive=True) for row in result.rows.collect())
    assert Counter(json.dumps(row, sort_keys=True, default=str) for row in found) == rows
    assert reasons(result) == {reason: reject.count for reason, reject in twin.counts.rejects.items()}
    assert result.counts["rows_in"] == twin.counts.rows_in
    return result


LONG = "x\u00e9" * 80_000
CATALOGUE_TEXTS = [
    # product_id, title, description, node_ids, category_path, comment
    ("1", "plain", "text", "[12, 34]", "Home > Baby"),
    ("2", "nulls", "", '["a", null, " b ", ""]', '["Home", "Baby > Toys"]'),
    ("3", "nothing left", "", "[null]", " > "),
    ("4", "empty", "", "[]", ""),
    ("5", "broken list", "", '["a"', ""),
    ("6", "numbers", "", "[1.50, 1e3, true]", "007"),
    ("7", LONG, "", "", ""),
    ("8", "long description", LONG, "", ""),
    ("9" * 256, "longest id", "", "", ""),
    ("9" * 257, "long id", "", "", ""),
    ("id\u001f", "control", "", "", ""),
    ("\u00e9\u3000", "odd id", "", "\u00a0a\u2003", ""),
    ("", "no id", "", "", ""),
    (" 12 ", "\u00a0", "", "", ""),
    ("14", "entities", "", "a &amp; b > &nbsp; > c &gt; &amp;lt;", '["Toys &amp; Games > x", "&nbsp;", "&amp;lt;"]'),
]
CATALOGUE_NAMES = ("product_id", "title", "description", "node_ids", "category_path")


@pytest.mark.parametrize("name", ["c.csv", "c.tsv", "c.jsonl", "c.parquet"])
def test_the_readers_agree_on_lists_long_texts_and_identifiers(read, name):
    records = [dict(zip(CATALOGUE_NAMES, row, strict=True)) for row in CATALOGUE_TEXTS]
    if name == "c.parquet":
        lists = {"node_ids": [" a &amp;amp; ", None, "&nbsp;"], "category_path": []}
        content = pa.Table.from_pylist(
            [
                record | (lists if at % 2 else {"node_ids": None, "category_path": ["b"]})
                for at, record in enumerate(records)
            ]
        )
    elif name == "c.jsonl":
        lines = [json.dumps(record) for record in records]
        lines += [
            '{"product_id": 1.50, "title": 1e3, "node_ids": [12, null, "a", 1.0], "category_path": ["x", 7]}',
            '{"product_id": 123456789012345678901234567890, "title": true, "node_ids": []}',
            '{"product_id": 12345678.0, "title": 0.0005, "node_ids": [1e7, -123456789.125, 9999999.5, 1e18]}',
            '{"product_id": "bytes", "title": "t", "other": "\udcff"}',
            '{"product_id": "half", "title": "t", "other": "\\ud83d"}',
            '{"product_id": "late", "title": "t", "brand": "b"}',
        ]
        content = "\n".join(lines).encode(errors="surrogateescape")
    else:
        separator, quote = (",", '"') if name == "c.csv" else ("\t", "")
        cells = [[quote + cell.replace('"', '""' if quote else '"') + quote for cell in row] for row in CATALOGUE_TEXTS]
        header = separator.join(f" {column} " for column in CATALOGUE_NAMES)
        empty = ["", "\t \t"] if name == "c.tsv" else [""]
        content = "\n".join(["", header, *empty, *map(separator.join, cells), *empty, ""])
    result = assert_twins_agree(schemas.CATALOGUE, *read(name, content, schemas.CATALOGUE))
    assert {"title_too_long", "product_id_too_long", "product_id_chars", "product_id_missing"} <= reasons(result).keys()
    assert any(row.node_ids == ["12", "34"] for row in result.rows.collect()) == (name != "c.parquet")


def test_lists_are_split_and_last_days_judged_alike(session):
    from datetime import UTC, datetime

    from pyspark.sql import functions as F

    from indexer.contracts.checks import _parse_list
    from spark.checks import _outside, _split

    texts = ["Toys &amp; Games;Dolls", '["Toys &amp; Games;Dolls", "&amp;lt;", null, 1]', '["x', "", "a;;b&semi;"]
    frame = session.createDataFrame(list(enumerate(texts)), "n int, t string")
    found = frame.orderBy("n").select(_split(F.col("t"), ";").alias("x")).collect()
    for text, row in zip(texts, found, strict=True):
        items = row.x if row.x is None else [item for item in row.x if item is not None]
        assert items == _parse_list(text, ";"), text
    times = [(1989, 12, 31, 23, 59), (1990, 1, 1, 0, 0), (2099, 12, 31, 23, 59), (2100, 1, 1, 0, 0)]
    rows = [(n, datetime(*time, tzinfo=UTC)) for n, time in enumerate(times)]
    frame = session.createDataFrame(rows, "n int, t timestamp")
    outside = _outside(schemas.RAW_EVENTS.column("timestamp"), F.col("t"))
    assert [row.x for row in frame.orderBy("n").select(outside.alias("x")).collect()] == [True, False, False, True]
