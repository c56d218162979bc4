"""Purchases per query and product, cleaned, and their margins."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark.text import normalised_query


def fill_purchases(raw: DataFrame, *, default_purchases: int) -> DataFrame:
    """Give rows of a table without counts the default one."""
    return raw.select("query", "product_id", F.coalesce("purchases", F.lit(default_purchases)).alias("purchases"))


def sum_purchases(raw: DataFrame) -> DataFrame:
    """Sum purchases per pair of normalised query and product; `rows` says how many rows a pair was made of.

    Queries with nothing visible in them come out empty, for the caller to reject.
    """
    normalised = raw.select(normalised_query(F.col("query")).alias("query"), "product_id", "purchases")
    return normalised.groupBy("query", "product_id").agg(
        F.sum("purchases").alias("purchases"), F.count("*").alias("rows")
    )


def clean_purchases(sums: DataFrame, *, min_purchases: int) -> DataFrame:
    """Keep pairs with a query that were bought often enough (KD-Boost section 4.1: 20 times, per pair)."""
    bought_enough = F.col("purchases") >= min_purchases
    return sums.where((F.col("query") != "") & bought_enough).select("query", "product_id", "purchases")


def count_purchases(sums: DataFrame, *, min_purchases: int) -> DataFrame:
    """Return one row that accounts for every input row: rejected, merged, below the minimum, kept."""
    empty, enough = F.col("query") == "", F.col("purchases") >= min_purchases
    small, kept = ~empty & ~enough, ~empty & enough
    return sums.agg(
        F.coalesce(F.sum(F.when(empty, F.col("rows"))), F.lit(0)).alias("query_empty"),
        F.coalesce(F.sum(F.when(~empty, F.col("rows") - 1)), F.lit(0)).alias("merged"),
        F.count_if(small).alias("below_min_purchases"),
        F.coalesce(F.sum(F.when(small, F.col("purchases"))), F.lit(0)).alias("purchases_below_min"),
        F.count_if(kept).alias("pairs"),
        F.coalesce(F.sum(F.when(kept, F.col("purchases"))), F.lit(0)).alias("purchases"),
        F.coalesce(F.max(F.when(~empty, F.col("purchases"))), F.lit(0)).alias("largest"),
    )


def query_totals(purchases: DataFrame) -> DataFrame:
    """Return n_i, the purchases after each query, as `query_purchases`."""
    return purchases.groupBy("query").agg(F.sum("purchases").alias("query_purchases"))


def product_totals(purchases: DataFrame) -> DataFrame:
    """Return N_k, the purchases of each product, as `product_purchases`."""
    return purchases.groupBy("product_id").agg(F.sum("purchases").alias("product_purchases"))


def grand_total(purchases: DataFrame) -> DataFrame:
    """Return N, all purchases, as the only row's `all_purchases`."""
    return purchases.agg(F.sum("purchases").alias("all_purchases"))


def with_totals(purchases: DataFrame) -> DataFrame:
    """Add n_i, N_k and N to every pair."""
    return (
        purchases.select("query", "product_id", "purchases")
        .join(query_totals(purchases), on="query", how="inner")
        .join(product_totals(purchases), on="product_id", how="inner")
        .crossJoin(F.broadcast(grand_total(purchases)))
    )
