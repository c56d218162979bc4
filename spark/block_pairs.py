"""Every pair of blocks of rows as one task: how a product of all rows by all rows is spread over executors."""

import math
from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

BlockWork = Callable[[pa.Table, pa.Table | None], Iterator[pa.RecordBatch]]
"""Takes the rows of two blocks, or of one that meets itself, and yields the result."""

TASK, SIDE = "_task", "_side"
ITSELF, LEFT, RIGHT = 0, 1, 2


def count_blocks(entries: int, *, block_entries: int, cores: int) -> int:
    """Return how many blocks keep a block within `block_entries` and give every core a task of its own."""
    by_memory = math.ceil(entries / block_entries)
    by_cores = math.ceil((math.sqrt(8 * cores + 1) - 1) / 2)
    return max(1, by_memory, by_cores)


def work_blocks(rows: DataFrame, work: BlockWork, schema: T.StructType, *, key: str, blocks: int) -> DataFrame:
    """Cut rows into blocks by the hash of their key and run `work` once on every unordered pair of blocks.

    Each row is sent to `blocks` tasks, of which there are blocks (blocks + 1) / 2; a task holds two blocks in memory.
    The task of a row follows from its key alone, so a task that runs again sees the same rows.
    """
    pairs = [(low, high) for low in range(blocks) for high in range(low, blocks)]
    meetings: dict[int, list[str]] = {number: [] for number in range(blocks)}
    for task, (low, high) in zip(_spread(rows.sparkSession, len(pairs)), pairs, strict=True):
        meetings[low].append(f"named_struct('task', {task}L, 'side', {ITSELF if low == high else LEFT})")
        if low != high:
            meetings[high].append(f"named_struct('task', {task}L, 'side', {RIGHT})")
    table = "array(" + ", ".join(f"array({', '.join(tasks)})" for tasks in meetings.values()) + ")"
    block = F.pmod(F.xxhash64(key), F.lit(blocks)).cast("int")
    met = rows.select("*", F.explode(F.element_at(F.expr(table), block + 1)).alias("_met"))
    sent = met.select(*rows.columns, F.col("_met.task").alias(TASK), F.col("_met.side").alias(SIDE))
    return sent.repartition(len(pairs), TASK).mapInArrow(_partition_work(work), schema)


def _partition_work(work: BlockWork) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        found = list(batches)
        if not found:
            return
        table = pa.Table.from_batches(found)
        for task in pc.unique(table.column(TASK)):
            rows = table.filter(pc.equal(table.column(TASK), task))
            itself, left, right = (
                rows.filter(pc.equal(rows.column(SIDE), side)).drop_columns([TASK, SIDE])
                for side in (ITSELF, LEFT, RIGHT)
            )
            if itself.num_rows:
                yield from work(itself, None)
            if left.num_rows and right.num_rows:
                yield from work(left, right)

    return run


def _spread(session: SparkSession, tasks: int) -> list[int]:
    """Return numbers for the tasks, of which Spark's hash sends each to a partition of its own."""
    numbers = session.range(tasks * 32).select("id", F.pmod(F.hash("id"), F.lit(tasks)).alias("partition"))
    first = {row["partition"]: row["id"] for row in numbers.groupBy("partition").agg(F.min("id").alias("id")).collect()}
    # A partition that none of the numbers meets stays empty; then another one has two tasks, one after the other.
    spare = (number for number in range(tasks * 32) if number not in first.values())
    return [first[partition] if partition in first else next(spare) for partition in range(tasks)]
