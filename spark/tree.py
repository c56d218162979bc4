"""The taxonomy as a tree on the driver: it is small, and a cycle is best named by walking it."""

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

    def path(self, node_id: str, separator: str) -> str:
        """Return the names from the root to the node as one text, which category paths are matched to."""
        return path_text((self.nodes[ancestor].name for ancestor in self.lineages[node_id]), separator)


def grow_tree(rows: Iterable[Node], *, max_depth: int, shown: str) -> Tree:
    """Check the rows and return their tree.

    Raises ContractError for a duplicate node, a node with two parents, a cycle (naming its path), a tree
    deeper than `max_depth`, and one too large for a taxonomy.
    """
    nodes = _index_nodes(rows, shown)
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
            if len(lineage) > max_depth:
                raise ContractError(
                    f"{shown}: node {node_id!r} lies {len(lineage)} levels deep, more than {max_depth}; "
                    "correct its parents or raise taxonomy.max_depth"
                )
            lineages[node_id] = lineage
    kept = {node_id: nodes[node_id] for node_id in sorted(lineages)}
    return Tree(kept, lineages, tuple(nodes[node_id] for node_id in sorted(orphans)))


def path_nodes(paths: Iterable[str], separator: str) -> list[Node]:
    """Make the nodes of a shop that has category paths only: the id of a node is its path."""
    joint = f" {separator.strip()} "
    nodes: dict[str, Node] = {}
    for path in paths:
        names = path.split(joint)
        for depth in range(1, len(names) + 1):
            node_id = joint.join(names[:depth])
            nodes[node_id] = Node(node_id, joint.join(names[: depth - 1]) or None, names[depth - 1])
    return list(nodes.values())


def path_text(names: Iterable[str], separator: str) -> str:
    """Write a path as cleaned names with the separator between spaces; a name that holds the separator is split."""
    parts = clean_text(separator.join(names)).split(separator.strip())
    return f" {separator.strip()} ".join(part.strip(" ") for part in parts if part.strip(" "))


def _index_nodes(rows: Iterable[Node], shown: str) -> dict[str, Node]:
    nodes: dict[str, Node] = {}
    for node in rows:
        other = nodes.setdefault(node.node_id, node)
        if other is node:
            continue
        if other.parent_id != node.parent_id:
            raise ContractError(
                f"{shown}: node {node.node_id!r} has two parents, {other.parent_id!r} and {node.parent_id!r}; "
                "a node lies in one place"
            )
        raise ContractError(f"{shown}: node {node.node_id!r} appears twice; keep one of its rows")
    if len(nodes) > MAX_NODES:
        raise ContractError(f"{shown}: more than {MAX_NODES} nodes; is this the taxonomy?")
    return nodes
