"""The Gram matrix of purchase counts: which queries lead to the same products, and what forming it costs.

The rows of the matrix are called queries here; with the two columns exchanged they are products.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from indexer.contracts.schemas import QUERY_GRAM
from indexer.errors import IntegrityError
from spark.block_pairs import work_blocks
from spark.block_rows import Block
from spark.gram_blocks import GRAM_SCHEMA, multiply_blocks
from spark.pairs import rank_partners
from spark.purchases import query_totals

SEEDS = 4


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Sums over all products, in the letters of `spark.npmi`."""

    entries: int
    """Pairs of a query and a product that has another query."""
    shared_pairs: int
    """sum_k d_k (d_k - 1) / 2 over products of d_k queries: the multiply-adds that form every co-occurring pair."""
    purchases: int
    """N."""
    met_others: float
    """S of offdiag."""
    share_squares: float
    """S of gramnorm; 0 where shares were not asked for."""
    mixed_codes: int
    """Codes that several products share; unless 0 they are of no use."""


def code_purchases(purchases: DataFrame, *, seed: int = 0) -> DataFrame:
    """Add `code`, a 64-bit hash of the product's id, and `check`, another one.

    No numbering of all products is needed; `measure_products` tells where two ids have one code.
    """
    hashes = [
        hash_id(F.col("product_id"), F.lit(seed + more)).alias(name) for name, more in (("code", 0), ("check", SEEDS))
    ]
    return purchases.select("query", "product_id", "purchases", *hashes)


def hash_id(product_id: Column, seed: Column) -> Column:
    """Return a 64-bit hash of an id; another seed gives another one."""
    return F.xxhash64(product_id, seed)


def total_products(coded: DataFrame, *, shares: bool) -> DataFrame:
    """Return per code: product_purchases N_k, queries d_k, met_others_k, and product_share T_k if asked for."""
    count = F.col("purchases").cast("double")
    counted = coded.join(query_totals(coded), on="query", how="inner") if shares else coded
    share = F.sum(count / F.col("query_purchases")) if shares else F.lit(0.0)
    bought = F.sum("purchases").cast("double")
    return counted.groupBy("code").agg(
        F.sum("purchases").alias("product_purchases"),
        F.count("*").alias("queries"),
        F.greatest(F.lit(0.0), bought - F.sum(count * count) / bought).alias("met_others"),
        share.alias("product_share"),
        (F.min("check") == F.max("check")).alias("one_product"),
    )


def measure_products(products: DataFrame) -> Totals:
    """Add up what `total_products` returned."""
    queries, shared = F.col("queries"), F.col("queries") > 1
    sums = {
        "entries": F.when(shared, queries),
        "shared_pairs": (queries * (queries - 1) / 2).cast("bigint"),
        "purchases": F.col("product_purchases"),
        "met_others": F.when(shared, F.col("met_others")),
        "share_squares": F.col("product_share") * F.col("product_share"),
    }
    row = products.agg(
        F.count_if(~F.col("one_product")).alias("mixed_codes"),
        *[F.sum(value).alias(name) for name, value in sums.items()],
    ).collect()[0]
    return Totals(**{name: value or 0 for name, value in row.asDict().items()})


@contextmanager
def coded_products(purchases: DataFrame, *, shares: bool = False) -> Iterator[tuple[DataFrame, DataFrame, Totals]]:
    """Give the coded purchases, the products of their codes, and the sums of these, for the time of the block.

    Should two ids have one code, other hashes are taken; raises IntegrityError where none tells them apart.
    """
    for seed in range(SEEDS):
        coded = code_purchases(purchases, seed=seed)
        products = total_products(coded, shares=shares).persist()
        try:
            totals = measure_products(products)
            if not totals.mixed_codes:
                yield coded, products, totals
                return
        finally:
            products.unpersist()
    raise IntegrityError(f"{SEEDS} hashes of the product ids have two equal ones each; please report this")


def counted_entries(coded: DataFrame, products: DataFrame) -> DataFrame:
    """Return every coded pair of query and product with the totals of its product."""
    return coded.select("query", "code", "purchases").join(products, on="code", how="inner")


def gram_rows(entries: DataFrame, totals: Totals) -> DataFrame:
    """Return one row per query that shares a product: query, marginal n_i / N, factor n_i, codes, counts, weights.

    The weights 1 / (N_k N) make the product of two rows the walk joint.
    """
    weight = 1 / (F.col("product_purchases").cast("double") * totals.purchases)
    bought = F.sum("purchases").cast("double")
    return collect_rows(entries, weight=weight, marginal=bought / totals.purchases, factor=bought)


def collect_rows(entries: DataFrame, *, weight: Column, marginal: Column, factor: Column) -> DataFrame:
    """Gather the entries of each query into lists; products of one query alone stay out of them.

    `weight` is of an entry, `marginal` and `factor` are aggregates over all entries of a query.
    """
    entry = F.struct("code", F.col("purchases").alias("count"), weight.alias("weight"))
    rows = entries.groupBy("query").agg(
        marginal.alias("marginal"),
        factor.alias("factor"),
        F.collect_list(F.when(F.col("queries") > 1, entry)).alias("entries"),
    )
    lists = [F.col(f"entries.{name}").alias(f"{name}s") for name in ("code", "count", "weight")]
    return rows.where(F.size("entries") > 0).select("query", "marginal", "factor", *lists)


def query_gram(rows: DataFrame, *, blocks: int, top_k: int) -> DataFrame:
    """Return QUERY_GRAM: one row per pair of queries that share a product, query_a < query_b in code point order.

    With `top_k` above 0 only pairs that are among the best, by joint, of one of their queries.
    """

    def work(one: Block, other: Block) -> Iterator[pa.RecordBatch]:
        yield from multiply_blocks(one, other, top_k)

    pairs = work_blocks(rows, work, from_arrow_schema(GRAM_SCHEMA), key="query", blocks=blocks)
    if not top_k:
        return pairs
    ranked = rank_partners(pairs.withColumn("strength", F.ln("joint")), score="strength").where(F.col("rank") <= top_k)
    return ranked.select(*QUERY_GRAM.schema.names)
