"""What a build will do, worked out before it does it."""

import hashlib
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import indexer
from indexer.build.catalogue import MAX_SHARDS, Intake, count_filled, count_shards
from indexer.build.shard import read_options
from indexer.claims import claim_folder, remove_abandoned, tell_refusals
from indexer.config import Config, as_document
from indexer.contracts import schemas
from indexer.contracts.files import hash_input, local_files
from indexer.contracts.tables import read_table
from indexer.errors import ConfigError, ContractError
from indexer.hnsw import estimate_bytes
from indexer.runs import StepFolder, fingerprint

ROW_TEXT_BYTES = 1_000
"""Ids and texts of a row as Python objects: 700 measured with titles of 115 characters, and room for longer ones."""
MOST_SPARE = 2
"""Times as many shards as are needed may stay."""
COMPARED_ROW_BYTES = 400
"""Of a row of the live release that it is compared with."""
LIBRARY_BYTES = 500 << 20
"""Interpreter, libraries, encoder and one batch."""


@dataclass(frozen=True, kw_only=True)
class CollectionPlan:
    """One collection: its rows and how many shards they form."""

    intake: Intake
    shards: int
    shards_wanted: int
    """More than `shards` where so many would leave one without rows."""

    @property
    def largest_shard(self) -> int:
        """Rows of the largest shard, as expected of a hash that spreads evenly."""
        mean = self.intake.rows / self.shards
        return self.intake.rows if self.shards == 1 else int(mean + 4 * mean**0.5) + 1


def plan_collection(config: Config, intake: Intake, *, live: int = 0) -> CollectionPlan:
    """Decide on the number of shards; raises ContractError for a collection without rows.

    `live` base shards of the live release stay so many while that is allowed: with another number all are built anew.
    """
    if intake.rows == 0:
        raise ContractError(f"{intake.collection}: 0 rows are left to index of {intake.rows_in} read; check the input")
    options = config.index
    wanted = count_shards(intake.rows, wanted=options.shards, max_shard_rows=options.max_shard_rows)
    if not options.shards and wanted <= live <= MOST_SPARE * wanted:
        wanted = live
    return CollectionPlan(intake=intake, shards=count_filled(intake, wanted), shards_wanted=wanted)


def estimate_peak_bytes(
    config: Config, plan: CollectionPlan, dimension: int, *, compared: bool = False, dealt: bool = False
) -> int:
    """Return the memory at the peak of the build, decided by the largest shard.

    `compared` with live rows or not; `dealt` where those come with their vectors from other shards.
    """
    rows = plan.largest_shard
    row_bytes = ROW_TEXT_BYTES + (COMPARED_ROW_BYTES if compared else 0) + (4 * dimension if dealt else 0)
    return LIBRARY_BYTES + rows * row_bytes + estimate_bytes(rows, dimension, config.index)


def require_memory(config: Config, plan: CollectionPlan, dimension: int, *, compared: bool, dealt: bool = False) -> int:
    """Return the expected peak; raises ConfigError above the limit, naming the number of shards that would fit."""
    limit = int(config.index.memory_limit_gib * 2**30)

    def peak(shards: int) -> int:
        return estimate_peak_bytes(config, replace(plan, shards=shards), dimension, compared=compared, dealt=dealt)

    if not limit or peak(plan.shards) <= limit:
        return peak(plan.shards)
    fitting = next((number for number in range(plan.shards, MAX_SHARDS + 1) if peak(number) <= limit), 0)
    advice = f"index.shards = {fitting} would fit" if fitting else "no number of shards would fit"
    raise ConfigError(
        f"index.memory_limit_gib: {plan.intake.collection} in {plan.shards} shards need about "
        f"{peak(plan.shards) / 2**20:,.0f} MiB, the limit is {limit / 2**20:,.0f} MiB; {advice}"
    )


def name_run(config: Config, run_date: str, encoder_fingerprint: str, *, catalogue: Any = None) -> str:
    """Return the run's id: equal inputs, options, encoder and code have an equal one.

    `catalogue`, JSON-ready, identifies a catalogue whose files this machine does not hash.
    """
    inputs = catalogue or hash_catalogue(config)
    rules = {name: value for name, value in as_document(config.catalogue).items() if name != "path"}
    queries = hash_queries(config, run_date) if find_curated(config, run_date) else None
    identity = fingerprint(
        inputs, rules, queries, read_options(config.index), encoder_fingerprint,
        indexer.__version__,
    )  # fmt: skip
    return f"{run_date}-{identity[:12]}"


def hash_catalogue(config: Config) -> list[list[str]]:
    """Return name and SHA-256 of the catalogue's files."""
    with local_files(config.catalogue.path, section="catalogue") as delivery:
        return [[file.name, hash_input(file)] for file in delivery.files]


def hash_queries(config: Config, run_date: str) -> str:
    """Return a hash of the curated queries' texts that does not depend on the order of rows, or on the date."""
    total = 0
    for batch in read_table(config.shop.work, run_date, schemas.CURATED_QUERIES, ["query_id", "query"]):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            total += int.from_bytes(hashlib.blake2b("\n".join(row).encode(), digest_size=16).digest(), "big")
    return f"{total % 2**128:032x}"


def find_curated(config: Config, run_date: str) -> str | None:
    """Return the fingerprint of the date's curated queries, None for a shop without purchases.

    Raises ContractError where the shop has purchases but the step has not finished.
    """
    if not config.purchases.path:
        return None
    table = schemas.CURATED_QUERIES
    return StepFolder(config.shop.work, table.written_by, run_date).require(table.name).fingerprint


@contextmanager
def hold_scratch(folder: Path) -> Iterator[Path]:
    """Give a scratch folder below the work folder of a date, which goes with the block.

    What killed builds of any date left is removed, as `indexer.claims` tells it. Raises StoreError where the folder or
    its disk refuses.
    """
    with tell_refusals(folder.parent):
        for date in folder.parent.glob("run_date=*"):
            remove_abandoned(date, "scratch-*", frozenset)
    with tell_refusals(folder), claim_folder(folder / f"scratch-{uuid.uuid4().hex[:12]}") as scratch:
        try:
            scratch.mkdir()
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
