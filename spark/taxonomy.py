"""The taxonomy as a Spark table, category paths as one text, and the labels drawn from a query's nodes."""

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from indexer.contracts.schemas import TAXONOMY
from spark.tables import frame_of
from spark.text import clean_text
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
    return frame_of(session, pa.table(columns, schema=TREE_SCHEMA))


def write_path(text: Column, *, separator: str) -> Column:
    """Write a category path that is one text as `spark.tree.path_text` writes it; null where no name is left."""
    parts = F.transform(split_path(clean_text(text), mark=separator.strip()), lambda part: F.trim(part))
    path = F.array_join(F.filter(parts, lambda part: part != ""), f" {separator.strip()} ")
    return F.when(path != "", path)


def split_path(path: Column, *, mark: str) -> Column:
    """Return the parts between the marks."""
    return F.split(path, f"\\Q{mark}\\E")


def category_text(rows: DataFrame, *, separator: str) -> DataFrame:
    """Replace the list `category_path` by the text `path`; null without a category."""
    path = write_path(F.array_join("category_path", separator), separator=separator)
    return rows.withColumn("path", path).drop("category_path")


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
