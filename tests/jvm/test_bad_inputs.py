"""The catalogue of bad inputs: every line through the reader with Spark and through the one without it."""

import gzip
import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.contracts import preflight, schemas
from indexer.contracts.inputs import open_input
from indexer.contracts.rejects import describe_unknown
from indexer.errors import ConfigError, ContractError
from indexer.input_config import CatalogueConfig, InputConfig
from spark.inputs import locate_input
from spark.session import spark_failures
from spark.tables import read_input

pytestmark = pytest.mark.jvm

FIXES = ("entities_decoded", "invisible_removed", "composed")
HEADER = b"query,product_id,purchases\n"
PURCHASES = {"query": ["a", "b"], "product_id": ["p", "q"], "purchases": [3, 4]}
TABLE = pa.table(PURCHASES)


def parquet(table, **options):
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return sink.getvalue().to_pybytes()


def flipped(data, mark):
    at = data.index(mark) + 1
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def records(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


WORDS = pa.table({"query": [f"query {n}" for n in range(9_000)], "product_id": ["p"] * 9_000})
PLAIN = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
TWICE = pa.Table.from_arrays([pa.array(["a"])] * 3, names=["query", "product_id", "query"])
CELL = pa.table({"query": ["a"], "product_id": ["x" * 20_000_000]})

# name -> what is delivered, what both readers say, and the options
REFUSED = {
    "empty file": ({"p.csv": b""}, "0 rows"),
    "empty gzip file": ({"p.jsonl.gz": gzip.compress(b"")}, "0 rows"),
    "header only": ({"p.csv": HEADER}, "0 rows"),
    "no rows in Parquet": ({"p.parquet": parquet(TABLE.slice(0, 0))}, "0 rows"),
    "no product_id column": ({"p.csv": b"query,item\na,b\n"}, "needs the column 'product_id', found query, item"),
    "duplicate column name": ({"p.csv": b"query,product_id,query\na,b,c\n"}, "column 'query' appears twice"),
    "duplicate column name in Parquet": ({"p.parquet": parquet(TWICE)}, "column 'query' appears twice"),
    "UTF-16 CSV": ({"p.csv": (HEADER + b"a,p,1\n").decode().encode("utf-16")}, "is UTF-16; expected UTF-8"),
    "UTF-16 JSON": ({"p.jsonl": '{"query": "a", "product_id": "p"}\n'.encode("utf-16")}, "is UTF-16; expected UTF-8"),
    "unbalanced quote": ({"p.csv": HEADER + b'a,p,1\n"b,p,1\nc,p,1\n'}, "p.csv: line 3: .*is a quote unbalanced"),
    "quote closed far below": ({"p.csv": HEADER + b'"b,p,1\nc,p,1\nd,"p",1\n'}, "p.csv: line 2: .*quote unbalanced"),
    "two quotes that swallow what lies between": (
        {"p.csv": HEADER + b'a,p,1\n"red shoe,p,1\ngreen,p,1\nblue,"p",1\nhat,p,1\n'},
        "p.csv: line 3: .*is a quote unbalanced",
    ),
    "text after a quoted one": ({"p.csv": HEADER + b'"24" tv,p,1\n'}, "p.csv: line 2: .*is a quote unbalanced"),
    "quote that swallows a million lines": (
        {"p.csv": HEADER + b'a,p,1\n"b,p,1\n' + b"cccccccccc,p,1\n" * 1_200_000},
        "p.csv: line 3: .*is a quote unbalanced",
    ),
    "line of 20 MB": ({"p.tsv": b"query\tproduct_id\na\t" + b"x" * 20_000_000 + b"\n"}, "p.tsv"),
    "count written as text in Parquet": (
        {"p.parquet": parquet(TABLE.set_column(2, "purchases", [["3", "4"]]))},
        "purchases.*expected",
    ),
    "truncated Parquet footer": ({"p.parquet": parquet(TABLE)[:-9] + b"PAR1"}, "p.parquet.*cannot be read"),
    "wrong page checksum": ({"p.parquet": flipped(parquet(WORDS, **PLAIN), b"query 777")}, "parquet.*(CRC|crc)"),
    "Parquet bomb": ({"p.parquet": parquet(CELL, compression="zstd")}, "declares .* 20,0.*at most 200 times"),
    "gzip bomb": ({"p.csv.gz": gzip.compress(HEADER + b"\n" * 40_000_000)}, "unpacks to .* at most 200 times its size"),
    "gzip bomb of two members": (
        {"p.jsonl.gz": gzip.compress(b"{}\n") + gzip.compress(b" " * 40_000_000)},
        "unpacks to .* at most 200 times its size",
    ),
    "junk after gzip": ({"p.csv.gz": gzip.compress(HEADER + b"a,p,1\n") + b"junk" * 20_000}, "cannot be read"),
    "torn gzip": ({"p.jsonl.gz": gzip.compress(records({"query": "a", "product_id": "p"}))[:-9]}, "cannot be read"),
    "part in _temporary": ({"0.csv": HEADER + b"a,p,1\n", "_temporary/0/1.csv": b"a,"}, "still being written"),
    "part being copied": ({"0.csv": HEADER + b"a,p,1\n", "1.csv._COPYING_": b"a,"}, "still being written .1.csv._COPY"),
    "no _SUCCESS": ({"0.csv": HEADER + b"a,p,1\n", "1.csv": HEADER}, "no _SUCCESS", {"success_file": True}),
    "part without the counts": (
        {"0.parquet": parquet(TABLE), "1.parquet": parquet(TABLE.drop(["purchases"]))},
        "1.parquet: no purchases, which other files of the table have",
    ),
    "part with other columns": (
        {"0.csv": HEADER + b"a,p,1\n", "1.csv": b"query,product_id\nb,p\n"},
        "no purchases, which other files|one header in all files, found 2",
    ),
}  # fmt: skip


def deliver(tmp_path, files, **options):
    for name, content in files.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    path = tmp_path / "in" if len(files) > 1 else path
    return InputConfig(path=str(path), **{"max_reject_share": 1.0} | options)


def read_by_spark(session, tmp_path, table, source):
    location = locate_input(session, source, section="purchases", staging=tmp_path / "staging")
    return read_input(session, table, location, source)


def read_without_spark(table, source):
    reader = open_input(table, source)
    return [row for batch in reader for row in batch.to_pylist()], reader.counts


def assert_refused(session, tmp_path, source, message):
    with pytest.raises(ContractError, match=message):
        read_without_spark(schemas.RAW_PURCHASES, source)
    with pytest.raises(ContractError, match=message) as caught:
        read_by_spark(session, tmp_path, schemas.RAW_PURCHASES, source)
    assert len(str(caught.value)) < 900
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_used_is_refused(session, tmp_path, name):
    files, message, *options = REFUSED[name]
    assert_refused(session, tmp_path, deliver(tmp_path, files, **(options[0] if options else {})), message)


def test_a_huge_row_group_is_refused(session, tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "MAX_GROUP_ROWS", 8_999)
    source = deliver(tmp_path, {"p.parquet": parquet(WORDS)})
    assert_refused(session, tmp_path, source, "row group 0: 9,000 rows, expected at most 8,999")


def test_parts_of_different_types_are_refused_by_spark_and_widened_without(session, tmp_path):
    narrow = TABLE.set_column(2, "purchases", [pa.array(["3", "4"])])
    source = deliver(tmp_path, {"0.parquet": parquet(TABLE), "1.parquet": parquet(narrow)})
    with pytest.raises(ContractError, match=r"1.parquet.*purchases"):
        read_by_spark(session, tmp_path, schemas.RAW_PURCHASES, source)


GOOD = {"query": "a", "product_id": "p"}


def cells(column, *values):
    """A CSV file with these cells in a column of rows of query z, and one good row of query a."""
    lines = [b'z,p,"' + value + b'"' for value in values]
    return b"query,product_id," + column + b"\n" + b"".join(line + b"\n" for line in lines) + b"a,p,\n"


def ids(*values):
    """JSON records of query z with these ids as they stand, and one good one of query a."""
    return b"".join(b'{"query": "z", "product_id": ' + value + b"}\n" for value in values) + records(GOOD)


# name -> file, contents, the queries that stay, and the reasons of the others
JUDGED = {
    "byte order mark in CSV": ("p.csv", b"\xef\xbb\xbf" + HEADER + b"a,p,1\n", ["a"], {}),
    "byte order mark in JSON": ("p.jsonl", b"\xef\xbb\xbf" + records(GOOD, GOOD), ["a", "a"], {}),
    "gzip of two members": ("p.csv.gz", gzip.compress(HEADER) + gzip.compress(b"a,p,1\n"), ["a"], {}),
    "unknown extra column": ("p.csv", b"query,x,product_id\na,x,p\n", ["a"], {}),
    "unknown extra key": ("p.jsonl", records({"x": 1} | GOOD, {"y": {"query": 1}} | GOOD), ["a", "a"], {}),
    "null and blank id": ("p.jsonl", ids(b"null", b'""', b'" \\u3000"'), ["a"], {"product_id_missing": 3}),
    "id of 256 bytes": ("p.jsonl", ids(b'"' + b"x" * 256 + b'"'), ["a", "z"], {}),
    "id over 256 bytes": ("p.jsonl", ids(b'"' + b"x" * 257 + b'"'), ["a"], {"product_id_too_long": 1}),
    "id with NUL or newline": ("p.jsonl", ids(b'"\\u0000"', b'"p\\nq"', b'"\\u007f"'), ["a"], {"product_id_chars": 3}),
    "id with ../": ("p.jsonl", ids(b'"../p"', b'"a..b"'), ["a", "z"], {"product_id_chars": 1}),
    "ids that look like numbers": ("p.jsonl", ids(b"-1", b"9223372036854775808", b'"007"'), ["a", "z", "z", "z"], {}),
    "invalid UTF-8": ("p.csv", HEADER + b"a,p,1\n\xff,p,1\n", ["a"], {"encoding": 1}),
    "half a character in JSON": ("p.jsonl", ids(b'"\\ud800"'), ["a"], {"encoding": 1}),
    "record of 17 MB": ("p.jsonl", ids(b'"' + b"x" * 17_000_000 + b'"'), ["a"], {"malformed": 1}),
    "cell of 15 MB": ("p.csv", HEADER + b"a,p,1\nb," + b"x" * 15_000_000 + b",1\n", ["a"], {"product_id_too_long": 1}),
    "quote within an unquoted text": ("p.csv", HEADER + b'24" tv,p,1\n"a ""b""",p,1\n', ['24" tv', 'a "b"'], {}),
    "carriage return within a line of TSV": (
        "p.tsv",
        b"product_id\tquery\r\np\ta\rb\r\np\tc\n\r\np\td\te\r\n",
        ["a\rb", "c"],
        {"malformed": 1},
    ),
    "more after the record": (
        "p.jsonl",
        b"".join(records(GOOD)[:-1] + end for end in (b"]\n", b"} \n", b"] }\n", b",{}\n", b" x\n", b"  \r\n")),
        ["a"],
        {"malformed": 5},
    ),
    "ragged row": ("p.csv", HEADER + b"a,p,1\nb,p\nc,p,1,2\n", ["a"], {"malformed": 2}),
    "deep JSON": ("p.jsonl", records(GOOD) + b"[" * 100_000 + b"\n", ["a"], {"malformed": 1}),
    "no number": (
        "p.csv",
        cells(b"purchases", b"NaN", b"12,9", b"1e400", b"1_0", b"yes"),
        ["a"],
        {"purchases_type": 5},
    ),
    "negative or zero count": ("p.csv", cells(b"purchases", b"-1", b"0"), ["a"], {"purchases_range": 2}),
    "fractional or huge count": ("p.csv", cells(b"purchases", b"1.5", b"9" * 19), ["a"], {"purchases_type": 2}),
    "entities": (
        "p.tsv",
        b"query\tproduct_id\na &amp; b &amp;lt;\tp&amp;\n&#160;\tp\n&lt;" + b"x" * 1_022 + b"\tp\n",
        ["a & b &lt;", "\u00a0"],
        {"query_too_long": 1},
    ),
    "texts that normalisation mends": (
        "p.jsonl",
        records(
            *({"query": query, "product_id": "p"} for query in ("e\u0301", "a\u200b", "\x1b[31m", "a", "b &#38;\u202e"))
        ),
        ["\x1b[31m", "a", "a\u200b", "b &\u202e", "e\u0301"],
        {},
    ),
    "absurd day": (
        "p.csv",
        cells(b"event_date", b"9999-12-31", b"2100-01-01", b"0001-01-01", b"1970-01-01", b"1899-12-30"),
        ["a"],
        {"event_date_range": 5},
    ),
    "no date": (
        "p.csv",
        cells(b"event_date", b"0000-00-00", b"2026-02-30", b"2026-01-01T10:00:00", b"2026-1-1"),
        ["a"],
        {"event_date_type": 4},
    ),
}


# name -> what else is counted
MENDED = {
    "unknown extra column": {"unknown_columns": "x"},
    "unknown extra key": {"unknown_columns": "x, y"},
    "entities": {"entities_decoded": 2},
    "texts that normalisation mends": {"entities_decoded": 1, "invisible_removed": 3, "composed": 1},
}


def mended(counts):
    return {name: counts[name] for name in (*FIXES, "unknown_columns") if name in counts}


@pytest.mark.parametrize("name", JUDGED)
def test_a_bad_row_is_rejected_and_the_others_stay(session, tmp_path, name):
    file, content, kept, reasons = JUDGED[name]
    source = deliver(tmp_path, {file: content})
    rows, counts = read_without_spark(schemas.RAW_PURCHASES, source)
    assert sorted(row["query"] for row in rows) == kept
    assert {reason: reject.count for reason, reject in counts.rejects.items()} == reasons
    found = read_by_spark(session, tmp_path, schemas.RAW_PURCHASES, source)
    assert sorted(row.query for row in found.rows.select("query").collect()) == kept
    assert {reject["reason"]: reject["count"] for reject in found.rejects} == reasons
    assert found.counts["rows_in"] == counts.rows_in == len(kept) + sum(reasons.values())
    assert (
        mended(found.counts) == mended(counts.fixes | describe_unknown(counts.unknown_columns)) == MENDED.get(name, {})
    )


def test_numbers_that_are_none_are_out_of_range_in_parquet(session, tmp_path):
    scores = [0.5, float("nan"), float("inf"), -0.1, 1.1]
    table = pa.table({"query": ["a"] * 5, "node_id": ["n"] * 5, "score": scores})
    source = deliver(tmp_path, {"c.parquet": parquet(table)})
    rows, counts = read_without_spark(schemas.QUERY_CLASSES, source)
    found = read_by_spark(session, tmp_path, schemas.QUERY_CLASSES, source)
    assert [row["score"] for row in rows] == [row.score for row in found.rows.collect()] == [0.5]
    assert counts.rejects["score_range"].count == found.rejects[0]["count"] == 4


def test_a_folder_with_its_success_file_and_an_object_listed_twice_is_read_once(session, tmp_path, monkeypatch):
    files = {"_SUCCESS": b"", "0.csv": HEADER + b"a,p,1\n", "1.csv": HEADER + b"b,p,1\n"}
    source = deliver(tmp_path, files, success_file=True)
    assert read_by_spark(session, tmp_path, schemas.RAW_PURCHASES, source).counts["valid"] == 2

    class Doubled:
        def list(self, prefix):
            from indexer.store import StoredObject

            for name in ("_SUCCESS", "0.csv", "0.csv", "1.csv", "0.csv"):
                yield StoredObject(f"day/{name}", 1)

        def get_file(self, key, path):
            path.write_bytes(files[key.removeprefix("day/")])

    monkeypatch.setattr("indexer.contracts.files.open_store", lambda url: Doubled())
    source = InputConfig(path="s3://bucket/day", success_file=True)
    found = read_by_spark(session, tmp_path, schemas.RAW_PURCHASES, source)
    assert found.counts == {"rows_in": 2, "valid": 2, "rejected": 0, "files_listed_twice": 2}
    rows, counts = read_without_spark(schemas.RAW_PURCHASES, source)
    assert (len(rows), counts.fixes) == (2, {"files_listed_twice": 2})


def test_a_list_is_whole_or_none(session, tmp_path):
    values = ['["a","b"] x', '["a","b"]]', '\n["a","b"]', '["a"', "[a", "\u2003[]", '["a"]', "a > [b"]
    files = {"c.jsonl": records(*({"product_id": str(n), "title": "t", "node_ids": v} for n, v in enumerate(values)))}
    source = CatalogueConfig(path=deliver(tmp_path, files).path, max_reject_share=1.0)
    rows, counts = read_without_spark(schemas.CATALOGUE, source)
    found = read_by_spark(session, tmp_path, schemas.CATALOGUE, source)
    expected = {"2": ["a", "b"], "6": ["a"], "7": ["a", "[b"]}
    assert {row["product_id"]: row["node_ids"] for row in rows} == expected
    assert {row.product_id: row.node_ids for row in found.rows.collect()} == expected
    assert {name: reject.count for name, reject in counts.rejects.items()} == {"node_ids_type": 5}
    assert {reject["reason"]: reject["count"] for reject in found.rejects} == {"node_ids_type": 5}


def test_columns_without_a_value_and_nanoseconds_that_nobody_reads_do_no_harm(session, tmp_path):
    """As pandas writes a part whose cells are all None, and dates."""
    catalogue = {"product_id": ["p", "q"], "title": ["t", "u"], "created": pa.array([1, None], pa.timestamp("ns"))}
    parts = (
        {"brand": pa.nulls(2), "node_ids": pa.nulls(2), "category_path": pa.nulls(2)},
        {"brand": ["b", None], "node_ids": [["n"], None], "category_path": pa.nulls(2)},
        {"brand": pa.nulls(2), "node_ids": [None, ["n"]], "category_path": pa.nulls(2)},
    )
    files = {f"{number}.parquet": parquet(pa.table(catalogue | part)) for number, part in enumerate(parts)}
    source = CatalogueConfig(path=deliver(tmp_path, files).path)
    rows, _ = read_without_spark(schemas.CATALOGUE, source)
    found = read_by_spark(session, tmp_path, schemas.CATALOGUE, source)
    expected = [(None, None)] * 4 + [(None, ["n"]), ("b", ["n"])]
    assert sorted(((row["brand"], row["node_ids"]) for row in rows), key=str) == sorted(expected, key=str)
    told = [(row.brand, row.node_ids) for row in found.rows.collect()]
    assert sorted(told, key=str) == sorted(expected, key=str)
    assert found.counts["valid"] == 6


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("x", pa.array([1], pa.time32("ms")), "Illegal Parquet type"),
        ("x", pa.array([1], pa.time64("us")), "TIME|Illegal Parquet type"),
        ("x", pa.array([1], pa.decimal256(50)), "exceeds max precision"),
        ("_metadata", pa.array(["x"]), "_metadata"),
    ],
)
def test_columns_that_spark_cannot_pass_over_are_told(session, tmp_path, name, values, message):
    source = deliver(tmp_path, {"p.parquet": parquet(pa.table({"query": ["a"], "product_id": ["p"], name: values}))})
    assert read_without_spark(schemas.RAW_PURCHASES, source)[1].rows_out == 1
    with pytest.raises(ContractError, match=rf"p\.parquet: a file cannot be read: .*({message})"):
        read_by_spark(session, tmp_path, schemas.RAW_PURCHASES, source)


def test_fields_of_a_record_that_differ_in_case_alone_are_no_traceback(session, tmp_path):
    source = deliver(tmp_path, {"p.jsonl": records({"Name": "a", "name": "p"})})
    source = replace(source, columns={"query": "Name", "product_id": "name"})
    with pytest.raises(ConfigError, match=r"\[purchases\] columns: 'Name' and 'name' differ in upper and lower case"):
        read_by_spark(session, tmp_path, schemas.RAW_PURCHASES, source)


@pytest.mark.parametrize("name", ["_p.csv", ".p.jsonl"])
def test_a_hidden_file_is_read_where_it_is_named(session, tmp_path, name):
    content = HEADER + b"a,p,1\n" if name.endswith("csv") else records(GOOD)
    source = deliver(tmp_path, {name: content})
    assert len(read_without_spark(schemas.RAW_PURCHASES, source)[0]) == 1
    assert read_by_spark(session, tmp_path, schemas.RAW_PURCHASES, source).counts["valid"] == 1


def test_a_line_that_nobody_could_read_is_not_shown_where_people_may_be_in_it(session, tmp_path):
    line = b"red mug,p,3,jane@example.com,x\n"
    source = deliver(tmp_path, {"p.csv": b"query,product_id,purchases,mail\na,p,1,joe@example.com\n" + line})
    counts = read_without_spark(schemas.RAW_PURCHASES, source)[1]
    (reject,) = read_by_spark(session, tmp_path, schemas.RAW_PURCHASES, source).rejects
    assert counts.rejects["malformed"].sample == reject["sample"] == "withheld, since the record may name a person"


@pytest.mark.parametrize(
    ("key", "value"), [("spark.sql.shuffle.partitions", "abc"), ("spark.sql.files.maxPartitionBytes", "12 apples")]
)
def test_a_setting_that_spark_does_not_take_is_told(session, key, value):
    before = session.conf.get(key)
    message = rf"job: Spark does not take a setting: .*{value}.*correct \[spark\] conf"
    try:
        with pytest.raises(ConfigError, match=message), spark_failures("job"):
            use_setting(session, key, value)
    finally:
        session.conf.set(key, before)


def use_setting(session, key, value):
    """Set it and have it looked at, whichever of the two is refused."""
    session.conf.set(key, value)
    session.range(4).groupBy("id").count().collect()
