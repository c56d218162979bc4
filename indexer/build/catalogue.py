"""Stream the catalogue and the curated queries to disk, one file of rows per shard.

Memory holds one batch of the input; the shard of a row is a stable hash of its id.
"""

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from indexer.config import Config
from indexer.contracts import schemas
from indexer.contracts.inputs import open_input
from indexer.contracts.tables import read_table
from indexer.encoder import EncoderDescription
from indexer.errors import ConfigError
from indexer.shard_file import as_one_line
from indexer.text import clean_fields, clean_text, normalise_query

SCHEMA = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("id", "text", "display")]
    + [pa.field(name, pa.string()) for name in ("updated_at", "lengths")]
)
Hashes = npt.NDArray[np.uint64]
BATCH_ROWS = 5_000
MAX_SHARDS = 512
"""Each shard is an open file while rows are split; `index.shards` allows no more."""
MIN_SHARD_ROWS = 4
"""Some more than one, because rows without a known word are rejected only when they are embedded."""
FILLING_ROWS = 64
"""So many rows a shard on average never leave one with too few."""


class Row(NamedTuple):
    """What the index needs of a product or query."""

    id: str
    text: str
    """What is embedded."""
    display: str
    """What a consumer shows."""
    updated_at: str | None = None
    lengths: str | None = None
    """Characters of each text field within a product's text, with commas between."""


@dataclass(kw_only=True)
class Intake:
    """What became of the rows of one collection on their way in, wherever they lie now."""

    collection: str
    rows_in: int = 0
    rows: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    rejects: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the REJECTS table."""
    remarks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Table -> what was mended in its texts, what is odd about them, and its columns that were not read."""

    def read_ids(self) -> Iterator[str]:
        """Yield the ids of the rows."""
        raise NotImplementedError


@dataclass(kw_only=True)
class Spool(Intake):
    """The rows of one collection on disk."""

    path: Path

    def read_ids(self) -> Iterator[str]:
        """Yield the ids of the rows."""
        for ids in read_ids(self.path):
            yield from ids


def spool_products(config: Config, encoder: EncoderDescription, folder: Path, *, progress: bool) -> Spool:
    """Write the catalogue's rows to disk; raises ContractError where the catalogue breaks its contract."""
    check_text_rule(config, encoder)
    reader = open_input(schemas.CATALOGUE, config.catalogue)
    spool = Spool(collection="products", path=folder / "products.arrow")
    columns = list_columns(encoder.text_fields)
    empty: list[str] = []
    short = 0

    def rows() -> Iterator[Row]:
        nonlocal short
        for batch in reader:
            for product in batch.select(columns).to_pylist():
                row = product_row(product, fields=encoder.text_fields, separator=encoder.text_separator)
                short += len(row.text) == 1
                if row.text:
                    yield row
                else:
                    empty.append(row.id)

    _write_rows(spool, rows(), progress=progress)
    counts = reader.counts
    if empty:
        counts.rows_out -= len(empty)
        counts.reject("text_empty", key=empty[0], count=len(empty))
    spool.rows_in = counts.rows_in
    spool.rejects = counts.as_rows()
    spool.remarks = {reader.table.name: counts.as_remarks() | ({"texts_of_one_character": short} if short else {})}
    spool.rejected.update({reason: reject.count for reason, reject in counts.rejects.items()})
    return spool


def spool_queries(config: Config, run_date: str, folder: Path, *, progress: bool) -> Spool:
    """Write the curated queries of the date to disk; raises ContractError where that step has not finished."""
    spool = Spool(collection="queries", path=folder / "queries.arrow")

    def rows() -> Iterator[Row]:
        for batch in read_table(config.shop.work, run_date, schemas.CURATED_QUERIES):
            for entry in batch.to_pylist():
                yield query_row(entry)

    _write_rows(spool, rows(), progress=progress)
    spool.rows_in = spool.rows
    return spool


def check_text_rule(config: Config, encoder: EncoderDescription) -> None:
    """Raise ConfigError where the catalogue's text is not composed as the encoder was trained."""
    ours = (config.catalogue.text_fields, config.catalogue.text_separator)
    theirs = (encoder.text_fields, encoder.text_separator)
    if ours != theirs:
        raise ConfigError(
            f"catalogue.text_fields and text_separator: the encoder {encoder.name} was trained on {theirs}, "
            f"configured is {ours}; set the same, or distill an encoder on the new text"
        )


def count_shards(rows: int, *, wanted: int, max_shard_rows: int) -> int:
    """Return the number of shards that is wanted, or as few as `max_shard_rows` allows."""
    shards = wanted or -(-rows // max_shard_rows)
    if shards > MAX_SHARDS:
        raise ConfigError(
            f"index.max_shard_rows: {max_shard_rows} makes {shards} shards of {rows} rows, expected at most "
            f"{MAX_SHARDS}; raise it"
        )
    return shards


def count_filled(intake: Intake, wanted: int) -> int:
    """Return the largest number of shards up to the wanted one that gives each at least MIN_SHARD_ROWS ids."""
    if wanted == 1 or intake.rows >= FILLING_ROWS * wanted:
        return wanted
    places = {hash_id(row_id) for row_id in intake.read_ids()}
    for shards in range(min(wanted, len(places) // MIN_SHARD_ROWS), 1, -1):
        filled = Counter(place % shards for place in places)
        if len(filled) == shards and min(filled.values()) >= MIN_SHARD_ROWS:
            return shards
    return 1


def shard_of(row_id: str, shards: int) -> int:
    """Return the shard of an id: the same on every machine and in every run."""
    return hash_id(row_id) % shards


def hash_id(row_id: str) -> int:
    """Return 64 bits of an id's BLAKE2b."""
    return int.from_bytes(_hash_bytes(row_id), "big")


def hash_ids(row_ids: Iterable[str]) -> Hashes:
    """Return what `hash_id` gives of each."""
    return np.frombuffer(b"".join(map(_hash_bytes, row_ids)), dtype=">u8").astype(np.uint64)


def shards_of(row_ids: Iterable[str], shards: int) -> npt.NDArray[np.int64]:
    """Return `shard_of` of each id."""
    return (hash_ids(row_ids) % np.uint64(shards)).astype(np.int64)


def parts_of(row_ids: Iterable[str], parts: int) -> npt.NDArray[np.int64]:
    """Return the part of each id among those of a delta: whichever shards the ids are of, they are dealt evenly."""
    return ((hash_ids(row_ids) >> np.uint64(32)) % np.uint64(parts)).astype(np.int64)


def split_spool(spool: Spool, shards: int) -> list[Path]:
    """Write one file of rows per shard and return the files; the spool itself is removed."""
    paths = [spool.path.with_name(f"{spool.collection}-{number:05d}.arrow") for number in range(shards)]
    with ExitStack() as stack:
        sinks = [stack.enter_context(pa.ipc.new_stream(str(path), SCHEMA)) for path in paths]
        for batch in _read_batches(spool.path):
            for number, part in deal_batch(batch, shards_of(batch.column("id").to_pylist(), shards)):
                sinks[number].write_batch(part)
    spool.path.unlink()
    return paths


def deal_batch(batch: pa.RecordBatch, shards: npt.NDArray[np.int64]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the rows of each shard among those of a batch, given the shard of every row."""
    numbers = pa.array(shards)
    for number in numbers.unique().to_pylist():
        yield number, batch.filter(pc.equal(numbers, number))


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a spool or shard file."""
    for batch in _read_batches(path):
        for values in zip(*(batch.column(name).to_pylist() for name in SCHEMA.names), strict=True):
            yield Row(*values)


def sample_rows(rows: Iterable[Row], count: int) -> list[Row]:
    """Return at most `count` rows of different display texts, those of the smallest hashes, in their order.

    Of the rows of one text it is that of the smallest id; rows without one are out. The order of rows makes no
    difference, and the samples of the parts of a whole, taken together, have that of the whole.
    """
    chosen: dict[str, Row] = {}
    places: list[tuple[int, str]] = []
    for row in rows:
        if not row.display or count < 1:
            continue
        if row.display in chosen:
            chosen[row.display] = min(chosen[row.display], row, key=lambda each: each.id)
            continue
        # The heap has the greatest hash first.
        place = (-hash_id(row.display), row.display)
        if len(places) < count:
            heapq.heappush(places, place)
        elif place > places[0]:
            del chosen[heapq.heapreplace(places, place)[1]]
        else:
            continue
        chosen[row.display] = row
    return [chosen[display] for _, display in sorted(places, reverse=True)]


def read_ids(path: Path) -> Iterator[list[str]]:
    """Yield the ids of a spool or shard file, a batch at a time."""
    for batch in _read_batches(path):
        yield batch.column("id").to_pylist()


def list_columns(fields: Sequence[str]) -> list[str]:
    """Return the catalogue's columns that `product_row` reads: others need not become Python objects."""
    return list(dict.fromkeys(("product_id", "title", "updated_at", *fields)))


def product_row(product: Mapping[str, Any], *, fields: Sequence[str], separator: str) -> Row:
    """Return what the index needs of a product; `fields` are joined by the separator to what is embedded."""
    texts = clean_fields(product, fields)
    title = texts[fields.index("title")] if "title" in fields else clean_text(product["title"])
    return Row(
        product["product_id"],
        separator.join(filter(None, texts)),
        as_one_line(title),
        product["updated_at"],
        ",".join(map(str, map(len, texts))),
    )


def query_row(entry: Mapping[str, Any]) -> Row:
    """Return what the index needs of a curated query."""
    query = normalise_query(entry["query"])
    return Row(entry["query_id"], query, query)


def as_batch(rows: list[Row]) -> pa.RecordBatch:
    """Return rows, one at least, as a batch of SCHEMA."""
    return pa.RecordBatch.from_arrays(
        [pa.array(values, pa.string()) for values in zip(*rows, strict=True)], schema=SCHEMA
    )


def _hash_bytes(row_id: str) -> bytes:
    return hashlib.blake2b(row_id.encode(), digest_size=8).digest()


def _read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.ipc.open_stream(str(path)) as stream:
        yield from stream


def _write_rows(spool: Spool, rows: Iterable[Row], *, progress: bool) -> None:
    bar = tqdm(rows, desc=f"reading {spool.collection}", unit=" rows", disable=not progress)
    waiting: list[Row] = []
    with pa.ipc.new_stream(str(spool.path), SCHEMA) as sink:
        for row in bar:
            waiting.append(row)
            if len(waiting) == BATCH_ROWS:
                sink.write_batch(as_batch(waiting))
                spool.rows += len(waiting)
                waiting = []
        if waiting:
            sink.write_batch(as_batch(waiting))
            spool.rows += len(waiting)
