"""What every row of the project's own tables must hold, whatever the input was: a row that does not is our fault."""

from collections.abc import Mapping

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from indexer.contracts.schemas import PRODUCT_GRAM, QUERY_GRAM, QUERY_PAIRS, Table

ROUNDING = "1e-9"
"""Sums of shares and logarithms may be off by so much."""
IN_ORDER = "query_a < query_b"
"""A pair stands once, in code point order: then the matrix is symmetric by its form."""
SHARES = (f"gram > 0 AND gram <= 1 + {ROUNDING}", f"joint > 0 AND joint <= 1 + {ROUNDING}")

RULES: Mapping[str, tuple[str, ...]] = {
    QUERY_GRAM.name: (IN_ORDER, *SHARES, "overlap >= shared_products"),
    PRODUCT_GRAM.name: ("product_a < product_b", *SHARES, "overlap >= shared_queries"),
    # The literal variant has no ceiling, and its values are no probabilities.
    QUERY_PAIRS.name: (
        IN_ORDER,
        "NOT isnan(npmi)",
        f"ceiling IS NULL OR joint <= least(p_a, p_b) * (1 + {ROUNDING})",
        f"ceiling IS NULL OR npmi <= ceiling + {ROUNDING}",
        "support >= shared_products",
    ),
}
"""Table -> conditions in SQL that are true of every row."""


def count_broken(rows: DataFrame, table: Table) -> DataFrame:
    """Return one row: `rows`, and under each rule of the table the rows that break it."""
    broken = [F.count_if(~F.coalesce(F.expr(rule), F.lit(False))).alias(rule) for rule in RULES.get(table.name, ())]
    return rows.agg(F.count("*").alias("rows"), *broken)
