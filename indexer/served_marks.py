"""What consumers that pin a key have served, so that one that starts anew is shown nothing older.

A mark is an empty file named after the number of a log entry. The greatest counts, so that processes which share the
folder need no lock: each removes only marks below its own.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from indexer.errors import StoreError
from indexer.signature import PublicKey
from indexer.store import LocalStore, Store


class ServedMarks:
    """The marks of one store for one file of keys, below the cache folder."""

    def __init__(self, cache: Path, store: Store, key: PublicKey) -> None:
        address = str(store.root.resolve()) if isinstance(store, LocalStore) else store.url
        name = hashlib.sha256(f"{address}\n{key.fingerprint}".encode()).hexdigest()[:16]
        self.folder = cache / "served" / name

    def newest(self) -> int:
        """Return the number of the newest entry that was served, 0 where there is none."""
        with self._readable():
            return max(self._numbers(), default=0)

    def add(self, sequence: int) -> None:
        """Mark an entry as served."""
        with self._readable():
            if sequence in self._numbers():
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / str(sequence)).touch()
            _sync(self.folder)
            for number in self._numbers():
                if number < sequence:
                    (self.folder / str(number)).unlink(missing_ok=True)

    def _numbers(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        return [int(name) for name in os.listdir(self.folder) if name.isascii() and name.isdigit()]

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"{self.folder}: {error.strerror or error}; check the cache folder, its rights and the disk"
            ) from error


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
