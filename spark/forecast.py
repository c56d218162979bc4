"""What a product of all queries by all queries will cost, told before it starts."""

from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark.block_pairs import count_blocks
from spark.gram import Totals

MULTIPLY_ADDS_PER_SECOND = 20_000_000
"""Of one core that forms every pair; pruning leaves a few percent of them to do."""
BYTES_PER_ENTRY = 250
"""Peak of a task per pair of query and product of its two blocks (`benchmarks/gram.py`)."""
BYTES_PER_ENTRY_READ = 100
"""Peak of reading a whole night per pair of it, before its blocks are multiplied."""
HEAVIEST = 3


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The plan of a product."""

    entries: int
    shared_pairs: int
    blocks: int
    tasks: int
    task_bytes: int
    sent_entries: int
    seconds_unpruned: float
    heaviest: tuple[tuple[str, int], ...]
    """Products after most queries, with their number of queries."""


def forecast_product(
    totals: Totals, heaviest: Sequence[tuple[str, int]], *, block_entries: int, cores: int, rows: int | None = None
) -> Forecast:
    """Plan the blocks for this many cores and entries a block.

    `rows` is the size of PURCHASES where each task reads all of it; without it rows travel to their tasks.
    """
    blocks = count_blocks(totals.entries, block_entries=block_entries, cores=cores)
    pairs = blocks * (blocks + 1) // 2
    in_blocks = BYTES_PER_ENTRY * 2 * -(-totals.entries // blocks)
    return Forecast(
        entries=totals.entries,
        shared_pairs=totals.shared_pairs,
        blocks=blocks,
        tasks=pairs if rows is None else min(pairs, cores),
        task_bytes=max(in_blocks, BYTES_PER_ENTRY_READ * (rows or 0)),
        sent_entries=totals.entries * blocks if rows is None else 0,
        seconds_unpruned=totals.shared_pairs / MULTIPLY_ADDS_PER_SECOND / cores,
        heaviest=tuple(heaviest),
    )


def describe_forecast(forecast: Forecast) -> str:
    """Return the plan as one line for people."""
    heaviest = ", ".join(f"{product_id} ({queries:,})" for product_id, queries in forecast.heaviest)
    size = forecast.task_bytes / 2**20
    return (
        f"{forecast.entries:,} pairs of query and product in {forecast.blocks} blocks, {forecast.sent_entries:,} sent; "
        f"{forecast.tasks} tasks of about {size:,.0f} MiB; at most {forecast.shared_pairs:,} multiply-adds, "
        f"{forecast.seconds_unpruned:,.0f} s where nothing is pruned; most queries: {heaviest or 'none'}"
    )


def name_heaviest(coded: DataFrame, products: DataFrame) -> list[tuple[str, int]]:
    """Return the products after most queries, with their number of queries."""
    rows = products.orderBy(F.col("queries").desc(), "code").limit(HEAVIEST).collect()
    # A product after many queries stands near the start of any part: no whole scan for a name.
    named = [(coded.where(F.col("code") == row["code"]).take(1)[0]["product_id"], row["queries"]) for row in rows]
    return sorted(named, key=lambda pair: (-pair[1], pair[0]))
