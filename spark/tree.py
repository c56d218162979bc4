"""The taxonomy as a tree on the driver: it is small, and a cycle is best named by walking it.

MAX_NODES bounds its memory: 1.2 kB a node, measured with a million nodes of 8 levels and short names.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import dropwhile
from typing import NamedTuple

from indexer.errors import ContractError
from indexer.text import clean_text

MAX_NODES = 1_000_000


class Node(NamedTuple):
    """One row of TAXONOMY."""

    node_id: str
    parent_id: str | None
    name: str


@dataclass(frozen=True)
class Tree:
    """Nodes whose parents are all there, each with its lineage from the root down to itself."""

    nodes: dict[str, Node]
    lineages: dict[str, tuple[str, ...]]
    orphans: tuple[Node, ...]
    """Nodes left out because a parent above them is missing."""
    second_parents: tuple[Node, ...]
    """Rows left out because their node has another parent."""

    def path(self, node_id: str, separator: str) -> str:
        """Return the names from the root to the node as one text, which category paths are matched to."""
        return path_text((self.nodes[ancestor].name for ancestor in self.lineages[node_id]), separator)


def grow_tree(rows: Iterable[Node], *, max_depth: int, shown: str, two_parents: str = "refuse") -> Tree:
    """Check the rows and return their tree, whatever their order.

    Of a node's several parents `two_parents="first"` keeps the first in code point order: one that has a row
    itself, else none (a root), else a missing one.

    Raises ContractError for a duplicate node, a node with two parents (unless the first is kept), a cycle
    (naming its path), a tree deeper than `max_depth`, and one too large for a taxonomy.
    """
    nodes, second = _index_nodes(rows, shown, two_parents)
    lineages: dict[str, tuple[str, ...]] = {}
    orphans: set[str] = set()
    for start in sorted(nodes):
        branch: dict[str, None] = {}
        climbing: str | None = start
        while climbing is not None and climbing in nodes and climbing not in lineages and climbing not in orphans:
            if climbing in branch:
                cycle = [*dropwhile(climbing.__ne__, branch), climbing]
                raise ContractError(f"{shown}: the taxonomy has a cycle: {' -> '.join(cycle[:20])}; correct a parent")
            branch[climbing] = None
            climbing = nodes[climbing].parent_id
        if climbing is not None and climbing not in lineages:
            orphans.update(branch)
            continue
        lineage = lineages[climbing] if climbing is not None else ()
        for node_id in reversed(branch):
            lineage = (*lineage, node_id)
            _check_depth(node_id, len(lineage), max_depth, shown)
            lineages[node_id] = lineage
    kept = {node_id: nodes[node_id] for node_id in sorted(lineages)}
    return Tree(kept, lineages, tuple(nodes[node_id] for node_id in sorted(orphans)), second)


def path_nodes(rows: Iterable[tuple[str, str]], *, separator: str, max_depth: int, shown: str) -> list[Node]:
    """Make nodes of (id, full path) rows; paths are written as `path_text` writes them.

    A node's parent is the node that has the path above, the first id of several. A path above that no row has
    becomes a node whose id is that path. Raises ContractError for a path deeper than `max_depth` and for too many.
    """
    joint = f" {separator.strip()} "
    placed = sorted(rows)
    ids: dict[str, str] = {}
    for node_id, path in placed:
        _check_depth(node_id, path.count(joint) + 1, max_depth, shown)
        ids.setdefault(path, node_id)
    nodes = []
    for node_id, path in placed:
        above, _, name = path.rpartition(joint)
        nodes.append(Node(node_id, ids.get(above, above) or None, name))
        while above and above not in ids:
            ids[above] = implied = above
            above, _, name = above.rpartition(joint)
            nodes.append(Node(implied, ids.get(above, above) or None, name))
            _check_size(len(nodes), shown)
    return nodes


def path_text(names: Iterable[str], separator: str) -> str:
    """Write a path as cleaned names with the separator between spaces; a name that holds the separator is split."""
    parts = clean_text(separator.join(names)).split(separator.strip())
    return f" {separator.strip()} ".join(part.strip(" ") for part in parts if part.strip(" "))


def _index_nodes(rows: Iterable[Node], shown: str, two_parents: str) -> tuple[dict[str, Node], tuple[Node, ...]]:
    """Return the one row of every node, and the rows that name another parent."""
    places: dict[str, dict[str | None, Node]] = {}
    for count, node in enumerate(rows, 1):
        _check_size(count, shown)
        same = places.setdefault(node.node_id, {})
        if node.parent_id in same:
            raise ContractError(f"{shown}: node {node.node_id!r} appears twice; keep one of its rows")
        if same and two_parents == "refuse":
            raise ContractError(
                f"{shown}: node {node.node_id!r} has two parents, {next(iter(same))!r} and {node.parent_id!r}; "
                "a node lies in one place, or set taxonomy.two_parents to first"
            )
        same[node.parent_id] = node

    def rank(node: Node) -> tuple[int, str]:
        known = 0 if node.parent_id in places else 1 if node.parent_id is None else 2
        return known, node.parent_id or ""

    ordered = [sorted(same.values(), key=rank) for _, same in sorted(places.items())]
    return {same[0].node_id: same[0] for same in ordered}, tuple(node for same in ordered for node in same[1:])


def _check_depth(node_id: str, depth: int, max_depth: int, shown: str) -> None:
    if depth > max_depth:
        raise ContractError(
            f"{shown}: node {node_id[:200]!r} lies {depth} levels deep, more than {max_depth}; "
            "correct its parents or raise taxonomy.max_depth"
        )


def _check_size(nodes: int, shown: str) -> None:
    if nodes > MAX_NODES:
        raise ContractError(f"{shown}: more than {MAX_NODES} nodes; is this the taxonomy?")
