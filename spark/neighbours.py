"""Neighbours of first and second order in the bipartite graph of queries and products (BERM, arXiv 2210.01701).

With C the counts, n_i and N_k their row and column sums, a walk steps from a query i to a product k with probability
C_ik / n_i and from a product k to a query j with C_jk / N_k. Every node keeps its `neighbours` most probable steps,
and only these are followed, so two steps reach at most their square, however popular a product is. Their probability

    P(j|i) = sum over k of C_ik / n_i * C_jk / N_k,   k kept by i and j kept by k

is exact where no node has more than `neighbours` edges, and else a lower bound, since sums are never renormalised.
Products reach products in the same way.
"""

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from spark.purchases import product_totals, query_totals

QUERY, PRODUCT = "query", "product"


def graph_neighbours(steps: DataFrame, *, neighbours: int) -> DataFrame:
    """Return GRAPH_NEIGHBOURS of the kept steps: these as order 1, and the best of two of them as order 2."""
    first = steps.select("kind", "node", "neighbour", F.lit(1).cast("bigint").alias("order"), "weight")
    return first.unionByName(second_steps(steps, neighbours=neighbours))


def kept_steps(purchases: DataFrame, *, neighbours: int) -> DataFrame:
    """Return (kind, node, neighbour, weight): the most probable steps of every query and of every product."""
    queries = purchases.join(query_totals(purchases), on="query", how="inner").select(
        F.lit(QUERY).alias("kind"),
        F.col("query").alias("node"),
        F.col("product_id").alias("neighbour"),
        (F.col("purchases") / F.col("query_purchases")).alias("weight"),
    )
    products = purchases.join(product_totals(purchases), on="product_id", how="inner").select(
        F.lit(PRODUCT).alias("kind"),
        F.col("product_id").alias("node"),
        F.col("query").alias("neighbour"),
        (F.col("purchases") / F.col("product_purchases")).alias("weight"),
    )
    return keep_best(queries.unionByName(products), neighbours=neighbours)


def second_steps(steps: DataFrame, *, neighbours: int) -> DataFrame:
    """Return GRAPH_NEIGHBOURS of order 2; the way back to the node itself is left out, its probability is not."""
    onward = steps.select(
        other_kind("kind").alias("kind"),
        F.col("node").alias("neighbour"),
        F.col("neighbour").alias("end"),
        F.col("weight").alias("onward"),
    )
    walks = steps.join(onward, on=["kind", "neighbour"], how="inner").where(F.col("end") != F.col("node"))
    # Added in one order, so that the last digits do not depend on the order of rows; `neighbours` bounds the list.
    parts = F.array_sort(F.collect_list(F.col("weight") * F.col("onward")))
    weight = F.least(F.lit(1.0), F.aggregate(parts, F.lit(0.0), lambda total, part: total + part))
    reached = walks.groupBy("kind", "node", F.col("end").alias("neighbour")).agg(weight.alias("weight"))
    return keep_best(reached, neighbours=neighbours).withColumn("order", F.lit(2).cast("bigint"))


def keep_best(edges: DataFrame, *, neighbours: int) -> DataFrame:
    """Keep the heaviest edges of each node; ties go by the neighbour's text."""
    heaviest = Window.partitionBy("kind", "node").orderBy(F.col("weight").desc(), "neighbour")
    ranked = edges.withColumn("rank", F.row_number().over(heaviest))
    return ranked.where(F.col("rank") <= neighbours).drop("rank")


def count_steps(purchases: DataFrame, *, neighbours: int) -> DataFrame:
    """Return one row: edges, nodes, those whose edges are cut, and the most pairs of steps that the join can form."""
    edges = F.count("*").alias("edges")
    sides = [purchases.groupBy(name).agg(edges).select("edges") for name in ("query", "product_id")]
    kept = F.least(F.lit(neighbours), F.col("edges"))
    return (
        sides[0]
        .unionByName(sides[1])
        .agg(
            F.count("*").alias("nodes"),
            F.coalesce(F.max("edges"), F.lit(0)).alias("most_edges"),
            F.count_if(F.col("edges") > neighbours).alias("nodes_cut"),
            F.coalesce(F.sum(kept), F.lit(0)).alias("steps"),
            F.coalesce(F.sum(kept) * neighbours, F.lit(0)).alias("most_walks"),
        )
    )


def other_kind(kind: str) -> Column:
    """Return the kind of a node's first-order neighbours."""
    return F.when(F.col(kind) == QUERY, PRODUCT).otherwise(QUERY)
