"""The index built on Spark: the same release as on one machine, whatever is killed on the way."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyspark
import pytest
from click.testing import CliRunner

from indexer.build.base_shard import FinishedBase
from indexer.build.catalogue import Row, as_batch
from indexer.build.finished import Tally
from indexer.build.live import OldRow
from indexer.build.publish import RunFolder
from indexer.build.release import build_release
from indexer.errors import ConfigError, GateError, IntegrityError, StoreError
from indexer.index_config import GatesConfig
from indexer.log import live_entry, read_head, read_manifest
from indexer.reader import open_index
from indexer.store import open_store
from jobs import build_index, index_site, index_tasks
from jobs.index_tasks import DEALT_SCHEMA
from spark.java import find_java
from tests.proof.s3_faults import Refusal
from tests.proof.shop import SETTINGS as SHOP

pytestmark = pytest.mark.jvm

ROOT = Path(__file__).resolve().parents[2]
DATE = "2026-11-20"
QUERIES = ["red mug", "school bag", "lamp", "blue shirt", "desk", "kids cup", "water bottle", "running shoes"]

SETTINGS = (
    SHOP.format(shards=3, index="")
    + """
[spark]
master = "local[1]"
driver_memory = "512m"
shuffle_partitions = 1
"""
)

CLUSTER = """
import os, signal, sys
from pathlib import Path
from indexer.config_file import load_config
from jobs import build_index, index_tasks
from spark.session import open_session

config_path, encoder, meeting = sys.argv[1:]
finish_base = index_tasks.finish_base

def find_executor():
    return int(Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1])

def finish_watched(task, folder=meeting):
    finish = finish_base(task)

    def run(batches):
        from indexer.build.publish import RunFolder
        seal = RunFolder.seal

        def die_once(self, mark, document):
            if mark.name == "products-00001":
                try:
                    os.close(os.open(folder + "/killed", os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    return seal(self, mark, document)
                os.kill(find_executor(), signal.SIGKILL)
                signal.pause()
            return seal(self, mark, document)

        RunFolder.seal = die_once
        yield from finish(batches)
        RunFolder.seal = seal
        Path(folder, f"torch-{os.getpid()}").write_text(str("torch" in sys.modules))

    return run

index_tasks.finish_base = finish_watched
config = load_config(config_path)
session = open_session(config.spark, "build_index")
build_index.run(session, config, "2026-11-20", encoder_directory=Path(encoder))
Path(meeting, "torch-driver").write_text(str("torch" in sys.modules))
session.stop()
"""
"""A driver whose first task to finish the second shard loses its executor, with its objects stored and no seal."""

KILLED = """
import os, signal
from indexer.build import release
from jobs.build_index import command

release.publish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
command(prog_name="build_index")
"""
"""The command, which is killed in front of its commit."""


def live(config):
    store = open_store(config.shop.release)
    return read_manifest(store, live_entry(store))


def build_here(config, folder, encoder_directory, run_date=DATE, **options):
    """Build on one machine into another store and return the release."""
    here = replace(config, shop=replace(config.shop, release=str(folder)))
    build_release(here, run_date, encoder_directory=encoder_directory, story={}, progress=False, **options)
    return live(here)


def strip(counts):
    """Leave out what differs where a shard was sealed by an earlier attempt."""
    figures = counts["collections"]
    return [{name: value for name, value in item.items() if name not in ("built", "reused")} for item in figures]


def assert_same(found, expected, *, attempts=1):
    """Releases are equal but for the names of attempts and what tells when and how long."""
    assert found.run_id == expected.run_id
    assert found.encoder.fingerprint == expected.encoder.fingerprint
    assert found.gates == expected.gates
    assert strip(found.counts) == strip(expected.counts)
    assert attempts > 1 or found.counts == expected.counts
    for one, other in zip(found.collections, expected.collections, strict=True):
        assert replace(one, shards=()) == replace(other, shards=())
        for shard, twin in zip(one.shards, other.shards, strict=True):
            places = [(each.number, each.rows, each.fingerprint, each.delta, each.live_rows) for each in (shard, twin)]
            assert places[0] == places[1]
            assert [entry.sha256 for entry in shard.objects] == [entry.sha256 for entry in twin.objects]


@pytest.fixture
def rows(products):
    """Products with duplicates of both kinds, texts of nothing and of no known word, and rows to reject."""
    return [
        *products(400),
        *products(3),
        ("X", "mug", "a"),
        ("X", "cup", "a"),
        ("N", "old mug", "a", "2026-01-01"),
        ("N", "new mug", "a", "2026-02-01"),
        ("E", "\u200b", ""),
        ("U", "中国", ""),
        ("", "no id", "a"),
        ("C", "", "a"),
        ("L", "x" * 9_000, "a"),
    ]


@pytest.fixture
def shop(make_shop, rows, tmp_path):
    """The same shop by a file `shop.toml`, for commands."""
    (tmp_path / "shop.toml").write_text(SETTINGS)
    return make_shop(rows, shards=3)


def test_the_release_is_that_of_one_machine(session, make_shop, rows, encoder_directory, tmp_path):
    config = make_shop(rows, queries=QUERIES, shards=3)
    summary = build_index.run(session, config, DATE, encoder_directory=encoder_directory)
    figures = {item["name"]: item for item in summary.collections}
    names = ("rows_in", "rows", "duplicates", "rejected", "shards", "built")
    assert [figures["products"][name] for name in names] == [412, 401, 3, 8, 3, 3]
    assert figures["queries"]["rows"] == 8
    rejected = Counter()
    for row in summary.rejects:
        rejected[row["reason"]] += row["count"]
    assert rejected == {
        "duplicate_id": 3, "text_empty": 2, "product_id_missing": 1, "title_missing": 1, "title_too_long": 1,
    }  # fmt: skip
    assert_same(live(config), build_here(config, tmp_path / "here", encoder_directory))
    found = {hit.id for hit in open_index(config.shop.release).search("mug", k=1_000)}
    assert found == {f"P{number:05d}" for number in range(400)} | {"N"}
    text = build_index.format_summary(summary.as_dict())
    assert "published, log entry 1" in text
    assert "name products, rows in 412, rows 401, duplicates 3, rejected 8" in text
    # Nothing was left of the rows, and the same run is not built again.
    assert not list(Path(config.shop.work).glob("*/run_date=*/scratch-*"))
    again = build_index.run(session, config, DATE, encoder_directory=encoder_directory)
    assert (again.status, again.run_id) == ("already published", summary.run_id)


def test_nights_of_changes_are_those_of_one_machine(session, make_shop, products, encoder_directory, tmp_path):
    def change(rows, places, title):
        return [(row[0], title, row[2]) if at in places else row for at, row in enumerate(rows)]

    def nights():
        options = {"shards": 3, "max_stale_share": 0.3, "max_deltas": 1}
        rows = products(300)
        yield make_shop(rows, **options), "2026-11-20", "all"
        rows = [*change(rows, range(0, 300, 50), "red mug")[3:], *((f"W{n}", f"desk {n}", "x") for n in range(5))]
        yield make_shop([*rows, ("U", "中国", "")], **options), "2026-11-21", "all"
        # There may be no second delta: tonight's takes the first one in, of which a row died.
        rows = change(rows, [10], "blue lamp")[:-1]
        yield make_shop(rows, **options), "2026-11-22", "all"
        # With two base shards every row has another place.
        yield make_shop(rows[:-3], shards=2), "2026-11-23", "vectors"
        yield make_shop(rows[:-4], shards=2), "2026-11-24", "none"

    releases = []
    for config, date, reuse in nights():
        expected = build_here(config, tmp_path / "here", encoder_directory, date, reuse=reuse)
        if not releases:
            build_here(config, config.shop.release, encoder_directory, date)
        else:
            build_index.run(session, config, date, encoder_directory=encoder_directory, reuse=reuse)
        releases.append(live(config))
        assert_same(releases[-1], expected)
    assert [len(release.collections[0].deltas) for release in releases] == [0, 1, 1, 0, 0]
    assert [release.collections[0].rows for release in releases] == [300, 302, 301, 298, 297]
    # Texts that are new are embedded, equal ones of a shard once; five products are a red mug of one brand.
    embedded = [release.counts["collections"][0]["embedded"] for release in releases]
    assert embedded[:4] == [300, 6, 1, 0]
    assert 297 - 4 <= embedded[4] <= 297 - 3


@pytest.fixture
def s3_tasks(session, s3_environment, monkeypatch):
    """Point the tasks of the shared session at the test server, too."""
    for name, value in s3_environment.items():
        monkeypatch.setitem(session.sparkContext.environment, name, value)


def test_tasks_write_to_a_bucket(session, s3_tasks, make_shop, rows, encoder_directory, bucket, tmp_path):
    config = make_shop(rows, shards=2, release=f"{bucket}/shop")
    build_index.run(session, config, DATE, encoder_directory=encoder_directory)
    assert_same(live(config), build_here(config, tmp_path / "here", encoder_directory))


def test_tasks_of_a_single_writer_write_without_conditions(
    session, strict_s3, make_shop, rows, encoder_directory, monkeypatch, tmp_path
):
    def refuse(request):
        if "if-none-match" in request.headers:
            raise Refusal(501, "NotImplemented")

    monkeypatch.setattr(strict_s3, "_require_absent", refuse)
    for name, value in strict_s3.environment.items():
        monkeypatch.setitem(session.sparkContext.environment, name, value)
    config = make_shop(rows, shards=2, release="s3://bucket/shop")
    config = replace(config, shop=replace(config.shop, single_writer=True))
    build_index.run(session, config, DATE, encoder_directory=encoder_directory)
    assert_same(live(config), build_here(config, tmp_path / "here", encoder_directory))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda task: replace(task, config=replace(task.config, gates=GatesConfig(max_norm_error=0.0))),
            GateError,
            "gate max_norm_error, shard products-00000",
        ),
        (
            lambda task: replace(task, versions={**task.versions, "faiss": "0.1"}),
            ConfigError,
            "an executor has faiss .* where the driver has 0.1",
        ),
        (lambda task: replace(task, url="s3://bucket"), StoreError, "storage cannot be reached"),
    ],
)
def test_an_error_of_a_task_is_that_of_the_job(
    session, s3_tasks, make_shop, products, encoder_directory, monkeypatch, change, error, message
):
    monkeypatch.setitem(session.sparkContext.environment, "AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    make_task = index_site.make_task
    monkeypatch.setattr(index_site, "make_task", lambda *given: change(make_task(*given)))
    config = make_shop(products(40))
    with pytest.raises(error, match=message):
        build_index.run(session, config, DATE, encoder_directory=encoder_directory)
    assert read_head(open_store(config.shop.release)) == 0


def test_a_late_copy_of_a_task_agrees_with_the_first(session, make_shop, products, encoder_directory, monkeypatch):
    tasks, make_task = [], index_site.make_task
    monkeypatch.setattr(index_site, "make_task", lambda *given: tasks.append(make_task(*given)) or tasks[-1])
    config, rows = make_shop(products(40)), products(40)[::-1]
    build_index.run(session, config, DATE, encoder_directory=encoder_directory)
    columns = {name: [row[at] for row in rows] for at, name in enumerate(("product_id", "title", "brand"))}
    batch = pa.RecordBatch.from_pydict({**columns, "updated_at": pa.nulls(40, pa.string())})
    composed = index_tasks.compose_products(("title", "product_type", "brand"), " | ")([batch])
    # As a copy that started before the first one had sealed the shard.
    monkeypatch.setattr(RunFolder, "find_sealed", lambda *_: None)
    done = index_tasks.finish_base(tasks[0])(index_tasks.deal_rows(1)(composed))
    found = index_tasks.unpack(data for each in done for data in each.column("data").to_pylist())
    (shard,) = live(config).collections[0].shards
    assert found.shard == shard
    assert count_names(config, ".faiss") == {"products-00000": 2}
    assert count_names(config, "products-00000.json") == {"products-00000": 1}


def test_a_wrong_option_starts_no_spark(tmp_path):
    (tmp_path / "shop.toml").write_text(SETTINGS)
    arguments = ["--config", str(tmp_path / "shop.toml"), "--run-date", DATE]
    for more, code, message in [
        (["--encoder", "absent"], 2, "build_index: --encoder absent: no such folder"),
        ([], 3, "build_index: no encoder for 2026-11-20"),
        (["--reuse", "some"], 2, "'some' is not one of"),
    ]:
        answer = CliRunner().invoke(build_index.command, [*arguments, *more])
        assert (answer.exit_code, message in answer.output) == (code, True), answer.output


def environment(**more):
    given = {name: value for name, value in os.environ.items() if name != "PYSPARK_PYTHON"}
    home = {"JAVA_HOME": str(find_java()), "SPARK_HOME": str(Path(pyspark.__file__).parent)}
    return given | home | {"PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable} | more


def count_names(config, ending):
    """Count the objects of each shard by the attempts that stored them."""
    keys = [item.key for item in open_store(config.shop.release).list("v/")]
    return Counter(key.rpartition("/")[2].partition(".")[0] for key in keys if key.endswith(ending))


@pytest.mark.e2e
def test_a_lost_executor_costs_its_shard_alone(shop, encoder_directory, tmp_path):
    settings = SETTINGS.replace("local[1]", "local-cluster[2,1,512]") + (
        f'[spark.conf]\n"spark.executor.memory" = "512m"\n"spark.executorEnv.PYTHONPATH" = "{ROOT}"\n'
    )
    (tmp_path / "shop.toml").write_text(settings)
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    script = tmp_path / "night.py"
    script.write_text(CLUSTER)
    command = [sys.executable, script, tmp_path / "shop.toml", encoder_directory, meeting]
    answer = subprocess.run(
        list(map(str, command)), env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=400
    )
    assert answer.returncode == 0, answer.stderr[-5_000:]
    assert (meeting / "killed").exists()
    assert_same(live(shop), build_here(shop, tmp_path / "here", encoder_directory), attempts=2)
    assert count_names(shop, ".faiss") == {"products-00000": 1, "products-00001": 2, "products-00002": 1}
    seals = [
        item.key.rpartition("/done/")[2] for item in open_store(shop.shop.release).list("v/") if "/done/" in item.key
    ]
    assert sorted(seals) == ["encoder.json", *(f"products-{number:05d}.json" for number in range(3))]
    torch = [path.read_text() for path in meeting.glob("torch-*")]
    assert len(torch) >= 2
    assert set(torch) == {"False"}


@pytest.mark.e2e
def test_a_driver_killed_in_front_of_its_commit_is_taken_up_by_the_next(shop, encoder_directory, tmp_path):
    arguments = ["--config", tmp_path / "shop.toml", "--run-date", DATE, "--encoder", encoder_directory]
    killed = subprocess.run(
        list(map(str, [sys.executable, "-c", KILLED, *arguments])),
        env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-5_000:]
    assert "products: 408 rows in 3 shards" in killed.stderr
    assert read_head(open_store(shop.shop.release)) == 0
    before = count_names(shop, ".faiss")
    assert before == {f"products-{number:05d}": 1 for number in range(3)}
    submit = [Path(sys.executable).parent / "spark-submit", "--master", "local[1]", "--driver-memory", "512m"]
    again = subprocess.run(
        list(map(str, [*submit, ROOT / "jobs" / "build_index.py", *arguments, "--json"])),
        env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr[-5_000:]
    (figures,) = json.loads(again.stdout)["collections"]
    assert (figures["built"], figures["reused"], figures["rows"]) == (0, 3, 401)
    assert count_names(shop, ".faiss") == before
    assert len(open_index(shop.shop.release).search("mug", k=1_000)) == 401


def test_a_task_takes_its_rows_and_the_live_ones_apart():
    place = OldRow(4, 9, b"t" * 16, b"d" * 16, b"\0" * 8)
    rows = [Row("A", "mug", "Mug", None, "3"), Row("B", "cup", "Cup", "x")]
    tonight = list(index_tasks.deal_rows(1)([as_batch(rows)]))
    values = dict(zip(DEALT_SCHEMA.names, (0, "A", None, None, None, None, *place), strict=True))
    stray = pa.RecordBatch.from_pylist([values], schema=DEALT_SCHEMA)
    assert index_tasks.gather_rows([*tonight, stray]) == (0, rows, [("A", place)])
    assert index_tasks.gather_rows([]) is None
    other = stray.set_column(0, "shard", pa.array([1], pa.int32()))
    with pytest.raises(IntegrityError, match=r"of the shards \[0, 1\]"):
        index_tasks.gather_rows([stray, other])


@pytest.mark.parametrize("piece", [1, 1 << 20])
def test_what_a_task_hands_back_comes_in_pieces(monkeypatch, piece):
    monkeypatch.setattr(index_tasks, "PIECE_BYTES", piece)
    base = FinishedBase(shard=None, tally=Tally(truncated=7), buried=[(4, 9)])
    batches = list(index_tasks.pack(3, base))
    assert (len(batches) > 1) == (piece == 1)
    assert {number for batch in batches for number in batch.column("shard").to_pylist()} == {3}

    def pieces(batches):
        return [data for batch in batches for data in batch.column("data").to_pylist()]

    assert index_tasks.unpack(pieces(batches)) == base
    with pytest.raises(GateError, match="too short"):
        index_tasks.unpack(pieces(index_tasks.pack(3, GateError("too short"))))
