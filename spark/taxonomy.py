"""Which taxonomy nodes products and queries belong to."""

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from indexer.contracts.schemas import TAXONOMY
from spark.text import clean_text, normalised_query
from spark.tree import Tree

TREE_SCHEMA = pa.schema([*TAXONOMY.schema, ("path", pa.string()), ("lineage", pa.list_(pa.string()))])


def tree_frame(session: SparkSession, tree: Tree, *, separator: str) -> DataFrame:
    """Return TAXONOMY with each node's `path` (text) and `lineage` (ids from the root down to itself)."""
    columns = {
        "node_id": list(tree.nodes),
        "parent_id": [node.parent_id for node in tree.nodes.values()],
        "name": [node.name for node in tree.nodes.values()],
        "path": [tree.path(node_id, separator) for node_id in tree.nodes],
        "lineage": [list(tree.lineages[node_id]) for node_id in tree.nodes],
    }
    return session.createDataFrame(pa.table(columns, schema=TREE_SCHEMA))


def category_text(catalogue: DataFrame, *, separator: str) -> DataFrame:
    """Replace `category_path` by `path`, written as `spark.tree.path_text` writes it; null without a category."""
    mark = separator.strip()
    joined = clean_text(F.array_join("category_path", separator))
    parts = F.transform(F.split(joined, F.lit("\\Q" + mark + "\\E")), lambda part: F.trim(part))
    path = F.array_join(F.filter(parts, lambda part: part != ""), f" {mark} ")
    return catalogue.select("product_id", "node_ids", F.when(path != "", path).alias("path"))


def product_references(products: DataFrame, tree: DataFrame) -> DataFrame:
    """Return (product_id, reference, node_id): what a product names, and the node it means or null.

    `node_ids` count where a product has them, else its category path, which is matched by the full path.
    """
    by_id = products.select("product_id", F.explode(F.array_distinct("node_ids")).alias("reference"))
    by_path = products.where(F.col("node_ids").isNull() & F.col("path").isNotNull()).select(
        "product_id", F.col("path").alias("reference")
    )
    ids = tree.select("node_id", F.col("node_id").alias("reference"))
    paths = tree.groupBy(F.col("path").alias("reference")).agg(F.min("node_id").alias("node_id"))
    found = by_id.join(ids, on="reference", how="left").unionByName(by_path.join(paths, on="reference", how="left"))
    return found.select("product_id", "reference", "node_id")


def count_references(references: DataFrame) -> DataFrame:
    """Return one row: `all` references, the `unknown` with an example, and `merged` ones that name a node twice."""
    unknown = F.col("node_id").isNull()
    example = F.when(unknown, F.struct("product_id", "reference"))
    distinct = F.count_distinct(F.when(~unknown, F.struct("product_id", "node_id")))
    return references.agg(
        F.count("*").alias("all"),
        F.count_if(unknown).alias("unknown"),
        F.min(example).alias("example"),
        (F.count_if(~unknown) - distinct).alias("merged"),
    )


def product_nodes(references: DataFrame) -> DataFrame:
    """Return PRODUCT_NODES: a product counts in equal parts for each of its nodes."""
    known = references.where(F.col("node_id").isNotNull()).select("product_id", "node_id").distinct()
    nodes = F.count("*").over(Window.partitionBy("product_id"))
    return known.select("product_id", "node_id", (1 / nodes).alias("share"), F.lit(1.0).alias("confidence"))


def purchased_nodes(purchases: DataFrame, nodes: DataFrame, *, prior_purchases: float) -> DataFrame:
    """Derive QUERY_NODES from the products bought after each query.

    share = the node's part of the query's purchases that have a node; with n these purchases,
    confidence = share * n / (n + prior).
    """
    part = F.sum(F.col("purchases") * F.col("share"))
    placed = purchases.join(nodes.select("product_id", "node_id", "share"), on="product_id", how="inner")
    per_node = placed.groupBy("query", "node_id").agg(part.alias("part"))
    known = F.sum("part").over(Window.partitionBy("query"))
    share = F.least(F.lit(1.0), F.col("part") / F.col("known"))
    return per_node.withColumn("known", known).select(
        "query",
        "node_id",
        share.alias("share"),
        (share * F.col("known") / (F.col("known") + prior_purchases)).alias("confidence"),
    )


def count_placed(purchases: DataFrame, nodes: DataFrame) -> DataFrame:
    """Return one row: the products bought that have no node, and their purchases."""
    unplaced = purchases.join(nodes.select("product_id").distinct(), on="product_id", how="left_anti")
    return unplaced.agg(
        F.count_distinct("product_id").alias("bought_products_without_node"),
        F.coalesce(F.sum("purchases"), F.lit(0)).alias("purchases_without_node"),
    )


def class_references(classes: DataFrame, tree: DataFrame) -> DataFrame:
    """Return the classifier's (query, reference, score, node_id): queries normalised, node null where unknown."""
    named = classes.select(
        normalised_query(F.col("query")).alias("query"), F.col("node_id").alias("reference"), "score"
    )
    ids = tree.select("node_id", F.col("node_id").alias("reference"))
    return named.join(ids, on="reference", how="left")


def count_classes(references: DataFrame) -> DataFrame:
    """Count the classifier's rows that cannot be used, by reason, with an example of each."""
    reason = F.when(F.col("query") == "", "query_empty").when(F.col("node_id").isNull(), "node_unknown")
    rejected = references.withColumn("reason", reason).where(F.col("reason").isNotNull())
    return rejected.groupBy("reason").agg(
        F.count("*").alias("count"), F.min("query").alias("key"), F.min("reference").alias("sample")
    )


def classified_nodes(references: DataFrame) -> DataFrame:
    """Return the classifier's QUERY_NODES: the best score per node; shares are scores, scaled down to sum to 1."""
    usable = references.where(F.col("node_id").isNotNull() & (F.col("query") != ""))
    best = usable.groupBy("query", "node_id").agg(F.max("score").alias("confidence"))
    total = F.sum("confidence").over(Window.partitionBy("query"))
    return best.select(
        "query", "node_id", (F.col("confidence") / F.greatest(F.lit(1.0), total)).alias("share"), "confidence"
    )


def prefer_classes(derived: DataFrame, classified: DataFrame) -> DataFrame:
    """Let the classifier's rows replace all derived rows of the same query."""
    others = derived.join(classified.select("query").distinct(), on="query", how="left_anti")
    return others.unionByName(classified)


def query_labels(query_nodes: DataFrame, *, label_mass: float, min_top_share: float) -> DataFrame:
    """Return (query, labels): the smallest set of nodes that holds `label_mass`; none below `min_top_share`."""
    largest_first = Window.partitionBy("query").orderBy(F.round("share", 12).desc(), "node_id")
    before = F.sum("share").over(largest_first.rowsBetween(Window.unboundedPreceding, -1))
    top = F.max("share").over(Window.partitionBy("query"))
    # Ten shares of 0.1 add up to a little less than 1.
    needed = F.coalesce(before, F.lit(0.0)) < label_mass - 1e-9
    chosen = query_nodes.withColumn("needed", needed).withColumn("top", top)
    confident = chosen.where(F.col("needed") & (F.col("top") >= min_top_share))
    return confident.groupBy("query").agg(F.sort_array(F.collect_set("node_id")).alias("labels"))
