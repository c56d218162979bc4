"""Nodes of products and of queries, worked by hand."""

import pytest

from spark import taxonomy
from spark.tree import Node, grow_tree

pytestmark = pytest.mark.jvm

NODES = [Node("1", None, "Home"), Node("2", "1", "Kitchen"), Node("3", "2", "Pans"), Node("4", "1", "Bath")]
CATALOGUE = "product_id string, node_ids array<string>, category_path array<string>, updated_at string"


@pytest.fixture(scope="module")
def tree(session):
    return taxonomy.tree_frame(session, grow_tree(NODES, max_depth=9, shown="tree"), separator=">").cache()


def rows(frame):
    return sorted(tuple(row) for row in frame.collect())


def test_products_are_placed_by_id_or_by_their_full_path(session, tree):
    catalogue = session.createDataFrame(
        [
            ("by id", ["3", "4", "3"], ["Home", "Bath"], None),
            ("by path", None, ["Home ", "Kitchen\u00a0", "Pans"], None),
            ("inner", None, ["Home > Kitchen"], None),
            ("half known", ["3", "99"], None, None),
            ("unknown path", None, ["Kitchen", "Pans"], None),
            ("nothing", None, None, None),
        ],
        CATALOGUE,
    )
    products = taxonomy.category_text(catalogue, separator=">")
    references = taxonomy.product_references(products, tree)
    assert rows(taxonomy.product_nodes(references)) == [
        ("by id", "3", 0.5, 1.0),
        ("by id", "4", 0.5, 1.0),
        ("by path", "3", 1.0, 1.0),
        ("half known", "3", 1.0, 1.0),
        ("inner", "2", 1.0, 1.0),
    ]
    counted = taxonomy.count_references(references).collect()[0]
    assert (counted["all"], counted["unknown"], counted["merged"]) == (7, 2, 0)
    assert tuple(counted["example"]) == ("half known", "99")


def test_query_nodes_are_shares_of_the_purchases_that_have_a_node(session, tree):
    purchases = session.createDataFrame(
        [("pan", "p1", 30), ("pan", "p2", 10), ("pan", "elsewhere", 1000), ("none", "elsewhere", 20)],
        "query string, product_id string, purchases bigint",
    )
    nodes = session.createDataFrame(
        [("p1", "3", 1.0, 1.0), ("p2", "3", 0.5, 1.0), ("p2", "4", 0.5, 1.0)],
        "product_id string, node_id string, share double, confidence double",
    )
    found = rows(taxonomy.purchased_nodes(purchases, nodes, prior_purchases=10.0))
    # 35 of 40 purchases in node 3; n / (n + prior) = 40 / 50.
    assert found == [("pan", "3", 0.875, pytest.approx(0.7)), ("pan", "4", 0.125, pytest.approx(0.1))]
    assert tuple(taxonomy.count_placed(purchases, nodes).collect()[0]) == (1, 1020)


def test_the_classifier_replaces_a_querys_derived_nodes(session, tree):
    classes = session.createDataFrame(
        [
            ("PAN ", "4", 0.6),
            ("pan", "4", 0.5),
            ("pan", "77", 0.9),
            ("both", "3", 0.9),
            ("both", "4", 0.6),
            ("\u200b", "3", 1.0),
        ],
        "query string, node_id string, score double",
    )
    references = taxonomy.class_references(classes, tree)
    counted = {row["reason"]: (row["count"], row["sample"]) for row in taxonomy.count_classes(references).collect()}
    assert counted == {"node_unknown": (1, "77"), "query_empty": (1, "3")}
    derived = session.createDataFrame(
        [("pan", "3", 1.0, 0.8), ("other", "3", 1.0, 0.8)],
        "query string, node_id string, share double, confidence double",
    )
    merged = rows(taxonomy.prefer_classes(derived, taxonomy.classified_nodes(references)))
    assert merged == [
        ("both", "3", pytest.approx(0.6), 0.9),  # 0.9 + 0.6 is more than 1 and is scaled down
        ("both", "4", pytest.approx(0.4), 0.6),
        ("other", "3", 1.0, 0.8),
        ("pan", "4", 0.6, 0.6),
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
