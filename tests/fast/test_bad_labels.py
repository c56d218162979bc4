"""Bad taxonomies and labels (tests/bad_inputs): what stands, what is rejected, and what stops the run."""

import numpy as np
import pytest

from indexer.contracts import schemas
from indexer.contracts.inputs import open_input
from indexer.distill.judgements import read_judgements
from indexer.distill.splits import TEST, TRAIN, VALIDATION, check_classes, split_queries
from indexer.distill_config import DistillConfig
from indexer.errors import ContractError, GateError
from indexer.input_config import CatalogueConfig, LabelsConfig
from spark.tree import Node, grow_tree
from tests.bad_inputs.lines import line

GOOD = [Node("1", None, "Home"), Node("2", "1", "Kitchen"), Node("3", "2", "Pans"), Node("4", None, "Garden")]
CHAIN = [Node(f"c{n}", f"c{n - 1}" if n else None, "x") for n in range(1_000)]

TREES = [
    line(63, [Node("5", "7", "A"), Node("6", "5", "B"), Node("7", "6", "C")], "cycle: 5 -> 7 -> 6 -> 5"),
    line(63, [Node("5", "5", "Self")], "cycle: 5 -> 5", case="of one"),
    line(64, [Node("2", "4", "Kitchen")], "node '2' has two parents, '1' and '4'"),
    line(66, CHAIN, "lies 33 levels deep, more than 32"),
    line(67, [Node("2", "1", "Kitchen")], "node '2' appears twice"),
]


@pytest.mark.parametrize(("extra", "message"), TREES)
def test_a_broken_tree_is_refused(extra, message):
    with pytest.raises(ContractError, match=message):
        grow_tree([*GOOD, *extra], max_depth=32, shown="tree.csv")


@pytest.mark.parametrize("rule", [line(64, "first", case="by the rule")])
def test_of_two_parents_the_first_stays_and_the_other_is_counted(rule):
    tree = grow_tree([*GOOD, Node("2", "4", "Kitchen")], max_depth=32, shown="tree.csv", two_parents=rule)
    assert tree.lineages["2"] == ("1", "2")
    assert [node.parent_id for node in tree.second_parents] == ["4"]
    assert len(GOOD) + 1 == len(tree.nodes) + len(tree.orphans) + len(tree.second_parents)


@pytest.mark.parametrize("parent", [line(65, "77")])
def test_an_orphan_is_left_out_with_all_below_it(parent):
    rows = [*GOOD, Node("5", parent, "Lost"), Node("6", "5", "Below")]
    tree = grow_tree(rows, max_depth=32, shown="tree.csv")
    assert [node.node_id for node in tree.orphans] == ["5", "6"]
    assert len(rows) == len(tree.nodes) + len(tree.orphans) + len(tree.second_parents)


@pytest.fixture
def judge(tmp_path):
    """Read labels, rows of query, product, word and weight, of a catalogue of four products."""

    def go(rows, **options):
        (tmp_path / "c.csv").write_text("product_id,title\n" + "".join(f"p{n},steel mug {n}\n" for n in range(4)))
        text = "".join(",".join(map(str, row)) + "\n" for row in rows)
        (tmp_path / "l.csv").write_text("query,product_id,label,weight\n" + text)
        labels = LabelsConfig(path=str(tmp_path / "l.csv"), **({"max_reject_share": 1.0} | options))
        found = read_judgements(CatalogueConfig(path=str(tmp_path / "c.csv")), labels)
        counts = found.counts["labels"]
        assert counts["rows_in"] == len(rows) == counts["rows_out"] + counts["rejected"]
        assert counts["rows_out"] == found.counts["pairs"] + found.counts["labels_merged"]
        return found

    return go


LABELS = [
    line(68, [("mug", "gone", "E", 1)], {"product_unknown": 1}),
    line(69, [("mug", "p1", word, 1) for word in ("7", "-1", "3.5", "true", "wonderful")], {"label_unknown": 5}),
    line(69, [("mug", "p1", "", 1)], {"label_missing": 1}, case="nothing"),
    line(69, [("mug", "p1", "E", "NaN")], {"weight_type": 1}, case="weight NaN"),
]


@pytest.mark.parametrize(("rows", "rejected"), LABELS)
def test_a_label_that_says_nothing_is_rejected(judge, rows, rejected):
    good = [("mug", f"p{n % 4}", "E", 1) for n in range(8)]
    found = judge([*good, *rows])
    assert {row["reason"]: row["count"] for row in found.rejects} == rejected
    assert found.counts["pairs"] == 4


VOTES = [
    line(70, [("E", 1), ("I", 3)], 0, case="the heavier"),
    line(70, [("E", 1), ("I", 1)], 0, case="a tie"),
    line(70, [("E", 1), ("E", 1), ("I", 1)], 3, case="the more"),
]


@pytest.mark.parametrize(("votes", "grade"), VOTES)
def test_of_conflicting_labels_one_stands_and_the_conflict_is_counted(judge, votes, grade):
    found = judge([("mug", "p1", word, weight) for word, weight in votes])
    assert found.pairs.grade.tolist() == [grade]
    assert (found.counts["labels_conflicting"], found.counts["labels_merged"]) == (1, len(votes) - 1)


@pytest.mark.parametrize("word", [line(71, "E"), line(71, "I", case="irrelevant alone")])
def test_labels_of_one_class_train_nothing(judge, word):
    found = judge([(f"mug {n}", f"p{n}", word, 1) for n in range(4)])
    with pytest.raises(GateError, match=r"expected both relevant .* and irrelevant") as caught:
        check_classes(found.pairs, "training")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("copies", [line(72, 3)])
def test_a_pair_never_lies_in_two_parts(judge, copies):
    rows = [(f"  MUG {n % 50}" if n % 2 else f"mug {n % 50}", "p1", "E", 1) for n in range(50 * copies)]
    found = judge(rows)
    split = DistillConfig(validation_share=0.2, test_share=0.2, split_seed=1)
    parts = split_queries(found.queries, split)
    part_of_pair = parts[found.pairs.query]
    assert set(parts.tolist()) == {TRAIN, VALIDATION, TEST}
    pairs = list(zip(found.pairs.query.tolist(), found.pairs.product.tolist(), strict=True))
    assert len(pairs) == len(set(pairs)) == len(part_of_pair) == 50
    # Whatever stands beside a query, and in whatever order.
    assert np.array_equal(parts[::-1], split_queries(found.queries[::-1], split))


@pytest.mark.parametrize("name", [line(69, "l.csv", case="a shop's own words")])
def test_a_shops_own_words_are_grades(tmp_path, name):
    (tmp_path / name).write_text("query,product_id,label\nmug,p1,fine\nmug,p2,junk\nmug,p3,E\n")
    source = LabelsConfig(path=str(tmp_path / name), grades={"fine": 2}, max_reject_share=1.0)
    reader = open_input(schemas.LABELS, source)
    assert [row["grade"] for batch in reader for row in batch.to_pylist()] == [2, 3]
    assert {reason: reject.count for reason, reject in reader.counts.rejects.items()} == {"label_unknown": 1}
