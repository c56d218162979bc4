"""What executors do for `jobs/build_index.py`: rows composed and dealt to shards, and base shards finished.

A task holds the rows of one shard, writes below a folder of its own and straight to the store, and hands back what the
driver has to know. Functions here return what `mapInArrow` is given.
"""

import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import faiss
import pyarrow as pa
from pyspark import SparkFiles, TaskContext

from indexer.build import live
from indexer.build.base_shard import BaseBuilder, FinishedBase
from indexer.build.catalogue import SCHEMA, Row, as_batch, product_row, query_row, sample_rows, shards_of
from indexer.build.drift import IdSample, survey_ids
from indexer.build.live import LiveCollection, OldRow, find_strays
from indexer.build.publish import RunFolder
from indexer.build.recall import ProbeQueries
from indexer.build.shard import ShardBuilder
from indexer.build.versions import read_versions
from indexer.config import Config
from indexer.encoder import Encoder, load_encoder
from indexer.errors import ConfigError, IndexerError, IntegrityError, StoreError
from indexer.manifest import CollectionEntry, EncoderEntry
from indexer.object_cache import ObjectCache
from indexer.store import open_store

Task = Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]

ROWS = "id string, text string, display string, updated_at string, lengths string"
DEALT_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.int32()),
        *(pa.field(name, pa.string()) for name in SCHEMA.names),
        *(pa.field(f"old_{name}", kind) for name, kind in (("shard", pa.int32()), ("row", pa.int64()))),
        *(pa.field(f"old_{name}", pa.binary()) for name in ("text", "display", "vector")),
    ]
)
"""The shard that a row belongs to, and the row: tonight's, or where there is an `old_shard` one of the live release."""
DEALT = f"shard int, {ROWS}, old_shard int, old_row bigint, old_text binary, old_display binary, old_vector binary"
DONE_SCHEMA = pa.schema([("shard", pa.int32()), ("data", pa.binary())])
DONE = "shard int, data binary"
"""A finished shard, or the error that keeps it from being finished, pickled, in pieces."""
PIECE_BYTES = 16 << 20
SAME_VERSIONS = ("indexer", "faiss", "numpy", "onnxruntime", "tokenizers")
"""Versions in which executors and driver must not differ: the bytes of a shard depend on them."""


@dataclass(frozen=True, kw_only=True)
class LivePart:
    """A collection of the live release, for a task to read from the store."""

    url: str
    entry: CollectionEntry
    shards: int
    """How many base shards there will be."""

    def find_strays(self) -> range:
        """Return the numbers of the shards whose rows belong to several of the base shards."""
        return find_strays(self.entry, self.shards)

    def open(self, folder: Path) -> LiveCollection:
        """Return the collection, whose objects are downloaded below the folder and verified."""
        return LiveCollection(entry=self.entry, cache=ObjectCache(open_store(self.url), folder / "live"))


@dataclass(frozen=True, kw_only=True)
class BaseTask:
    """What a task is sent to finish a base shard: a `BaseBuilder` without what is open on the driver."""

    config: Config
    single_writer: bool
    url: str
    run_id: str
    distrusts: bool
    """Whether sealed objects are hashed before they are used again."""
    encoder: EncoderEntry
    collection: str
    queries: ProbeQueries
    shards: int
    live: CollectionEntry | None
    keeps: bool
    shift: int
    versions: Mapping[str, str]
    """Those of the driver."""

    @property
    def live_part(self) -> LivePart | None:
        """The collection of the live release, where it may be used again."""
        return LivePart(url=self.url, entry=self.live, shards=self.shards) if self.live else None

    def open(self, folder: Path) -> BaseBuilder:
        """Return the builder, with a scratch folder and under an attempt name of its own."""
        check_versions(self.versions)
        options = self.config.index
        threads = options.threads or _count_cores()
        faiss.omp_set_num_threads(threads)
        store = open_store(self.url, single_writer=self.single_writer)
        builder = ShardBuilder(
            config=replace(self.config, index=replace(options, threads=threads)),
            encoder=fetch_encoder(self.url, self.encoder, threads, options.batch_tokens),
            run=RunFolder(store, self.run_id, ObjectCache(store, folder / "sealed") if self.distrusts else None),
            queries={self.collection: self.queries},
            folder=folder,
            progress=False,
        )
        part = self.live_part
        return BaseBuilder(
            builder=builder,
            collection=self.collection,
            shards=self.shards,
            live=part.open(folder) if part else None,
            keeps=self.keeps,
            shift=self.shift,
        )


class Dealt(NamedTuple):
    """What a task was dealt: the rows of one shard, and the live rows of its ids that lie elsewhere."""

    shard: int
    rows: list[Row]
    strays: list[tuple[str, OldRow]]


def compose_products(fields: Sequence[str], separator: str) -> Task:
    """Turn products into ROWS; `fields` are joined by the separator to what is embedded."""

    def compose(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if batch.num_rows:
                yield as_batch(
                    [product_row(product, fields=fields, separator=separator) for product in batch.to_pylist()]
                )

    return compose


def compose_queries(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Turn curated queries into ROWS."""
    for batch in batches:
        if batch.num_rows:
            yield as_batch([query_row(entry) for entry in batch.to_pylist()])


def pick_rows(count: int) -> Task:
    """Return of ROWS those whose display texts have the smallest hashes of every partition."""

    def pick(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        if picked := sample_rows(read_batches(batches), count):
            yield as_batch(picked)

    return pick


def read_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[Row]:
    """Yield ROWS one by one."""
    for batch in batches:
        yield from map(Row._make, zip(*(batch.column(name).to_pylist() for name in SCHEMA.names), strict=True))


def survey(wanted: frozenset[str]) -> Task:
    """Turn ROWS into what `survey_ids` says of every partition, pickled, DONE."""

    def look(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        found = survey_ids((batch.column("id").to_pylist() for batch in batches), wanted)
        yield from pack(0, found)

    return look


def join_surveys(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Turn what was said of every partition into what is to be said of all."""
    yield from pack(0, join(data for batch in batches for data in batch.column("data").to_pylist()))


def join(surveys: Iterable[bytes]) -> tuple[IdSample, set[str]]:
    """Return the sample and the wanted ids of all parts, each pickled."""
    sample, known = IdSample(), set[str]()
    for data in surveys:
        part, seen = pickle.loads(data)
        sample.merge(part)
        known |= seen
    return sample, known


def deal_rows(shards: int) -> Task:
    """Turn ROWS into DEALT ones by the hash of their ids."""

    def deal(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            numbers = pa.array(shards_of(batch.column("id").to_pylist(), shards))
            yield _as_dealt({"shard": numbers, **{name: batch.column(name) for name in SCHEMA.names}}, batch.num_rows)

    return deal


def deal_strays(part: LivePart) -> Task:
    """Turn numbers of live shards into their rows, DEALT to the shards that their ids belong to."""

    def deal(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with _open_scratch() as folder:
            collection = part.open(Path(folder))
            for number in (number for batch in batches for number in batch.column(0).to_pylist()):
                for place, rows in collection.read_strays(number, part.shards):
                    old = {f"old_{name}": rows.column(name) for name in live.SCHEMA.names if name != "id"}
                    yield _as_dealt({"shard": [place] * rows.num_rows, "id": rows.column("id"), **old}, rows.num_rows)

    return deal


def finish_base(task: BaseTask) -> Task:
    """Turn the DEALT rows of one shard into the shard, DONE.

    Where storage fails the task fails, and Spark tries again; any other error of ours would come again, and is handed
    to the driver.
    """

    def finish(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        dealt = gather_rows(batches)
        if dealt is None:
            return
        with _open_scratch() as folder:
            yield from pack(dealt.shard, _finish(task, dealt, Path(folder)))

    return finish


def gather_rows(batches: Iterable[pa.RecordBatch]) -> Dealt | None:
    """Return what a task was dealt, None where that is nothing; raises IntegrityError for rows of several shards."""
    numbers: set[int] = set()
    rows: list[Row] = []
    strays: list[tuple[str, OldRow]] = []
    for batch in batches:
        columns = [batch.column(name).to_pylist() for name in DEALT_SCHEMA.names]
        for number, *values in zip(*columns, strict=True):
            numbers.add(number)
            row, old = Row(*values[: len(SCHEMA.names)]), values[len(SCHEMA.names) :]
            if old[0] is None:
                rows.append(row)
            else:
                strays.append((row.id, OldRow(*old)))
    if len(numbers) > 1:
        raise IntegrityError(f"one task was dealt the rows of the shards {sorted(numbers)}; please report this")
    return Dealt(numbers.pop(), rows, strays) if numbers else None


def pack(shard: int, found: object) -> Iterator[pa.RecordBatch]:
    """Yield a result in pieces that are no burden to Spark."""
    data = pickle.dumps(found)
    for start in range(0, len(data), PIECE_BYTES):
        yield pa.RecordBatch.from_arrays(
            [pa.array([shard], pa.int32()), pa.array([data[start : start + PIECE_BYTES]], pa.binary())],
            schema=DONE_SCHEMA,
        )


def unpack(pieces: Iterable[bytes]) -> FinishedBase:
    """Return the shard that a task packed, or raise its error."""
    found = pickle.loads(b"".join(pieces))
    if isinstance(found, IndexerError):
        raise found
    assert isinstance(found, FinishedBase)
    return found


def check_versions(versions: Mapping[str, str]) -> None:
    """Raise ConfigError where this machine's libraries are not those of the driver."""
    found = read_versions()
    wrong = [name for name in SAME_VERSIONS if found[name] != versions[name]]
    if wrong:
        differing = ", ".join(f"{name} {found[name]} where the driver has {versions[name]}" for name in wrong)
        raise ConfigError(
            f"build_index: an executor has {differing}; give both one environment, as `make spark-env` packs it"
        )


@lru_cache(maxsize=1)
def fetch_encoder(url: str, entry: EncoderEntry, threads: int, batch_tokens: int) -> Encoder:
    """Load a release's encoder from the store, once per process; every file is verified."""
    with _open_scratch() as folder:
        cache = ObjectCache(open_store(url), Path(folder))
        files = {name: cache.fetch(item) for name, item in entry.files.items()}
        return load_encoder(files, threads=threads, batch_tokens=batch_tokens)


def _finish(task: BaseTask, dealt: Dealt, folder: Path) -> FinishedBase | IndexerError:
    try:
        return task.open(folder).finish(dealt.shard, dealt.rows, dealt.strays)
    except StoreError:
        raise
    except IndexerError as error:
        return error


def _open_scratch() -> "tempfile.TemporaryDirectory[str]":
    """Make a folder for one task, below that of Spark, which goes with the executor."""
    return tempfile.TemporaryDirectory(prefix="index-", dir=SparkFiles.getRootDirectory())


def _count_cores() -> int:
    """Return the cores that Spark gives to a task; another task may run beside it."""
    context = TaskContext.get()
    return context.cpus() if context else 1


def _as_dealt(columns: Mapping[str, object], rows: int) -> pa.RecordBatch:
    arrays = []
    for field in DEALT_SCHEMA:
        values = columns.get(field.name)
        if values is None:
            arrays.append(pa.nulls(rows, field.type))
        else:
            arrays.append(values.cast(field.type) if isinstance(values, pa.Array) else pa.array(values, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=DEALT_SCHEMA)
