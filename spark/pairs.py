"""What all tables of query pairs have in common: how the best partners are chosen and how filters are counted."""

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

RANK_DIGITS = 12
"""Scores are ranked to this many digits: the last ones depend on the order in which Spark adds."""


def rank_partners(pairs: DataFrame, *, score: str) -> DataFrame:
    """Add `rank`: the better of the pair's two places, among the partners of query_a and of query_b.

    Equal scores are ordered by the partner's text, so the result does not depend on the order of rows.
    """
    columns = pairs.columns
    sides = F.array(
        F.struct(F.col("query_a").alias("query"), F.col("query_b").alias("partner")),
        F.struct(F.col("query_b").alias("query"), F.col("query_a").alias("partner")),
    )
    best_first = Window.partitionBy("side.query").orderBy(F.round(score, RANK_DIGITS).desc(), F.col("side.partner"))
    ranked = pairs.withColumn("side", F.explode(sides)).withColumn("place", F.row_number().over(best_first))
    others = [F.first(name).alias(name) for name in columns if name not in ("query_a", "query_b")]
    return ranked.groupBy("query_a", "query_b").agg(*others, F.min("place").alias("rank"))


def first_reason(*rules: tuple[str, Column]) -> Column:
    """Return the name of the first rule that a row breaks, or null."""
    return F.coalesce(*[F.when(broken, F.lit(name)) for name, broken in rules], F.lit(None).cast("string"))


def count_filters(judged: DataFrame, *, reason: str = "reason") -> DataFrame:
    """Count the rows of each reason; null counts the rows kept."""
    return judged.groupBy(reason).agg(F.count("*").alias("count"))
