"""The taxonomy as a tree: what is refused, what is left out, and trees made of category paths."""

import pytest

from indexer.errors import ContractError
from spark.tree import Node, grow_tree, path_nodes, path_text

GOOD = [
    Node("1", None, "Home"),
    Node("2", "1", "Kitchen"),
    Node("3", "2", "Pans"),
    Node("4", None, "Toys"),
]


def grow(rows, max_depth=32):
    return grow_tree(rows, max_depth=max_depth, shown="tree.csv")


def test_lineages_run_from_the_root_down():
    tree = grow(reversed(GOOD))
    assert tree.lineages == {"1": ("1",), "2": ("1", "2"), "3": ("1", "2", "3"), "4": ("4",)}
    assert tree.path("3", ">") == "Home > Kitchen > Pans"
    assert tree.orphans == ()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([Node("2", "1", "Kitchen")], "node '2' appears twice"),
        ([Node("2", "4", "Kitchen")], "node '2' has two parents, '1' and '4'"),
        ([Node("5", "5", "Self")], "cycle: 5 -> 5"),
        ([Node("5", "7", "A"), Node("6", "5", "B"), Node("7", "6", "C")], "cycle: 5 -> 7 -> 6 -> 5"),
        # A branch that hangs on a cycle is reported with the cycle alone.
        ([Node("a", "b", "A"), Node("b", "c", "B"), Node("c", "b", "C")], "cycle: b -> c -> b"),
    ],
)
def test_a_broken_tree_is_refused(extra, message):
    with pytest.raises(ContractError, match=message):
        grow([*GOOD, *extra])


def test_orphans_are_left_out_with_all_below_them():
    tree = grow([*GOOD, Node("8", "missing", "Lost"), Node("9", "8", "Below")])
    assert [node.node_id for node in tree.orphans] == ["8", "9"]
    assert set(tree.nodes) == {"1", "2", "3", "4"}


def test_depth_is_limited():
    chain = [Node(str(n), str(n - 1) if n else None, f"level {n}") for n in range(40)]
    assert len(grow(chain, max_depth=40).nodes) == 40
    with pytest.raises(ContractError, match="lies 33 levels deep, more than 32"):
        grow(chain)


def test_a_very_long_chain_is_refused_and_a_very_long_cycle_named():
    chain = [Node(f"{n:06d}", f"{n + 1:06d}", "level") for n in range(200_000)]
    with pytest.raises(ContractError, match="lies 33 levels deep, more than 32"):
        grow([*chain, Node("200000", None, "root")])
    with pytest.raises(ContractError, match="cycle: 000000 -> 000001 -> 000002"):
        grow([*chain, Node("200000", "000000", "root")])


def test_paths_make_a_tree():
    nodes = path_nodes(["Home > Kitchen > Pans", "Home > Bath", "Toys"], ">")
    assert {(node.node_id, node.parent_id, node.name) for node in nodes} == {
        ("Home", None, "Home"),
        ("Home > Kitchen", "Home", "Kitchen"),
        ("Home > Kitchen > Pans", "Home > Kitchen", "Pans"),
        ("Home > Bath", "Home", "Bath"),
        ("Toys", None, "Toys"),
    }
    assert len(grow(nodes).nodes) == 5


def test_path_text_is_cleaned_and_split_at_the_separator():
    assert path_text(["Home\u00a0 & Garden", " Pots>Pans ", ""], ">") == "Home & Garden > Pots > Pans"
    assert path_text(["A", "B"], " / ") == "A / B"
