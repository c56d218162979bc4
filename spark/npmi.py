"""Normalised pointwise mutual information of query pairs (KD-Boost equation 2), in four readings.

All readings score a joint probability P(a,b) against marginals p: NPMI = log(P / (p_a p_b)) / -log P, and in all
of them P(a,b) = factor_a factor_b sum_k C_ak C_bk weight_k, with C the counts, n_i and N_k their row and column
sums and N their sum:

           weight_k   factor_i  marginal_i
walk       1/(N_k N)  1         n_i / N
offdiag    1/(N_k S)  1         r_i / S, with r_i = sum_k C_ik (N_k - C_ik) / N_k and S = sum_i r_i
gramnorm   1/S        1/n_i     sum_k A_ik T_k / S, with A_ik = C_ik / n_i, T_k = sum_i A_ik and S = sum_k T_k^2
literal    1          1/n_i     n_i / N

walk draws a purchase, then another one of the same product; offdiag is walk without the chance of meeting oneself,
renormalised; gramnorm is the row-normalised Gram matrix divided by its own sum, so that every query weighs the
same; literal is that matrix as printed: no distribution, unbounded above.

NPMI > tau means P(a,b) > (p_a p_b)^(1/(1 + tau)), a product of terms of the two rows, so pairs below the threshold
are left out before they exist (`spark.sparse_product`).
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from indexer.contracts.schemas import QUERY_PAIRS
from indexer.job_config import NpmiConfig
from spark.block_pairs import work_blocks
from spark.block_rows import Block
from spark.gram import Totals, collect_rows
from spark.npmi_blocks import SCORED_SCHEMA, score_blocks
from spark.pairs import first_reason, rank_partners


def query_rows(entries: DataFrame, totals: Totals, *, variant: str) -> DataFrame:
    """Return one row per query that shares a product: query, marginal, factor, codes, counts, weights.

    `entries` are those of `spark.gram.counted_entries`; products of one query alone count in the marginals only.
    """
    count, product = F.col("purchases").cast("double"), F.col("product_purchases").cast("double")
    bought = F.sum("purchases").cast("double")
    reading = choose_reading(
        variant,
        product=product,
        bought=bought,
        met_others=F.sum(count * (product - count) / product),
        shares=F.sum(count * F.col("product_share")) / bought,
        totals=totals,
        one=F.lit(1.0),
    )
    return collect_rows(entries, **reading)


def choose_reading(
    variant: str, *, product: Any, bought: Any, met_others: Any, shares: Any, totals: Totals, one: Any = 1.0
) -> dict[str, Any]:
    """Return weight_k, factor_i and marginal_i of N_k, n_i, r_i and sum_k A_ik T_k, all columns or all arrays."""
    # Without a shared product a sum is 0, and there is no pair to divide.
    met, squares = totals.met_others or 1.0, totals.share_squares or 1.0
    weight, factor, marginal = {
        "walk": (1 / (product * totals.purchases), one, bought / totals.purchases),
        "offdiag": (1 / (product * met), one, met_others / met),
        "gramnorm": (one / squares, 1 / bought, shares / squares),
        "literal": (one, 1 / bought, bought / totals.purchases),
    }[variant]
    return {"weight": weight, "factor": factor, "marginal": marginal}


def score_pairs(rows: DataFrame, config: NpmiConfig, *, blocks: int) -> DataFrame:
    """Return QUERY_PAIRS above tau and the other limits, with `tally` and `count`.

    A row with a `tally` is no pair: it counts a task's multiply-adds, the pairs it scored (`candidates`), and those
    that fell to each filter. At least the `top_k` best partners of a query are there, and few others.
    """

    def work(one: Block, other: Block) -> Iterator[pa.RecordBatch]:
        yield from score_blocks(one, other, config)

    return work_blocks(rows, work, from_arrow_schema(SCORED_SCHEMA), key="query", blocks=blocks)


def count_tallies(scored: DataFrame) -> DataFrame:
    """Return (tally, count) over all tasks."""
    return scored.where("tally IS NOT NULL").groupBy("tally").agg(F.sum("count").alias("count"))


def judge_partners(scored: DataFrame, *, top_k: int) -> DataFrame:
    """Return the pairs with `reason`: beyond_top_k unless among the `top_k` best of one of the two queries."""
    pairs = scored.where("tally IS NULL").select(*QUERY_PAIRS.schema.names)
    ranked = rank_partners(pairs, score="npmi")
    return ranked.withColumn("reason", first_reason(("beyond_top_k", F.col("rank") > top_k))).drop("rank")
