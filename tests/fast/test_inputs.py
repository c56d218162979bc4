"""Reading a shop's tables: every kind of file, every kind of bad row."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.contracts import schemas
from indexer.contracts.checks import check_column
from indexer.contracts.cleaning import count_fixes
from indexer.contracts.inputs import InputReader, open_input
from indexer.errors import ConfigError, ContractError
from indexer.input_config import CatalogueConfig, InputConfig, LabelsConfig, PurchasesConfig

LENIENT = {"max_reject_share": 1.0}


def read(reader: InputReader) -> list[dict[str, object]]:
    return [row for batch in reader for row in batch.to_pylist()]


def reasons(reader: InputReader) -> dict[str, int]:
    return {reason: reject.count for reason, reject in reader.counts.rejects.items()}


def catalogue(path: Path, **options: object) -> InputReader:
    return open_input(schemas.CATALOGUE, CatalogueConfig(path=str(path), **(LENIENT | options)))


PRODUCTS = [
    {"product_id": "007", "title": "Sipper", "category_path": ["Home", "Baby"]},
    {"product_id": "8", "title": 'Pipe 3"', "category_path": None},
]


@pytest.mark.parametrize("name", ["c.parquet", "c.csv", "c.csv.gz", "c.tsv", "c.jsonl", "c.jsonl.gz"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name):
    path = tmp_path / name
    if "parquet" in name:
        pq.write_table(pa.Table.from_pylist(PRODUCTS), path)
    else:
        text = {
            "csv": 'product_id,title,category_path\n007,Sipper,Home > Baby\n8,"Pipe 3""",\n',
            "tsv": 'product_id\ttitle\tcategory_path\n007\tSipper\tHome > Baby\n8\tPipe 3"\t\n',
            "jsonl": "".join(json.dumps(row) + "\n" for row in PRODUCTS),
        }[name.split(".")[1]]
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    rows = read(catalogue(path))
    assert [(r["product_id"], r["title"], r["category_path"]) for r in rows] == [
        ("007", "Sipper", ["Home", "Baby"]),
        ("8", 'Pipe 3"', None),
    ]


def test_columns_are_mapped(tmp_path):
    (tmp_path / "c.csv").write_text("asin,name,extra\nB1,Sipper,x\n")
    rows = read(catalogue(tmp_path / "c.csv", columns={"product_id": "asin", "title": "name"}))
    assert rows[0]["product_id"] == "B1"
    assert rows[0]["title"] == "Sipper"


def test_every_row_comes_out_or_is_rejected_with_its_reason(tmp_path):
    rows = [
        b'{"product_id": "1", "title": "good"}',
        b'{"product_id": null, "title": "x"}',
        b'{"product_id": "  ", "title": "x"}',
        b'{"product_id": "2", "title": null}',
        b'{"product_id": "3", "title": "   "}',
        b'{"product_id": "4\\n5", "title": "x"}',
        b'{"product_id": "' + b"9" * 257 + b'", "title": "x"}',
        b'{"product_id": "6", "title": "' + b"t" * 8193 + b'"}',
        b'{"product_id": "7", "title": "\xff\xfe"}',
        b'{"product_id": "8", "title": "\\ud800"}',
        b'{"product_id": "9", "title": "x"',
        b"[1, 2]",
        b'{"product_id": "10", "title": "x", "node_ids": "[1"}',
        b'{"product_id": "11", "title": NaN}',
        b'{"product_id": "12", "title": "x", "brand": -Infinity}',
    ]
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"\n".join(rows) + b"\n")
    reader = catalogue(path)
    assert [row["product_id"] for row in read(reader)] == ["1"]
    assert reasons(reader) == {
        "product_id_missing": 2,
        "title_missing": 2,
        "product_id_chars": 1,
        "product_id_too_long": 1,
        "title_too_long": 1,
        "encoding": 2,
        "malformed": 4,
        "node_ids_type": 1,
    }
    assert reader.counts.rows_in == 15 == reader.counts.rows_out + reader.counts.rejected
    assert {row["reason"]: row["key"] for row in reader.counts.as_rows()}["title_missing"] == "2"


def test_ragged_rows_and_number_columns(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(
        "query,product_id,purchases,event_date\n"
        "a,1,5,2026-01-31\nb,1,0,\nc,1,-3,\nd,1,2.5,\ne,1,1e9,\nf,1\ng,1,9,2026-02-30\nh,1,,\ni,1,+7,\n"
    )
    reader = open_input(schemas.RAW_PURCHASES, PurchasesConfig(path=str(path), **LENIENT))
    rows = read(reader)
    assert [(r["query"], r["purchases"]) for r in rows] == [("a", 5), ("h", None), ("i", 7)]
    assert reasons(reader) == {"purchases_range": 2, "purchases_type": 2, "malformed": 1, "event_date_type": 1}


def test_a_long_optional_text_is_cut_and_counted(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps({"product_id": "1", "title": "t", "description": "\u00e9" * 5000}) + "\n")
    reader = catalogue(path)
    assert len(read(reader)[0]["description"]) == schemas.TEXT_BYTES // 4
    assert reader.counts.as_counts()["fixed"] == {"description_cut": 1}


DAMAGED = [
    {"product_id": "1&amp;", "title": "Salt &amp; pepper &amp;lt;", "brand": "A&#38;B", "x": "&amp;", "y": "1"},
    {"product_id": "2", "title": "cafe\u0301\u200b", "category_path": ["Home &amp; Garden", "Caf\u00e9"]},
    {"product_id": "3", "title": "&nbsp;", "brand": "e\u0301"},
    {"product_id": "4", "title": "x", "category_path": None},
]


@pytest.mark.parametrize("name", ["c.jsonl", "c.parquet", "c.tsv"])
def test_entities_are_decoded_and_rows_with_damaged_texts_and_unknown_columns_counted(tmp_path, name):
    path, columns = tmp_path / name, ["product_id", "title", "brand", "category_path", "x", "y"]
    if name == "c.parquet":
        pq.write_table(pa.Table.from_pylist([{key: row.get(key) for key in columns} for row in DAMAGED]), path)
    elif name == "c.jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in DAMAGED))
    else:
        paths = [" > ".join(row.get("category_path") or ()) for row in DAMAGED]
        cells = [row | {"category_path": text} for row, text in zip(DAMAGED, paths, strict=True)]
        lines = [columns, *([row.get(key, "") for key in columns] for row in cells)]
        path.write_text("".join("\t".join(line) + "\n" for line in lines))
    reader = catalogue(path)
    rows = [(row["product_id"], row["title"], row["brand"], row["category_path"]) for row in read(reader)]
    assert rows == [
        ("1&amp;", "Salt & pepper &lt;", "A&B", None),
        ("2", "cafe\u0301\u200b", None, ["Home & Garden", "Caf\u00e9"]),
        ("3", "\u00a0", "e\u0301", None),
        ("4", "x", None, None),
    ]
    counts = reader.counts.as_counts()
    assert counts["fixed"] == {"composed": 2, "entities_decoded": 3, "invisible_removed": 1}
    assert counts["unknown_columns"] == "x, y"


@pytest.mark.parametrize(
    ("separator", "written", "names"),
    [
        (";", "Toys &amp; Games;Dolls", ["Toys & Games", "Dolls"]),
        ("/", "Toys &amp; Games/A &amp;lt; B", ["Toys & Games", "A &lt; B"]),
        (";", '["Toys &amp; Games;Dolls", "A &amp;lt; B", "&nbsp;"]', ["Toys & Games;Dolls", "A &lt; B"]),
        (";", ["Toys &amp; Games;Dolls", "A &amp;lt; B", "&nbsp;"], ["Toys & Games;Dolls", "A &lt; B"]),
        (" > ", "Home &amp; Garden &gt; Pots > &nbsp;", ["Home & Garden", "Pots"]),
        (">", "&nbsp;", None),
    ],
)
def test_a_list_written_as_one_text_is_decoded_once_before_it_is_split(separator, written, names):
    column = schemas.CATALOGUE.column("category_path")
    typed, findings, _ = check_column(pa.array([written]), column, place="c.csv", separator=separator)
    assert typed.to_pylist() == [names]
    assert not any(applies[0].as_py() for _, applies in findings)


@pytest.mark.parametrize("text", [pa.string(), pa.large_string()], ids=str)
@pytest.mark.parametrize("kind", [pa.ListArray, pa.LargeListArray], ids=lambda kind: kind.__name__)
def test_lists_of_wide_types_and_nulls_with_items_behind_them_are_decoded_and_counted(kind, text):
    offsets = pa.array([0, 1, 3, 3, 5], pa.int64() if kind is pa.LargeListArray else pa.int32())
    items = pa.array(["Caf\u00e9", "x &amp; y", "e\u0301", "Home &amp; Garden", None], text)
    lists = kind.from_arrays(offsets, items, mask=pa.array([False, True, False, False]))
    fixes = []
    count_fixes(lists, lambda fix, row: fixes.append((fix, row)))
    assert fixes == [("entities_decoded", 3)]
    typed, findings, _ = check_column(lists, schemas.CATALOGUE.column("category_path"), place="c.parquet")
    assert typed.to_pylist() == [["Caf\u00e9"], None, None, ["Home & Garden"]]
    assert findings == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.csv", b"", "0 rows"),
        ("c.csv.gz", gzip.compress(b"", mtime=0), "0 rows"),
        ("c.csv", b"product_id,title\n", "0 rows"),
        ("c.jsonl", b"", "0 rows"),
        ("c.csv", b"id,title\n1,x\n", r"needs the column 'product_id', found id, title; .*\[catalogue.columns\]"),
        ("c.jsonl", b'{"id": 1, "title": "x"}\n' * 3, r"needs the column 'product_id', found id, title; .*catalogue"),
        ("c.csv", b"product_id,t\xff\n1,x\n", "header is not UTF-8"),
        ("c.csv", b"product_id,title,title\n1,x,y\n", "'title' appears twice"),
        ("c.csv", b'product_id,title\n1,"x\n2,y\n', "line 2.*quote"),
        ("c.csv", "product_id,title\n1,x\n".encode("utf-16"), "UTF-16"),
        ("c.csv.gz", b"\x1f\x8b\x08broken", "cannot be read"),
        ("c.parquet", b"PAR1broken", "cannot be read"),
        ("c.xlsx", b"x", "unknown kind of file"),
    ],
)
def test_an_unusable_file_is_refused_in_one_sentence(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ContractError, match=message) as caught:
        read(catalogue(tmp_path / name))
    assert caught.value.exit_code == 3
    assert name in str(caught.value)


def test_missing_file_and_unset_path(tmp_path):
    with pytest.raises(ContractError, match=r"no such file or folder; correct \[catalogue\] path"):
        read(catalogue(tmp_path / "none.csv"))
    with pytest.raises(ConfigError, match=r"^\[catalogue\] path: not set"):
        read(open_input(schemas.CATALOGUE, CatalogueConfig()))


def test_a_changed_parquet_type_is_refused_and_a_narrow_one_widened(tmp_path):
    table = pa.table({"query": ["a"], "product_id": ["1"], "purchases": pa.array([3], pa.int16())})
    pq.write_table(table, tmp_path / "p.parquet")
    source = PurchasesConfig(path=str(tmp_path / "p.parquet"))
    assert read(open_input(schemas.RAW_PURCHASES, source))[0]["purchases"] == 3
    pq.write_table(table.set_column(1, "product_id", pa.array([7])), tmp_path / "p.parquet")
    with pytest.raises(ContractError, match="column product_id has type int64; expected string"):
        read(open_input(schemas.RAW_PURCHASES, source))


def test_too_many_rejects_stop_the_run(tmp_path):
    (tmp_path / "c.csv").write_text("product_id,title\n1,x\n2,\n3,z\n")
    with pytest.raises(ContractError, match=r"1 of 3 rows rejected \(title_missing 1"):
        read(catalogue(tmp_path / "c.csv", max_reject_share=0.3))
    assert len(read(catalogue(tmp_path / "c.csv", max_reject_share=0.34))) == 2


@pytest.mark.parametrize(
    ("words", "grades"),
    [
        (["E", "S", "C", "I"], [3, 2, 1, 0]),
        (["high", "low", "irrelevant", "HIGH"], [3, 2, 0, 3]),
        (["3", "2", "1", "0"], [3, 2, 1, 0]),
        (["Excellent", "Good", "Okay", "Bad"], [3, 2, 1, 0]),
        (["fine", "junk", "E", "E"], [2, 0, 3, 3]),
    ],
)
def test_label_vocabularies(tmp_path, words, grades):
    lines = "".join(f"q\t{at}\t{word}\n" for at, word in enumerate(words))
    (tmp_path / "l.tsv").write_text("query\tproduct_id\tlabel\n" + lines)
    source = LabelsConfig(path=str(tmp_path / "l.tsv"), grades={"Fine": 2, "junk": 0})
    rows = read(open_input(schemas.LABELS, source))
    assert [row["grade"] for row in rows] == grades
    assert [row["label"] for row in rows] == [("irrelevant", "irrelevant", "low", "high")[grade] for grade in grades]


@pytest.mark.line(69)
def test_unknown_label_words_are_rejected(tmp_path):
    (tmp_path / "l.tsv").write_text("query\tproduct_id\tlabel\nq\t1\tE\nq\t2\t3.5\nq\t3\t\nq\t4\ttrue\n")
    reader = open_input(schemas.LABELS, LabelsConfig(path=str(tmp_path / "l.tsv"), **LENIENT))
    assert len(read(reader)) == 1
    assert reasons(reader) == {"label_unknown": 2, "label_missing": 1}


def test_mapping_of_an_unknown_column_is_refused(tmp_path):
    (tmp_path / "c.csv").write_text("product_id,title\n1,x\n")
    with pytest.raises(ConfigError, match=r"^\[catalogue.columns\] tilte: CATALOGUE has only product_id, title"):
        read(catalogue(tmp_path / "c.csv", columns={"tilte": "title"}))


def test_entities_are_decoded_in_ids_of_nodes_and_in_no_others():
    columns = [column for table in schemas.TABLES.values() for column in table.columns]
    ids = {column.name: column.text for column in columns if column.name.endswith(("_id", "_ids", "_node"))}
    assert {name for name, text in ids.items() if text} == {"node_id", "node_ids", "parent_id", "from_node", "to_node"}
    assert {"product_id", "object_id", "event_id", "query_id", "user_id"} <= ids.keys()


def test_schema_carries_the_column_docs():
    for table in schemas.TABLES.values():
        assert all(field.metadata[b"doc"] for field in table.schema)
        assert all(name in table.schema.names for name in table.key)


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), min_size=1, max_size=30))
def test_rows_in_are_rows_out_plus_rejects_for_any_text(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("any") / "c.jsonl"
    path.write_text("".join(json.dumps({"product_id": a, "title": b}) + "\n" for a, b in pairs))
    reader = open_input(schemas.CATALOGUE, CatalogueConfig(path=str(path), **LENIENT))
    rows = read(reader)
    assert reader.counts.rows_in == len(pairs) == len(rows) + reader.counts.rejected
    usable = [(a, b) for a, b in pairs if a.strip() and b.strip() and not any(ord(c) < 32 or ord(c) == 127 for c in a)]
    assert {(row["product_id"], row["title"]) for row in rows} <= set(pairs)
    assert len(rows) >= len([pair for pair in usable if all(text.isascii() for text in pair)])


def test_config_base_class_refuses_unknown_format():
    with pytest.raises(Exception, match="format: expected one of"):
        InputConfig(format="xlsx")


def test_a_key_that_comes_late_is_a_column_and_one_that_never_comes_is_named(tmp_path):
    path = tmp_path / "p.jsonl"
    lines = ['{"query": "q", "product_id": "p"}'] * 6_000
    path.write_text("\n".join([*lines, '{"query": "q", "product_id": "p", "purchases": 3}']))
    rows = read(open_input(schemas.RAW_PURCHASES, PurchasesConfig(path=str(path))))
    assert (len(rows), rows[-1]["purchases"]) == (6_001, 3)
    source = PurchasesConfig(path=str(path), columns={"event_date": "day"})
    with pytest.raises(
        ContractError, match=r"needs the column 'day', found product_id, purchases, query; .*event_date"
    ):
        read(open_input(schemas.RAW_PURCHASES, source))


def test_names_in_a_header_are_stripped_and_empty_lines_skipped(tmp_path):
    (tmp_path / "c.tsv").write_text("\n product_id\ttitle \n\n1\tx\n\t\n \n2\ty\n")
    reader = catalogue(tmp_path / "c.tsv")
    assert [(row["product_id"], row["title"]) for row in read(reader)] == [("1", "x"), ("2", "y")]
    assert reader.counts.rows_in == 2


def test_lists_of_numbers_are_lists_of_their_texts_and_other_parquet_lists_are_refused(tmp_path):
    (tmp_path / "c.jsonl").write_text('{"product_id": 1.50, "title": "x", "node_ids": [12, null, 2.50, " a ", ""]}\n')
    (row,) = read(catalogue(tmp_path / "c.jsonl"))
    assert (row["product_id"], row["node_ids"]) == ("1.5", ["12", "2.5", "a"])
    pq.write_table(pa.table({"product_id": ["1"], "title": ["x"], "node_ids": [[1, 2]]}), tmp_path / "c.parquet")
    with pytest.raises(ContractError, match=r"column node_ids has type list<.*int64>; expected list<.*string>"):
        read(catalogue(tmp_path / "c.parquet"))


def test_invalid_text_anywhere_in_a_json_record_rejects_it(tmp_path):
    lines = [
        b'{"product_id": "1", "title": "x", "other": "\xff"}',
        b'{"product_id": "2", "title": "x", "o": "\\ud83d"}',
    ]
    (tmp_path / "c.jsonl").write_bytes(b"\n".join([*lines, b'{"product_id": "3", "title": "\\ud83d\\ude00"}']))
    reader = catalogue(tmp_path / "c.jsonl")
    assert [row["title"] for row in read(reader)] == ["\U0001f600"]
    assert reasons(reader) == {"encoding": 2}


def test_a_whole_number_that_no_float_holds_is_rounded():
    weights, findings, _ = check_column(pa.array([2**60 + 1, 3]), schemas.LABELS.column("weight"), place="l.parquet")
    assert weights.to_pylist() == [2.0**60, 3.0]
    assert not any(any(found.to_pylist()) for _, found in findings)
