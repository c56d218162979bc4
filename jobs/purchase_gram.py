"""RAW_PURCHASES or RAW_EVENTS -> PURCHASES and QUERY_GRAM: clean the shop's purchases, multiply them by themselves."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path

from pyspark.sql import SparkSession

from indexer.config import Config
from indexer.contracts.days import Days, span_days
from indexer.contracts.schemas import PURCHASES, QUERY_GRAM
from indexer.runs import StepCommit, check_run_date
from jobs.command import run_job
from jobs.purchase_input import enter_counts, input_days, input_sections, read_purchases, sum_pairs
from jobs.steps import Account, first_row, held, located, run_step
from spark.gram import join_size, query_gram
from spark.inputs import Location
from spark.purchases import count_purchases
from spark.tables import read_rows

STEP = "purchase_gram"


def run(session: SparkSession, config: Config, run_date: str, *, force: bool = False) -> StepCommit:
    """Write both tables of the date, or return the commit that already has them."""
    days = span_days(date.fromisoformat(check_run_date(run_date)), lookback_days=config.purchases.lookback_days)
    sections = input_sections(config)
    with located(session, config, STEP, *sections, days=input_days(config, days)) as locations:
        return run_step(
            session,
            config,
            run_date,
            step=STEP,
            sections=sections,
            inputs=locations,
            force=force,
            build=lambda folder: build_tables(session, config, locations, days, folder),
        )


def build_tables(
    session: SparkSession, config: Config, locations: Mapping[str, Location], days: Days, folder: Path
) -> Account:
    """Write PURCHASES and QUERY_GRAM; raises ContractError where no pair is bought often enough."""
    account = Account()
    found = read_purchases(session, config, locations, account)
    pairs = sum_pairs(found, config.purchases, days)
    with held(pairs):
        counts = {row["reason"]: row.asDict(recursive=True) for row in count_purchases(pairs).collect()}
        enter_counts(account, found, counts, config.purchases)
        written = account.write(pairs.where("reason IS NULL"), folder, PURCHASES)
    account.balance(PURCHASES.name, counts[None]["pairs"], [written])
    purchases = read_rows(session, folder / PURCHASES.name, PURCHASES)
    account.figures |= first_row(join_size(purchases))
    account.write(query_gram(purchases), folder, QUERY_GRAM)
    return account


if __name__ == "__main__":
    run_job(STEP, run)
