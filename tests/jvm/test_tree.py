"""The taxonomy as a tree: what is refused, what is left out, and trees made of category paths."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.errors import ContractError
from spark import tree as trees
from spark.tree import Node, grow_tree, path_nodes, path_text

GOOD = [
    Node("1", None, "Home"),
    Node("2", "1", "Kitchen"),
    Node("3", "2", "Pans"),
    Node("4", None, "Toys"),
]


def grow(rows, max_depth=32, **options):
    return grow_tree(rows, max_depth=max_depth, shown="tree.csv", **options)


def of_paths(*rows, max_depth=32):
    return path_nodes(rows, separator=">", max_depth=max_depth, shown="tree.txt")


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
@pytest.mark.line(63, 64, 67)
def test_a_broken_tree_is_refused(extra, message):
    with pytest.raises(ContractError, match=message):
        grow([*GOOD, *extra])


@pytest.mark.line(65)
def test_orphans_are_left_out_with_all_below_them():
    tree = grow([*GOOD, Node("8", "missing", "Lost"), Node("9", "8", "Below")])
    assert [node.node_id for node in tree.orphans] == ["8", "9"]
    assert set(tree.nodes) == {"1", "2", "3", "4"}


@pytest.mark.line(66)
def test_depth_is_limited():
    chain = [Node(str(n), str(n - 1) if n else None, f"level {n}") for n in range(40)]
    assert len(grow(chain, max_depth=40).nodes) == 40
    with pytest.raises(ContractError, match="lies 33 levels deep, more than 32"):
        grow(chain)


@pytest.mark.line(63, 66)
def test_a_very_long_chain_is_refused_and_a_very_long_cycle_named():
    chain = [Node(f"{n:06d}", f"{n + 1:06d}", "level") for n in range(200_000)]
    with pytest.raises(ContractError, match="lies 33 levels deep, more than 32"):
        grow([*chain, Node("200000", None, "root")])
    with pytest.raises(ContractError, match="cycle: 000000 -> 000001 -> 000002"):
        grow([*chain, Node("200000", "000000", "root")])


@pytest.mark.parametrize("turn", [1, -1])
@pytest.mark.line(64)
def test_of_two_parents_the_first_that_is_there_can_be_kept(turn):
    extra = [Node("3", "4", "Pans"), Node("2", "missing", "Kitchen"), Node("4", "2", "Toys"), Node("5", "lost", "Five")]
    rows = [*GOOD, *extra, Node("5", None, "Five")][::turn]
    tree = grow(rows, two_parents="first")
    # 4 is given a parent and no root any more; 5 is a root, because the parent of its other row is missing.
    assert tree.lineages == {"1": ("1",), "2": ("1", "2"), "3": ("1", "2", "3"), "4": ("1", "2", "4"), "5": ("5",)}
    assert [(node.node_id, node.parent_id) for node in tree.second_parents] == [
        ("2", "missing"),
        ("3", "4"),
        ("4", None),
        ("5", "lost"),
    ]
    assert len(rows) == len(tree.nodes) + len(tree.second_parents) + len(tree.orphans)
    with pytest.raises(ContractError, match="node '2' appears twice"):
        grow([*rows, Node("2", "1", "Again")], two_parents="first")


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.one_of(st.none(), st.integers(0, 9)))), st.randoms())
def test_every_row_is_kept_or_left_out_whatever_the_order(edges, random):
    # A parent has a smaller number, so there is no cycle; 9 has no row.
    upward = dict.fromkeys((node, parent if parent is None or parent < node else 9) for node, parent in edges)
    rows = [Node(str(node), None if parent is None else str(parent), f"name {node}") for node, parent in upward]
    tree = grow(rows, two_parents="first")
    assert len(rows) == len(tree.nodes) + len(tree.orphans) + len(tree.second_parents)
    assert {*tree.nodes.values(), *tree.orphans, *tree.second_parents} == set(rows)
    for node_id, lineage in tree.lineages.items():
        assert lineage[-1] == node_id
        assert [tree.nodes[step].parent_id for step in lineage] == [None, *lineage[:-1]]
    random.shuffle(rows)
    assert grow(rows, two_parents="first") == tree


def test_too_many_nodes_are_refused(monkeypatch):
    monkeypatch.setattr(trees, "MAX_NODES", 4)
    assert len(grow(GOOD).nodes) == 4
    with pytest.raises(ContractError, match=r"tree.csv: more than 4 nodes"):
        grow([*GOOD, Node("5", "1", "Five")])
    with pytest.raises(ContractError, match=r"tree.txt: more than 4 nodes"):
        of_paths(("1", "A > B > C > D > E > F"))


def test_category_paths_make_a_tree():
    nodes = of_paths(*[(path, path) for path in ("Home > Kitchen > Pans", "Home > Bath", "Toys")])
    assert {(node.node_id, node.parent_id, node.name) for node in nodes} == {
        ("Home", None, "Home"),
        ("Home > Kitchen", "Home", "Kitchen"),
        ("Home > Kitchen > Pans", "Home > Kitchen", "Pans"),
        ("Home > Bath", "Home", "Bath"),
        ("Toys", None, "Toys"),
    }
    assert len(grow(nodes).nodes) == 5


def test_nodes_with_full_paths_find_their_parents():
    rows = [
        ("7", "Home > Kitchen > Pans"),
        ("1", "Home"),
        ("9", "Home > Bath"),
        ("8", "Home > Bath"),
        ("3", "Home > Bath > Taps"),
    ]
    nodes = of_paths(*rows)
    assert nodes == of_paths(*reversed(rows))
    assert {(node.node_id, node.parent_id, node.name) for node in nodes} == {
        ("1", None, "Home"),
        ("Home > Kitchen", "1", "Kitchen"),  # no row has this path
        ("7", "Home > Kitchen", "Pans"),
        ("8", "1", "Bath"),
        ("9", "1", "Bath"),
        ("3", "8", "Taps"),  # of two nodes with the path above, the first
    }
    assert grow(nodes).path("7", ">") == "Home > Kitchen > Pans"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("1", "A"), ("1", "A")], "node '1' appears twice"),
        ([("1", "A"), ("2", "A > B"), ("2", "C")], "node '2' has two parents, '1' and None"),
    ],
)
def test_paths_that_contradict_each_other_are_refused(rows, message):
    with pytest.raises(ContractError, match=message):
        grow(of_paths(*rows))


def test_a_very_deep_path_is_refused_before_it_is_taken_apart():
    with pytest.raises(ContractError, match="node 'x' lies 100000 levels deep, more than 32"):
        of_paths(("x", " > ".join(["a"] * 100_000)))


def test_path_text_is_cleaned_and_split_at_the_separator():
    assert path_text(["Home\u00a0 & Garden", " Pots>Pans ", ""], ">") == "Home & Garden > Pots > Pans"
    assert path_text(["A", "B"], " / ") == "A / B"
