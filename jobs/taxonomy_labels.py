"""CATALOGUE, TAXONOMY, CROSSWALK, QUERY_CLASSES and PURCHASES -> TAXONOMY, PRODUCT_NODES and QUERY_NODES."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from indexer.config import Config
from indexer.contracts.schemas import (
    CATALOGUE,
    CROSSWALK,
    PRODUCT_NODES,
    PURCHASES,
    QUERY_CLASSES,
    QUERY_NODES,
    TAXONOMY,
    TAXONOMY_PATHS,
    Table,
)
from indexer.errors import ContractError
from indexer.runs import StepCommit
from jobs.command import run_job
from jobs.gates import NODES_WITH_PRODUCTS
from jobs.steps import Account, first_row, held, located, run_step
from spark import matching, query_nodes
from spark.duplicates import count_versions, judge_versions
from spark.inputs import Location
from spark.purchases import count_unknown
from spark.tables import read_input, read_rows, read_table
from spark.taxonomy import category_text, tree_frame
from spark.tree import MAX_NODES, Node, grow_tree, path_nodes

STEP = "taxonomy_labels"
SECTIONS = ("catalogue", "taxonomy", "crosswalk", "query_classes", "nodes")


def run(session: SparkSession, config: Config, run_date: str, *, force: bool = False) -> StepCommit:
    """Write the three tables of the date, or return the commit that already has them."""
    optional = [name for name in ("taxonomy", "crosswalk", "query_classes") if getattr(config, name).path]
    with located(session, config, STEP, "catalogue", *optional) as locations:
        return run_step(
            session,
            config,
            run_date,
            step=STEP,
            sections=SECTIONS,
            inputs=locations,
            upstream=(PURCHASES,),
            force=force,
            build=lambda folder: build_tables(_Night(session, config, locations, folder, Account()), run_date),
        )


@dataclass(frozen=True)
class _Night:
    """What every part of the step needs."""

    session: SparkSession
    config: Config
    locations: Mapping[str, Location]
    folder: Path
    account: Account

    @property
    def separator(self) -> str:
        return self.config.catalogue.category_separator

    def read(self, table: Table, section: str, *, filled: Collection[str] = ()) -> DataFrame:
        """Return the valid rows of a shop's table and enter all of them."""
        settings = getattr(self.config, section)
        source = read_input(
            self.session, table, self.locations[section], settings, separator=self.separator, filled=filled
        )
        self.account.add_rows(table, source.counts, source.rejects)
        return source.rows

    def check(self, table: Table, section: str, *, rows: int | None = None) -> None:
        """Raise ContractError where too many rows have been rejected by now."""
        self.account.check(table, self.locations[section], getattr(self.config, section).max_reject_share, rows=rows)

    def settle(self, table: Table, section: str, judged: DataFrame, *, key: str, sample: str) -> int:
        """Enter the rows of a judged table by their reasons and return how many stand."""
        valid = self.account.inputs[table.name]["valid"]
        counted = {row["reason"]: row for row in matching.count_reasons(judged, key=key, sample=sample).collect()}
        repeated = counted.pop("repeated")["count"] if "repeated" in counted else 0
        kept = counted.pop(None)["count"] if None in counted else 0
        self.account.filters[f"repeated_{section}"] = repeated
        for reason, row in sorted(counted.items()):
            self.account.reject(table, reason, row["count"], key=row["of"]["key"], sample=row["of"]["sample"])
        self.check(table, section)
        self.account.balance(table.name, valid, [kept, repeated, *(row["count"] for row in counted.values())])
        return int(kept)


def build_tables(night: _Night, run_date: str) -> Account:
    """Write TAXONOMY, PRODUCT_NODES and QUERY_NODES below the night's folder."""
    account, nodes = night.account, night.config.nodes
    purchases = read_table(night.session, night.config.shop.work, PURCHASES, run_date)
    with held(_read_products(night)) as products:
        _check_purchases(night, purchases, products)
        tree = _write_tree(night, products)
        crosswalk = _read_crosswalk(night, tree)
        match = partial(
            matching.match_references,
            tree=tree,
            separator=night.separator,
            leaf_names=nodes.leaf_names,
            crosswalk=crosswalk,
        )
        references = matching.product_references(products)
        _write_product_nodes(night, matching.place_products(references, match(references)), products.count())
    placed = read_rows(night.session, night.folder / PRODUCT_NODES.name, PRODUCT_NODES)
    account.figures |= first_row(query_nodes.count_placed(purchases, placed))
    account.figures[NODES_WITH_PRODUCTS] = placed.select("node_id").distinct().count()
    with held(query_nodes.node_purchases(purchases, placed)) as parts:
        derived = query_nodes.purchased_nodes(
            parts, tree, smoothing_purchases=nodes.smoothing_purchases, prior_purchases=nodes.prior_purchases
        )
        if "query_classes" not in night.locations:
            account.write(derived, night.folder, QUERY_NODES)
            return account
        references = matching.class_references(night.read(QUERY_CLASSES, "query_classes", filled=["score"]))
        with held(matching.place_classes(references, match(references))) as judged:
            night.settle(QUERY_CLASSES, "query_classes", judged, key="query", sample="reference")
            classified = query_nodes.classified_nodes(judged)
            account.figures["classified_queries"] = classified.select("query").distinct().count()
            _write_query_nodes(night, derived, classified)
    return account


def _read_products(night: _Night) -> DataFrame:
    """Return (product_id, node_ids, path) of every product once, and enter the rows that do not stand."""
    account = night.account
    judged = judge_versions(night.read(CATALOGUE, "catalogue"))
    counted = {row["reason"]: row for row in count_versions(judged).collect()}
    account.filters["merged_products"] = counted["repeated"]["count"] if "repeated" in counted else 0
    if "duplicate_id" in counted:
        row = counted["duplicate_id"]
        account.reject(CATALOGUE, "duplicate_id", row["count"], key=row["key"], sample=None)
        night.check(CATALOGUE, "catalogue")
    rows = judged.where("reason IS NULL").select("product_id", "node_ids", "category_path")
    products = category_text(rows, separator=night.separator)
    # Without a tree an id has no place, unless a crosswalk gives it one; the path is the place.
    placeless = not {"taxonomy", "crosswalk"} & set(night.locations)
    return products.withColumn("node_ids", F.lit(None).cast("array<string>")) if placeless else products


def _write_tree(night: _Night, products: DataFrame) -> DataFrame:
    """Write TAXONOMY and return it with paths and lineages."""
    account, settings = night.account, night.config.taxonomy
    table = TAXONOMY_PATHS if settings.full_paths else TAXONOMY
    nodes, rows = _read_nodes(night, table) if "taxonomy" in night.locations else _catalogue_nodes(night, products)
    tree = grow_tree(nodes, max_depth=settings.max_depth, shown=TAXONOMY.name, two_parents=settings.two_parents)
    for reason, left_out in (("parent_unknown", tree.orphans), ("second_parent", tree.second_parents)):
        if left_out:
            first = left_out[0]
            account.reject(table, reason, len(left_out), key=first.node_id, sample=first.parent_id)
            night.check(table, "taxonomy")
    frame = tree_frame(night.session, tree, separator=night.separator)
    account.figures["implied_nodes"] = len(nodes) - rows
    paths = {tree.path(node_id, night.separator) for node_id in tree.nodes}
    account.figures["nodes_with_the_path_of_another"] = len(tree.nodes) - len(paths)
    written = account.write(frame, night.folder, TAXONOMY)
    account.balance(TAXONOMY.name, len(nodes), [written, len(tree.orphans), len(tree.second_parents)])
    return frame


def _read_nodes(night: _Night, table: Table) -> tuple[list[Node], int]:
    """Return the nodes of the shop's tree, and of how many rows they were made."""
    rows = night.read(table, "taxonomy")
    if table is TAXONOMY:
        nodes = [Node(*row) for row in rows.limit(MAX_NODES + 1).collect()]
        return nodes, len(nodes)
    found = category_text(rows, separator=night.separator).limit(MAX_NODES + 1).collect()
    named = [(row["node_id"], row["path"]) for row in found if row["path"] is not None]
    if len(named) < len(found):
        night.account.reject(table, "category_path_missing", len(found) - len(named), key=None, sample=None)
        night.check(table, "taxonomy")
    settings = night.config.taxonomy
    return path_nodes(named, separator=night.separator, max_depth=settings.max_depth, shown=TAXONOMY.name), len(named)


def _catalogue_nodes(night: _Night, products: DataFrame) -> tuple[list[Node], int]:
    """Return a node for every category path and each path above; the id of a node is its path."""
    found = products.select("path").where(F.col("path").isNotNull()).distinct().limit(MAX_NODES + 1).collect()
    paths = [(row["path"], row["path"]) for row in found]
    depth = night.config.taxonomy.max_depth
    return path_nodes(paths, separator=night.separator, max_depth=depth, shown=TAXONOMY.name), len(paths)


def _check_purchases(night: _Night, purchases: DataFrame, products: DataFrame) -> None:
    """Enter the purchases of products that the catalogue lacks; raises ContractError where they are too many."""
    found = first_row(count_unknown(purchases, products))
    total, example = found.pop("purchases"), found.pop("example")
    night.account.figures |= found
    unknown, limit = found["purchases_of_unknown_products"], night.config.purchases.max_unknown_share
    if unknown > limit * total or unknown == total:
        raise ContractError(
            f"{night.config.catalogue.path}: {unknown} of {total} purchases are of products that the catalogue lacks, "
            f"such as {example!r}; deliver the same ids in both, or raise purchases.max_unknown_share ({limit})"
        )


def _read_crosswalk(night: _Night, tree: DataFrame) -> DataFrame | None:
    if "crosswalk" not in night.locations:
        return None
    judged = matching.judge_crosswalk(night.read(CROSSWALK, "crosswalk"), tree, separator=night.separator)
    night.settle(CROSSWALK, "crosswalk", judged, key="from_node", sample="to_node")
    return judged.where(F.col("reason").isNull()).select("from_path", "node_id")


def _write_product_nodes(night: _Night, placed: DataFrame, products: int) -> None:
    account = night.account
    with held(placed):
        counted = first_row(matching.count_places(placed))
        if counted["unknown"]:
            first = counted["example"]
            account.reject(
                PRODUCT_NODES, "node_unknown", counted["unknown"], key=first["product_id"], sample=first["reference"]
            )
            night.check(PRODUCT_NODES, "catalogue", rows=counted["all"])
        kept = account.write(matching.product_nodes(placed), night.folder, PRODUCT_NODES)
    unique = [products, account.filters["merged_products"]]
    account.balance(CATALOGUE.name, account.inputs[CATALOGUE.name]["valid"], unique)
    account.balance(PRODUCT_NODES.name, counted["all"], [counted["unknown"], counted["merged"], kept])
    named = counted["placed"] + counted["unplaced"]
    account.figures |= {
        "products": products,
        "products_without_category": products - named,
        "products_placed": counted["placed"],
        "products_unplaced": counted["unplaced"],
        "product_miss_rate": round(counted["unplaced"] / named, 4) if named else 0.0,
        **{f"matched_by_{method}": counted[f"matched_by_{method}"] for method in matching.METHODS},
    }


def _write_query_nodes(night: _Night, derived: DataFrame, classified: DataFrame) -> None:
    account, nodes = night.account, night.config.nodes
    merged = query_nodes.merge_nodes(derived, classified, rule=nodes.merge, classifier_weight=nodes.classifier_weight)
    with held(merged):
        counted = first_row(query_nodes.count_merged(merged))
        kept = account.write(merged.where(~F.col("overruled")), night.folder, QUERY_NODES)
    account.filters |= {"overruled_nodes": counted["overruled"], "shared_nodes": counted["shared"]}
    account.balance(QUERY_NODES.name, counted["rows"], [counted["overruled"], counted["shared"], kept])


if __name__ == "__main__":
    run_job(STEP, run)
