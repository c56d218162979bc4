"""The Gram matrix of purchase counts: which queries lead to the same products."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark.purchases import with_totals


def query_gram(purchases: DataFrame) -> DataFrame:
    """Return one row per pair of queries that share a product, query_a < query_b in code point order.

    With C the counts, n_i and N_k their row and column sums and N their sum: overlap = sum_k C_ak C_bk,
    gram = sum_k C_ak C_bk / (n_a n_b) as KD-Boost equation 2 prints it, joint = sum_k C_ak C_bk / (N_k N),
    support = sum_k min(C_ak, C_bk). The self-join costs half the sum over products of their queries squared.
    """
    counts = with_totals(purchases).select(
        "product_id",
        "query",
        "purchases",
        (F.col("purchases") / F.col("query_purchases")).alias("share"),
        (F.col("purchases") / F.col("product_purchases") / F.col("all_purchases")).alias("step"),
    )
    left, right = counts.alias("a"), counts.alias("b")
    same_product = F.col("a.product_id") == F.col("b.product_id")
    shared = left.join(right, on=same_product & (F.col("a.query") < F.col("b.query")), how="inner")
    return shared.groupBy(F.col("a.query").alias("query_a"), F.col("b.query").alias("query_b")).agg(
        F.sum(F.col("a.purchases") * F.col("b.purchases")).alias("overlap"),
        F.sum(F.col("a.share") * F.col("b.share")).alias("gram"),
        F.sum(F.col("a.purchases") * F.col("b.step")).alias("joint"),
        F.sum(F.least("a.purchases", "b.purchases")).alias("support"),
        F.count("*").alias("shared_products"),
    )


def join_size(purchases: DataFrame) -> DataFrame:
    """Return one row: `shared_pairs`, the rows that the self-join forms, and the largest product's queries."""
    per_product = purchases.groupBy("product_id").agg(F.count("*").alias("queries"))
    formed = F.sum(F.col("queries") * (F.col("queries") - 1)).cast("bigint")
    return per_product.agg(
        F.coalesce((formed / 2).cast("bigint"), F.lit(0)).alias("shared_pairs"),
        F.coalesce(F.max("queries"), F.lit(0)).alias("most_queries_of_a_product"),
    )
