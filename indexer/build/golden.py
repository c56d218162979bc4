"""Golden queries: products that a shop expects to find, asked of a release as a consumer asks."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from indexer.build.recall import NARROW, Probe
from indexer.contracts import schemas
from indexer.contracts.inputs import open_input
from indexer.errors import ContractError
from indexer.input_config import InputConfig
from indexer.text import normalise_query

MAX_GOLDEN = 2_000
"""Rows of the table; each takes about 12 kB in a probe, of which a build holds three."""
DEFAULT_RANK = 10


class GoldenQuery(NamedTuple):
    """A product that a query must return, and its worst rank."""

    query: str
    product_id: str
    within: int


@dataclass(frozen=True, kw_only=True)
class GoldenFindings:
    """What became of the golden queries."""

    asked: int = 0
    """Products that are in the catalogue."""
    missed: list[GoldenQuery] = field(default_factory=list)
    """Those of them that were not within their rank."""
    absent: list[GoldenQuery] = field(default_factory=list)
    """Products that the catalogue does not have; they are no fault of the search."""

    @property
    def share(self) -> float:
        """Share of the products in the catalogue that were found; 0 where it has none of them."""
        return 1 - len(self.missed) / self.asked if self.asked else 0.0


def read_golden(path: str) -> list[GoldenQuery]:
    """Read the shop's table; raises ContractError where any row of it breaks the contract, or there are too many."""
    if not path:
        return []
    found: list[GoldenQuery] = []
    for batch in open_input(schemas.GOLDEN_QUERIES, InputConfig(path=path, max_reject_share=0)):
        for row in batch.to_pylist():
            found.append(GoldenQuery(normalise_query(row["query"]), row["product_id"], row["within"] or DEFAULT_RANK))
        if len(found) > MAX_GOLDEN:
            raise ContractError(
                f"GOLDEN_QUERIES from {path}: more than {MAX_GOLDEN:,} rows; keep those that matter most"
            )
    return found


def find_golden(
    golden: Sequence[GoldenQuery], probe: Probe, places: Mapping[str, int], *, ef_search: int, known: Collection[str]
) -> GoldenFindings:
    """Look for each product among its query's hits; `places` has the queries' places in the probe.

    A query that is not in `places` has no hits. `known` are the ids of the catalogue among the golden ones.
    """
    missed = []
    absent = [item for item in golden if item.product_id not in known]
    asked = [item for item in golden if item.product_id in known]
    for item in asked:
        place, wide = places.get(item.query), item.within > NARROW
        names = [] if place is None else probe.list_names(ef_search, place, wide=wide)
        if item.product_id not in [name for name, _ in names[: item.within]]:
            missed.append(item)
    return GoldenFindings(asked=len(asked), missed=missed, absent=absent)
