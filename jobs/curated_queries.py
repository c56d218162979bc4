"""PURCHASES -> CURATED_QUERIES: the queries that a reformulation may answer with."""

from pathlib import Path

from pyspark.sql import SparkSession

from indexer.config import Config
from indexer.contracts.schemas import CURATED_QUERIES, PURCHASES
from indexer.runs import StepCommit
from jobs.command import run_job
from jobs.steps import Account, run_step
from spark.curated import judge_queries
from spark.tables import read_table

STEP = "curated_queries"


def run(session: SparkSession, config: Config, run_date: str, *, force: bool = False) -> StepCommit:
    """Write CURATED_QUERIES of the date, or return the commit that already has it."""

    def build(folder: Path) -> Account:
        account = Account()
        purchases = read_table(session, config.shop.work, PURCHASES, run_date)
        judged = judge_queries(
            purchases,
            min_purchases=config.curated.min_purchases,
            min_products=config.curated.min_products,
            max_queries=config.curated.max_queries,
            max_characters=config.curated.max_characters,
        )
        account.write_kept(judged, folder, CURATED_QUERIES, rows=purchases.select("query").distinct().count())
        return account

    return run_step(
        session,
        config,
        run_date,
        step=STEP,
        sections=("curated",),
        upstream=(PURCHASES,),
        force=force,
        build=build,
    )


if __name__ == "__main__":
    run_job(STEP, run)
