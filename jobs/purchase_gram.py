"""RAW_PURCHASES -> PURCHASES and QUERY_GRAM: clean the shop's purchases and multiply them by themselves."""

from dataclasses import replace
from pathlib import Path

from pyspark.sql import SparkSession

from indexer.config import Config
from indexer.contracts.schemas import PURCHASES, QUERY_GRAM, RAW_PURCHASES, Table
from indexer.errors import ContractError
from indexer.input_config import PurchasesConfig
from indexer.runs import StepCommit
from jobs.command import run_job
from jobs.steps import Account, first_row, held, located, run_step
from spark.gram import join_size, query_gram
from spark.inputs import Location
from spark.purchases import clean_purchases, count_purchases, fill_purchases, sum_purchases
from spark.tables import count_rows, read_input, read_rows, reject_row

STEP = "purchase_gram"


def run(session: SparkSession, config: Config, run_date: str, *, force: bool = False) -> StepCommit:
    """Write both tables of the date, or return the commit that already has them."""
    with located(session, config, STEP, "purchases") as locations:
        return run_step(
            session,
            config,
            run_date,
            step=STEP,
            sections=("purchases",),
            inputs=locations,
            force=force,
            build=lambda folder: build_tables(session, config.purchases, locations["purchases"], folder),
        )


def build_tables(session: SparkSession, config: PurchasesConfig, location: Location, folder: Path) -> Account:
    """Write PURCHASES and QUERY_GRAM; raises ContractError where no pair is bought often enough."""
    account = Account()
    source = read_input(session, raw_table(config), location, config, filled=("purchases",))
    sums = sum_purchases(fill_purchases(source.rows, default_purchases=config.default_purchases))
    with held(sums):
        counts = first_row(count_purchases(sums, min_purchases=config.min_purchases))
        empty = [reject_row(RAW_PURCHASES, "query_empty", counts["query_empty"])] if counts["query_empty"] else []
        rejects = [*source.rejects, *empty]
        account.add_rows(RAW_PURCHASES, count_rows(source.counts["rows_in"], rejects), rejects)
        account.check(RAW_PURCHASES, location, config.max_reject_share)
        if not counts["pairs"]:
            raise ContractError(
                f"{location.shown}: no pair of query and product was bought {config.min_purchases} times, the most is "
                f"{counts['largest']}; lower purchases.min_purchases, or set purchases.default_purchases for a table "
                "without counts"
            )
        account.filters |= {name: counts[name] for name in ("merged", "below_min_purchases")}
        pairs = account.write(clean_purchases(sums, min_purchases=config.min_purchases), folder, PURCHASES)
    parts = [counts["query_empty"], counts["merged"], counts["below_min_purchases"], pairs]
    account.balance(RAW_PURCHASES.name, source.counts["valid"], parts)
    purchases = read_rows(session, folder / PURCHASES.name, PURCHASES)
    account.figures |= {"purchases": counts["purchases"], "purchases_below_min": counts["purchases_below_min"]}
    account.figures |= first_row(join_size(purchases))
    account.write(query_gram(purchases), folder, QUERY_GRAM)
    return account


def raw_table(config: PurchasesConfig) -> Table:
    """Return the contract of RAW_PURCHASES with the shop's own limit for an outlier."""
    columns = tuple(
        replace(column, maximum=config.max_purchases) if column.name == "purchases" else column
        for column in RAW_PURCHASES.columns
    )
    return replace(RAW_PURCHASES, columns=columns)


if __name__ == "__main__":
    run_job(STEP, run)
