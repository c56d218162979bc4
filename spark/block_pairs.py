"""Every pair of blocks of rows as one task: how a product of all rows by all rows is spread over executors."""

import math
from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from spark.block_rows import Block, read_block

BlockWork = Callable[[Block, Block], Iterator[pa.RecordBatch]]
"""Takes two blocks, or one twice where it meets itself, and yields the result."""

TASK, SIDE = "_task", "_side"
ITSELF, LEFT, RIGHT = 0, 1, 2


def count_blocks(entries: int, *, block_entries: int, cores: int) -> int:
    """Return how many blocks keep a block within `block_entries` and give every core a task of its own."""
    by_memory = math.ceil(entries / block_entries)
    by_cores = math.ceil((math.sqrt(8 * cores + 1) - 1) / 2)
    return max(1, by_memory, by_cores)


def deal_pairs(blocks: int, *, tasks: int) -> list[list[tuple[int, int]]]:
    """Return the unordered pairs of blocks, those of a block with itself included, in lots of about equal work."""
    pairs = [(low, high) for low in range(blocks) for high in range(low, blocks)]
    lots: list[list[tuple[int, int]]] = [[] for _ in range(min(tasks, len(pairs)))]
    work = [0] * len(lots)
    # A block with itself is half the work of two blocks.
    for pair in sorted(pairs, key=lambda pair: pair[0] == pair[1]):
        lightest = work.index(min(work))
        lots[lightest].append(pair)
        work[lightest] += 1 if pair[0] == pair[1] else 2
    return lots


def work_blocks(rows: DataFrame, work: BlockWork, schema: T.StructType, *, key: str, blocks: int) -> DataFrame:
    """Cut rows into blocks by the hash of their key and run `work` once on every unordered pair of blocks.

    Each row is sent to `blocks` tasks, of which there are blocks (blocks + 1) / 2; a task holds two blocks in memory.
    The task of a row follows from its key alone, so a task that runs again sees the same rows.
    """
    pairs = [(low, high) for low in range(blocks) for high in range(low, blocks)]
    meetings: dict[int, list[str]] = {number: [] for number in range(blocks)}
    for task, (low, high) in zip(spread_tasks(rows.sparkSession, len(pairs)), pairs, strict=True):
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
                block = read_block(itself)
                yield from work(block, block)
            if left.num_rows and right.num_rows:
                yield from work(read_block(left), read_block(right))

    return run


def spread_tasks(session: SparkSession, tasks: int) -> list[int]:
    """Return numbers for the tasks, of which Spark's hash sends each to a partition of its own."""
    hashes = f"transform(sequence(0L, {tasks * 32 - 1}L), number -> pmod(hash(number), {tasks}))"
    first: dict[int, int] = {}
    # An expression without a table runs on the driver alone.
    for number, partition in enumerate(session.sql(f"SELECT {hashes}").collect()[0][0]):
        first.setdefault(partition, number)
    # A partition that none of the numbers meets stays empty; then another one has two tasks, one after the other.
    spare = (number for number in range(tasks * 32) if number not in first.values())
    return [first[partition] if partition in first else next(spare) for partition in range(tasks)]
