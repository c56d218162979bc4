"""The manifest of a release: every object with its size and hash, and what they hold.

It comes from storage that others can write, so parsing trusts nothing; writing gives equal bytes for equal content.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from indexer.errors import ManifestError
from indexer.strict_json import Record, check_format, parse_record, write_document

FORMAT = 1
ENCODER_FILES = ("encoder.json", "encoder.onnx", "tokenizer.json")
STORAGES = ("flat", "sqfp16", "sq8")
METRICS = ("inner_product",)
RUN_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
COLLECTION = r"[a-z][a-z0-9_]{0,63}"
_KEY = re.compile(r"v(/[A-Za-z0-9_][A-Za-z0-9_.=-]*)+")


@dataclass(frozen=True, kw_only=True)
class ObjectEntry:
    """One stored object."""

    key: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One shard: its index, its ids and, where the release carries them, its texts, in the same row order."""

    collection: str
    number: int
    rows: int
    fingerprint: str
    """SHA-256 over the rows, the encoder and the index options."""
    index: ObjectEntry
    ids: ObjectEntry
    texts: ObjectEntry | None

    @property
    def objects(self) -> tuple[ObjectEntry, ...]:
        """The shard's objects."""
        return (self.index, self.ids) + ((self.texts,) if self.texts else ())


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
    format: int = FORMAT

    @property
    def objects(self) -> tuple[ObjectEntry, ...]:
        """Every object of the release, the report included."""
        shards = [entry for item in self.collections for shard in item.shards for entry in shard.objects]
        return (*self.encoder.objects, *shards, *((self.report,) if self.report else ()))


def write_manifest(manifest: Manifest) -> bytes:
    """Return the manifest's bytes, the same for equal manifests."""
    return write_document(asdict(manifest))


def parse_manifest(data: bytes, place: str) -> Manifest:
    """Read a manifest; raises ManifestError naming the field that breaks the format."""
    record = parse_record(data, place, ManifestError)
    check_format(record, FORMAT)
    manifest = Manifest(
        run_id=record.text("run_id", pattern=RUN_ID),
        run_date=record.text("run_date", pattern=r"\d{4}-\d{2}-\d{2}"),
        created_at=_read_time(record),
        parent=record.integer("parent"),
        encoder=_read_encoder(record.record("encoder")),
        collections=tuple(_read_collection(item) for item in record.records("collections")),
        gates=tuple(_read_gate(item) for item in record.records("gates")),
        counts=record.mapping("counts"),
        config=record.mapping("config"),
        versions=record.mapping("versions"),
        report=record.optional("report", read_object),
    )
    record.finish()
    _check_names(manifest, place)
    return manifest


def read_object(record: Record) -> ObjectEntry:
    """Read one object entry; its key must stay below `v/`."""
    entry = ObjectEntry(key=record.text("key"), bytes=record.integer("bytes"), sha256=record.hash("sha256"))
    record.finish()
    if not _KEY.fullmatch(entry.key):
        record.refuse("a plain key below v/", entry.key, "key")
    return entry


def read_shard(record: Record) -> ShardEntry:
    """Read one shard entry."""
    shard = ShardEntry(
        collection=record.text("collection", pattern=COLLECTION),
        number=record.integer("number"),
        rows=record.integer("rows", minimum=1),
        fingerprint=record.hash("fingerprint"),
        index=read_object(record.record("index")),
        ids=read_object(record.record("ids")),
        texts=record.optional("texts", read_object),
    )
    record.finish()
    return shard


def _read_collection(record: Record) -> CollectionEntry:
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
        ef_search=record.integer("ef_search", minimum=1),
        shards=tuple(read_shard(item) for item in record.records("shards")),
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
    indexed = sum(shard.rows for shard in collection.shards)
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


def _read_time(record: Record) -> str:
    text = record.text("created_at")
    try:
        if datetime.fromisoformat(text).tzinfo is not None:
            return text
    except ValueError:
        pass
    return str(record.refuse("an ISO 8601 time with its zone", text, "created_at"))


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
    keys = [entry.key for entry in manifest.objects]
    twice = sorted({key for key in keys if keys.count(key) > 1}) if len(set(keys)) != len(keys) else []
    if twice:
        raise ManifestError(f"{place}: object {twice[0]!r} is listed twice")
