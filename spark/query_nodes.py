"""QUERY_NODES: from the products bought after a query, from the shop's classifier, or from both."""

from pyspark.sql import Column, DataFrame, Window, WindowSpec
from pyspark.sql import functions as F

from spark.pairs import RANK_DIGITS


def node_purchases(purchases: DataFrame, nodes: DataFrame) -> DataFrame:
    """Return (query, node_id, part): the purchases after a query whose products lie in the node."""
    placed = purchases.join(nodes.select("product_id", "node_id", "share"), on="product_id", how="inner")
    part = F.sum(F.col("purchases") * F.col("share"))
    return placed.groupBy("query", "node_id").agg(part.alias("part"))


def purchased_nodes(
    parts: DataFrame, tree: DataFrame, *, smoothing_purchases: float, prior_purchases: float
) -> DataFrame:
    """Derive QUERY_NODES from the products bought after each query.

    share: the node's part of the query's purchases that have a node, smoothed by `smooth_shares`;
    with n these purchases, confidence = share * n / (n + prior).
    """
    known = F.sum("part").over(_query())
    shares = smooth_shares(parts, tree, smoothing_purchases=smoothing_purchases).withColumn("known", known)
    confidence = F.col("share") * F.col("known") / (F.col("known") + prior_purchases)
    columns = {"share": F.col("share"), "confidence": confidence}
    return shares.select("query", "node_id", *[_rounded(value).alias(name) for name, value in columns.items()])


def smooth_shares(parts: DataFrame, tree: DataFrame, *, smoothing_purchases: float) -> DataFrame:
    """Add `share`, the node's share of its query, smoothed on every level from the root down.

    With n(e) the query's purchases below node e, N(e) those of all queries, S the nodes below u that the query
    reached, and a = `smoothing_purchases`:

        P(e | u) = (n(e) + a * N(e) / sum over S of N) / (n(u) + a)        share(v) = product of P on the way to v

    (a Dirichlet tree: Minka 1999, The Dirichlet-tree distribution). A level with many purchases speaks for itself;
    below a node with few the whole shop's purchases decide. Purchases in an inner node itself are one more way
    below it. The shares of a query add up to 1, nodes that the query did not reach get nothing, and a = 0 gives
    the plain share.
    """
    if not smoothing_purchases:
        return parts.withColumn("share", F.least(F.lit(1.0), F.col("part") / F.sum("part").over(_query())))
    ways = parts.join(_ways(tree), on="node_id", how="inner")
    edges = ways.groupBy("query", "above", "way").agg(F.sum("part").alias("mass"))
    shop = edges.groupBy("above", "way").agg(F.sum("mass").alias("shop_mass"))
    branch = Window.partitionBy("query", "above")
    usual = F.col("shop_mass") / F.sum("shop_mass").over(branch)
    factor = (F.col("mass") + smoothing_purchases * usual) / (F.sum("mass").over(branch) + smoothing_purchases)
    factors = edges.join(shop, on=["above", "way"], how="inner").select("query", "above", "way", factor.alias("factor"))
    smoothed = ways.join(factors, on=["query", "above", "way"], how="inner").groupBy("query", "node_id")
    return smoothed.agg(F.first("part").alias("part"), F.least(F.lit(1.0), F.product("factor")).alias("share"))


def classified_nodes(placed: DataFrame) -> DataFrame:
    """Return the classifier's QUERY_NODES: confidences are scores; shares are scores, scaled down to sum to 1."""
    usable = placed.where(F.col("reason").isNull())
    share = F.col("score") / F.greatest(F.lit(1.0), F.sum("score").over(_query()))
    return usable.select("query", "node_id", share.alias("share"), F.col("score").alias("confidence"))


def merge_nodes(derived: DataFrame, classified: DataFrame, *, rule: str, classifier_weight: float) -> DataFrame:
    """Return QUERY_NODES of both sides, with `overruled` rows and with `sides`, how many have the row.

    With w the classifier's weight, share = w * classified + (1 - w) * derived, and confidence likewise. A query
    that one side alone has is that side's (w is 1 or 0); else w is 1 for the rule `classifier`; 1 or 0 for
    `confident`, by the side whose surest node is surer, the classifier on a tie; `classifier_weight` for `mix`.
    """
    sides = [
        frame.select("query", "node_id", F.col("share").alias(f"{side}_share"), F.col("confidence").alias(side))
        for side, frame in (("derived", derived), ("classified", classified))
    ]
    both = sides[0].join(sides[1], on=["query", "node_id"], how="full")
    surest_derived, surest_classified = F.max("derived").over(_query()), F.max("classified").over(_query())
    weights = {
        "classifier": F.lit(1.0),
        "confident": F.when(surest_classified >= surest_derived, 1.0).otherwise(0.0),
        "mix": F.lit(classifier_weight),
    }
    weight = F.when(surest_classified.isNull(), 0.0).when(surest_derived.isNull(), 1.0).otherwise(weights[rule])
    weighed = both.withColumn("weight", weight)

    def mixed(name_derived: str, name_classified: str) -> Column:
        mean = F.col("weight") * _or_zero(name_classified) + (1 - F.col("weight")) * _or_zero(name_derived)
        return _rounded(mean)

    by_classifier = F.col("classified").isNotNull() & (F.col("weight") > 0)
    by_purchases = F.col("derived").isNotNull() & (F.col("weight") < 1)
    return weighed.select(
        "query",
        "node_id",
        mixed("derived_share", "classified_share").alias("share"),
        mixed("derived", "classified").alias("confidence"),
        (~by_classifier & ~by_purchases).alias("overruled"),
        (F.col("derived").isNotNull().cast("int") + F.col("classified").isNotNull().cast("int")).alias("sides"),
    )


def count_merged(merged: DataFrame) -> DataFrame:
    """Return one row: the `rows` of both sides, those `overruled` and those `shared`, which both sides have."""
    return merged.agg(
        F.coalesce(F.sum("sides"), F.lit(0)).alias("rows"),
        F.count_if("overruled").alias("overruled"),
        F.count_if(F.col("sides") == 2).alias("shared"),
    )


def count_placed(purchases: DataFrame, nodes: DataFrame) -> DataFrame:
    """Return one row: the purchases of products with and without a node, and the products without."""
    with_node = nodes.select("product_id").distinct().withColumn("placed", F.lit(True))
    per_product = purchases.groupBy("product_id").agg(F.sum("purchases").alias("purchases"))
    found = per_product.join(with_node, on="product_id", how="left")
    unplaced = F.col("placed").isNull()
    return found.agg(
        F.count_if(unplaced).alias("bought_products_without_node"),
        F.coalesce(F.sum(F.when(unplaced, F.col("purchases"))), F.lit(0)).alias("purchases_without_node"),
        F.coalesce(F.sum(F.when(~unplaced, F.col("purchases"))), F.lit(0)).alias("purchases_with_node"),
    )


def _ways(tree: DataFrame) -> DataFrame:
    """Return (node_id, above, way): every step from the root to a node, and a last one from the node to itself.

    No other step leads from a node to itself, so (above, way) names a step.
    """
    above = F.concat(F.array(F.lit("")), F.col("lineage"))
    way = F.concat(F.col("lineage"), F.array("node_id"))
    steps = F.arrays_zip(above.alias("above"), way.alias("way"))
    return tree.select("node_id", F.inline(steps))


def _query() -> WindowSpec:
    return Window.partitionBy("query")


def _or_zero(name: str) -> Column:
    return F.coalesce(F.col(name), F.lit(0.0))


def _rounded(value: Column) -> Column:
    """Drop the last digits, which depend on the order in which Spark adds."""
    return F.round(value, RANK_DIGITS)
