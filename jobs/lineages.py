"""The confident nodes of the queries, as several jobs compare them."""

from pyspark.sql import DataFrame, SparkSession

from indexer.config import Config
from indexer.contracts.schemas import QUERY_NODES, TAXONOMY
from indexer.job_config import NodesConfig
from spark.negatives import label_lineages
from spark.tables import read_table
from spark.taxonomy import query_labels, tree_frame
from spark.tree import Node, grow_tree


def read_lineages(session: SparkSession, config: Config, run_date: str) -> DataFrame:
    """Return the confident nodes of each query of the date, and these with all nodes above them."""
    nodes = read_table(session, config.shop.work, QUERY_NODES, run_date)
    return trace_labels(nodes, read_tree(session, config, run_date), config.nodes)


def trace_labels(nodes: DataFrame, tree: DataFrame, settings: NodesConfig) -> DataFrame:
    """Return the confident ones of each query's nodes, and these with all nodes above them."""
    labels = query_labels(nodes, label_mass=settings.label_mass, min_top_share=settings.min_top_share)
    return label_lineages(labels, tree)


def read_tree(session: SparkSession, config: Config, run_date: str) -> DataFrame:
    """Return TAXONOMY of the date with each node's path and lineage."""
    rows = read_table(session, config.shop.work, TAXONOMY, run_date).collect()
    tree = grow_tree((Node(*row) for row in rows), max_depth=config.taxonomy.max_depth, shown=TAXONOMY.name)
    return tree_frame(session, tree, separator=config.catalogue.category_separator)
