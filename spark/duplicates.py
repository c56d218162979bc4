"""Several rows of one product: the rule of `indexer.contracts.duplicates` as Spark expressions."""

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from indexer.contracts.duplicates import TIME, YEAR

WHOLE = f"^{TIME}\\z"
"""Spark looks for a pattern anywhere in a text."""


def judge_versions(catalogue: DataFrame) -> DataFrame:
    """Add `reason`: null where the row stands, `repeated` for the same content again, else `duplicate_id`.

    Of different contents the newest stands; where the newest rows differ, no row can be believed. Content is
    what a product's nodes depend on: `node_ids` and `category_path`.
    """
    same_id = Window.partitionBy("product_id")
    content = F.to_json(F.struct("node_ids", "category_path"))
    time = F.when(F.col("updated_at").rlike(f"^{YEAR}"), read_time(F.col("updated_at")))
    timed = catalogue.withColumn("content", content).withColumn("time", time)
    dated = timed.withColumn("latest", F.max("time").over(same_id))
    newest = F.when(F.col("time").eqNullSafe(F.col("latest")), F.col("content"))
    ranged = dated.withColumn("low", F.min(newest).over(same_id)).withColumn("high", F.max(newest).over(same_id))
    same_content = Window.partitionBy("product_id", "content").orderBy(F.col("time").desc_nulls_last())
    believed = (F.col("low") == F.col("high")) & (F.col("content") == F.col("low"))
    reason = F.when(~believed, F.lit("duplicate_id")).when(F.row_number().over(same_content) > 1, F.lit("repeated"))
    return ranged.withColumn("reason", reason).drop("content", "time", "latest", "low", "high")


def count_versions(judged: DataFrame) -> DataFrame:
    """Count the rows that do not stand, by reason, with one id of each."""
    others = judged.where(F.col("reason").isNotNull())
    return others.groupBy("reason").agg(F.count("*").alias("count"), F.min("product_id").alias("key"))


def read_time(text: Column) -> Column:
    """Return a time written as TIME, taken as UTC where it names no zone; what is no time is null, older than any."""
    clock, zone = F.regexp_extract(text, WHOLE, 2), F.regexp_extract(text, WHOLE, 3)
    digits = F.regexp_replace(zone, "[:Z]", "")
    offset = F.when(digits == "", F.lit("Z")).otherwise(
        F.concat(F.substring(digits, 1, 3), F.lit(":"), F.rpad(F.substring(digits, 4, 2), 2, "0"))
    )
    # Spark reads no minutes without seconds.
    clock = F.concat(F.replace(clock, F.lit(","), F.lit(".")), F.lit("00:00:00").substr(F.length(clock) + 1, F.lit(8)))
    written = F.concat(F.regexp_extract(text, WHOLE, 1), F.lit("T"), clock, offset)
    return F.when(text.rlike(WHOLE), F.try_to_timestamp(written))
