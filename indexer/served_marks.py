"""What consumers that pin a key have served, so that one that starts anew is shown nothing older.

A mark is an empty file named after the number of a log entry, in a folder of the key that signed the entry. The
greatest number counts, so that processes which share the folder need no lock: each removes only marks below its own.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from indexer.errors import StoreError
from indexer.log import LogEntry, signed_bytes
from indexer.signature import PublicKey
from indexer.store import LocalStore, Store, sync_folder


class ServedMarks:
    """The marks of one store below the cache folder, as far as the trusted keys signed what was served."""

    def __init__(self, cache: Path, store: Store, key: PublicKey) -> None:
        address = str(store.root.resolve()) if isinstance(store, LocalStore) else store.url
        self.folder = cache / "served" / hashlib.sha256(os.fsencode(address)).hexdigest()[:16]
        self._keys = {self.folder / single.fingerprint[:16]: single for single in key.split()}

    def newest(self) -> int:
        """Return the number of the newest entry that was served, 0 where there is none."""
        with self._readable():
            return max((number for folder in self._keys for number in _numbers(folder)), default=0)

    def add(self, entry: LogEntry) -> None:
        """Mark an entry as served."""
        with self._readable():
            for folder, key in self._keys.items():
                if entry.signature and key.verifies(signed_bytes(entry), entry.signature):
                    self._mark(folder, entry.sequence)

    def _mark(self, folder: Path, sequence: int) -> None:
        if sequence in _numbers(folder):
            return
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(sequence)).touch()
        for place in (folder, *folder.parents[:3]):
            sync_folder(place)
        for number in _numbers(folder):
            if number < sequence:
                (folder / str(number)).unlink(missing_ok=True)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"{self.folder}: {error.strerror or error}; check the cache folder, its rights and the disk"
            ) from error


def _numbers(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return [int(name) for name in os.listdir(folder) if name.isascii() and name.isdigit()]
