"""Read every object of a release again and compare it with what its manifest promises."""

import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

from indexer.errors import ObjectMissingError
from indexer.log import LogEntry, find_damage, read_manifest
from indexer.manifest import ObjectEntry
from indexer.store import LocalStore, Store, hash_file

READERS = 4
"""Objects that are read at once; the disk holds as many."""


def list_objects(store: Store, entry: LogEntry) -> tuple[ObjectEntry, ...]:
    """Return all objects of a release; raises IntegrityError where its manifest is not the one published."""
    return read_manifest(store, entry).objects


def verify_objects(store: Store, objects: Iterable[ObjectEntry], *, sizes_only: bool = False) -> Iterator[str | None]:
    """Yield one sentence for each damaged object and None for each that is whole, in any number of bytes.

    `sizes_only` asks the store for sizes and reads no bytes.
    """
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(READERS) as pool:

        def check(entry: ObjectEntry) -> str | None:
            damage = next(iter(find_damage(store, [entry])), None)
            return damage if damage or sizes_only else _compare_bytes(store, entry, Path(folder) / uuid4().hex)

        yield from pool.map(check, objects)


def _compare_bytes(store: Store, entry: ObjectEntry, path: Path) -> str | None:
    """Hash an object: in place where it is a local file, else in the file of the path, which is removed."""
    try:
        if isinstance(store, LocalStore):
            found = hash_file(store.local_path(entry.key))
        else:
            store.get_file(entry.key, path)
            found = hash_file(path)
    except (ObjectMissingError, FileNotFoundError):
        return f"{store.url}/{entry.key}: no such object"
    finally:
        path.unlink(missing_ok=True)
    return None if found == entry.sha256 else f"{store.url}/{entry.key}: expected SHA-256 {entry.sha256}, found {found}"
