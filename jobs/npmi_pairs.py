"""PURCHASES -> QUERY_PAIRS: the query pairs that mean the same."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession

from indexer.config import Config
from indexer.contracts.schemas import PURCHASES, QUERY_PAIRS
from indexer.job_config import NpmiConfig
from indexer.runs import StepCommit, StepFolder
from jobs.command import run_job
from jobs.steps import Account, announce, held, run_step
from spark.forecast import describe_forecast
from spark.gram import Totals
from spark.npmi import count_tallies, judge_partners
from spark.pair_plan import plan_pairs

STEP = "npmi_pairs"


def run(session: SparkSession, config: Config, run_date: str, *, force: bool = False) -> StepCommit:
    """Write QUERY_PAIRS of the date, or return the commit that already has it."""
    return run_step(
        session,
        config,
        run_date,
        step=STEP,
        sections=("npmi",),
        upstream=(PURCHASES,),
        force=force,
        build=lambda folder: build_table(session, config, run_date, folder),
    )


def build_table(session: SparkSession, config: Config, run_date: str, folder: Path) -> Account:
    """Write QUERY_PAIRS below the folder."""
    account = Account()
    with scored_pairs(session, config, config.npmi, run_date, step=STEP) as (scored, totals):
        tallies = {row["tally"]: row["count"] for row in count_tallies(scored).collect()}
        account.figures["shared_pairs"] = totals.shared_pairs
        account.figures |= {name: tallies.pop(name, 0) for name in ("multiply_adds", "candidates")}
        in_blocks = tallies.pop("beyond_top_k", 0)
        rest = account.figures["candidates"] - in_blocks - sum(tallies.values())
        account.write_kept(judge_partners(scored, top_k=config.npmi.top_k), folder, QUERY_PAIRS, rows=rest)
    tallies["beyond_top_k"] = account.filters.get("beyond_top_k", 0) + in_blocks
    account.filters = {reason: count for reason, count in sorted(tallies.items()) if count}
    return account


@contextmanager
def scored_pairs(
    session: SparkSession, config: Config, limits: NpmiConfig, run_date: str, *, step: str
) -> Iterator[tuple[DataFrame, Totals]]:
    """Give the scored pairs of `spark.npmi.score_pairs` for the time of the block; says first what they will cost."""
    purchases = StepFolder(config.shop.work, PURCHASES.written_by, run_date)
    commit = purchases.require(PURCHASES.name)
    rows, folder = commit.counts["tables"][PURCHASES.name], purchases.attempt_folder(commit.attempt) / PURCHASES.name
    with plan_pairs(session, folder, limits, rows=rows, block_entries=config.gram.block_entries) as planned:
        announce(f"{step}: {describe_forecast(planned.forecast)}")
        with held(planned.score()) as scored:
            yield scored, planned.totals


if __name__ == "__main__":
    run_job(STEP, run)
