"""Read every object of a release again, compare it with what its manifest promises, and open it as a consumer does."""

import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from indexer.errors import IntegrityError
from indexer.guard import try_release
from indexer.loaded_release import fetch_files
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
    return [sentence for sentence in verify_objects(store, objects, ObjectCache(store, store.root)) if sentence]


def verify_release(store: Store, manifest: Manifest, *, sizes_only: bool = False) -> Iterator[str | None]:
    """Yield one sentence for each damaged object and None for each that is whole, in any number of bytes.

    Where all are whole, the release is opened in a child process at last, which may yield one sentence more.
    Objects of a bucket are downloaded for that, to the folder for temporary files. `sizes_only` asks the store for
    sizes, reads no bytes and opens nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        cache, whole = ObjectCache(store, Path(folder)), True
        for damage in verify_objects(store, manifest.objects, None if sizes_only else cache):
            whole = whole and damage is None
            yield damage
        if whole and not sizes_only:
            try:
                try_release(manifest, fetch_files(manifest, cache), place=store.url)
            except IntegrityError as error:
                yield str(error)


def verify_objects(store: Store, objects: Iterable[ObjectEntry], cache: ObjectCache | None) -> Iterator[str | None]:
    """Yield what is wrong with each object, or None, by its bytes; without a cache to read them into, by its size."""
    with ThreadPoolExecutor(READERS) as pool:

        def check(entry: ObjectEntry) -> str | None:
            damage = next(iter(find_damage(store, [entry])), None)
            return damage if damage or cache is None else _compare_bytes(cache, entry)

        yield from pool.map(check, objects)


def _compare_bytes(cache: ObjectCache, entry: ObjectEntry) -> str | None:
    try:
        cache.fetch(entry)
    except IntegrityError as error:
        return str(error)
    return None
