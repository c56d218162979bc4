"""Objects and done markers of a run in the store.

Every process writes its objects under an attempt name of its own, so nothing is overwritten. A marker seals a
finished shard; it is created once, and whoever comes second adopts it.
"""

import hashlib
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from indexer.errors import IntegrityError, ManifestError, ObjectExistsError, ObjectMissingError, PublishConflictError
from indexer.log import COMMIT_ATTEMPTS, LogEntry, commit_entry, find_damage
from indexer.log_signature import sign_entry, trust_publisher
from indexer.manifest import EncoderEntry, Manifest, ObjectEntry, ShardEntry, read_object, read_shard, write_manifest
from indexer.object_cache import ObjectCache
from indexer.releases.history import read_own
from indexer.releases.verify import examine_objects
from indexer.runs import now_text
from indexer.signature import SigningKey
from indexer.store import Store, hash_file
from indexer.strict_json import Record, check_format, parse_record, write_document

FORMAT = 5
"""Of the markers and of the probes they name."""
MAX_MARKER_BYTES = 1 << 20
MAX_MARKERS = 20
"""A marker is replaced by the next one of its name when its objects got lost; so often at most."""


@dataclass(frozen=True, kw_only=True)
class SealedShard:
    """A finished shard: its entry for the manifest, and what was counted and measured while it was built."""

    shard: ShardEntry
    probe: ObjectEntry
    """What the probe queries found, for the recall over all shards; see `probe_file`."""
    duplicates: int
    rejected: dict[str, int]
    examples: dict[str, str]
    """Reason -> id of its first row."""
    truncated: int
    cut_fields: dict[str, int]
    embedded: int
    """Different texts that were embedded for it."""
    norm_error: float
    format: int = FORMAT

    @property
    def fingerprint(self) -> str:
        """Fingerprint of what the shard was made of."""
        return self.shard.fingerprint

    @property
    def objects(self) -> tuple[ObjectEntry, ...]:
        """Every object the marker vouches for."""
        return (*self.shard.objects, self.probe)


@dataclass(frozen=True, kw_only=True)
class SealedEncoder:
    """The encoder's files as the run uploaded them."""

    fingerprint: str
    objects: tuple[ObjectEntry, ...]
    format: int = FORMAT


Sealed = TypeVar("Sealed", SealedShard, SealedEncoder)


@dataclass(frozen=True)
class Seal(Generic[Sealed]):
    """How one kind of marker is named and read."""

    name: str
    fingerprint: str
    read: Callable[[Record], Sealed]


@dataclass(frozen=True)
class RunFolder:
    """The objects of one run, written under the name of one attempt."""

    store: Store
    run_id: str
    cache: ObjectCache | None = None
    """Where sealed objects are hashed before they are used again; without it that is done in a folder alone."""
    key: SigningKey | None = None
    """What signs the markers and the entry that makes the run live."""
    attempt: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    def upload(self, path: Path, name: str) -> ObjectEntry:
        """Upload a file; `name` is `products-00012.faiss`, the attempt is put before its ending."""
        stem, dot, ending = name.partition(".")
        return self._put(path, f"{self._root}/{stem}.{self.attempt}{dot}{ending}")

    def upload_encoder(self, directory: Path, names: Iterable[str]) -> tuple[ObjectEntry, ...]:
        """Upload the encoder's files under their own names in a folder of this attempt."""
        return tuple(self._put(directory / name, f"{self._root}/encoder/{self.attempt}/{name}") for name in names)

    def put_manifest(self, manifest: Manifest) -> ObjectEntry:
        """Store the manifest and return its entry for the log."""
        data = write_manifest(manifest)
        key = f"{self._root}/manifest.{self.attempt}.json"
        self.store.put_new(key, data)
        return ObjectEntry(key=key, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    def find_sealed(self, seal: Seal[Sealed]) -> Sealed | None:
        """Return what an earlier attempt sealed, if its fingerprint is the same and its objects are all there."""
        for number in range(MAX_MARKERS):
            found = self._read_marker(seal, number)
            if isinstance(found, _Absent):
                return None
            if found is not None:
                return found
        return None

    def seal(self, seal: Seal[Sealed], document: Sealed) -> Sealed:
        """Create the marker, or adopt the one that another process created for the same work."""
        for number in range(MAX_MARKERS):
            try:
                self.store.put_new(self._marker_key(seal.name, number), _write_marker(document, self.key))
                return document
            except ObjectExistsError:
                winner = self._read_marker(seal, number)
                if winner is not None and not isinstance(winner, _Absent):
                    return winner
        return document

    def _read_marker(self, seal: Seal[Sealed], number: int) -> "Sealed | _Absent | None":
        """Return the marker's content, None where it cannot be used."""
        key = self._marker_key(seal.name, number)
        try:
            data = self.store.get(key, MAX_MARKER_BYTES)
        except ObjectMissingError:
            return _Absent()
        except IntegrityError:
            return None
        try:
            record = parse_record(data, f"{self.store.url}/{key}", ManifestError)
            check_format(record, FORMAT)
            record.hash("sha256")
            if "signature" in record.names():
                record.text("signature")
            sealed = seal.read(record)
        except ManifestError:
            return None
        # No hash stands above a marker, so that it carries its own, and is read in no other spelling. Where runs are
        # signed, what others wrote is not adopted: the same key makes the same signature of the same.
        if data != _write_marker(sealed, self.key) or sealed.fingerprint != seal.fingerprint:
            return None
        return sealed if self._is_whole(sealed.objects) else None

    def _is_whole(self, objects: Sequence[ObjectEntry]) -> bool:
        if self.cache is None:
            return not examine_objects(self.store, objects)
        try:
            for entry in objects:
                self.cache.fetch(entry)
        except IntegrityError:
            return False
        return True

    def _put(self, path: Path, key: str) -> ObjectEntry:
        self.store.put_file(key, path)
        entry = ObjectEntry(key=key, bytes=path.stat().st_size, sha256=hash_file(path))
        if damage := find_damage(self.store, [entry]):
            raise IntegrityError(f"{damage[0]}; the upload did not arrive whole, run again")
        return entry

    def _marker_key(self, name: str, number: int) -> str:
        return f"{self._root}/done/{name}{f'.{number + 1}' if number else ''}.json"

    @property
    def _root(self) -> str:
        return f"v/{self.run_id}"


class _Absent:
    """No marker lies under the key."""


def shard_name(collection: str, number: int) -> str:
    """Return the name of a shard's objects."""
    return f"{collection}-{number:05d}"


def shard_seal(collection: str, number: int, fingerprint: str) -> Seal[SealedShard]:
    """Describe the marker of a shard."""
    return Seal(shard_name(collection, number), fingerprint, _read_sealed_shard)


def encoder_seal(fingerprint: str) -> Seal[SealedEncoder]:
    """Describe the marker of the run's encoder."""
    return Seal("encoder", fingerprint, _read_sealed_encoder)


def encoder_entry(sealed: SealedEncoder) -> EncoderEntry:
    """Return the manifest's entry."""
    return EncoderEntry(fingerprint=sealed.fingerprint, objects=sealed.objects)


def publish(run: RunFolder, manifest: Manifest) -> LogEntry:
    """Store the manifest and commit it, where no release went live since the head it names as its parent.

    Raises IntegrityError where an object is damaged, PublishConflictError where another run was first.
    """
    _require_whole(examine_objects(run.store, manifest.objects))
    return commit_publication(run.store, manifest, run.put_manifest(manifest), manifest.parent, run.key)


def commit_publication(
    store: Store, manifest: Manifest, stored: ObjectEntry, head: int, key: SigningKey | None = None
) -> LogEntry:
    """Make a stored manifest live, whose objects were there at a head, unless a release went live since.

    Entries about what is kept, or that no trusted key signed, may have come between: then its objects are looked for
    again, and the run must not be retired. Where another process published the same run its entry is returned. Raises
    as `publish` does, and ConfigError where the log was signed meanwhile and there is no key.
    """
    since = head
    for _ in range(COMMIT_ATTEMPTS):
        entry = LogEntry(
            sequence=head + 1,
            kind="publish",
            run_id=manifest.run_id,
            manifest=stored,
            parent=head,
            created_at=now_text(),
        )
        try:
            return commit_entry(store, head, sign_entry(entry, key), check=trust_publisher(key, store.url))
        except PublishConflictError:
            history = read_own(store, key)
        if manifest.run_id in history.retired:
            raise PublishConflictError(f"{store.url}: run {manifest.run_id} was retired while it was built; run again")
        for later in history.counted:
            if later.sequence <= since:
                continue
            if isinstance(later, LogEntry) and later.run_id == manifest.run_id and later.kind == "publish":
                return later
            if isinstance(later, LogEntry):
                raise PublishConflictError(
                    f"{store.url}: run {later.run_id} was published first, as log entry {later.sequence}; run "
                    f"{manifest.run_id} is not live, plan it again on the new head"
                )
        head = history.head
        _require_whole(find_damage(store, manifest.objects))
    raise PublishConflictError(f"{store.url}: the log moved on {COMMIT_ATTEMPTS} times meanwhile; run again")


def _write_marker(document: SealedShard | SealedEncoder, key: SigningKey | None) -> bytes:
    """Return the marker's bytes, with the SHA-256 of what it says and, where there is a key, a signature."""
    content = asdict(document)
    content["sha256"] = hashlib.sha256(write_document(content)).hexdigest()
    return write_document(content if key is None else {**content, "signature": key.sign(write_document(content))})


def _require_whole(damage: Sequence[str]) -> None:
    if damage:
        raise IntegrityError(
            f"{damage[0]}; nothing was published, run again to rebuild it, what an earlier run made with --reuse none"
        )


def _read_sealed_shard(record: Record) -> SealedShard:
    rejected, examples, cut = (record.record(name) for name in ("rejected", "examples", "cut_fields"))
    sealed = SealedShard(
        shard=read_shard(record.record("shard")),
        probe=read_object(record.record("probe")),
        duplicates=record.integer("duplicates"),
        rejected={reason: rejected.integer(reason) for reason in rejected.names()},
        examples={reason: examples.text(reason) for reason in examples.names()},
        truncated=record.integer("truncated"),
        cut_fields={name: cut.integer(name) for name in cut.names()},
        embedded=record.integer("embedded"),
        norm_error=record.number("norm_error"),
    )
    record.finish()
    return sealed


def _read_sealed_encoder(record: Record) -> SealedEncoder:
    sealed = SealedEncoder(
        fingerprint=record.hash("fingerprint"), objects=tuple(read_object(item) for item in record.records("objects"))
    )
    record.finish()
    return sealed
