"""Hard negatives: queries that look alike and share no taxonomy node (KD-Boost section 3.2)."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark.pairs import first_reason, rank_partners

TRIGRAM_CHARACTERS = 3


def query_tokens(queries: DataFrame) -> DataFrame:
    """Return (query, token, times): words as `w:...` and trigrams of the query between spaces as `t:...`."""
    padded = F.concat(F.lit(" "), F.col("query"), F.lit(" "))
    starts = F.sequence(F.lit(1), F.greatest(F.lit(1), F.char_length(padded) - (TRIGRAM_CHARACTERS - 1)))

    def trigram(start: Column) -> Column:
        return F.concat(F.lit("t:"), padded.substr(start, F.lit(TRIGRAM_CHARACTERS)))

    words = F.transform(F.split("query", " "), lambda word: F.concat(F.lit("w:"), word))
    tokens = F.concat(words, F.transform(starts, trigram))
    return (
        queries.select("query", F.explode(tokens).alias("token"))
        .groupBy("query", "token")
        .agg(F.count("*").alias("times"))
    )


def token_frequencies(tokens: DataFrame) -> DataFrame:
    """Return (token, token_queries), in how many queries each token stands."""
    return tokens.groupBy("token").agg(F.count("*").alias("token_queries"))


def join_size(frequencies: DataFrame, *, max_token_queries: int) -> DataFrame:
    """Return one row: `token_pairs`, the rows that `similar_queries` forms before it adds them up."""
    formed = F.col("token_queries") * (F.col("token_queries") - 1) / 2
    light = frequencies.where(F.col("token_queries") <= max_token_queries)
    return light.agg(F.coalesce(F.sum(formed).cast("bigint"), F.lit(0)).alias("token_pairs"))


def token_weights(tokens: DataFrame, *, max_token_queries: int) -> DataFrame:
    """Return unit vectors (query, token, weight) of tf-idf, idf = ln((1 + queries) / (1 + frequency)) + 1.

    Tokens found in more than `max_token_queries` queries say little and would form most pairs: they are left out.
    """
    queries = tokens.agg(F.count_distinct("query").alias("queries"))
    frequencies = token_frequencies(tokens).where(F.col("token_queries") <= max_token_queries)
    idf = F.ln((1 + F.col("queries")) / (1 + F.col("token_queries"))) + 1
    weighted = tokens.join(frequencies, on="token", how="inner").crossJoin(F.broadcast(queries))
    raw = weighted.select("query", "token", (F.col("times") * idf).alias("raw"))
    norms = raw.groupBy("query").agg(F.sqrt(F.sum(F.col("raw") * F.col("raw"))).alias("norm"))
    unit = raw.join(norms, on="query", how="inner")
    return unit.select("query", "token", (F.col("raw") / F.col("norm")).alias("weight"))


def similar_queries(weights: DataFrame, *, min_similarity: float) -> DataFrame:
    """Return (query_a, query_b, similarity) of all pairs whose vectors' cosine reaches `min_similarity`."""
    left, right = weights.alias("a"), weights.alias("b")
    same_token = (F.col("a.token") == F.col("b.token")) & (F.col("a.query") < F.col("b.query"))
    cosine = F.least(F.lit(1.0), F.sum(F.col("a.weight") * F.col("b.weight")))
    pairs = left.join(right, on=same_token, how="inner").groupBy(
        F.col("a.query").alias("query_a"), F.col("b.query").alias("query_b")
    )
    return pairs.agg(cosine.alias("similarity")).where(F.col("similarity") >= min_similarity)


def label_lineages(labels: DataFrame, tree: DataFrame) -> DataFrame:
    """Return (query, labels, lineage): a query's nodes, and these with all nodes above them."""
    single = labels.select("query", F.explode("labels").alias("node_id"))
    above = single.join(tree.select("node_id", "lineage"), on="node_id", how="inner").groupBy("query")
    lineages = above.agg(F.array_distinct(F.flatten(F.collect_list("lineage"))).alias("lineage"))
    return labels.join(lineages, on="query", how="inner").select("query", "labels", "lineage")


def related_nodes(labels_a: str, lineage_a: str, labels_b: str, lineage_b: str) -> Column:
    """Tell whether a label of one query is a label of the other or stands above one; null where one has none."""
    return F.arrays_overlap(labels_a, lineage_b) | F.arrays_overlap(labels_b, lineage_a)


def relate_pairs(pairs: DataFrame, lineages: DataFrame, *, how: str = "inner") -> DataFrame:
    """Add `related`: whether the queries share a node, a node and one above it included.

    By a left join the pairs of a query without labels stay, with null.
    """
    sides = [
        lineages.select(
            F.col("query").alias(f"query_{side}"),
            F.col("labels").alias(f"labels_{side}"),
            F.col("lineage").alias(f"lineage_{side}"),
        )
        for side in ("a", "b")
    ]
    related = related_nodes("labels_a", "lineage_a", "labels_b", "lineage_b")
    both = pairs.join(sides[0], on="query_a", how=how).join(sides[1], on="query_b", how=how)
    return both.select(*(F.col(name) for name in pairs.columns), related.alias("related"))


def judge_negatives(
    pairs: DataFrame, lineages: DataFrame, similar: DataFrame, *, source: str, max_per_query: int
) -> DataFrame:
    """Add `reason`, the first filter a pair of look-alikes falls to, or null for a hard negative.

    Labels must be disjoint, a node and one above it included; a pair of QUERY_PAIRS is never a negative;
    a pair must be among the `max_per_query` most similar of at least one of its queries.
    """
    known = similar.select("query_a", "query_b", F.lit(True).alias("similar"))
    judged = (
        relate_pairs(pairs, lineages)
        .join(known, on=["query_a", "query_b"], how="left")
        .withColumn(
            "reason",
            first_reason(("related_nodes", F.col("related")), ("in_query_pairs", F.col("similar").isNotNull())),
        )
        .select("query_a", "query_b", "similarity", F.lit(source).alias("source"), "reason")
    )
    ranked = rank_partners(judged.where(F.col("reason").isNull()), score="similarity")
    beyond = first_reason(("beyond_max_per_query", F.col("rank") > max_per_query))
    placed = ranked.withColumn("reason", beyond).drop("rank")
    return judged.where(F.col("reason").isNotNull()).unionByName(placed)
