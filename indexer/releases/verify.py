"""Read every object of a release again, compare it with what its manifest promises, and open it as a consumer does."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from indexer.claims import hold_temporary
from indexer.errors import IntegrityError
from indexer.guard import try_release
from indexer.log import find_damage
from indexer.manifest import Manifest, ObjectEntry
from indexer.object_cache import ObjectCache
from indexer.store import LocalStore, Store

READERS = 4
"""Objects that are read at once."""


def examine_objects(store: Store, objects: Iterable[ObjectEntry]) -> list[str]:
    """Return one sentence for each object that must not go live: not there, of another size, or changed.

    In a folder every byte is read; a bucket, whose service keeps checksums of its own, is asked for sizes.
    """
    if not isinstance(store, LocalStore):
        return find_damage(store, objects)
    # Objects of a folder are read where they lie.
    return [sentence for sentence in verify_objects(store, objects, ObjectCache(store)) if sentence]


def verify_release(store: Store, manifest: Manifest, *, sizes_only: bool = False) -> Iterator[str | None]:
    """Yield one sentence for each damaged object and None for each that is whole, in any number of bytes.

    Where all are whole, the release is opened in a child process at last, which may yield one sentence more.
    Objects of a bucket are downloaded for that, to the folder for temporary files. `sizes_only` asks the store for
    sizes, reads no bytes and opens nothing. Raises StoreError where the child does not end in time, ConfigError where
    it cannot be started: the release is not damaged then.
    """
    with hold_temporary() as folder:
        cache, whole = None if sizes_only else ObjectCache(store, folder), not sizes_only
        files: dict[str, Path] = {}
        for entry, found in _read_objects(store, manifest.objects, cache):
            if isinstance(found, Path):
                files[entry.key] = found
            whole = whole and not isinstance(found, str)
            yield found if isinstance(found, str) else None
        if whole:
            try:
                try_release(manifest, {item.key: files[item.key] for item in manifest.downloads}, place=store.url)
            except IntegrityError as error:
                yield str(error)


def verify_objects(store: Store, objects: Iterable[ObjectEntry], cache: ObjectCache | None) -> Iterator[str | None]:
    """Yield what is wrong with each object, or None, by its bytes; without a cache to read them into, by its size."""
    for _, found in _read_objects(store, objects, cache):
        yield found if isinstance(found, str) else None


def _read_objects(
    store: Store, objects: Iterable[ObjectEntry], cache: ObjectCache | None
) -> Iterator[tuple[ObjectEntry, Path | str | None]]:
    """Yield each object with the file of its bytes, with what is wrong with it, or with None where none were read."""
    with ThreadPoolExecutor(READERS) as pool:

        def check(entry: ObjectEntry) -> tuple[ObjectEntry, Path | str | None]:
            damage = next(iter(find_damage(store, [entry])), None)
            return entry, damage if damage or cache is None else _compare_bytes(cache, entry)

        yield from pool.map(check, objects)


def _compare_bytes(cache: ObjectCache, entry: ObjectEntry) -> Path | str:
    try:
        return cache.fetch(entry)
    except IntegrityError as error:
        return str(error)
