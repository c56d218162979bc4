"""How the query pairs of a night are found: in arrays read from the files while they fit a task, else by shuffles."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from indexer.contracts.schemas import PURCHASES
from indexer.job_config import NpmiConfig
from spark.block_pairs import deal_pairs
from spark.block_rows import Block
from spark.forecast import HEAVIEST, Forecast, forecast_product, name_heaviest
from spark.gram import Totals, coded_products, counted_entries
from spark.npmi import choose_reading, query_rows, score_pairs
from spark.npmi_blocks import SCORED_SCHEMA, score_blocks
from spark.purchase_matrix import cut_blocks, measure_matrix, name_most_shared, read_matrix
from spark.tables import read_rows


@dataclass(frozen=True)
class PairPlan:
    """What the product of all queries by all queries will cost, and how to start it."""

    forecast: Forecast
    totals: Totals
    score: Callable[[], DataFrame]
    """Returns the pairs as `spark.npmi.score_pairs` does."""


@contextmanager
def plan_pairs(
    session: SparkSession, folder: Path, config: NpmiConfig, *, rows: int, block_entries: int
) -> Iterator[PairPlan]:
    """Plan the pairs of the PURCHASES in the folder, which are so many rows; the plan holds within the block."""
    cores = session.sparkContext.defaultParallelism
    if rows <= block_entries:
        totals, heaviest = _measure_files(folder)
        forecast = forecast_product(totals, heaviest, block_entries=block_entries, cores=cores, rows=rows)
        yield PairPlan(forecast, totals, lambda: score_files(session, folder, config, blocks=forecast.blocks))
        return
    purchases = read_rows(session, folder, PURCHASES)
    with coded_products(purchases, shares=config.variant == "gramnorm") as (coded, products, totals):
        heaviest = name_heaviest(coded, products)
        forecast = forecast_product(totals, heaviest, block_entries=block_entries, cores=cores)
        entries = query_rows(counted_entries(coded, products), totals, variant=config.variant)
        yield PairPlan(forecast, totals, lambda: score_pairs(entries, config, blocks=forecast.blocks))


def score_files(session: SparkSession, folder: Path, config: NpmiConfig, *, blocks: int) -> DataFrame:
    """Return what `score_pairs` does, of purchases that fit one task: each task reads all of them from the folder."""
    folder, cores = folder.resolve(), session.sparkContext.defaultParallelism
    tasks = deal_pairs(blocks, tasks=cores)

    def work(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for lot in (tasks[number] for number in batch.column(0).to_pylist()):
                wanted = {block for pair in lot for block in pair}
                cut = read_blocks(folder, config.variant, blocks=blocks, wanted=wanted)
                for low, high in lot:
                    yield from score_blocks(cut[low], cut[high], config)

    numbers = session.range(0, len(tasks), 1, numPartitions=len(tasks))
    return numbers.mapInArrow(work, from_arrow_schema(SCORED_SCHEMA))


def read_blocks(folder: Path, variant: str, *, blocks: int, wanted: Iterable[int]) -> dict[int, Block]:
    """Read PURCHASES and return the wanted blocks of its queries; nothing else stays in memory."""
    matrix = read_matrix(folder)
    margins = measure_matrix(matrix)
    reading = choose_reading(
        variant,
        product=margins.product,
        bought=margins.bought,
        met_others=margins.met_others,
        shares=margins.shares,
        totals=margins.totals,
    )
    return cut_blocks(matrix, margins, reading, blocks=blocks, wanted=wanted)


def _measure_files(folder: Path) -> tuple[Totals, list[tuple[str, int]]]:
    matrix = read_matrix(folder)
    margins = measure_matrix(matrix)
    return margins.totals, name_most_shared(matrix, margins, number=HEAVIEST)
