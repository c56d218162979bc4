"""Which nodes products and a classifier name, worked by hand."""

import pytest

from spark import matching, taxonomy
from spark.tree import Node, grow_tree

pytestmark = pytest.mark.jvm

NODES = [
    Node("1", None, "Home"),
    Node("2", "1", "Kitchen"),
    Node("3", "2", "Pans"),
    Node("4", "1", "Bath"),
    Node("5", "4", "Taps"),
    Node("6", "2", "Taps"),
    Node("70", "2", "Lids"),
    Node("7", "2", "Lids"),
]
CROSSWALK = [
    ("gid://1", "3"),
    ("gid://1", "Home > Kitchen > Pans"),  # the same node again
    ("Casa>Bagno", "Home > Bath"),
    ("3", "4"),  # an id of this tree, which means another node there
    ("gid://2", "3"),
    ("gid://2", "4"),
    ("gid://3", "nowhere"),
    ("\u200b", "4"),
]


@pytest.fixture(scope="module")
def tree(session):
    return taxonomy.tree_frame(session, grow_tree(NODES, max_depth=9, shown="tree"), separator=">").cache()


@pytest.fixture(scope="module")
def judged(session, tree):
    rows = session.createDataFrame(CROSSWALK, "from_node string, to_node string")
    return matching.judge_crosswalk(rows, tree, separator=">").cache()


def rows(frame):
    return sorted(tuple(row) for row in frame.collect())


def match(session, tree, references, **options):
    frame = session.createDataFrame([(text,) for text in references], "reference string")
    found = matching.match_references(frame, tree, separator=">", **({"leaf_names": False} | options))
    return {row["reference"]: (row["node_id"], row["method"]) for row in found.collect()}


def test_products_are_placed_by_id_or_by_their_full_path(session, tree):
    catalogue = session.createDataFrame(
        [
            ("by id", ["3", "4", "3"], ["Home", "Bath"]),
            ("by path", None, ["Home ", "Kitchen\u00a0", "Pans"]),
            ("inner", None, ["Home > Kitchen"]),
            ("half known", ["3", "99"], ["Home", "Bath"]),
            ("old ids", ["98"], ["Home", "Bath"]),
            ("twice", ["4", "Home>Bath"], None),
            ("unknown path", None, ["Kitchen", "Pans"]),
            ("nothing", None, None),
        ],
        "product_id string, node_ids array<string>, category_path array<string>",
    )
    references = matching.product_references(taxonomy.category_text(catalogue, separator=">"))
    matches = matching.match_references(references, tree, separator=">", leaf_names=False)
    placed = matching.place_products(references, matches)
    assert rows(matching.product_nodes(placed)) == [
        ("by id", "3", 0.5, 1.0),
        ("by id", "4", 0.5, 1.0),
        ("by path", "3", 1.0, 1.0),
        ("half known", "3", 1.0, 1.0),
        ("inner", "2", 1.0, 1.0),
        ("old ids", "4", 1.0, 1.0),
        ("twice", "4", 1.0, 1.0),
    ]
    (counted,) = matching.count_places(placed).collect()
    assert counted.asDict(recursive=True) == {
        "all": 11,
        "unknown": 3,
        "merged": 1,
        "matched_by_crosswalk": 0,
        "matched_by_id": 4,
        "matched_by_path": 4,
        "matched_by_leaf": 0,
        "placed": 6,
        "unplaced": 1,
        "example": {"product_id": "half known", "reference": "99"},
    }
    empty = matching.count_places(placed.where("product_id = 'nothing'")).collect()[0]
    assert (empty["all"], empty["placed"], empty["example"]) == (0, 0, None)


def test_a_leaf_name_counts_only_by_option_and_where_it_is_unique(session, tree):
    names = ["Pans", "Taps", "Bath > Pans", "Elsewhere > Home", "pans", "Home > Kitchen > Lids"]
    assert match(session, tree, names) == {"Home > Kitchen > Lids": ("7", "path")}
    assert match(session, tree, names, leaf_names=True) == {
        "Pans": ("3", "leaf"),
        "Bath > Pans": ("3", "leaf"),
        "Elsewhere > Home": ("1", "leaf"),
        "Home > Kitchen > Lids": ("7", "path"),  # two nodes have this path
    }


def test_rows_of_a_crosswalk_stand_or_have_a_reason(judged):
    assert rows(judged.where("reason IS NULL").select("from_path", "node_id")) == [
        ("3", "4"),
        ("Casa > Bagno", "4"),
        ("gid://1", "3"),
    ]
    counted = {row["reason"]: (row["count"], *row["of"]) for row in
               matching.count_reasons(judged, key="from_node", sample="to_node").collect()}  # fmt: skip
    assert counted == {
        None: (3, "3", "4"),
        "repeated": (1, "gid://1", "Home > Kitchen > Pans"),
        "two_targets": (2, "gid://2", "3"),
        "node_unknown": (1, "gid://3", "nowhere"),
        "from_node_missing": (1, "\u200b", "4"),
    }


def test_a_crosswalk_goes_before_the_shops_own_tree(session, tree, judged):
    crosswalk = judged.where("reason IS NULL").select("from_path", "node_id")
    names = ["gid://1", "Casa > Bagno", " Casa>Bagno", "3", "2", "gid://2"]
    assert match(session, tree, names, crosswalk=crosswalk) == {
        "gid://1": ("3", "crosswalk"),
        "Casa > Bagno": ("4", "crosswalk"),
        " Casa>Bagno": ("4", "crosswalk"),
        "3": ("4", "crosswalk"),
        "2": ("2", "id"),
    }


def test_rows_of_a_classifier_stand_or_have_a_reason(session, tree):
    classes = session.createDataFrame(
        [
            ("PAN ", "4", 0.6),
            ("pan", "4", 0.5),
            ("pan", "Home > Bath", 0.6),
            ("pan", "77", 0.9),
            ("rule", "3", None),
            ("\u200b", "3", 1.0),
        ],
        "query string, node_id string, score double",
    )
    references = matching.class_references(classes)
    matches = matching.match_references(references, tree, separator=">", leaf_names=False)
    placed = matching.place_classes(references, matches)
    assert rows(placed.where("reason IS NULL").select("query", "node_id", "score")) == [
        ("pan", "4", 0.6),
        ("rule", "3", 1.0),
    ]
    counted = {row["reason"]: (row["count"], *row["of"]) for row in
               matching.count_reasons(placed, key="query", sample="reference").collect()}  # fmt: skip
    assert counted == {
        None: (2, "pan", "4"),
        "repeated": (2, "pan", "4"),
        "node_unknown": (1, "pan", "77"),
        "query_empty": (1, "", "3"),
    }
