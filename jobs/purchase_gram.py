"""RAW_PURCHASES or RAW_EVENTS -> PURCHASES and, on request, QUERY_GRAM and PRODUCT_GRAM."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from indexer.config import Config
from indexer.contracts.days import Days, span_days
from indexer.contracts.schemas import PRODUCT_GRAM, PURCHASES, QUERY_GRAM
from indexer.job_config import GramConfig
from indexer.runs import StepCommit, check_run_date
from jobs.command import run_job
from jobs.purchase_input import enter_counts, input_days, input_sections, read_purchases, sum_pairs
from jobs.steps import Account, announce, held, located, run_step
from spark.forecast import describe_forecast, forecast_product, name_heaviest
from spark.gram import coded_products, counted_entries, gram_rows, query_gram
from spark.inputs import Location
from spark.purchases import count_purchases
from spark.tables import read_rows

STEP = "purchase_gram"


def run(session: SparkSession, config: Config, run_date: str, *, force: bool = False) -> StepCommit:
    """Write the tables of the date, or return the commit that already has them."""
    days = span_days(date.fromisoformat(check_run_date(run_date)), lookback_days=config.purchases.lookback_days)
    sources = input_sections(config)
    with located(session, config, STEP, *sources, days=input_days(config, days)) as locations:
        return run_step(
            session,
            config,
            run_date,
            step=STEP,
            sections=(*sources, "gram"),
            inputs=locations,
            force=force,
            build=lambda folder: build_tables(session, config, locations, days, folder),
        )


def build_tables(
    session: SparkSession, config: Config, locations: Mapping[str, Location], days: Days, folder: Path
) -> Account:
    """Write PURCHASES and the Gram matrices; raises ContractError where no pair is bought often enough."""
    account = Account()
    found = read_purchases(session, config, locations, account)
    pairs = sum_pairs(found, config.purchases, days)
    with held(pairs):
        counts = {row["reason"]: row.asDict(recursive=True) for row in count_purchases(pairs).collect()}
        enter_counts(account, found, counts, config.purchases)
        written = account.write(pairs.where("reason IS NULL"), folder, PURCHASES)
    account.balance(PURCHASES.name, counts[None]["pairs"], [written])
    purchases = read_rows(session, folder / PURCHASES.name, PURCHASES)
    write_grams(session, purchases, config.gram, folder, account)
    return account


def write_grams(
    session: SparkSession, purchases: DataFrame, config: GramConfig, folder: Path, account: Account
) -> None:
    """Write the Gram matrices that the shop asks for; raises ContractError where a sum leaves 64 bits."""
    exchanged = purchases.select(F.col("product_id").alias("query"), F.col("query").alias("product_id"), "purchases")
    for side, table in (("query", QUERY_GRAM), ("product", PRODUCT_GRAM)):
        if side not in config.sides:
            continue
        counts = purchases if side == "query" else exchanged
        with coded_products(counts) as (coded, products, totals):
            cores = session.sparkContext.defaultParallelism
            heaviest = name_heaviest(coded, products)
            forecast = forecast_product(totals, heaviest, block_entries=config.block_entries, cores=cores)
            announce(f"{STEP}: {table.name}: {describe_forecast(forecast)}")
            rows = gram_rows(counted_entries(coded, products), totals)
            pairs = query_gram(rows, blocks=forecast.blocks, top_k=config.top_k)
            account.figures[f"{side}_pairs_formed"] = totals.shared_pairs
            account.write(pairs.toDF(*table.schema.names), folder, table)


if __name__ == "__main__":
    run_job(STEP, run)
