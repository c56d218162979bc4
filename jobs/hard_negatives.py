"""QUERY_NODES, QUERY_PAIRS and TAXONOMY -> QUERY_NEGATIVES: the query pairs that only look alike."""

from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from indexer.config import Config
from indexer.contracts.schemas import QUERY_NEGATIVES, QUERY_NODES, QUERY_PAIRS, TAXONOMY
from indexer.runs import StepCommit
from jobs.command import run_job
from jobs.lineages import read_lineages
from jobs.steps import Account, first_row, held, run_step
from spark import negatives
from spark.tables import read_table

STEP = "hard_negatives"


def run(session: SparkSession, config: Config, run_date: str, *, force: bool = False) -> StepCommit:
    """Write QUERY_NEGATIVES of the date, or return the commit that already has it."""
    return run_step(
        session,
        config,
        run_date,
        step=STEP,
        sections=("negatives", "nodes"),
        upstream=(TAXONOMY, QUERY_NODES, QUERY_PAIRS),
        force=force,
        build=lambda folder: build_table(session, config, run_date, folder),
    )


def build_table(session: SparkSession, config: Config, run_date: str, folder: Path) -> Account:
    """Write QUERY_NEGATIVES below the folder."""
    account, limits = Account(), config.negatives
    query_nodes = read_table(session, config.shop.work, QUERY_NODES, run_date)
    lineages = read_lineages(session, config, run_date)
    tokens = negatives.query_tokens(lineages)
    with held(lineages), held(tokens):
        queries = query_nodes.select("query").distinct().count()
        account.filters["queries_without_label"] = queries - lineages.count()
        frequencies = negatives.token_frequencies(tokens)
        account.filters["tokens_too_frequent"] = frequencies.where(
            F.col("token_queries") > limits.max_token_queries
        ).count()
        account.figures |= first_row(negatives.join_size(frequencies, max_token_queries=limits.max_token_queries))
        weights = negatives.token_weights(tokens, max_token_queries=limits.max_token_queries)
        pairs = negatives.similar_queries(weights, min_similarity=limits.min_similarity)
        similar = read_table(session, config.shop.work, QUERY_PAIRS, run_date)
        judged = negatives.judge_negatives(pairs, lineages, similar, max_per_query=limits.max_per_query)
        with held(pairs):
            account.figures["look_alikes"] = pairs.count()
            account.write_kept(judged, folder, QUERY_NEGATIVES, rows=account.figures["look_alikes"])
    return account


if __name__ == "__main__":
    run_job(STEP, run)
