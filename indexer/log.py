"""The log of a store: numbered, create-only entries that say which release is live.

A publisher that read head n creates entry n + 1 and nothing else. Entries are never replaced or deleted,
so a rollback is an entry as well; the number decides every race. An entry may carry a signature (`signature`): it names
the manifest by its hash, so that the signature covers every byte of a release.
"""

import hashlib
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

from indexer.creation import prove_creates
from indexer.errors import (
    IntegrityError,
    ManifestError,
    ObjectMissingError,
    OutcomeUnknownError,
    PublishConflictError,
    StoreError,
    StoreRefusedError,
    UntrustedError,
)
from indexer.manifest import RUN_ID, Manifest, ObjectEntry, parse_manifest, read_object
from indexer.signature import PATTERN
from indexer.store import Store, check_size
from indexer.strict_json import MAX_DOCUMENT_BYTES, Record, check_format, parse_record, write_document

FORMAT, SIGNED_FORMAT = 1, 2
"""Entries that nobody signs are written as they always were."""
RELEASE_KINDS = ("publish", "rollback")
"""Entries that make a release live."""
KEEPING_KINDS = ("pin", "unpin", "retire")
"""Entries about which runs are kept; they change nothing for a consumer. A retired run stays retired."""
MAX_ENTRY_BYTES = 1 << 20
COMMIT_ATTEMPTS = 5
COMMIT_SECONDS = 40
"""After so long no further attempt is begun."""


@dataclass(frozen=True, kw_only=True)
class LogEntry:
    """One entry that makes a release live."""

    sequence: int
    kind: str
    run_id: str
    manifest: ObjectEntry
    parent: int
    """Head the publisher had read."""
    created_at: str
    expires_at: str | None = None
    """When a consumer that pins a key serves it no more."""
    signature: str | None = None
    format: int = FORMAT


@dataclass(frozen=True, kw_only=True)
class KeepingEntry:
    """One entry that says which runs are kept, or no more."""

    sequence: int
    kind: str
    runs: tuple[str, ...]
    parent: int
    created_at: str
    signature: str | None = None
    format: int = FORMAT


Entry = LogEntry | KeepingEntry
EntryKind = TypeVar("EntryKind", LogEntry, KeepingEntry)


def log_key(sequence: int) -> str:
    """Return the key of an entry."""
    return f"log/{sequence:020d}.json"


def read_head(store: Store) -> int:
    """Return the newest entry's number, 0 for an empty log; raises IntegrityError where an entry is missing."""
    head = 0
    for item in store.list("log/"):
        if item.key == "log/" and not item.bytes:
            # What a bucket's console makes of "new folder" is no entry and hides none.
            continue
        head += 1
        if item.key != log_key(head):
            raise IntegrityError(
                f"{store.url}: log entry {head} is missing, found {item.key}; restore it from a backup"
            )
        if item.bytes > MAX_ENTRY_BYTES:
            raise ManifestError(f"{store.url}/{item.key}: {item.bytes} bytes; expected at most {MAX_ENTRY_BYTES}")
    return head


def read_entry(store: Store, sequence: int) -> Entry:
    """Return an entry of any kind; raises ManifestError where it breaks the format."""
    key = log_key(sequence)
    return parse_entry(store.get(key, MAX_ENTRY_BYTES), f"{store.url}/{key}", sequence)


def parse_entry(data: bytes, place: str, sequence: int) -> Entry:
    """Read the bytes of an entry; raises ManifestError where they break the format."""
    record = parse_record(data, place, ManifestError)
    known = check_format(record, SIGNED_FORMAT, oldest=FORMAT)
    kind = record.text("kind")
    number = record.integer("sequence", minimum=1)
    if number != sequence:
        record.refuse(str(sequence), number, "sequence")
    if kind not in RELEASE_KINDS + KEEPING_KINDS:
        record.refuse(f"one of {', '.join(RELEASE_KINDS + KEEPING_KINDS)}, or a newer program", kind, "kind")
    entry = _read_keeping(record, number, kind) if kind in KEEPING_KINDS else _read_release(record, number, kind)
    if known == SIGNED_FORMAT:
        entry = replace(entry, format=known, signature=record.text("signature", pattern=PATTERN))
        if isinstance(entry, LogEntry) and "expires_at" in record.names():
            entry = replace(entry, expires_at=record.time("expires_at"))
    record.finish()
    if entry.parent != sequence - 1:
        record.refuse(str(sequence - 1), entry.parent, "parent")
    if known == SIGNED_FORMAT and data != write_entry(entry):
        record.refuse("the one spelling that is signed", "another")
    return entry


def live_entry(
    store: Store, head: int | None = None, check: Callable[[Entry], None] = lambda _: None
) -> LogEntry | None:
    """Return the newest entry that makes a release live, or None where nothing was published.

    An entry for which `check` raises UntrustedError is void: the next older one counts. Raises the first such error
    where none counts, and at once what else `check` raises.
    """
    refusal: UntrustedError | None = None
    for sequence in range(read_head(store) if head is None else head, 0, -1):
        entry = read_entry(store, sequence)
        try:
            check(entry)
        except UntrustedError as error:
            refusal = refusal or error
            continue
        if isinstance(entry, LogEntry):
            return entry
    if refusal:
        raise refusal
    return None


def require_live(store: Store, check: Callable[[Entry], None] = lambda _: None) -> LogEntry:
    """Return the live entry; raises StoreError where nothing was published, and what `check` raises."""
    entry = live_entry(store, check=check)
    if entry is None:
        raise refuse_empty(store.url)
    return entry


def refuse_empty(url: str) -> StoreError:
    """Return the error about a store in which nothing was published."""
    return StoreError(f"{url}: no release is published here (no {log_key(1)}); build one first")


def read_manifest(store: Store, entry: LogEntry) -> Manifest:
    """Return the manifest an entry names; raises IntegrityError unless size, hash and run id are the entry's."""
    place = f"{store.url}/{entry.manifest.key}"
    check_size(entry.manifest.bytes, MAX_DOCUMENT_BYTES, place)
    try:
        size = store.size(entry.manifest.key)
        data = store.get(entry.manifest.key, entry.manifest.bytes) if size == entry.manifest.bytes else b""
    except ObjectMissingError:
        raise IntegrityError(f"{place}: log entry {entry.sequence} names this manifest, but it is not there") from None
    check_bytes(data, size, entry.manifest, place)
    manifest = parse_manifest(data, place)
    if manifest.run_id != entry.run_id:
        raise ManifestError(f"{place}.run_id: expected {entry.run_id!r} of the log, found {manifest.run_id!r}")
    return manifest


def check_bytes(data: bytes, size: int, entry: ObjectEntry, place: str) -> None:
    """Raise IntegrityError unless the bytes have the size and hash they should have."""
    if size != entry.bytes:
        raise IntegrityError(f"{place}: expected {entry.bytes} bytes, found {size}; the object was changed")
    found = hashlib.sha256(data).hexdigest()
    if found != entry.sha256:
        raise IntegrityError(f"{place}: expected SHA-256 {entry.sha256}, found {found}; the object was changed")


def find_damage(store: Store, objects: Iterable[ObjectEntry]) -> list[str]:
    """Return one sentence per object that is not there or has another size."""
    damage = []
    for entry in objects:
        try:
            size = store.size(entry.key)
        except ObjectMissingError:
            damage.append(f"{store.url}/{entry.key}: no such object")
            continue
        if size != entry.bytes:
            damage.append(f"{store.url}/{entry.key}: expected {entry.bytes} bytes, found {size}")
    return damage


def commit_entry(
    store: Store,
    expected_head: int,
    entry: EntryKind,
    *,
    check: Callable[[Entry], None] = lambda _: None,
    sleep: Callable[[float], None] = time.sleep,
) -> EntryKind:
    """Create the entry after the expected head and return the one that stands in the log for this run.

    Another process's entry for this run is taken for ours unless `check` raises UntrustedError for it.
    A lost answer is settled by reading back; the same key may be tried again because it can be created only once.
    Raises PublishConflictError naming the run that was first, OutcomeUnknownError where nobody can tell, ConfigError
    for a bucket that would overwrite, ManifestError before anything is sent that nobody could read.
    """
    if (entry.sequence, entry.parent) != (expected_head + 1, expected_head):
        raise ValueError(f"entry {entry.sequence} of parent {entry.parent} does not follow head {expected_head}")
    data = write_entry(entry)
    # What is in the log stays there: an entry that nobody can read would end it.
    place = f"{store.url}/{log_key(entry.sequence)}"
    if len(data) > MAX_ENTRY_BYTES:
        raise ManifestError(
            f"{place}: {len(data)} bytes; expected at most {MAX_ENTRY_BYTES}, so it was not written; name fewer runs "
            "in one entry"
        )
    parse_entry(data, place, entry.sequence)
    prove_creates(store, entry.run_id if isinstance(entry, LogEntry) else entry.runs[0])
    problem: StoreError | None = None
    started = time.monotonic()
    for attempt in range(COMMIT_ATTEMPTS):
        if attempt:
            if time.monotonic() - started > COMMIT_SECONDS:
                break
            sleep(random.uniform(0.5, 1.0) * 0.1 * 2**attempt)
        try:
            store.put_new(log_key(entry.sequence), data)
            return entry
        except StoreError as error:
            if problem is None and isinstance(error, StoreRefusedError):
                raise
            problem = error
        settled = _read_back(store, entry, check)
        if settled is not None:
            return settled
    raise OutcomeUnknownError(
        f"{store.url}: log entry {entry.sequence} was sent, but its outcome cannot be read back ({problem}); "
        "nothing was deleted, run the same command again to settle it"
    )


def write_entry(entry: Entry) -> bytes:
    """Return the entry's bytes; the fields of format 2 stand only where they are used."""
    return write_document({name: value for name, value in asdict(entry).items() if value is not None})


def signed_bytes(entry: Entry) -> bytes:
    """Return what the signature of an entry covers: all its fields but itself."""
    return write_entry(replace(entry, signature=None))


def _read_release(record: Record, sequence: int, kind: str) -> LogEntry:
    return LogEntry(
        sequence=sequence,
        kind=kind,
        run_id=record.text("run_id", pattern=RUN_ID),
        manifest=read_object(record.record("manifest")),
        parent=record.integer("parent"),
        created_at=record.time("created_at"),
    )


def _read_keeping(record: Record, sequence: int, kind: str) -> KeepingEntry:
    return KeepingEntry(
        sequence=sequence,
        kind=kind,
        runs=record.texts("runs", pattern=RUN_ID),
        parent=record.integer("parent"),
        created_at=record.time("created_at"),
    )


def _read_back(store: Store, entry: EntryKind, check: Callable[[Entry], None]) -> EntryKind | None:
    """Return our entry as it stands, None where none can be read, or raise for another's."""
    try:
        found = read_entry(store, entry.sequence)
    except StoreError:
        return None
    if found == entry:
        return entry
    taken = f"{store.url}: log entry {entry.sequence} was taken meanwhile; run again"
    if isinstance(entry, KeepingEntry) or isinstance(found, KeepingEntry):
        raise PublishConflictError(taken)
    try:
        check(found)
    except UntrustedError as error:
        raise PublishConflictError(f"{taken} ({error})") from None
    if (found.kind, found.run_id) == (entry.kind, entry.run_id):
        return found
    raise PublishConflictError(
        f"{store.url}: run {found.run_id} was published first, as log entry {found.sequence}; "
        f"run {entry.run_id} is not live, plan it again on the new head"
    )
