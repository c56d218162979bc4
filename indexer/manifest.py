"""The manifest of a release: every object with its size and hash, and what they hold.

It comes from storage that others can write, so parsing trusts nothing; writing gives equal bytes for equal content.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from indexer.errors import ManifestError
from indexer.index_config import MAX_EF
from indexer.strict_json import Record, check_format, parse_record, write_document

FORMAT = 3
"""Format 1 had no deltas and no dead rows, format 2 no canaries; both are read, too."""
ENCODER_FILES = ("encoder.json", "encoder.onnx", "tokenizer.json")
DEAD_BYTES = 4
"""Of the number of one dead row."""
STORAGES = ("flat", "sqfp16", "sq8")
METRICS = ("inner_product",)
RUN_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
COLLECTION = r"[a-z][a-z0-9_]{0,63}"
MAX_KEY = 512
"""Characters of a key: a bucket holds 1,024 bytes, its prefix among them."""
_KEY = re.compile(r"v(/[A-Za-z0-9_][A-Za-z0-9_.=-]{0,199})+")
"""Names of up to 200 characters: most file systems hold 255 bytes."""


@dataclass(frozen=True, kw_only=True)
class ObjectEntry:
    """One stored object."""

    key: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class DeadRows:
    """Rows of a shard that are not found any more: another shard has what became of them, or the shop dropped them."""

    count: int
    rows: ObjectEntry
    """Their numbers, uint32 in rising order."""


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One shard: its index, its ids and, where the release carries them, its texts, in the same row order."""

    collection: str
    number: int
    rows: int
    fingerprint: str
    """SHA-256 over the rows, the encoder, the index options and the queries it was measured by."""
    index: ObjectEntry
    ids: ObjectEntry
    texts: ObjectEntry | None
    digests: ObjectEntry | None = None
    """What each row was made of, for the next build to compare with; no consumer reads it."""
    dead: DeadRows | None = None
    delta: bool = False
    """Whether it holds what changed one night, whatever the hashes of the ids."""

    @property
    def live_rows(self) -> int:
        """Rows that are found."""
        return self.rows - (self.dead.count if self.dead else 0)

    @property
    def downloads(self) -> tuple[ObjectEntry, ...]:
        """The objects that a consumer reads."""
        found = (self.index, self.ids, self.texts, self.dead.rows if self.dead else None)
        return tuple(entry for entry in found if entry)

    @property
    def objects(self) -> tuple[ObjectEntry, ...]:
        """The shard's objects."""
        return (*self.downloads, *((self.digests,) if self.digests else ()))


@dataclass(frozen=True, kw_only=True)
class CollectionEntry:
    """One searchable collection, and what became of the rows that were read for it."""

    name: str
    rows: int
    rows_in: int
    duplicates: int
    rejected: Mapping[str, int]
    """Reason -> rows; `rows_in` is `rows`, `duplicates` and these together."""
    dimension: int
    metric: str
    storage: str
    m: int
    ef_construction: int
    ef_search: int
    shards: tuple[ShardEntry, ...]
    """The base shards, then the deltas, oldest first."""

    @property
    def base(self) -> tuple[ShardEntry, ...]:
        """The shards that share out the ids by their hash."""
        return tuple(shard for shard in self.shards if not shard.delta)

    @property
    def deltas(self) -> tuple[ShardEntry, ...]:
        """The shards of changes, oldest first."""
        return tuple(shard for shard in self.shards if shard.delta)


@dataclass(frozen=True, kw_only=True)
class EncoderEntry:
    """The encoder that embedded the release and embeds its queries."""

    fingerprint: str
    objects: tuple[ObjectEntry, ...]

    @property
    def files(self) -> dict[str, ObjectEntry]:
        """File name -> object."""
        return {entry.key.rpartition("/")[2]: entry for entry in self.objects}


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """One quality gate of the release."""

    name: str
    expected: str
    found: float
    passed: bool


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything a consumer needs to open a release and a person needs to trust it."""

    run_id: str
    run_date: str
    created_at: str
    parent: int
    """Head of the log that the run started from."""
    encoder: EncoderEntry
    collections: tuple[CollectionEntry, ...]
    gates: tuple[GateResult, ...] = ()
    counts: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    report: ObjectEntry | None = None
    canaries: ObjectEntry | None = None
    """Queries with the builder's own answers, which whoever opens the release must get, too; see `canaries`."""
    format: int = FORMAT

    @property
    def objects(self) -> tuple[ObjectEntry, ...]:
        """Every object of the release, the report included."""
        shards = [entry for item in self.collections for shard in item.shards for entry in shard.objects]
        others = (self.canaries, self.report)
        return (*self.encoder.objects, *shards, *(entry for entry in others if entry))

    @property
    def downloads(self) -> tuple[ObjectEntry, ...]:
        """Every object that a consumer reads."""
        shards = [entry for item in self.collections for shard in item.shards for entry in shard.downloads]
        return (*self.encoder.objects, *shards, *((self.canaries,) if self.canaries else ()))


def write_manifest(manifest: Manifest) -> bytes:
    """Return the manifest's bytes, the same for equal manifests."""
    return write_document(asdict(manifest))


def parse_manifest(data: bytes, place: str) -> Manifest:
    """Read a manifest; raises ManifestError naming the field that breaks the format."""
    record = parse_record(data, place, ManifestError)
    known = check_format(record, FORMAT, oldest=1)
    manifest = Manifest(
        run_id=record.text("run_id", pattern=RUN_ID),
        run_date=record.text("run_date", pattern=r"\d{4}-\d{2}-\d{2}"),
        created_at=record.time("created_at"),
        parent=record.integer("parent"),
        encoder=_read_encoder(record.record("encoder")),
        collections=tuple(_read_collection(item, known) for item in record.records("collections")),
        gates=tuple(_read_gate(item) for item in record.records("gates")),
        counts=record.mapping("counts"),
        config=record.mapping("config"),
        versions=record.mapping("versions"),
        report=record.optional("report", read_object),
        canaries=record.optional("canaries", read_object) if known > 2 else None,
    )
    record.finish()
    _check_names(manifest, place)
    return manifest


def read_object(record: Record) -> ObjectEntry:
    """Read one object entry; its key must stay below `v/`."""
    entry = ObjectEntry(key=record.text("key"), bytes=record.integer("bytes"), sha256=record.hash("sha256"))
    record.finish()
    if len(entry.key) > MAX_KEY or not _KEY.fullmatch(entry.key):
        record.refuse("a plain key below v/", entry.key, "key")
    return entry


def read_shard(record: Record, known: int = FORMAT) -> ShardEntry:
    """Read one shard entry of a format that is known."""
    later: dict[str, Any] = {}
    if known > 1:
        later = {
            "digests": record.optional("digests", read_object),
            "dead": record.optional("dead", _read_dead),
            "delta": record.flag("delta"),
        }
    shard = ShardEntry(
        collection=record.text("collection", pattern=COLLECTION),
        number=record.integer("number"),
        rows=record.integer("rows", minimum=1),
        fingerprint=record.hash("fingerprint"),
        index=read_object(record.record("index")),
        ids=read_object(record.record("ids")),
        texts=record.optional("texts", read_object),
        **later,
    )
    record.finish()
    if shard.live_rows < 1:
        record.refuse(f"less than {shard.rows}, or a shard has no row", shard.rows - shard.live_rows, "dead.count")
    return shard


def _read_dead(record: Record) -> DeadRows:
    dead = DeadRows(count=record.integer("count", minimum=1), rows=read_object(record.record("rows")))
    record.finish()
    if dead.rows.bytes != dead.count * DEAD_BYTES:
        record.refuse(f"{dead.count * DEAD_BYTES} bytes", dead.rows.bytes, "rows")
    return dead


def _read_collection(record: Record, known: int) -> CollectionEntry:
    rejected = record.record("rejected")
    collection = CollectionEntry(
        name=record.text("name", pattern=COLLECTION),
        rows=record.integer("rows", minimum=1),
        rows_in=record.integer("rows_in"),
        duplicates=record.integer("duplicates"),
        rejected={reason: rejected.integer(reason) for reason in rejected.names()},
        dimension=record.integer("dimension", minimum=1),
        metric=_choice(record, "metric", METRICS),
        storage=_choice(record, "storage", STORAGES),
        m=record.integer("m", minimum=2),
        ef_construction=record.integer("ef_construction", minimum=1),
        ef_search=record.integer("ef_search", minimum=1, maximum=MAX_EF),
        shards=tuple(read_shard(item, known) for item in record.records("shards")),
    )
    record.finish()
    _check_collection(collection, record)
    return collection


def _check_collection(collection: CollectionEntry, record: Record) -> None:
    numbers = [shard.number for shard in collection.shards]
    if numbers != list(range(len(numbers))):
        record.refuse("shards numbered 0, 1, 2 and so on, each once", numbers, "shards")
    for shard in collection.shards:
        if shard.collection != collection.name:
            record.refuse(f"shards of {collection.name}", shard.collection, "shards")
    kinds = [shard.delta for shard in collection.shards]
    if kinds != sorted(kinds) or kinds[:1] == [True]:
        record.refuse("base shards, then deltas", kinds, "shards")
    indexed = sum(shard.live_rows for shard in collection.shards)
    if indexed != collection.rows:
        record.refuse(f"the sum over its shards, {indexed}", collection.rows, "rows")
    accounted = collection.rows + collection.duplicates + sum(collection.rejected.values())
    if accounted != collection.rows_in:
        record.refuse(f"rows, duplicates and rejected together, {accounted}", collection.rows_in, "rows_in")


def _read_encoder(record: Record) -> EncoderEntry:
    encoder = EncoderEntry(
        fingerprint=record.hash("fingerprint"), objects=tuple(read_object(item) for item in record.records("objects"))
    )
    record.finish()
    names = sorted(entry.key.rpartition("/")[2] for entry in encoder.objects)
    if names != sorted(ENCODER_FILES):
        record.refuse(f"the files {', '.join(ENCODER_FILES)}", names, "objects")
    if encoder.files["encoder.json"].sha256 != encoder.fingerprint:
        record.refuse("the SHA-256 of encoder.json", encoder.fingerprint, "fingerprint")
    return encoder


def _read_gate(record: Record) -> GateResult:
    gate = GateResult(
        name=record.text("name"),
        expected=record.text("expected"),
        found=record.number("found"),
        passed=record.flag("passed"),
    )
    record.finish()
    return gate


def _choice(record: Record, name: str, known: tuple[str, ...]) -> str:
    value = record.text(name)
    return value if value in known else str(record.refuse(f"one of {', '.join(known)}", value, name))


def _check_names(manifest: Manifest, place: str) -> None:
    names = [item.name for item in manifest.collections]
    if not names or len(set(names)) != len(names):
        raise ManifestError(f"{place}.collections: expected one or more, each once, found {names}")
    for name, version in manifest.versions.items():
        if not isinstance(version, str):
            raise ManifestError(f"{place}.versions.{name}: expected text, found {version!r}")
    twice = [key for key, count in Counter(entry.key for entry in manifest.objects).items() if count > 1]
    if twice:
        raise ManifestError(f"{place}: object {min(twice)!r} is listed twice")
