"""PURCHASES, QUERY_NODES and TAXONOMY -> CURATED_QUERIES: the queries that a reformulation may answer with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from indexer.config import Config
from indexer.contracts.schemas import (
    BLOCKED_WORDS,
    CURATED_QUERIES,
    PRODUCT_NODES,
    PURCHASES,
    QUERY_NODES,
    QUERY_VARIANTS,
)
from indexer.runs import StepCommit
from jobs.command import run_job
from jobs.lineages import read_lineages
from jobs.steps import Account, first_row, held, located, run_step
from spark import curated
from spark.inputs import Location
from spark.purchases import query_totals
from spark.tables import read_input, read_table
from spark.variants import find_variants

STEP = "curated_queries"


@dataclass(frozen=True, kw_only=True)
class Tables:
    """What the step reads."""

    purchases: DataFrame
    query_nodes: DataFrame
    product_nodes: DataFrame
    lineages: DataFrame


def run(session: SparkSession, config: Config, run_date: str, *, force: bool = False) -> StepCommit:
    """Write CURATED_QUERIES and QUERY_VARIANTS of the date, or return the commit that already has them."""
    optional = ["blocked_words"] if config.blocked_words.path else []
    with located(session, config, STEP, *optional) as locations:
        return run_step(
            session,
            config,
            run_date,
            step=STEP,
            sections=("curated", "nodes", *optional),
            inputs=locations,
            upstream=(PURCHASES, QUERY_NODES),
            force=force,
            build=lambda folder: build_tables(session, config, locations, run_date, folder),
        )


def build_tables(
    session: SparkSession, config: Config, locations: Mapping[str, Location], run_date: str, folder: Path
) -> Account:
    """Write CURATED_QUERIES and QUERY_VARIANTS below the folder."""
    account = Account()
    tables = read_tables(session, config, run_date)
    queries = query_totals(tables.purchases).withColumnRenamed("query_purchases", "purchases")
    texts = curated.judge_texts(
        queries,
        _blocked_queries(session, config, locations, queries, account),
        max_characters=config.curated.max_characters,
        scripts=config.curated.scripts,
        reject_personal_data=config.curated.reject_personal_data,
    )
    with (
        held(texts),
        held(_variants(config, texts, tables)) as variants,
        held(_place_queries(config, texts, variants, tables)) as placed,
    ):
        account.figures |= first_row(curated.count_coverage(placed, tables.purchases, tables.query_nodes))
        account.figures |= first_row(
            placed.agg(
                F.count_if("apart").alias("variants_kept_apart"),
                F.count_if(F.col("is_product_id") & F.col("reason").isNull()).alias("queries_that_are_product_ids"),
            )
        )
        merged = account.write(placed.where("reason = 'merged_variants'"), folder, QUERY_VARIANTS)
        masked = first_row(placed.where("reason = 'pii'").agg(F.min("mask").alias("mask")))["mask"]
        account.write_kept(placed, folder, CURATED_QUERIES, rows=queries.count())
    account.balance(QUERY_VARIANTS.name, account.filters.get("merged_variants", 0), [merged])
    personal = account.filters.pop("pii", 0)
    if personal:
        account.reject(CURATED_QUERIES, "pii", personal, key=None, sample=masked)
    return account


def read_tables(session: SparkSession, config: Config, run_date: str) -> Tables:
    """Return the tables of the date; raises ContractError where a step before has not finished."""
    purchases, query_nodes, product_nodes = (
        read_table(session, config.shop.work, table, run_date) for table in (PURCHASES, QUERY_NODES, PRODUCT_NODES)
    )
    return Tables(
        purchases=purchases,
        query_nodes=query_nodes,
        product_nodes=product_nodes,
        lineages=read_lineages(session, config, run_date),
    )


def _place_queries(config: Config, texts: DataFrame, variants: DataFrame, tables: Tables) -> DataFrame:
    mains = curated.judge_mains(
        curated.sum_variants(variants, tables.purchases),
        curated.variant_nodes(variants, tables.query_nodes),
        min_purchases=config.curated.min_purchases,
        min_products=config.curated.min_products,
        max_queries=config.curated.max_queries,
    )
    product_ids = tables.purchases.select("product_id").unionByName(tables.product_nodes.select("product_id"))
    return curated.place_queries(texts, variants, mains, product_ids)


def _variants(config: Config, texts: DataFrame, tables: Tables) -> DataFrame:
    queries = texts.where(F.col("reason").isNull()).select("query", "purchases")
    if not config.curated.merge_variants:
        return queries.select("*", F.col("query").alias("main_query"), F.lit(False).alias("apart"))
    return find_variants(queries, tables.lineages)


def _blocked_queries(
    session: SparkSession, config: Config, locations: Mapping[str, Location], queries: DataFrame, account: Account
) -> DataFrame | None:
    if "blocked_words" not in locations:
        return None
    source = read_input(session, BLOCKED_WORDS, locations["blocked_words"], config.blocked_words)
    account.add_rows(BLOCKED_WORDS, source.counts, source.rejects)
    phrases = curated.blocked_phrases(source.rows)
    counted = first_row(phrases.agg(F.max("words").alias("longest"), F.count_if(F.col("words") == 0).alias("empty")))
    if counted["empty"]:
        account.reject(BLOCKED_WORDS, "word_empty", counted["empty"], key=None, sample=None)
        account.check(BLOCKED_WORDS, locations["blocked_words"], config.blocked_words.max_reject_share)
    return curated.blocked_queries(queries, phrases.where(F.col("words") > 0), longest=counted["longest"])


if __name__ == "__main__":
    run_job(STEP, run)
