"""Objects as files below a folder."""

import contextlib
import errno
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from indexer.errors import ObjectExistsError, ObjectMissingError, StoreError, StoreUnsupportedError
from indexer.store.interface import WHOLE_BYTES, StoredObject, check_key, check_size

CHUNK_BYTES = 1 << 20
DRAFT = ".new-"
"""How the name of an unfinished file in a folder begins."""
NO_OBJECT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
"""What a folder says of a name under which no object lies, nor can lie."""
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What a file system says that knows no hard links."""
_DRAFT_NAME = re.compile(re.escape(DRAFT) + r"[0-9a-f]{32}")


class LocalStore:
    """Objects as files below a folder; a new one appears whole, by hard link."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def get(self, key: str, limit: int = WHOLE_BYTES) -> bytes:
        """Return an object of at most `limit` bytes; raises ObjectMissingError, IntegrityError for a larger one."""
        with self._reading(key) as path, path.open("rb") as file:
            return file.read(check_size(os.fstat(file.fileno()).st_size, limit, f"{self.url}: {key}"))

    def get_file(self, key: str, path: Path) -> None:
        """Copy the object to a local file; raises ObjectMissingError."""
        with self._reading(key) as source:
            shutil.copyfile(source, path)

    def put_new(self, key: str, data: bytes) -> None:
        """Create the object; raises ObjectExistsError."""
        self._create(key, lambda file: file.write(data))

    def put_file(self, key: str, path: Path) -> None:
        """Create the object from a file; raises ObjectExistsError."""
        with path.open("rb") as source:
            self._create(key, lambda file: shutil.copyfileobj(source, file, CHUNK_BYTES))

    def local_path(self, key: str) -> Path:
        """Return the file an object lies in, so that it can be read in place; raises ObjectMissingError."""
        with self._reading(key) as path:
            _measure(path)
            return path

    def size(self, key: str) -> int:
        """Return the object's size in bytes; raises ObjectMissingError."""
        with self._reading(key) as path:
            return _measure(path)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects under the prefix in key order."""
        return self._list(prefix, drafts=False)

    def list_drafts(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the unfinished files: some are being written, others were left by killed processes; their age tells."""
        return self._list(prefix, drafts=True)

    def remove_empty_folders(self, prefix: str, before: datetime) -> None:
        """Remove the folders below a prefix that hold nothing, and in which nothing has changed since a time."""
        top = self.root / check_key(prefix.rstrip("/"))
        for parent, _, _ in os.walk(top, topdown=False):
            # Another process may have put something there, or was faster.
            with contextlib.suppress(OSError):
                if Path(parent) != top and os.stat(parent).st_mtime < before.timestamp():
                    os.rmdir(parent)

    def delete(self, key: str) -> None:
        """Remove the object if it is there."""
        with contextlib.suppress(ObjectMissingError), self._reading(key) as path:
            path.unlink()

    def _list(self, prefix: str, *, drafts: bool) -> Iterator[StoredObject]:
        start = self.root / prefix.rpartition("/")[0]
        try:
            found = {}
            for path in _walk(start):
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

    @contextlib.contextmanager
    def _reading(self, key: str) -> Iterator[Path]:
        """Give the path of an object; under a name that no object can have, there is none."""
        try:
            yield self._path(key)
        except OSError as error:
            if error.errno in NO_OBJECT:
                raise _missing(self.url, key) from error
            raise _local_error(error, self.url, key) from error

    def _create(self, key: str, write: Callable[[IO[bytes]], object]) -> None:
        final = self._path(key)
        draft = final.parent / f"{DRAFT}{uuid.uuid4().hex}"
        try:
            _make_folder(final.parent)
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


def _walk(folder: Path) -> Iterator[Path]:
    """Yield everything below a folder that is no folder; raises OSError for one that cannot be read."""

    def refuse(error: OSError) -> None:
        # Another process may have deleted it, or there never was one.
        if error.errno not in NO_OBJECT:
            raise error

    for parent, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(parent, name) for name in names)


def _local_error(error: OSError, url: str, key: str) -> StoreError:
    if isinstance(error, FileNotFoundError):
        return _missing(url, key)
    return StoreError(f"{url}: {key}: {error.strerror or error}; check the folder, its rights and the disk")


def _missing(url: str, key: str) -> ObjectMissingError:
    return ObjectMissingError(f"{url}: {key}: no such object")


def _measure(path: Path) -> int:
    """Return a file's size; raises OSError for what is none."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return found.st_size


def _link_new(draft: Path, final: Path, url: str, key: str) -> None:
    """Give the finished file its final name, which no other file may have."""
    try:
        os.link(draft, final)
    except FileExistsError:
        raise ObjectExistsError(f"{url}: {key} exists already") from None
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        raise StoreUnsupportedError(
            f"{url}: {key}: {error.strerror}; expected a file system with hard links, by which an object is created "
            "once; take another, or a bucket"
        ) from error


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it that are not there, and wait until the names of new ones are on the disk."""
    try:
        folder.mkdir()
    except FileNotFoundError:
        if folder.parent == folder:
            raise
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
    except OSError:
        # Of one that is there, a read-only disk may say that it is read-only.
        if not folder.is_dir():
            raise
        return
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
