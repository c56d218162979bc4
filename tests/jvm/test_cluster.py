"""The jobs on a standalone cluster of one master and two workers, and with one worker killed at work."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow.dataset as ds
import pyspark
import pytest

from indexer.config_file import load_config
from indexer.runs import StepFolder
from jobs import curated_queries, hard_negatives, npmi_pairs, purchase_gram, taxonomy_labels
from spark.java import find_java

pytestmark = [pytest.mark.jvm, pytest.mark.e2e]

ROOT = Path(__file__).resolve().parents[2]
SPARK_HOME = Path(pyspark.__file__).parent
DATE = "2026-11-20"
JOBS = (purchase_gram, npmi_pairs, taxonomy_labels, hard_negatives, curated_queries)
START_SECONDS = 120
ARCHIVE = ROOT / "dist" / "spark-env.tar.gz"
ENVIRONMENT = "environment"

NIGHT = """
import importlib, json, os, signal, sys
from indexer.config_file import load_config
from jobs import steps
from spark.session import open_session

config_path, date, table_name, meeting, *names = sys.argv[1:]
write_table = steps.write_table

def halt_once(batches, folder=meeting):
    try:
        os.close(os.open(folder + "/halted", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        yield from batches
        return
    with open(folder + "/where", "w") as pipe:
        pipe.write(os.getcwd())
    signal.pause()

def write_halting(frame, folder, table):
    return write_table(frame.mapInArrow(halt_once, frame.schema) if table.name == table_name else frame, folder, table)

steps.write_table = write_halting
config = load_config(config_path)
session = open_session(config.spark, "night")

def say_where(batches):
    import pyarrow as pa, scipy.sparse, spark.text
    for _ in batches:
        yield pa.RecordBatch.from_pydict({"place": [sys.executable + " " + spark.text.__file__]})

for name in names:
    importlib.import_module("jobs." + name).run(session, config, date)
places = session.range(2, numPartitions=2).mapInArrow(say_where, "place string").distinct().collect()
print(json.dumps([session.sparkContext.master, sorted(row.place for row in places)]))
session.stop()
"""
"""A driver that runs jobs one after another. The first task to write `table_name` says where it is and never ends."""


class Daemon:
    """A master or a worker with everything it starts, known to be up by a line of its log."""

    def __init__(self, folder, role, *arguments, line):
        command = [SPARK_HOME / "bin" / "spark-class", f"org.apache.spark.deploy.{role}"]
        options = ["--host", "127.0.0.1", "--port", "0", "--webui-port", "0", *arguments]
        folder.mkdir()
        self.process = subprocess.Popen(
            list(map(str, [*command, *options])),
            cwd=folder,
            env=environment() | {"SPARK_DAEMON_MEMORY": "256m", "SPARK_LOCAL_DIRS": str(folder)},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.found, self.seen, self._line = None, threading.Event(), re.compile(line)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        assert self.seen.wait(START_SECONDS), f"{role} is not up"
        assert self.found, f"{role} ended"

    def kill(self):
        """End the daemon and its executors at once, as the loss of a machine does."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()

    def _read(self):
        for line in self.process.stderr:
            self.found = self.found or self._line.search(line)
            if self.found:
                self.seen.set()
        self.seen.set()


def environment():
    given = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYSPARK_PYTHON")}
    return given | {"JAVA_HOME": str(find_java()), "SPARK_HOME": str(SPARK_HOME), "SPARK_LOCAL_IP": "127.0.0.1"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The master's address and the workers by name."""
    folder = tmp_path_factory.mktemp("cluster")
    daemons = {"master": Daemon(folder / "master", "master.Master", line=r"Starting Spark master at (spark://\S+)")}
    address = daemons["master"].found[1]
    try:
        for name in ("worker-0", "worker-1"):
            size = ["--cores", "1", "--memory", "1g", "--work-dir", folder / name, address]
            daemons[name] = Daemon(folder / name, "worker.Worker", *size, line="Successfully registered with master")
        yield address, daemons
    finally:
        for daemon in daemons.values():
            if daemon.process.poll() is None:
                daemon.kill()


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Purchases in several files; queries of one kind share products, and some words with those of another kind."""
    folder, random_ = tmp_path_factory.mktemp("shop"), random.Random(5)
    kinds = ("fire stick", "fire striker", "baby cup", "baby bed", "dog bed", "dog cup")
    queries = [f"{kind} {word}".strip() for kind in kinds for word in ("", "red", "big", "xl", "cheap", "new")]
    (folder / "purchases").mkdir()
    for number in range(4):
        rows = [
            (
                query,
                f"p{kinds.index(' '.join(query.split()[:2])) * 10 + random_.randrange(14)}",
                random_.randrange(1, 90),
            )
            for query in queries
            for _ in range(6)
        ]
        text = "".join(f"{query},{product},{count}\n" for query, product, count in rows)
        (folder / "purchases" / f"{number}.csv").write_text(f"query,product_id,purchases\n{text}")
    lines = [f"p{number},Title {number},{kinds[min(number // 10, 5)].replace(' ', ' > ')}\n" for number in range(70)]
    (folder / "catalogue.csv").write_text("product_id,title,category_path\n" + "".join(lines))
    return folder


@pytest.fixture
def config_path(shop, tmp_path):
    path = tmp_path / "shop.toml"
    path.write_text(
        f'[shop]\nwork = "work"\n[purchases]\npath = "{shop}/purchases"\n[catalogue]\npath = "{shop}/catalogue.csv"\n'
        "[npmi]\ntau = 0.05\n[gram]\nblock_entries = 100\n[spark]\nshuffle_partitions = 2\n"
    )
    return path


def start_night(address, config_path, *, halt="", jobs=JOBS, archive=None):
    settings = {
        "spark.pyspark.python": f"./{ENVIRONMENT}/bin/python" if archive else sys.executable,
        "spark.pyspark.driver.python": sys.executable,
        "spark.executor.memory": "512m",
        "spark.driver.memory": "512m",
        **({"spark.archives": f"{archive}#{ENVIRONMENT}"} if archive else {"spark.executorEnv.PYTHONPATH": ROOT}),
        "spark.ui.enabled": "false",
        # So little data would else end in one partition.
        "spark.sql.adaptive.coalescePartitions.enabled": "false",
        # Expressions as they are: to compile them takes longer than so little data.
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
        "spark.shuffle.io.maxRetries": 1,
        "spark.shuffle.io.retryWait": "1s",
    }
    (config_path.parent / "night.py").write_text(NIGHT)
    options = [part for key, value in settings.items() for part in ("--conf", f"{key}={value}")]
    arguments = [config_path, DATE, halt, config_path.parent, *[job.STEP for job in jobs]]
    command = [SPARK_HOME / "bin" / "spark-submit", "--master", address, *options, config_path.parent / "night.py"]
    return subprocess.Popen(
        list(map(str, [*command, *arguments])),
        env=environment() | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish_night(night):
    printed, errors = night.communicate(timeout=300)
    assert night.returncode == 0, errors[-5_000:]
    return json.loads(printed.splitlines()[-1])


def read_tables(config_path, jobs=JOBS):
    """Return every table that the jobs have written, sorted by the columns that identify a row."""
    work = load_config(str(config_path), environment={}).shop.work
    found = {}
    for folder in [StepFolder(work, job.STEP, DATE) for job in jobs]:
        for table in folder.newest().counts["tables"]:
            rows = ds.dataset(folder.table_folder(table)).to_table().to_pylist()
            found[table] = sorted(rows, key=lambda row: [str(value) for value in row.values() if not is_double(value)])
    return found


def is_double(value):
    return isinstance(value, float)


def assert_same(found, expected):
    """Rows are equal; sums of doubles may differ in the last digits, since Spark adds in the order of arrival."""
    assert {name: len(rows) for name, rows in found.items()} == {name: len(rows) for name, rows in expected.items()}
    for name, rows in found.items():
        # No query of this shop is a variant of another one.
        assert len(rows) > 1 or name == "QUERY_VARIANTS", name
        for row, other in zip(rows, expected[name], strict=True):
            assert row == {key: pytest.approx(x, rel=1e-12) if is_double(x) else x for key, x in other.items()}, name


@pytest.fixture(scope="module")
def local_tables(session, shop, tmp_path_factory):
    """What local mode makes of the shop: the tables that a cluster must make, too."""
    path = config_path.__wrapped__(shop, tmp_path_factory.mktemp("local"))
    config = load_config(str(path), environment={})
    for job in JOBS:
        job.run(session, config, DATE)
    return read_tables(path)


def test_a_cluster_writes_the_tables_of_local_mode(cluster, config_path, local_tables):
    address, _ = cluster
    # The cluster's tasks read the purchases from the files, those of local mode get them sent.
    config_path.write_text(config_path.read_text().replace("block_entries = 100", ""))
    assert finish_night(start_night(address, config_path)) == [address, [f"{sys.executable} {ROOT}/spark/text.py"]]
    assert_same(read_tables(config_path), local_tables)


@pytest.mark.skipif(not ARCHIVE.exists(), reason="the packed environment is not here; run make spark-env")
def test_a_packed_environment_is_all_that_executors_need(cluster, config_path):
    _, places = finish_night(start_night(cluster[0], config_path, jobs=JOBS[:2], archive=ARCHIVE))
    assert places
    for place in places:
        assert re.fullmatch(rf".*/{ENVIRONMENT}/bin/python .*/{ENVIRONMENT}/lib/.*/spark/text.py", place)


def test_a_worker_killed_at_work_changes_nothing(cluster, config_path, local_tables):
    address, daemons = cluster
    jobs = (purchase_gram, npmi_pairs)
    os.mkfifo(config_path.parent / "where")
    night = start_night(address, config_path, halt="QUERY_PAIRS", jobs=jobs)
    try:
        with (config_path.parent / "where").open() as pipe:
            (name,) = {"worker-0", "worker-1"} & set(Path(pipe.read()).parts)
        daemons[name].kill()
        finish_night(night)
    finally:
        night.kill()
        night.communicate()
    tables = read_tables(config_path, jobs)
    assert_same(tables, {name: local_tables[name] for name in tables})
