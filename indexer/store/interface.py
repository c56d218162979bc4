"""What every store does, and the form of its keys."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Protocol

from indexer.errors import IntegrityError, StoreError

WHOLE_BYTES = 16 << 20
"""Most that is read into memory where nobody says less; what may be larger goes to a file."""


class StoredObject(NamedTuple):
    """An object as a listing shows it."""

    key: str
    bytes: int
    modified: datetime = datetime.max.replace(tzinfo=UTC)
    """When it was written; where nobody knows, it counts as new."""


class Store(Protocol):
    """What every store does; all raise StoreError where storage fails."""

    url: str

    def get(self, key: str, limit: int = WHOLE_BYTES) -> bytes:
        """Return an object of at most `limit` bytes; raises ObjectMissingError, IntegrityError for a larger one."""

    def get_file(self, key: str, path: Path) -> None:
        """Write the object to a local file; raises ObjectMissingError."""

    def put_new(self, key: str, data: bytes) -> None:
        """Create the object; raises ObjectExistsError where the key is taken, and never retries on its own."""

    def put_file(self, key: str, path: Path) -> None:
        """Create a large object under a key that no other process uses."""

    def size(self, key: str) -> int:
        """Return the object's size in bytes; raises ObjectMissingError."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects under the prefix in key order."""

    def delete(self, key: str) -> None:
        """Remove the object if it is there."""


def check_key(key: str) -> str:
    """Return the key if it stays below the store's root, else raise StoreError."""
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in key or "\0" in key:
        raise StoreError(f"key {key!r}: leaves the store or is not in plain form")
    return key


def check_size(size: int, limit: int, place: str) -> int:
    """Return the size in bytes if it is within the limit, else raise IntegrityError."""
    if size > limit:
        raise IntegrityError(f"{place}: {size} bytes; expected at most {limit}, so it was not read")
    return size


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
