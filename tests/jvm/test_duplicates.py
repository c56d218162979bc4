"""Several rows of one product: Spark keeps the row that `indexer.contracts.duplicates` chooses."""

from collections import Counter, defaultdict
from datetime import UTC

import pytest
from pyspark.sql import functions as F

from indexer.contracts.duplicates import OLDEST, Version, choose_version
from indexer.contracts.duplicates import read_time as read_time_without_spark
from spark.duplicates import count_versions, judge_versions, read_time

pytestmark = pytest.mark.jvm

NO_TIMES = [
    "20260107T101010Z",
    "2026-01-07T10",
    "2026-01-07T10Z",
    "2026-W02-3",
    "20260107",
    "2026-01-07T101010",
    "2026-01-02T25:00",
    "2026-01-02T24:00",
    "2026-01-02T03:04:60",
    "2026-01-02T03:60",
    "2026-01-02T03:04+18:30",
    "2026-01-02T03:04+02:00:30",
    "2026-01-02_03:04",
    "2026-01-02\u202803:04",
    "2026-01-02\n",
    " 2026-01-02",
    "0000-01-02",
    "\u0662026-01-02",
]
TIMES = [
    None,
    "",
    "yesterday",
    "2026",
    "2026-01-02",
    "2026-02-30",
    "2026-01-02T03:04",
    "2026-01-02 03:04:05",
    "2026-01-02T03:04:05.678901",
    "2026-01-02T03:04:05,5",
    "2026-01-02T03:04:05Z",
    "2026-01-02T03:04:05+02:00",
    "2026-01-02T03:04:05-0530",
    "2026-01-02T03:04:05+02",
    "2026-01-02t03:04",
    "2026-01-02T03:04:05.123456789Z",
    "2026-01-02T03:04-17:59",
    *NO_TIMES,
]


def test_times_are_read_alike(session):
    frame = session.createDataFrame(list(enumerate(TIMES)), "n int, text string")
    # As microseconds: a time beyond Python's own would not come back.
    rows = frame.select("n", F.unix_micros(read_time(F.col("text"))).alias("time")).orderBy("n").collect()
    expected = [read_time_without_spark(text) for text in TIMES]
    epoch = OLDEST.replace(year=1970, tzinfo=UTC)
    micros = [None if time == OLDEST else round((time - epoch).total_seconds() * 1e6) for time in expected]
    assert [row.time for row in rows] == micros
    assert {time for text, time in zip(TIMES, micros, strict=True) if text in NO_TIMES} == {None}


ROWS = [
    ("one", ["1"], None),
    ("newer", ["1"], "2026-01-02T10:00:00+09:00"),
    ("newer", ["2"], "2026-01-02T02:00:00Z"),
    ("newer", ["3"], None),
    ("same", ["1"], "2026-01-01"),
    ("same", ["1"], "2026-01-02"),
    ("tie", ["1"], "2026-01-02"),
    ("tie", ["2"], "2026-01-02T00:00:00Z"),
    ("tie", ["1"], "2026-01-01"),
    ("undated", ["1"], None),
    ("undated", None, "soon"),
    ("repeated", ["1"], "2026-01-03"),
    ("repeated", ["1"], "2026-01-03"),
    ("repeated", ["2"], "2026-01-01"),
]


def test_the_row_that_stands_is_the_one_chosen_without_spark(session):
    frame = session.createDataFrame(
        [(product_id, nodes, None, time) for product_id, nodes, time in ROWS],
        "product_id string, node_ids array<string>, category_path array<string>, updated_at string",
    )
    judged = judge_versions(frame).collect()
    assert len(judged) == len(ROWS)
    groups = defaultdict(list)
    for product_id, nodes, time in ROWS:
        groups[product_id].append(Version(tuple(nodes or ()), time))
    chosen = {product_id: (choose_version(versions), versions) for product_id, versions in groups.items()}
    standing = {row.product_id: tuple(row.node_ids or ()) for row in judged if row.reason is None}
    assert standing == {
        product_id: versions[place].content for product_id, (place, versions) in chosen.items() if place is not None
    }
    assert standing == {"one": ("1",), "newer": ("2",), "same": ("1",), "repeated": ("1",)}
    found = Counter((row.product_id, row.reason) for row in judged if row.reason)
    assert found == {
        ("newer", "duplicate_id"): 2,
        ("same", "repeated"): 1,
        ("tie", "duplicate_id"): 3,
        ("undated", "duplicate_id"): 2,
        ("repeated", "repeated"): 1,
        ("repeated", "duplicate_id"): 1,
    }
    counted = {row["reason"]: (row["count"], row["key"]) for row in count_versions(judge_versions(frame)).collect()}
    assert counted == {"repeated": (2, "repeated"), "duplicate_id": (8, "newer")}
