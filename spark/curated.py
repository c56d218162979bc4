"""Curated queries: the ones worth answering a reformulation with."""

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from spark.pairs import first_reason
from spark.personal_data import has_personal_data, mask_text
from spark.text import normalised_query

ID_DIGITS = 16
SHARE_DIGITS = 12
"""Shares are compared to this many digits: the last ones depend on the order in which Spark adds."""


def blocked_phrases(words: DataFrame) -> DataFrame:
    """Return (phrase, words) of BLOCKED_WORDS, written as queries are compared with it; empty ones have 0 words."""
    split = text_words(normalised_query(F.col("word")))
    return words.select(F.array_join(split, " ").alias("phrase"), F.size(split).alias("words"))


def blocked_queries(queries: DataFrame, phrases: DataFrame, *, longest: int) -> DataFrame:
    """Return the queries that hold one of the phrases as whole words; `longest` is the most words of a phrase."""
    words = queries.select("query", text_words(F.col("query")).alias("words")).where(F.size("words") > 0)

    def phrases_from(start: Column) -> Column:
        lengths = F.sequence(F.lit(1), F.least(F.lit(longest), F.size("words") - start + 1))
        return F.transform(lengths, lambda length: F.array_join(F.slice("words", start, length), " "))

    starts = F.sequence(F.lit(1), F.size("words"))
    held = words.select("query", F.explode(F.flatten(F.transform(starts, phrases_from))).alias("phrase"))
    return held.join(F.broadcast(phrases.select("phrase")), on="phrase", how="left_semi").select("query").distinct()


def text_words(text: Column) -> Column:
    """Split a text at everything that is no letter, mark or digit."""
    return F.filter(F.split(text, r"[^\p{L}\p{M}\p{N}]+"), lambda word: word != "")


def judge_texts(
    queries: DataFrame,
    blocked: DataFrame | None,
    *,
    max_characters: int,
    scripts: Sequence[str],
    reject_personal_data: bool,
) -> DataFrame:
    """Add `reason`, the first filter that the text of a query falls to, or null, and `mask`, its shape.

    `scripts` are Unicode scripts that all letters must belong to, but for those of every script; none means any.
    """
    rules = [("above_max_characters", F.char_length("query") > max_characters)]
    if reject_personal_data:
        rules.insert(0, ("pii", has_personal_data(F.col("query"))))
    if blocked is not None:
        queries = queries.join(blocked.select("query", F.lit(True).alias("blocked")), on="query", how="left")
        rules.append(("blocked_word", F.col("blocked")))
    if scripts:
        allowed = "".join(rf"\p{{script={script}}}" for script in (*scripts, "Common", "Inherited"))
        rules.append(("other_script", F.col("query").rlike(rf"(?![{allowed}])\p{{L}}")))
    return queries.select(
        "query", "purchases", first_reason(*rules).alias("reason"), mask_text(F.col("query")).alias("mask")
    )


def sum_variants(variants: DataFrame, purchases: DataFrame) -> DataFrame:
    """Return (main_query, weight, products): purchases and distinct products after it and its near-duplicates."""
    bought = variants.select("query", "main_query").join(purchases, on="query", how="inner")
    return bought.groupBy("main_query").agg(
        F.sum("purchases").alias("weight"), F.count_distinct("product_id").alias("products")
    )


def variant_nodes(variants: DataFrame, query_nodes: DataFrame) -> DataFrame:
    """Return (main_query, node_id, part): the most purchases that one of its queries has in the node."""
    part = F.max(F.col("purchases") * F.round("share", SHARE_DIGITS)).alias("part")
    return variants.join(query_nodes, on="query", how="inner").groupBy("main_query", "node_id").agg(part)


def judge_mains(
    mains: DataFrame, nodes: DataFrame, *, min_purchases: int, min_products: int, max_queries: int
) -> DataFrame:
    """Add `reason`, the first filter a main query falls to, or null.

    `max_queries` are kept: for each taxonomy node the query with the most purchases in it, then the others; within
    both, the most bought first, then those that reach more products, then by the text.
    """
    reason = first_reason(
        ("below_min_purchases", F.col("weight") < min_purchases),
        ("below_min_products", F.col("products") < min_products),
    )
    judged = mains.withColumn("reason", reason)
    strong = judged.where(F.col("reason").isNull()).drop("reason")
    best = F.min(F.struct(-F.col("part"), F.col("main_query"))).alias("best")
    in_reach = nodes.join(strong.select("main_query"), on="main_query", how="left_semi")
    first_of_node = in_reach.groupBy("node_id").agg(best).select("best.main_query").distinct()
    ranked = strong.join(first_of_node.withColumn("first", F.lit(1)), on="main_query", how="left")
    order = Window.orderBy(F.desc_nulls_last("first"), F.desc("weight"), F.desc("products"), "main_query")
    beyond = first_reason(("beyond_max_queries", F.row_number().over(order) > max_queries))
    placed = ranked.withColumn("reason", beyond).drop("first")
    return judged.where(F.col("reason").isNotNull()).unionByName(placed)


def place_queries(texts: DataFrame, variants: DataFrame, mains: DataFrame, product_ids: DataFrame) -> DataFrame:
    """Return every query once, with the columns of CURATED_QUERIES and QUERY_VARIANTS, its `reason` and `mask`.

    A near-duplicate of a kept query has the reason `merged_variants`, one of a query that is not kept that reason.
    """
    ids = product_ids.select(normalised_query(F.col("product_id")).alias("query")).distinct()
    placed = (
        texts.withColumnRenamed("reason", "text_reason")
        .join(variants.select("query", "main_query", "apart"), on="query", how="left")
        .join(mains.withColumnRenamed("reason", "main_reason"), on="main_query", how="left")
        .join(ids.withColumn("is_product_id", F.lit(True)), on="query", how="left")
    )
    reason = first_reason(("merged_variants", F.col("main_query") != F.col("query")))
    return placed.select(
        "query",
        F.substring(F.sha2(F.coalesce("main_query", "query"), 256), 1, ID_DIGITS).alias("query_id"),
        "main_query",
        "purchases",
        F.col("weight").cast("double").alias("weight"),
        "products",
        F.coalesce("is_product_id", F.lit(False)).alias("is_product_id"),
        F.coalesce("apart", F.lit(False)).alias("apart"),
        "mask",
        F.coalesce("text_reason", "main_reason", reason).alias("reason"),
    )


def count_coverage(placed: DataFrame, purchases: DataFrame, query_nodes: DataFrame) -> DataFrame:
    """Return one row: purchases, products and nodes of all queries, and of those kept or merged into one kept."""
    covered = F.coalesce(F.col("reason") == "merged_variants", F.lit(True))
    marked = placed.select("query", covered.alias("covered"))

    def covered_value(name: str) -> Column:
        return F.when(F.col("covered"), F.col(name))

    bought = purchases.join(marked, on="query", how="inner").agg(
        F.sum("purchases").alias("purchases"),
        F.coalesce(F.sum(covered_value("purchases")), F.lit(0)).alias("purchases_covered"),
        F.count_distinct("product_id").alias("products"),
        F.count_distinct(covered_value("product_id")).alias("products_covered"),
    )
    nodes = query_nodes.join(marked, on="query", how="inner").agg(
        F.count_distinct("node_id").alias("nodes"),
        F.count_distinct(covered_value("node_id")).alias("nodes_covered"),
    )
    return bought.crossJoin(nodes)
