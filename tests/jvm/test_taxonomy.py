"""The labels drawn from a query's nodes, and category paths as one text."""

import pytest

from indexer.contracts import schemas
from indexer.errors import ConfigError
from indexer.input_config import TaxonomyConfig
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


def test_a_file_of_lines_has_a_node_on_each(read, tmp_path):
    lines = (
        "\ufeff# Product taxonomy\r\n\n"
        "gid://shop/ap-1        : Animals > Live  Animals\r\n"
        "  # a comment\n"
        "3237 - Animals - and : Pets > Food\n"
        "8 : \n"
        "no separator\n"
        "9 :  > > \n"
    )
    path = tmp_path / "in [1] {x}" / "tree.txt"
    settings = TaxonomyConfig(path=str(path), format="lines", max_reject_share=1.0)
    content = lines.encode() + b"10 - Caf\xe9\n"
    found, _ = read("tree.txt", content, schemas.TAXONOMY_PATHS, source=settings)
    assert rows(taxonomy.category_text(found.rows, separator=">")) == [
        ("3237", "Animals - and : Pets > Food"),
        ("gid://shop/ap-1", "Animals > Live Animals"),
    ]
    assert {row["reason"]: (row["count"], row["sample"]) for row in found.rejects} == {
        "malformed": (2, "8 : "),
        "category_path_missing": (1, "> >"),
        "encoding": (1, "10"),
    }
    assert found.counts == {"rows_in": 6, "valid": 2, "rejected": 4}


@pytest.mark.parametrize(
    "wrong",
    [{"format": "lines", "columns": {"name": "n"}}, {"format": "text"}, {"two_parents": "any"}, {"max_depth": 65}],
)
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ConfigError):
        TaxonomyConfig(path="tree", **wrong)


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
