"""Normalised pointwise mutual information of query pairs (KD-Boost equation 2), in four readings.

All readings score a joint probability P(a,b) against marginals p: NPMI = log(P / (p_a p_b)) / -log P.

walk      draw a purchase, then another purchase of the same product: symmetric, its marginals are n_i / N
offdiag   walk without the chance of meeting oneself, renormalised
gramnorm  the row-normalised Gram matrix divided by its own sum: every query weighs the same
literal   the row-normalised Gram matrix as printed, with marginals n_i / N: no distribution, unbounded above
"""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark.pairs import first_reason, rank_partners
from spark.purchases import grand_total, product_totals, query_totals, with_totals

ONE = 1 - 1e-12
"""A literal Gram value from here on counts as 1, where equation 2 divides by zero; rounding must not flip its sign."""


def npmi_scores(gram: DataFrame, purchases: DataFrame, *, variant: str) -> DataFrame:
    """Score every pair of QUERY_GRAM: npmi, ceiling, joint, p_a and p_b in the chosen reading.

    `ceiling` is the largest NPMI that two different queries with these marginals can reach; null for literal.
    """
    marginals, scale = _marginals(purchases, variant)
    sides = [
        marginals.select(F.col("query").alias(f"query_{side}"), F.col("probability").alias(f"p_{side}"))
        for side in ("a", "b")
    ]
    measured = "joint" if variant in ("walk", "offdiag") else "gram"
    scored = (
        gram.join(sides[0], on="query_a", how="inner")
        .join(sides[1], on="query_b", how="inner")
        .crossJoin(F.broadcast(scale))
        .withColumn("joint", F.col(measured) / F.col("scale"))
    )
    p_a, p_b, joint = F.col("p_a"), F.col("p_b"), F.col("joint")
    npmi = _literal_npmi(p_a, p_b, joint) if variant == "literal" else _bounded_npmi(p_a, p_b, joint)
    return scored.select(
        "query_a",
        "query_b",
        npmi.alias("npmi"),
        _ceiling(p_a, p_b, variant).alias("ceiling"),
        "joint",
        "p_a",
        "p_b",
        "support",
        "shared_products",
    )


def judge_pairs(scores: DataFrame, *, tau: float, min_support: int, min_shared_products: int, top_k: int) -> DataFrame:
    """Add `reason`, the first filter a pair falls to, or null for a strong pair.

    A pair is strong above tau (strictly), with enough support and shared products, and among the `top_k`
    best such partners of at least one of its two queries.
    """
    reason = first_reason(
        ("not_above_tau", ~(F.col("npmi") > tau)),
        ("below_min_support", F.col("support") < min_support),
        ("below_min_shared_products", F.col("shared_products") < min_shared_products),
    )
    judged = scores.withColumn("reason", reason)
    ranked = rank_partners(judged.where(F.col("reason").isNull()), score="npmi")
    placed = ranked.withColumn("reason", first_reason(("beyond_top_k", F.col("rank") > top_k))).drop("rank")
    return judged.where(F.col("reason").isNotNull()).unionByName(placed)


def _bounded_npmi(p_a: Column, p_b: Column, joint: Column) -> Column:
    score = (F.ln(joint) - F.ln(p_a) - F.ln(p_b)) / -F.ln(joint)
    return F.greatest(F.lit(-1.0), F.least(F.lit(1.0), score))


def _literal_npmi(p_a: Column, p_b: Column, gram: Column) -> Column:
    score = (F.ln(p_a) + F.ln(p_b)) / F.ln(gram) - 1
    return F.when(gram >= ONE, F.lit(float("inf"))).otherwise(score)


def _ceiling(p_a: Column, p_b: Column, variant: str) -> Column:
    if variant == "literal":
        return F.lit(None).cast("double")
    if variant != "walk":
        return F.lit(1.0)
    both = p_a + p_b
    # Two queries that hold all purchases between them: the ratio of logarithms is 0 / log 4 or above, and exact.
    reached = F.ln(both) / (F.ln(p_a) + F.ln(p_b) - F.ln(both))
    return F.greatest(F.lit(0.0), F.least(F.lit(1.0), reached))


def _marginals(purchases: DataFrame, variant: str) -> tuple[DataFrame, DataFrame]:
    """Return (query, probability) and a one-row frame with the `scale` that the joint is divided by."""
    if variant == "gramnorm":
        return _gram_marginals(purchases)
    walk = query_totals(purchases).crossJoin(F.broadcast(grand_total(purchases)))
    probabilities = walk.select("query", (F.col("query_purchases") / F.col("all_purchases")).alias("probability"))
    one = grand_total(purchases).select(F.lit(1.0).alias("scale"))
    return _offdiagonal(probabilities, purchases) if variant == "offdiag" else (probabilities, one)


def _offdiagonal(probabilities: DataFrame, purchases: DataFrame) -> tuple[DataFrame, DataFrame]:
    """q_i = (P_i - D_i) / (1 - sum D), with D_i = sum_k C_ik^2 / (N_k N) the chance of meeting oneself."""
    counts = F.col("purchases").cast("double")
    met = counts / F.col("product_purchases") * counts / F.col("all_purchases")
    itself = with_totals(purchases).groupBy("query").agg(F.sum(met).alias("itself"))
    scale = itself.agg((1 - F.sum("itself")).alias("scale"))
    others = F.greatest(F.lit(0.0), F.col("probability") - F.col("itself"))
    marginals = probabilities.join(itself, on="query", how="inner").crossJoin(F.broadcast(scale))
    # Without a shared product nothing is left to divide by, and there is no pair either.
    return marginals.select("query", F.try_divide(others, F.col("scale")).alias("probability")), scale


def _gram_marginals(purchases: DataFrame) -> tuple[DataFrame, DataFrame]:
    """g_i = sum_k A_ik T_k / S, with T_k = sum_i A_ik and S = sum_k T_k^2 the sum of the whole matrix."""
    shares = (
        purchases.join(query_totals(purchases), on="query", how="inner")
        .join(product_totals(purchases), on="product_id", how="inner")
        .select("query", "product_id", (F.col("purchases") / F.col("query_purchases")).alias("share"))
    )
    per_product = shares.groupBy("product_id").agg(F.sum("share").alias("total"))
    scale = per_product.agg(F.sum(F.col("total") * F.col("total")).alias("scale"))
    sums = shares.join(per_product, on="product_id", how="inner").groupBy("query")
    marginals = sums.agg(F.sum(F.col("share") * F.col("total")).alias("sum")).crossJoin(F.broadcast(scale))
    return marginals.select("query", (F.col("sum") / F.col("scale")).alias("probability")), scale
