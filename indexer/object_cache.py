"""Objects of a release as local files, verified by size and SHA-256 every time before they are used."""

import hashlib
import os
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from indexer.errors import ConfigError, IntegrityError, ObjectMissingError, StoreError
from indexer.manifest import ObjectEntry
from indexer.store import LocalStore, Store, hash_file

UNUSED_SECONDS = 86_400
"""A downloaded object that no release asked for this long is removed."""


class ObjectCache:
    """Downloaded objects of one store under their hash; a local store's files are read in place unless `copied`.

    Where a pinned key is to decide what is served, whoever may write to a local store must not change a file after
    it was verified.
    """

    def __init__(self, store: Store, folder: Path | None = None, *, copied: bool = False) -> None:
        self._store = store
        self._in_place = store if isinstance(store, LocalStore) and not copied else None
        self._parent = folder

    @cached_property
    def _folder(self) -> Path:
        """Where downloads lie; what is read in place needs none, and no home either."""
        return (self._parent or default_cache()) / hashlib.sha256(os.fsencode(self._store.url)).hexdigest()[:16]

    def fetch(self, entry: ObjectEntry) -> Path:
        """Return a file with the object's bytes; raises IntegrityError where they are not as promised."""
        try:
            if self._in_place:
                return _verify(self._in_place.local_path(entry.key), entry, self._store.url)
            return self._find_kept(entry) or self._download(entry)
        except (ObjectMissingError, FileNotFoundError):
            raise IntegrityError(
                f"{self._store.url}/{entry.key}: the live release names this object, but it is not there"
            ) from None
        except OSError as error:
            place = f"{self._store.url}/{entry.key}" if self._in_place else str(self._folder)
            raise StoreError(
                f"{place}: {error.strerror or error}; check the {'' if self._in_place else 'cache '}folder, its rights "
                "and the disk"
            ) from error

    def drop(self, entry: ObjectEntry) -> None:
        """Remove a download, if there is one; a local store's own file stays."""
        if not self._in_place:
            (self._folder / entry.sha256).unlink(missing_ok=True)

    def prune(self, wanted: Iterable[ObjectEntry] = ()) -> None:
        """Remove downloads that are not wanted and were not asked for lately; other processes may share the folder."""
        if self._in_place:
            return
        kept, oldest = {entry.sha256 for entry in wanted}, time.time() - UNUSED_SECONDS
        for parent, _, names in os.walk(self._folder):
            for path in (Path(parent, name) for name in names if name not in kept):
                # Somebody else's, or gone: to tidy up is no reason to fail.
                with suppress(OSError):
                    if path.stat().st_mtime < oldest:
                        path.unlink()

    def _find_kept(self, entry: ObjectEntry) -> Path | None:
        kept = self._folder / entry.sha256
        try:
            # First: while it is hashed, another process may prune what nobody asked for lately.
            os.utime(kept)
            return _verify(kept, entry, str(self._folder))
        except FileNotFoundError:
            return None
        except IntegrityError:
            kept.unlink(missing_ok=True)
            return None

    def _download(self, entry: ObjectEntry) -> Path:
        size = self._store.size(entry.key)
        if size != entry.bytes:
            raise IntegrityError(f"{self._store.url}/{entry.key}: expected {entry.bytes} bytes, found {size}")
        self._folder.mkdir(parents=True, exist_ok=True)
        draft = self._folder / f".new-{uuid.uuid4().hex}"
        try:
            self._store.get_file(entry.key, draft)
            _verify(draft, entry, self._store.url)
            return draft.replace(self._folder / entry.sha256)
        finally:
            draft.unlink(missing_ok=True)


def default_cache() -> Path:
    """Return the folder for downloaded objects: below XDG_CACHE_HOME or ~/.cache; raises ConfigError without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nightly-semantic-index"
    except RuntimeError:
        raise ConfigError("no home folder to keep downloads in; set XDG_CACHE_HOME, or name a cache folder") from None


def _verify(path: Path, entry: ObjectEntry, place: str) -> Path:
    size = path.stat().st_size
    if size != entry.bytes:
        raise IntegrityError(f"{place}/{entry.key}: expected {entry.bytes} bytes, found {size}; it was changed")
    found = hash_file(path)
    if found != entry.sha256:
        raise IntegrityError(f"{place}/{entry.key}: expected SHA-256 {entry.sha256}, found {found}; it was changed")
    return path
