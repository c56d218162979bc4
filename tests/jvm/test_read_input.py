"""Shop tables through Spark: every kind of file, every kind of bad row, and the same answers as without Spark."""

import gzip
import json
import os

import pyarrow as pa
import pytest
from pyspark.errors import PySparkException

from indexer.contracts import schemas
from indexer.contracts.tables import read_table as read_batches
from indexer.errors import ConfigError, ContractError, IntegrityError, StoreError
from indexer.input_config import InputConfig, PurchasesConfig
from indexer.runs import StepCommit, StepFolder
from spark.inputs import locate_input
from spark.session import spark_failures
from spark.tables import read_input, read_table, spark_schema, write_table

pytestmark = pytest.mark.jvm

PRODUCTS = [
    {"product_id": "007", "title": "Sipper", "category_path": ["Home", "Baby"]},
    {"product_id": "8", "title": 'Pipe 3"', "category_path": None},
]


def reasons(result):
    return {reject["reason"]: reject["count"] for reject in result.rejects}


@pytest.mark.parametrize("name", ["c.parquet", "c.csv.gz", "c.tsv", "c.jsonl.gz"])
def test_every_kind_of_file_gives_the_same_rows(read, name):
    text = {
        "csv": 'product_id,title,category_path\r\n007,Sipper,Home > Baby\r\n8,"Pipe 3""",\r\n',
        "tsv": 'product_id\ttitle\tcategory_path\n007\tSipper\t["Home", "Baby"]\n8\tPipe 3"\t\n',
        "jsonl": "".join(json.dumps(row) + "\n" for row in PRODUCTS),
        "parquet": pa.Table.from_pylist(PRODUCTS),
    }[name.split(".")[1]]
    result, _ = read(name, text, schemas.CATALOGUE)
    rows = [(r.product_id, r.title, r.category_path, r.brand) for r in result.rows.orderBy("product_id").collect()]
    assert rows == [("007", "Sipper", ["Home", "Baby"], None), ("8", 'Pipe 3"', None, None)]
    assert result.counts == {"rows_in": 2, "valid": 2, "rejected": 0}
    assert result.rows.schema.names == [column.name for column in schemas.CATALOGUE.columns]


def test_bad_rows_are_rejected_by_reason_and_counted(read, bad_tsv):
    result, _ = read("bad.tsv", bad_tsv)
    assert reasons(result) == {
        "malformed": 2,
        "encoding": 1,
        "query_missing": 2,
        "product_id_missing": 1,
        "product_id_chars": 1,
        "product_id_too_long": 1,
        "purchases_range": 2,
        "purchases_type": 3,
        "event_date_type": 1,
    }
    assert result.counts == {"rows_in": 17, "valid": 3, "rejected": 14, "invisible_removed": 1}
    assert {row.query for row in result.rows.collect()} == {"good", '"12 inch', "damaged \ufffd"}
    samples = {reject["reason"]: (reject["key"], reject["sample"]) for reject in result.rejects}
    assert samples["purchases_range"] == ("negative / p8", "-3")
    assert samples["event_date_type"] == ("day / p13", "2026-02-30")


def test_a_parquet_list_of_numbers_is_refused(read):
    content = pa.table({"product_id": ["1"], "title": ["x"], "node_ids": [[1, 2]]})
    with pytest.raises(ContractError, match="node_ids: expected array<string>, found array<bigint>"):
        read("c.parquet", content, schemas.CATALOGUE)


def test_a_json_column_is_there_if_any_record_has_it(read, session, tmp_path):
    short, late = '{"query": "q", "product_id": "p"}', '{"query": "q", "product_id": "p", "purchases": null}'

    def count(*lines):
        path = tmp_path / "p.jsonl"
        path.write_text("\n".join(lines))
        source = PurchasesConfig(path=str(path), max_reject_share=1.0)
        location = locate_input(session, source, section="purchases", staging=tmp_path)
        return read_input(session, schemas.RAW_PURCHASES, location, source, filled=("purchases",))

    assert count(*[short] * 1_500).counts["valid"] == 1_500
    result = count(*[short] * 1_500, late, late.replace("null", "7"))
    assert reasons(result) == {"purchases_missing": 1_501}
    assert [row.purchases for row in result.rows.collect()] == [7]
    assert reasons(count("no record")) == {"malformed": 1}
    result, _ = read(
        "late.jsonl", "\n".join([*[short] * 1_500, '{"query": "q", "product_id": "p", "event_date": "2026-01-02"}'])
    )
    assert result.rows.where("event_date IS NOT NULL").count() == 1


def test_broken_json(read):
    lines = [
        '{"query": "a", "product_id": 7, "purchases": "3"}',
        '{"query": "half", "product_id": "p"',
        '{"query": "two", "product_id": "p"} {"query": "records", "product_id": "p"}',
        "[1, 2]",
        "",
        '{"query": "\\ud83d\\ude00", "product_id": "p"}',
        '{"query": "lone \\ud83d", "product_id": "p"}',
        '{"query": "escaped \\\\ud83d", "product_id": "p"}',
    ]
    result, _ = read("a.jsonl", "\n".join(lines))
    assert reasons(result) == {"malformed": 3, "encoding": 1}
    found = {(r.query, r.product_id, r.purchases) for r in result.rows.collect()}
    assert found == {("a", "7", 3), ("\U0001f600", "p", None), ("escaped \\ud83d", "p", None)}


def test_csv_with_line_breaks_and_columns_in_any_order(read):
    text = '\ufeffextra,Item,q\n1,p1,"two\nlines, ""quoted"""\n2,p2,plain\n'
    result, _ = read("a.csv", text, columns={"query": "q", "product_id": "Item"})
    found = {(r.query, r.product_id) for r in result.rows.collect()}
    assert found == {('two\nlines, "quoted"', "p1"), ("plain", "p2")}


def test_long_optional_text_is_cut_and_required_text_is_refused(read):
    rows = [{"product_id": "1", "title": "t", "description": "é" * 9_000}, {"product_id": "2", "title": "t" * 9_000}]
    result, _ = read("c.jsonl", "\n".join(json.dumps(row) for row in rows), schemas.CATALOGUE)
    assert reasons(result) == {"title_too_long": 1}
    (kept,) = result.rows.collect()
    assert kept.description == "é" * 2_048


def test_parquet_types_are_widened_when_safe_and_refused_when_not(read):
    def frame(kind, value=3):
        types = pa.schema([("query", pa.string()), ("product_id", pa.string()), ("purchases", kind)])
        return pa.Table.from_pylist([{"query": "q", "product_id": "p", "purchases": value}], schema=types)

    result, _ = read("int32.parquet", frame(pa.int32()))
    assert result.rows.collect()[0].purchases == 3
    for kind, value in ((pa.float64(), 3.0), (pa.string(), "3")):
        with pytest.raises(ContractError, match="purchases: expected bigint, found"):
            read(f"{kind}.parquet", frame(kind, value))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.csv", "query,prod\na,b\n", r"needs the column 'product_id', found query, prod; .*product_id = "),
        ("missing.jsonl", '{"query": "a", "item": "b"}\n', "needs the column 'product_id', found item, query"),
        ("torn.parquet", b"PAR1 and nothing more PAR1", "cannot be read"),
        ("torn.csv.gz", None, "cannot be read"),
        ("what.xlsx", "query,product_id\n", "unknown kind of file"),
    ],
)
def test_unusable_files_stop_the_run(read, tmp_path, name, content, message):
    if content is None:
        whole = gzip.compress(b"query,product_id\n" + b"".join(b"q%d,p%d\n" % (n, n) for n in range(5_000)))
        path = tmp_path / name
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ContractError, match=message):
            read("other.csv", "x\n", source=InputConfig(path=str(path)))
        return
    with pytest.raises(ContractError, match=message):
        read(name, content)


def test_missing_file_and_unknown_column_name_what_to_do(read, session, tmp_path):
    with pytest.raises(ContractError, match=r"no such file or folder; correct .purchases. path or deliver"):
        read("a.csv", "x\n", source=InputConfig(path=str(tmp_path / "absent.csv")))
    with pytest.raises(ConfigError, match="path: not set"):
        read("a.csv", "x\n", source=InputConfig())
    with pytest.raises(ConfigError, match="querry: RAW_PURCHASES has only query"):
        read("a.csv", "query,product_id\na,b\n", columns={"querry": "q"})


def test_too_many_rejects_stop_the_run_with_the_reasons(read, bad_tsv):
    with pytest.raises(ContractError, match=r"14 of 17 rows rejected.*3 purchases_type \(such as '3.5'"):
        read("bad.tsv", bad_tsv, max_reject_share=0.8)


def test_a_folder_of_parts_is_one_table_and_an_unfinished_one_is_refused(read, tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    for name, product in (("part-1.csv", "b"), ("part-0.csv", "a"), ("_SUCCESS", ""), (".part-1.csv.crc", "x")):
        (folder / name).write_text(f"query,product_id\nq,{product}\n" if product else "")
    source = PurchasesConfig(path=str(folder))
    result, _ = read("x.csv", "x\n", source=source)
    assert sorted(row.product_id for row in result.rows.collect()) == ["a", "b"]
    (folder / "part-2.csv").write_text("product_id,query\nc,q\n")
    with pytest.raises(ContractError, match="one header in all files, found 2"):
        read("x.csv", "x\n", source=source)
    (folder / "_temporary").mkdir()
    (folder / "_temporary" / "part-3.csv").write_text("")
    with pytest.raises(ContractError, match="still being written"):
        read("x.csv", "x\n", source=source)


def test_spark_types_follow_the_contract():
    found = {field.name: (field.dataType.simpleString(), field.nullable) for field in spark_schema(schemas.CATALOGUE)}
    assert found["product_id"] == ("string", False)
    assert found["category_path"] == ("array<string>", True)
    assert spark_schema(schemas.PURCHASES)["purchases"].dataType.simpleString() == "bigint"


def test_a_table_of_the_wrong_type_is_not_written(session, tmp_path):
    frame = session.createDataFrame([("q", "p", 1)], "query string, product_id string, purchases int")
    with pytest.raises(ContractError, match=r"PURCHASES.purchases: expected bigint to write, found int"):
        write_table(frame, tmp_path, schemas.PURCHASES)
    with pytest.raises(ContractError, match="product_id: expected string to write, found no such column"):
        write_table(frame.drop("product_id"), tmp_path, schemas.PURCHASES)
    assert list(tmp_path.iterdir()) == []


PAIR = {
    **{"query_a": "a", "query_b": "b", "npmi": 0.6, "ceiling": 0.7, "joint": 0.1, "p_a": 0.2, "p_b": 0.3},
    **{"support": 20, "shared_products": 2},
}
GRAM = {"query_a": "a", "query_b": "b", "overlap": 9, "gram": 0.5, "joint": 0.1, "shared_products": 2}


@pytest.mark.parametrize(
    ("table", "row", "rule"),
    [
        (schemas.QUERY_PAIRS, PAIR, None),
        (schemas.QUERY_PAIRS, PAIR | {"ceiling": None, "joint": 0.9, "npmi": float("inf")}, None),
        (schemas.QUERY_PAIRS, PAIR | {"joint": 0.20001}, r"joint <= least\(p_a, p_b\)"),
        (schemas.QUERY_PAIRS, PAIR | {"npmi": 0.70001}, r"npmi <= ceiling"),
        (schemas.QUERY_PAIRS, PAIR | {"npmi": float("nan")}, r"NOT isnan\(npmi\)"),
        (schemas.QUERY_PAIRS, PAIR | {"query_a": "b", "query_b": "a"}, "query_a < query_b"),
        (schemas.QUERY_PAIRS, PAIR | {"query_b": "a"}, "query_a < query_b"),
        (schemas.QUERY_GRAM, GRAM, None),
        (schemas.QUERY_GRAM, GRAM | {"gram": 1.001}, "gram <= 1"),
        (schemas.QUERY_GRAM, GRAM | {"overlap": 1}, "overlap >= shared_products"),
    ],
    ids=[
        "a pair",
        "a literal pair",
        "pair count above a single count",
        "above the ceiling",
        "not a number",
        "the lower half of the matrix",
        "the diagonal",
        "a gram row",
        "gram above 1",
        "more products than purchases",
    ],
)
@pytest.mark.line(57, 60)
def test_a_table_that_breaks_its_own_rules_is_not_left_standing(session, tmp_path, table, row, rule):
    frame = session.createDataFrame([row], spark_schema(table)).coalesce(1)
    if rule is None:
        assert write_table(frame, tmp_path, table) == 1
        return
    with pytest.raises(IntegrityError, match=f"{table.name}: 1 of 1 rows break the rule .*{rule}"):
        write_table(frame, tmp_path, table)


def test_a_changed_byte_in_a_table_of_our_own_is_noticed(session, tmp_path):
    frame = session.createDataFrame([("needle in hay", "p", 1)], spark_schema(schemas.PURCHASES))
    commit_table(tmp_path, lambda folder: write_table(frame.coalesce(1), folder, schemas.PURCHASES))
    assert [batch.num_rows for batch in read_batches(tmp_path, "2026-11-20", schemas.PURCHASES)] == [1]
    (file,) = tmp_path.rglob("*.parquet")
    data = file.read_bytes()
    assert data.count(b"needle") >= 1
    # The first place is the page, later ones are the footer's statistics.
    file.write_bytes(data.replace(b"needle", b"nettle", 1))
    for crc in file.parent.glob(".*.crc"):
        crc.unlink()
    with pytest.raises(ContractError, match="cannot be read"):
        list(read_batches(tmp_path, "2026-11-20", schemas.PURCHASES))
    with pytest.raises(ContractError, match="cannot be read"), spark_failures("x"):
        read_table(session, tmp_path, schemas.PURCHASES, "2026-11-20").collect()


def test_a_worker_that_dies_is_not_taken_for_a_damaged_file(session):
    def die(batches):
        list(batches)
        os._exit(9)

    dying = session.range(1).mapInArrow(die, "id long")
    with pytest.raises(StoreError, match=r"^npmi: Spark lost what it runs on: Python worker"), spark_failures("npmi"):
        dying.collect()


def test_a_cluster_that_does_not_answer_is_worth_a_retry():
    said = "An error occurred\n: java.lang.IllegalStateException: Cannot call methods on a stopped SparkContext.\nThis"
    with pytest.raises(StoreError, match="see that the cluster is up"), spark_failures("npmi"):
        raise PySparkException(said)


def test_a_java_that_does_not_start_is_told():
    said = "[JAVA_GATEWAY_EXITED] Java gateway process exited before sending its port number."
    message = "^job: Spark does not take a setting: .*java_options, driver_memory or master"
    with pytest.raises(ConfigError, match=message), spark_failures("job"):
        raise PySparkException(said)


def commit_table(work, write):
    step = StepFolder(work, "purchase_gram", "2026-11-20")
    with step.open_attempt() as attempt:
        write(attempt.folder)
        step.commit(StepCommit(step=step.step, run_date=step.run_date, attempt=attempt.name, fingerprint="f"), 1)


def test_an_s3_input_is_downloaded_where_spark_runs_on_this_machine(session, tmp_path, monkeypatch):
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    settings = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    for key, value in {**settings, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}.items():
        monkeypatch.setenv(key, value)
    try:
        client = boto3.client("s3")
        client.create_bucket(Bucket="shop")
        for name, product in (("0.csv", "a"), ("1.csv", "b")):
            client.put_object(Bucket="shop", Key=f"in/day/{name}", Body=f"query,product_id\nq,{product}\n".encode())
        client.put_object(Bucket="shop", Key="in/day-after/0.csv", Body=b"no table")
        client.put_object(Bucket="shop", Key="in/day/", Body=b"")
        client.put_object(Bucket="shop", Key="in/day/2026%3A01 [1].csv", Body=b"query,product_id\nq,c\n")
        source = InputConfig(path="s3://shop/in/day/")
        location = locate_input(session, source, section="purchases", staging=tmp_path / "staging")
        result = read_input(session, schemas.RAW_PURCHASES, location, source)
        assert sorted(row.product_id for row in result.rows.collect()) == ["a", "b", "c"]
        assert location.identity == [[name, identity] for name, identity in sorted(map(tuple, location.identity))]
        one = locate_input(
            session, InputConfig(path="s3://shop/in/day/1.csv"), section="purchases", staging=tmp_path / "staging"
        )
        assert len(one.files) == 1
        with pytest.raises(ContractError, match="s3://shop/absent: no such object or folder"):
            locate_input(session, InputConfig(path="s3://shop/absent"), section="purchases", staging=tmp_path)
    finally:
        server.stop()
