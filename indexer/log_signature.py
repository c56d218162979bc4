"""Entries of the log with a signature: made by a publisher's key, looked for by who pins its public one."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from indexer.errors import IntegrityError, UntrustedError
from indexer.log import SIGNED_FORMAT, Entry, EntryKind, LogEntry, log_key, signed_bytes
from indexer.signature import PublicKey, SigningKey


def sign_entry(entry: EntryKind, key: SigningKey | None) -> EntryKind:
    """Return the entry signed and, where the key says so, with the time from which it is not served any more.

    Without a key it is returned as it is.
    """
    if key is None:
        return entry
    signed = replace(entry, format=SIGNED_FORMAT)
    if isinstance(entry, LogEntry) and key.expires_days:
        expires = datetime.fromisoformat(entry.created_at) + timedelta(days=key.expires_days)
        signed = replace(signed, expires_at=expires.isoformat())  # type: ignore[call-arg]
    return replace(signed, signature=key.sign(signed_bytes(signed)))


def check_signature(entry: Entry, key: PublicKey, url: str) -> None:
    """Raise UntrustedError unless one of the keys signed the entry."""
    place = f"{url}/{log_key(entry.sequence)}"
    if entry.signature is None:
        raise UntrustedError(f"{place}: expected a signature of the key {key.path}, found none; it is not trusted")
    if not key.verifies(signed_bytes(entry), entry.signature):
        raise UntrustedError(f"{place}: the signature is not one of the key {key.path}; the entry is not trusted")


def check_expiry(entry: LogEntry, url: str) -> None:
    """Raise IntegrityError where the entry is to be served no more."""
    if entry.expires_at is not None and datetime.fromisoformat(entry.expires_at) <= datetime.now(UTC):
        renewed = "roll back to it once more" if entry.kind == "rollback" else "find out what holds it up"
        raise IntegrityError(
            f"{url}/{log_key(entry.sequence)}: run {entry.run_id} expired at {entry.expires_at}; publish a newer "
            f"release, or {renewed}"
        )


def trust(key: PublicKey | None, url: str) -> Callable[[Entry], None]:
    """Return the check of entries that a consumer makes who pins this key, or none."""

    def check(entry: Entry) -> None:
        if key is not None:
            check_signature(entry, key, url)
            if isinstance(entry, LogEntry):
                check_expiry(entry, url)

    return check


def trust_publisher(key: SigningKey | None, url: str) -> Callable[[Entry], None]:
    """Return the check of entries that a publisher makes; what has expired was published all the same."""

    def check(entry: Entry) -> None:
        if key is not None:
            check_signature(entry, key.trusted, url)

    return check


def find_void(entries: Sequence[Entry], key: PublicKey, url: str) -> dict[int, str]:
    """Return the entries that count for nothing, with the reason: those from the first signed one on without its trust.

    A store that is signed from some night on has unsigned entries before it. From then on, whoever may create an object
    in the log can add an entry, but not one that counts.
    """
    first = next((place for place, entry in enumerate(entries) if entry.signature is not None), len(entries))
    void = {}
    for entry in entries[first:]:
        try:
            check_signature(entry, key, url)
        except UntrustedError as error:
            void[entry.sequence] = str(error)
    return void
