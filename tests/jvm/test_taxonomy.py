"""The labels drawn from a query's nodes, and category paths as one text."""

import pytest

from spark import taxonomy
from spark.tree import path_text

pytestmark = pytest.mark.jvm


def rows(frame):
    return sorted(tuple(row) for row in frame.collect())


def test_paths_are_written_alike_by_spark_and_by_the_tree(session):
    lists = [["Home ", "Kitchen\u00a0", "Pans"], ["Home > Kitchen"], ["\u200b", " > "], ["A>B", "", "C"], None]
    frame = session.createDataFrame([(n, names) for n, names in enumerate(lists)], "n int, category_path array<string>")
    assert rows(taxonomy.category_text(frame, separator=">")) == [
        (n, path_text(names or (), ">") or None) for n, names in enumerate(lists)
    ]


def test_labels_are_the_smallest_set_that_holds_the_mass(session):
    shares = {
        "one": [("a", 1.0)],
        "two": [("a", 0.6), ("b", 0.35), ("c", 0.05)],
        "exactly": [("a", 0.9), ("b", 0.1)],
        "spread": [("a", 0.4), ("b", 0.35), ("c", 0.25)],
        "classified": [("a", 0.7)],
    }
    frame = session.createDataFrame(
        [(query, node, share, share) for query, nodes in shares.items() for node, share in nodes],
        "query string, node_id string, share double, confidence double",
    )
    labels = taxonomy.query_labels(frame, label_mass=0.9, min_top_share=0.5)
    assert rows(labels) == [("classified", ["a"]), ("exactly", ["a"]), ("one", ["a"]), ("two", ["a", "b"])]
