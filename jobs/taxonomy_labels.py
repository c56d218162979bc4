"""CATALOGUE, TAXONOMY, QUERY_CLASSES and PURCHASES -> TAXONOMY, PRODUCT_NODES and QUERY_NODES."""

from collections.abc import Mapping
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from indexer.config import Config
from indexer.contracts.schemas import (
    CATALOGUE,
    PRODUCT_NODES,
    PURCHASES,
    QUERY_CLASSES,
    QUERY_NODES,
    TAXONOMY,
)
from indexer.runs import StepCommit
from jobs.command import run_job
from jobs.steps import Account, first_row, held, located, run_step
from spark import taxonomy
from spark.duplicates import count_versions, judge_versions
from spark.inputs import Location
from spark.tables import Input, read_input, read_rows, read_table
from spark.tree import MAX_NODES, Node, grow_tree, path_nodes

STEP = "taxonomy_labels"


def run(session: SparkSession, config: Config, run_date: str, *, force: bool = False) -> StepCommit:
    """Write the three tables of the date, or return the commit that already has them."""
    optional = [name for name in ("taxonomy", "query_classes") if getattr(config, name).path]
    with located(session, config, STEP, "catalogue", *optional) as locations:
        return run_step(
            session,
            config,
            run_date,
            step=STEP,
            sections=("catalogue", "taxonomy", "query_classes", "nodes"),
            inputs=locations,
            upstream=(PURCHASES,),
            force=force,
            build=lambda folder: build_tables(session, config, locations, run_date, folder),
        )


def build_tables(
    session: SparkSession, config: Config, locations: Mapping[str, Location], run_date: str, folder: Path
) -> Account:
    """Write TAXONOMY, PRODUCT_NODES and QUERY_NODES below the folder."""
    account, separator = Account(), config.catalogue.category_separator
    source = read_input(session, CATALOGUE, locations["catalogue"], config.catalogue, separator=separator)
    account.add_rows(CATALOGUE, source.counts, source.rejects)
    products = taxonomy.category_text(
        _unique_products(source, config, locations["catalogue"], account), separator=separator
    )
    if "taxonomy" not in locations:
        # Without a tree an id has no place; the path is the place.
        products = products.withColumn("node_ids", F.lit(None).cast("array<string>"))
    with held(products):
        rows = _shop_nodes(session, config, locations, account) or _path_nodes(products, separator)
        tree = grow_tree(rows, max_depth=config.taxonomy.max_depth, shown=TAXONOMY.name)
        if tree.orphans:
            first = tree.orphans[0]
            account.reject(TAXONOMY, "parent_unknown", len(tree.orphans), key=first.node_id, sample=first.parent_id)
            account.check(TAXONOMY, locations["taxonomy"], config.taxonomy.max_reject_share)
        frame = taxonomy.tree_frame(session, tree, separator=separator)
        account.balance(TAXONOMY.name, len(rows), [account.write(frame, folder, TAXONOMY), len(tree.orphans)])
        _write_product_nodes(products, frame, folder, config, locations["catalogue"], account)
    unique = [account.figures["products"], account.filters["merged_products"]]
    account.balance(CATALOGUE.name, account.inputs[CATALOGUE.name]["valid"], unique)
    nodes = read_rows(session, folder / PRODUCT_NODES.name, PRODUCT_NODES)
    purchases = read_table(session, config.shop.work, PURCHASES, run_date)
    derived = taxonomy.purchased_nodes(purchases, nodes, prior_purchases=config.nodes.prior_purchases)
    classified = _classified(session, config, locations, frame, account)
    account.figures |= first_row(taxonomy.count_placed(purchases, nodes))
    account.write(derived if classified is None else taxonomy.prefer_classes(derived, classified), folder, QUERY_NODES)
    return account


def _unique_products(source: Input, config: Config, location: Location, account: Account) -> DataFrame:
    """Return one row per product and enter the others; raises ContractError where too many contradict each other."""
    judged = judge_versions(source.rows)
    counted = {row["reason"]: row for row in count_versions(judged).collect()}
    account.filters["merged_products"] = counted["repeated"]["count"] if "repeated" in counted else 0
    if "duplicate_id" in counted:
        row = counted["duplicate_id"]
        account.reject(CATALOGUE, "duplicate_id", row["count"], key=row["key"], sample=None)
        account.check(CATALOGUE, location, config.catalogue.max_reject_share)
    return judged.where("reason IS NULL")


def _shop_nodes(
    session: SparkSession, config: Config, locations: Mapping[str, Location], account: Account
) -> list[Node]:
    if "taxonomy" not in locations:
        return []
    source = read_input(session, TAXONOMY, locations["taxonomy"], config.taxonomy)
    account.add_rows(TAXONOMY, source.counts, source.rejects)
    return [Node(*row) for row in source.rows.limit(MAX_NODES + 1).collect()]


def _path_nodes(products: DataFrame, separator: str) -> list[Node]:
    paths = products.select("path").where(F.col("path").isNotNull()).distinct().limit(MAX_NODES + 1).collect()
    return path_nodes(sorted(row["path"] for row in paths), separator)


def _write_product_nodes(
    products: DataFrame, tree: DataFrame, folder: Path, config: Config, location: Location, account: Account
) -> None:
    references = taxonomy.product_references(products, tree)
    with held(references):
        counted = first_row(taxonomy.count_references(references))
        if counted["unknown"]:
            account.reject(
                PRODUCT_NODES,
                "node_unknown",
                counted["unknown"],
                key=counted["example"]["product_id"],
                sample=counted["example"]["reference"],
            )
            account.check(PRODUCT_NODES, location, config.catalogue.max_reject_share, rows=counted["all"])
        kept = account.write(taxonomy.product_nodes(references), folder, PRODUCT_NODES)
    without = products.where(F.col("node_ids").isNull() & F.col("path").isNull()).count()
    account.figures |= {"products": products.count(), "products_without_category": without}
    account.balance(PRODUCT_NODES.name, counted["all"], [counted["unknown"], counted["merged"], kept])


def _classified(
    session: SparkSession, config: Config, locations: Mapping[str, Location], tree: DataFrame, account: Account
) -> DataFrame | None:
    if "query_classes" not in locations:
        return None
    source = read_input(session, QUERY_CLASSES, locations["query_classes"], config.query_classes)
    account.add_rows(QUERY_CLASSES, source.counts, source.rejects)
    references = taxonomy.class_references(source.rows, tree)
    for row in taxonomy.count_classes(references).collect():
        account.reject(QUERY_CLASSES, row["reason"], row["count"], key=row["key"], sample=row["sample"])
    account.check(QUERY_CLASSES, locations["query_classes"], config.query_classes.max_reject_share)
    classified = taxonomy.classified_nodes(references)
    account.figures["classified_queries"] = classified.select("query").distinct().count()
    return classified


if __name__ == "__main__":
    run_job(STEP, run)
