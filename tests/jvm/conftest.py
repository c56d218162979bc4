"""One Spark session for the whole run, made on first use, and small frames for it."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from indexer.config import SparkConfig


@pytest.fixture(scope="session", autouse=True)
def brief_java() -> None:
    """Start every Java virtual machine for a short life: no second compiler, one collector thread."""
    os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")


@pytest.fixture(scope="session")
def session() -> Iterator[object]:
    from spark.session import open_session

    spark = open_session(SparkConfig(master="local[2]", driver_memory="1g", shuffle_partitions=2), "tests")
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
