"""Objects as files below a folder."""

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from indexer.errors import ObjectExistsError, ObjectMissingError, StoreError
from indexer.store.interface import StoredObject, check_key

CHUNK_BYTES = 1 << 20
DRAFT = ".new-"
"""How the name of an unfinished file in a folder begins."""
_DRAFT_NAME = re.compile(re.escape(DRAFT) + r"[0-9a-f]{32}")


class LocalStore:
    """Objects as files below a folder; a new one appears whole, by hard link."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def get(self, key: str) -> bytes:
        """Return the object's bytes; raises ObjectMissingError."""
        try:
            return self._path(key).read_bytes()
        except OSError as error:
            raise _local_error(error, self.url, key) from error

    def get_file(self, key: str, path: Path) -> None:
        """Copy the object to a local file; raises ObjectMissingError."""
        try:
            shutil.copyfile(self._path(key), path)
        except OSError as error:
            raise _local_error(error, self.url, key) from error

    def put_new(self, key: str, data: bytes) -> None:
        """Create the object; raises ObjectExistsError."""
        self._create(key, lambda file: file.write(data))

    def put_file(self, key: str, path: Path) -> None:
        """Create the object from a file; raises ObjectExistsError."""
        with path.open("rb") as source:
            self._create(key, lambda file: shutil.copyfileobj(source, file, CHUNK_BYTES))

    def local_path(self, key: str) -> Path:
        """Return the file an object lies in, so that it can be read in place."""
        return self._path(key)

    def size(self, key: str) -> int:
        """Return the object's size in bytes; raises ObjectMissingError."""
        try:
            return self._path(key).stat().st_size
        except OSError as error:
            raise _local_error(error, self.url, key) from error

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects under the prefix in key order."""
        return self._list(prefix, drafts=False)

    def list_drafts(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the unfinished files: some are being written, others were left by killed processes; their age tells."""
        return self._list(prefix, drafts=True)

    def remove_empty_folders(self, prefix: str, before: datetime) -> None:
        """Remove the folders below a prefix that hold nothing, and in which nothing has changed since a time."""
        for path in sorted((self.root / check_key(prefix.rstrip("/"))).rglob("*/"), reverse=True):
            # Another process may have put something there, or was faster.
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < before.timestamp():
                    path.rmdir()

    def delete(self, key: str) -> None:
        """Remove the object if it is there."""
        try:
            self._path(key).unlink(missing_ok=True)
        except OSError as error:
            raise _local_error(error, self.url, key) from error

    def _list(self, prefix: str, *, drafts: bool) -> Iterator[StoredObject]:
        start = self.root / prefix.rpartition("/")[0]
        try:
            found = {}
            for path in start.rglob("*"):
                # Another process may delete what is being listed.
                with contextlib.suppress(FileNotFoundError):
                    if path.is_file() and bool(_DRAFT_NAME.fullmatch(path.name)) == drafts:
                        found[path.relative_to(self.root).as_posix()] = path.stat()
        except OSError as error:
            raise _local_error(error, self.url, prefix) from error
        for key in sorted(found):
            if key.startswith(prefix):
                yield StoredObject(key, found[key].st_size, datetime.fromtimestamp(found[key].st_mtime, UTC))

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _create(self, key: str, write: Callable[[IO[bytes]], object]) -> None:
        final = self._path(key)
        draft = final.parent / f"{DRAFT}{uuid.uuid4().hex}"
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            _link_new(draft, final, self.url, key)
            sync_folder(final.parent)
        except OSError as error:
            raise _local_error(error, self.url, key) from error
        finally:
            with contextlib.suppress(OSError):
                draft.unlink()


def _local_error(error: OSError, url: str, key: str) -> StoreError:
    if isinstance(error, FileNotFoundError):
        return ObjectMissingError(f"{url}: {key}: no such object")
    return StoreError(f"{url}: {key}: {error.strerror or error}; check the folder, its rights and the disk")


def _link_new(draft: Path, final: Path, url: str, key: str) -> None:
    """Give the finished file its final name, which no other file may have."""
    try:
        os.link(draft, final)
    except FileExistsError:
        raise ObjectExistsError(f"{url}: {key} exists already") from None


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
