"""One Spark session for the whole run, made on first use, and small frames for it."""

import gzip
import os
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow.parquet as pq
import pytest

from indexer.contracts import schemas
from indexer.input_config import CatalogueConfig, InputConfig
from indexer.job_config import SparkConfig

INTERPRETED = {"spark.sql.codegen.wholeStage": "false", "spark.sql.codegen.factoryMode": "NO_CODEGEN"}
"""Expressions as they are: to compile them takes longer than a few rows. The demo and the shops compile them."""


@pytest.fixture(scope="session", autouse=True)
def brief_java() -> None:
    """Start every Java virtual machine for a short life: no second compiler, one collector thread."""
    os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")


@pytest.fixture(scope="session")
def session() -> Iterator[object]:
    from spark.session import open_session

    config = SparkConfig(master="local[2]", driver_memory="1g", shuffle_partitions=2, conf=INTERPRETED)
    spark = open_session(config, "tests")
    yield spark
    spark.stop()


@pytest.fixture
def purchases(session):
    """Make PURCHASES of a matrix: row i is query `q<i>`, column k is product `p<k>`."""

    def make(matrix: Sequence[Sequence[int]], *, names: Sequence[str] | None = None):
        counts = np.asarray(matrix)
        rows = [
            (names[i] if names else f"q{i}", f"p{k}", int(counts[i, k]))
            for i, k in zip(*np.nonzero(counts), strict=True)
        ]
        return session.createDataFrame(rows, "query string, product_id string, purchases bigint")

    return make


BAD_TSV = (
    b"query\tproduct_id\tpurchases\tevent_date\n"
    b"good\tp1\t3\t2026-01-02\n"
    b'"12 inch\tp2\t+4\t\n'
    b"ragged\tp3\n"
    b"one\ttoo\t1\t\tmany\n"
    b"latin \xe9\tp4\t1\t\n"
    b"\tp5\t1\t\n"
    b" \xc2\xa0 \tp6\t1\t\n"
    b"q\t\t1\t\n"
    b"q\tp\x017\t1\t\n"
    b"q\t" + b"x" * 257 + b"\t1\t\n"
    b"negative\tp8\t-3\t\n"
    b"zero\tp9\t0\t\n"
    b"fraction\tp10\t3.5\t\n"
    b"huge\tp11\t99999999999999999999\t\n"
    b"word\tp12\tmany\t\n"
    b"day\tp13\t1\t2026-02-30\n"
    b"damaged \xef\xbf\xbd\tp14\t2\t\n"
)


@pytest.fixture
def bad_tsv() -> bytes:
    """Purchases, three rows good and one or two bad in every way."""
    return BAD_TSV


@pytest.fixture
def read(session, tmp_path):
    """Read a file or folder that holds `content`, with lenient limits unless told otherwise."""
    from spark.inputs import locate_input
    from spark.tables import read_input

    def go(name, content, table=schemas.RAW_PURCHASES, *, source=None, **options):
        path = tmp_path / "in [1] {x}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            content = content.encode()
        if isinstance(content, bytes):
            path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        else:
            pq.write_table(content, path)
        kind = CatalogueConfig if table is schemas.CATALOGUE else InputConfig
        source = source or kind(path=str(path), **({"max_reject_share": 1.0} | options))
        location = locate_input(session, source, section="purchases", staging=tmp_path / "staging")
        return read_input(session, table, location, source), source

    return go
