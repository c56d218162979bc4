"""Find the nodes that products and a classifier name: by crosswalk, id, full path or leaf name.

A reference is the text by which a node is named. A catalogue of any size has few different ones, so each is
looked up once; nothing here is collected.
"""

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from spark.pairs import first_reason
from spark.taxonomy import split_path, write_path
from spark.text import normalised_query

METHODS = ("crosswalk", "id", "path", "leaf")
"""How a node is found, in the order of trial."""


def product_references(products: DataFrame) -> DataFrame:
    """Return (product_id, reference, spare): the nodes that a product names, and its category path.

    The path of a product that has node ids is spare: it counts only where none of the ids is known.
    """
    ids, path = F.array_distinct(F.coalesce("node_ids", F.array().cast("array<string>"))), F.col("path")
    named = F.transform(ids, lambda text: F.struct(text.alias("reference"), F.lit(False).alias("spare")))
    spare = F.array(F.struct(path.alias("reference"), (F.size(ids) > 0).alias("spare")))
    return products.select("product_id", F.inline(F.when(path.isNull(), named).otherwise(F.concat(named, spare))))


def judge_crosswalk(rows: DataFrame, tree: DataFrame, *, separator: str) -> DataFrame:
    """Return (from_path, node_id, reason): CROSSWALK looked up in the shop's tree by id, then by full path.

    `reason` is null where a row stands, `repeated` for the same again, else why it is rejected.
    """
    named = rows.select(
        "from_node",
        "to_node",
        write_path(F.col("from_node"), separator=separator).alias("from_path"),
        write_path(F.col("to_node"), separator=separator).alias("to_path"),
    )
    ids, paths = _lookup_ids(tree, key="to_node"), _lookup_paths(tree, key="to_path")
    found = named.join(ids, on="to_node", how="left").join(paths, on="to_path", how="left")
    placed = found.withColumn("node_id", F.coalesce("by_id", "by_path"))
    same, equal = Window.partitionBy("from_path"), Window.partitionBy("from_path", "node_id")
    reason = first_reason(
        ("from_node_missing", F.col("from_path").isNull()),
        ("node_unknown", F.col("node_id").isNull()),
        ("two_targets", F.min("node_id").over(same) != F.max("node_id").over(same)),
        ("repeated", F.row_number().over(equal.orderBy("from_node", "to_node")) > 1),
    )
    return placed.select("from_node", "to_node", "from_path", "node_id", reason.alias("reason"))


def match_references(
    references: DataFrame, tree: DataFrame, *, separator: str, leaf_names: bool, crosswalk: DataFrame | None = None
) -> DataFrame:
    """Return (reference, node_id, method) of every different reference that a method finds.

    A crosswalk goes first: what it translates is not looked up as a node of the shop's tree. Of several nodes
    with one full path the first id is meant; a leaf name counts only where one node alone has it.
    """
    path = write_path(F.col("reference"), separator=separator)
    found = references.select("reference").distinct().withColumn("path", path)
    found = found.withColumn("leaf", _last_name(F.col("path"), separator))
    lookups = {
        "id": ("reference", _lookup_ids(tree, key="reference")),
        "path": ("path", _lookup_paths(tree, key="path")),
    }
    if crosswalk is not None:
        lookups["crosswalk"] = (
            "path",
            crosswalk.select(F.col("from_path").alias("path"), F.col("node_id").alias("by_crosswalk")),
        )
    if leaf_names:
        lookups["leaf"] = "leaf", _lookup_leaves(tree, separator)
    for key, lookup in lookups.values():
        found = found.join(lookup, on=key, how="left")
    tried = [method for method in METHODS if method in lookups]
    node = F.coalesce(*[F.col(f"by_{method}") for method in tried])
    # Where the ids are paths, a path is found as one; that is no match by id.
    finds = {method: F.col(f"by_{method}").isNotNull() for method in tried}
    finds["id"] &= ~F.col("by_id").eqNullSafe(F.col("by_path"))
    how = F.coalesce(*[F.when(found_by, F.lit(method)) for method, found_by in finds.items()])
    return found.select("reference", node.alias("node_id"), how.alias("method")).where(F.col("node_id").isNotNull())


def place_products(references: DataFrame, matches: DataFrame) -> DataFrame:
    """Return (product_id, reference, node_id, method) of the references that count; null where none was found."""
    found = references.join(matches, on="reference", how="left")
    known = F.bool_or(F.col("node_id").isNotNull() & ~F.col("spare")).over(Window.partitionBy("product_id"))
    counting = found.withColumn("known", known).where(~(F.col("spare") & F.col("known")))
    return counting.select("product_id", "reference", "node_id", "method")


def count_places(placed: DataFrame) -> DataFrame:
    """Return one row of counts.

    References: `all`, `unknown` with an example, `merged` ones that name a node of the product again, and those
    found by each method. Products: `placed` and `unplaced`.
    """
    unknown = F.col("node_id").isNull()
    example = F.min(F.when(unknown, F.struct("product_id", "reference")))
    per_product = placed.groupBy("product_id").agg(
        F.count("*").alias("all"),
        F.count_if(unknown).alias("unknown"),
        F.size(F.collect_set("node_id")).alias("nodes"),
        example.alias("example"),
        *[F.count_if(F.col("method") == method).alias(method) for method in METHODS],
    )
    sums = {
        "all": F.col("all"),
        "unknown": F.col("unknown"),
        "merged": F.col("all") - F.col("unknown") - F.col("nodes"),
    }
    sums |= {f"matched_by_{method}": F.col(method) for method in METHODS}
    sums |= {"placed": F.when(F.col("nodes") > 0, 1), "unplaced": F.when(F.col("nodes") == 0, 1)}
    return per_product.agg(
        *[F.coalesce(F.sum(count), F.lit(0)).alias(name) for name, count in sums.items()],
        F.min("example").alias("example"),
    )


def product_nodes(placed: DataFrame) -> DataFrame:
    """Return PRODUCT_NODES: a product counts in equal parts for each of its nodes."""
    known = placed.where(F.col("node_id").isNotNull()).select("product_id", "node_id").distinct()
    nodes = F.count("*").over(Window.partitionBy("product_id"))
    return known.select("product_id", "node_id", (1 / nodes).alias("share"), F.lit(1.0).alias("confidence"))


def class_references(classes: DataFrame) -> DataFrame:
    """Return the classifier's (query, reference, score): queries normalised, a missing score is 1."""
    score = F.coalesce("score", F.lit(1.0)).alias("score")
    return classes.select(normalised_query(F.col("query")).alias("query"), F.col("node_id").alias("reference"), score)


def place_classes(references: DataFrame, matches: DataFrame) -> DataFrame:
    """Return (query, reference, score, node_id, reason) of the classifier's rows.

    `reason` is null where a row stands, `repeated` where a row of the same query and node has a better score or
    the same, else why it is rejected.
    """
    found = references.join(matches.select("reference", "node_id"), on="reference", how="left")
    best_first = Window.partitionBy("query", "node_id").orderBy(F.col("score").desc(), "reference")
    reason = first_reason(
        ("query_empty", F.col("query") == ""),
        ("node_unknown", F.col("node_id").isNull()),
        ("repeated", F.row_number().over(best_first) > 1),
    )
    return found.withColumn("reason", reason)


def count_reasons(judged: DataFrame, *, key: str, sample: str) -> DataFrame:
    """Count the rows by `reason`, null included, with an example of each."""
    return judged.groupBy("reason").agg(
        F.count("*").alias("count"), F.min(F.struct(F.col(key).alias("key"), F.col(sample).alias("sample"))).alias("of")
    )


def _lookup_ids(tree: DataFrame, *, key: str) -> DataFrame:
    return tree.select(F.col("node_id").alias(key), F.col("node_id").alias("by_id"))


def _lookup_paths(tree: DataFrame, *, key: str) -> DataFrame:
    return tree.groupBy(F.col("path").alias(key)).agg(F.min("node_id").alias("by_path"))


def _lookup_leaves(tree: DataFrame, separator: str) -> DataFrame:
    named = tree.groupBy(_last_name(F.col("path"), separator).alias("leaf"))
    counted = named.agg(F.min("node_id").alias("by_leaf"), F.count("*").alias("nodes"))
    return counted.where(F.col("nodes") == 1).drop("nodes")


def _last_name(path: Column, separator: str) -> Column:
    return F.element_at(split_path(path, mark=f" {separator.strip()} "), -1)
