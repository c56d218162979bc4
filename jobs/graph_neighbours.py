"""PURCHASES -> GRAPH_NEIGHBOURS: whom a walk of one or two steps from a query or a product reaches."""

from pathlib import Path

from pyspark.sql import SparkSession

from indexer.config import Config
from indexer.contracts.schemas import GRAPH_NEIGHBOURS, PURCHASES
from indexer.runs import StepCommit
from jobs.command import run_job
from jobs.steps import Account, first_row, held, run_step
from spark.neighbours import count_steps, graph_neighbours, kept_steps
from spark.tables import read_rows, read_table

STEP = "graph_neighbours"


def run(session: SparkSession, config: Config, run_date: str, *, force: bool = False) -> StepCommit:
    """Write GRAPH_NEIGHBOURS of the date, or return the commit that already has it."""
    return run_step(
        session,
        config,
        run_date,
        step=STEP,
        sections=("graph",),
        upstream=(PURCHASES,),
        force=force,
        build=lambda folder: build_table(session, config, run_date, folder),
    )


def build_table(session: SparkSession, config: Config, run_date: str, folder: Path) -> Account:
    """Write GRAPH_NEIGHBOURS below the folder."""
    account, neighbours = Account(), config.graph.neighbours
    purchases = read_table(session, config.shop.work, PURCHASES, run_date)
    account.figures |= first_row(count_steps(purchases, neighbours=neighbours))
    with held(kept_steps(purchases, neighbours=neighbours)) as steps:
        account.write(graph_neighbours(steps, neighbours=neighbours), folder, GRAPH_NEIGHBOURS)
    written = read_rows(session, folder / GRAPH_NEIGHBOURS.name, GRAPH_NEIGHBOURS)
    orders = {row["order"]: row["count"] for row in written.groupBy("order").count().collect()}
    account.balance(GRAPH_NEIGHBOURS.name, account.figures["steps"], [orders.get(1, 0)])
    account.figures["second_order"] = orders.get(2, 0)
    return account


if __name__ == "__main__":
    run_job(STEP, run)
