"""Curated queries: the ones worth answering a reformulation with."""

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from spark.pairs import first_reason

ID_DIGITS = 16


def judge_queries(
    purchases: DataFrame, *, min_purchases: int, min_products: int, max_queries: int, max_characters: int
) -> DataFrame:
    """Return CURATED_QUERIES of all queries, with `reason`, the first filter a query falls to, or null.

    Of the queries that pass the other filters the `max_queries` most bought are kept; ties go by their text.
    """
    queries = purchases.groupBy("query").agg(
        F.sum("purchases").alias("purchases"), F.count_distinct("product_id").alias("products")
    )
    reason = first_reason(
        ("below_min_purchases", F.col("purchases") < min_purchases),
        ("below_min_products", F.col("products") < min_products),
        ("above_max_characters", F.char_length("query") > max_characters),
    )
    most_bought = Window.partitionBy("reason").orderBy(F.col("purchases").desc(), "query")
    ranked = queries.withColumn("reason", reason).withColumn("rank", F.row_number().over(most_bought))
    beyond = F.col("reason").isNull() & (F.col("rank") > max_queries)
    return ranked.select(
        F.substring(F.sha2("query", 256), 1, ID_DIGITS).alias("query_id"),
        "query",
        F.col("purchases").cast("double").alias("weight"),
        "products",
        F.when(beyond, F.lit("beyond_max_queries")).otherwise(F.col("reason")).alias("reason"),
    )
