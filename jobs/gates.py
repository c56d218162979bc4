"""What a job's result must hold before it is committed."""

from collections.abc import Iterator, Mapping
from typing import Any

from indexer.contracts.schemas import CATALOGUE, CROSSWALK, QUERY_CLASSES, TAXONOMY, TAXONOMY_PATHS
from indexer.errors import GateError
from indexer.index_config import GatesConfig
from indexer.runs import StepCommit

WHOLE_TABLES = tuple(table.name for table in (CATALOGUE, TAXONOMY, TAXONOMY_PATHS, CROSSWALK, QUERY_CLASSES))
"""Inputs that are delivered whole every night; purchases rise and fall with the weekday."""
NODES_WITH_PRODUCTS = "nodes_with_products"
"""Figure that falls where all products end up in one category."""


def judge_step(step: str, counts: Mapping[str, Any], earlier: StepCommit | None, gates: GatesConfig) -> None:
    """Raise GateError where a needed table has no rows, or where too much is missing against an earlier night."""
    for table, rows in counts["tables"].items():
        if rows == 0 and table in gates.tables_with_rows:
            raise GateError(
                f"{step}: {table} has 0 rows; look at the filters and rejects of this job and those before it, or take "
                f"{table} out of gates.tables_with_rows"
            )
    if earlier is None:
        return
    before = dict(_sizes(earlier.counts))
    for name, found in _sizes(counts):
        if before.get(name) and round(1 - found / before[name], 6) > gates.max_shrink:
            raise GateError(
                f"{step}: {name} fell from {before[name]:,} on {earlier.run_date} to {found:,}, by more than "
                f"{gates.max_shrink:.0%}; correct the input, or accept it by --set gates.max_shrink=1"
            )


def _sizes(counts: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for table, rows in counts.get("inputs", {}).items():
        if table in WHOLE_TABLES:
            yield f"valid rows of {table}", rows["valid"]
    if NODES_WITH_PRODUCTS in counts.get("figures", {}):
        yield NODES_WITH_PRODUCTS.replace("_", " "), counts["figures"][NODES_WITH_PRODUCTS]
