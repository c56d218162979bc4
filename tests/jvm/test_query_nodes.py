"""Nodes of queries from purchases, from a classifier and from both, worked by hand."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from indexer.contracts import schemas
from spark import query_nodes, taxonomy
from spark.tree import Node, grow_tree

pytestmark = pytest.mark.jvm

TREE = grow_tree(
    [
        Node("1", None, "Home"),
        Node("2", "1", "Kitchen"),
        Node("3", "2", "Pans"),
        Node("4", "1", "Bath"),
        Node("5", "2", "Pots"),
        Node("6", None, "Toys"),
    ],
    max_depth=9,
    shown="tree",
)
QUERY_NODES = "query string, node_id string, share double, confidence double"


@pytest.fixture(scope="module")
def tree(session):
    return taxonomy.tree_frame(session, TREE, separator=">").cache()


def rows(frame):
    return sorted(tuple(row) for row in frame.collect())


def test_query_nodes_are_shares_of_the_purchases_that_have_a_node(session, tree):
    purchases = session.createDataFrame(
        [("pan", "p1", 30), ("pan", "p2", 10), ("pan", "elsewhere", 1000), ("none", "elsewhere", 20)],
        "query string, product_id string, purchases bigint",
    )
    nodes = session.createDataFrame(
        [("p1", "3", 1.0, 1.0), ("p2", "3", 0.5, 1.0), ("p2", "4", 0.5, 1.0)],
        "product_id string, node_id string, share double, confidence double",
    )
    parts = query_nodes.node_purchases(purchases, nodes)
    derived = query_nodes.purchased_nodes(parts, tree, smoothing_purchases=0.0, prior_purchases=10.0)
    found = rows(derived.select(*schemas.QUERY_NODES.schema.names))
    # 35 of 40 purchases in node 3; n / (n + prior) = 40 / 50.
    assert found == [("pan", "3", 0.875, 0.7), ("pan", "4", 0.125, 0.1)]
    counted = query_nodes.count_placed(purchases, nodes).collect()[0].asDict()
    assert counted == {
        "bought_products_without_node": 1,
        "purchases_without_node": 1020,
        "purchases_with_node": 40,
    }


def test_shares_are_smoothed_by_the_levels_above(session, tree):
    parts = session.createDataFrame(
        [
            *[("pan", "3", 20.0), ("pan", "5", 10.0), ("pan", "4", 10.0)],
            *[("pot", "5", 30.0), ("pot", "4", 10.0)],
            *[("cook", "2", 10.0), ("cook", "3", 30.0)],
            ("doll", "6", 1.0),
        ],
        "query string, node_id string, part double",
    )
    found = query_nodes.smooth_shares(parts, tree, smoothing_purchases=10.0)
    # The shop: Kitchen 100 (Pans 50, Pots 40, itself 10), Bath 20.
    # pan at Home: Kitchen (30 + 10 * 100/120) / 50 = 23/30, Bath (10 + 10 * 20/120) / 50 = 7/30;
    # at Kitchen: Pans (20 + 10 * 50/90) / 40 = 23/36, Pots (10 + 10 * 40/90) / 40 = 13/36.
    # cook at Kitchen: itself (10 + 10 * 10/60) / 50 = 7/30, Pans (30 + 10 * 50/60) / 50 = 23/30.
    # pot at Home: Kitchen (30 + 10 * 100/120) / 50 = 23/30, Bath 7/30.
    assert {(query, node): share for query, node, _, share in rows(found)} == pytest.approx(
        {
            ("pan", "3"): 23 / 30 * 23 / 36,
            ("pan", "5"): 23 / 30 * 13 / 36,
            ("pan", "4"): 7 / 30,
            ("pot", "5"): 23 / 30,
            ("pot", "4"): 7 / 30,
            ("cook", "2"): 7 / 30,
            ("cook", "3"): 23 / 30,
            ("doll", "6"): 1.0,
        },
        abs=1e-15,
    )


def smooth_in_plain_loops(parts, tree, weight):
    below, shop, reached = Counter(), Counter(), {}
    for (query, node), part in parts.items():
        path = ("", *tree.lineages[node], node)
        for step in pairwise(path):
            below[query, step] += part
            shop[step] += part
            reached.setdefault((query, step[0]), set()).add(step)
    shares = {}
    for query, node in parts:
        path, share = ("", *tree.lineages[node], node), 1.0
        for step in pairwise(path):
            branch = reached[query, step[0]]
            all_below, usual = sum(below[query, way] for way in branch), shop[step] / sum(shop[way] for way in branch)
            share *= (below[query, step] + weight * usual) / (all_below + weight)
        shares[query, node] = share
    return shares


@pytest.mark.parametrize("weight", [0.5, 5.0, 1000.0])
def test_smoothed_shares_equal_plain_loops_and_add_up_to_one(session, weight):
    rng = np.random.default_rng(3)
    nodes = [Node("n0", None, "n0")]
    nodes += [Node(f"n{n}", f"n{rng.integers(n)}" if n > 3 else None, f"n{n}") for n in range(1, 40)]
    tree = grow_tree(nodes, max_depth=30, shown="tree")
    parts = {(f"q{rng.integers(15)}", f"n{rng.integers(40)}"): float(rng.integers(1, 100)) for _ in range(90)}
    frame = session.createDataFrame(
        [(*key, part) for key, part in parts.items()], "query string, node_id string, part double"
    )
    found = query_nodes.smooth_shares(
        frame, taxonomy.tree_frame(session, tree, separator=">"), smoothing_purchases=weight
    )
    shares = {(row["query"], row["node_id"]): row["share"] for row in found.collect()}
    assert shares == pytest.approx(smooth_in_plain_loops(parts, tree, weight), abs=1e-12)
    sums = Counter()
    for (query, _), share in shares.items():
        sums[query] += share
    assert dict(sums) == pytest.approx(dict.fromkeys(sums, 1.0), abs=1e-12)


def test_scores_of_a_classifier_are_scaled_down_to_one(session):
    placed = session.createDataFrame(
        [("both", "3", 0.9, None), ("both", "4", 0.6, None), ("one", "3", 0.7, None), ("one", "4", 0.2, "repeated")],
        "query string, node_id string, score double, reason string",
    )
    found = rows(query_nodes.classified_nodes(placed))
    assert found == [
        ("both", "3", pytest.approx(0.6), 0.9),
        ("both", "4", pytest.approx(0.4), 0.6),
        ("one", "3", 0.7, 0.7),
    ]


DERIVED = [
    ("agree", "3", 0.75, 0.6),
    ("agree", "4", 0.25, 0.2),
    ("differ", "3", 1.0, 0.8),
    ("tie", "3", 1.0, 0.5),
    ("bought", "3", 1.0, 0.1),
]
CLASSIFIED = [("agree", "3", 0.25, 0.4), ("differ", "4", 0.9, 0.9), ("tie", "4", 0.5, 0.5), ("named", "4", 0.3, 0.3)]
ALONE = [("bought", "3", 1.0, 0.1), ("named", "4", 0.3, 0.3)]


@pytest.mark.parametrize(
    ("rule", "weight", "expected", "overruled"),
    [
        ("classifier", 0.5, CLASSIFIED[:3] + ALONE, 3),
        ("confident", 0.5, [*DERIVED[:2], *CLASSIFIED[1:3], *ALONE], 2),
        (
            "mix",
            0.75,
            [
                ("agree", "3", 0.375, 0.45),
                ("agree", "4", 0.0625, 0.05),
                ("differ", "3", 0.25, 0.2),
                ("differ", "4", 0.675, 0.675),
                ("tie", "3", 0.25, 0.125),
                ("tie", "4", 0.375, 0.375),
                *ALONE,
            ],
            0,
        ),
        ("mix", 1.0, CLASSIFIED[:3] + ALONE, 3),
        ("mix", 0.0, [*DERIVED[:4], *ALONE], 2),
    ],
)
def test_purchases_and_classifier_are_merged_by_rule(session, rule, weight, expected, overruled):
    merged = query_nodes.merge_nodes(
        session.createDataFrame(DERIVED, QUERY_NODES),
        session.createDataFrame(CLASSIFIED, QUERY_NODES),
        rule=rule,
        classifier_weight=weight,
    ).cache()
    kept = rows(merged.where("NOT overruled").select("query", "node_id", "share", "confidence"))
    assert kept == sorted(expected)
    counted = query_nodes.count_merged(merged).collect()[0].asDict()
    assert counted == {"rows": len(DERIVED) + len(CLASSIFIED), "overruled": overruled, "shared": 1}
    assert counted["rows"] == len(kept) + counted["overruled"] + counted["shared"]
