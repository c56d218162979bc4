"""QUERY_NODES, QUERY_PAIRS and TAXONOMY -> QUERY_NEGATIVES: the query pairs that only look alike."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from indexer.config import Config
from indexer.contracts.schemas import QUERY_NEGATIVES, QUERY_NODES, QUERY_PAIRS, TAXONOMY
from indexer.job_config import NegativesConfig
from indexer.runs import StepCommit
from jobs.command import run_job
from jobs.lineages import read_lineages
from jobs.look_alikes import BLOCK_ROWS, nearest_pairs, write_vectors
from jobs.steps import Account, announce, first_row, held, run_step
from spark import negatives
from spark.inputs import Location
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
        inputs=_locate_encoder(config.negatives.encoder),
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
        queries, labelled = query_nodes.select("query").distinct().count(), lineages.count()
        account.filters["queries_without_label"] = queries - labelled
        frequencies = negatives.token_frequencies(tokens)
        account.filters["tokens_too_frequent"] = frequencies.where(
            F.col("token_queries") > limits.max_token_queries
        ).count()
        account.figures |= first_row(negatives.join_size(frequencies, max_token_queries=limits.max_token_queries))
        announce(f"{STEP}: {account.figures['token_pairs']:,} pairs of a token are formed for {labelled:,} queries")
        weights = negatives.token_weights(tokens, max_token_queries=limits.max_token_queries)
        similar = read_table(session, config.shop.work, QUERY_PAIRS, run_date)
        lexical = negatives.similar_queries(weights, min_similarity=limits.min_similarity)
        with held(lexical), _encoded_pairs(lineages, limits, folder, account, queries=labelled) as encoded:
            found = {"lexical": lexical}
            if encoded is not None:
                found["encoder"] = encoded.join(lexical, on=["query_a", "query_b"], how="left_anti")
            counts = {f"{source}_look_alikes": pairs.count() for source, pairs in found.items()}
            judged = [
                negatives.judge_negatives(pairs, lineages, similar, source=source, max_per_query=limits.max_per_query)
                for source, pairs in found.items()
            ]
            account.figures |= counts
            account.write_kept(
                reduce(DataFrame.unionByName, judged), folder, QUERY_NEGATIVES, rows=sum(counts.values())
            )
    return account


@contextmanager
def _encoded_pairs(
    lineages: DataFrame, limits: NegativesConfig, folder: Path, account: Account, *, queries: int
) -> Iterator[DataFrame | None]:
    """Find the encoder's look-alikes, if there is an encoder; its vectors are removed at the end of the block."""
    if not limits.encoder:
        yield None
        return
    vectors, blocks = folder / "vectors", max(1, -(-queries // BLOCK_ROWS))
    announce(f"{STEP}: {queries:,} queries are embedded, {queries**2:,} cosines computed in {blocks**2:,} blocks")
    try:
        write_vectors(lineages, Path(limits.encoder).resolve(), vectors, blocks=blocks)
        session = lineages.sparkSession
        pairs = nearest_pairs(session, vectors, blocks=blocks, neighbours=limits.encoder_neighbours)
        account.figures["cosines"] = queries**2
        with held(pairs.where(F.col("similarity") >= limits.min_similarity)) as near:
            yield near
    finally:
        shutil.rmtree(vectors, ignore_errors=True)


def _locate_encoder(path: str) -> dict[str, Location]:
    """Return the encoder as an input of the step; raises EncoderError where it cannot be used."""
    if not path:
        return {}
    # Imported here, so that jobs without an encoder need no ONNX Runtime.
    from indexer.encoder import open_encoder

    identity = open_encoder(Path(path)).fingerprint
    return {"encoder": Location(section="negatives", shown=path, files=(path,), format="onnx", identity=identity)}


if __name__ == "__main__":
    run_job(STEP, run)
