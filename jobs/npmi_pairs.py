"""QUERY_GRAM and PURCHASES -> QUERY_PAIRS: the query pairs that mean the same."""

from pathlib import Path

from pyspark.sql import SparkSession

from indexer.config import Config
from indexer.contracts.schemas import PURCHASES, QUERY_GRAM, QUERY_PAIRS
from indexer.runs import StepCommit
from jobs.command import run_job
from jobs.steps import Account, run_step
from spark.npmi import judge_pairs, npmi_scores
from spark.tables import read_table

STEP = "npmi_pairs"


def run(session: SparkSession, config: Config, run_date: str, *, force: bool = False) -> StepCommit:
    """Write QUERY_PAIRS of the date, or return the commit that already has it."""

    def build(folder: Path) -> Account:
        account = Account()
        gram = read_table(session, config.shop.work, QUERY_GRAM, run_date)
        purchases = read_table(session, config.shop.work, PURCHASES, run_date)
        judged = judge_pairs(
            npmi_scores(gram, purchases, variant=config.npmi.variant),
            tau=config.npmi.tau,
            min_support=config.npmi.min_support,
            min_shared_products=config.npmi.min_shared_products,
            top_k=config.npmi.top_k,
        )
        account.write_kept(judged, folder, QUERY_PAIRS, rows=gram.count())
        return account

    return run_step(
        session,
        config,
        run_date,
        step=STEP,
        sections=("npmi",),
        upstream=(PURCHASES, QUERY_GRAM),
        force=force,
        build=build,
    )


if __name__ == "__main__":
    run_job(STEP, run)
