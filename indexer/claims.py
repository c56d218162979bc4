"""A folder that one process works in, told from the remains of a killed one.

While a process works in `<folder>` it holds a lock on `<folder>.lock`, and the file says on which machine, since which
start. The system frees the lock of a process however it ends, so on the same machine a lock that can be had proves the
folder abandoned. Elsewhere a shared file system may not pass locks on: there, only a folder without any change for
IDLE_SECONDS is abandoned.
"""

import errno
import fcntl
import os
import platform
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from indexer.errors import StoreError

TOO_MANY = (errno.EMFILE, errno.ENFILE)
REFUSED = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, *TOO_MANY),
)
"""What a folder or its disk says that cannot be written to; other errors of the system are not about it."""
IDLE_SECONDS = 7 * 24 * 3_600
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def claim_folder(folder: Path) -> Iterator[Path]:
    """Hold a folder, which need not exist yet, for the time of the block; raises StoreError where that cannot be."""
    lock = _lock_of(folder)
    draft = folder.parent / f".new-{uuid.uuid4().hex}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        file = draft.open("x")
        # Locked before it has its name, so that nobody finds it free.
        _try_lock(file.fileno())
        file.write(_machine())
        file.flush()
        draft.rename(lock)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise StoreError(f"{folder.parent}: cannot be written: {error.strerror}; correct shop.work") from None
    with file:
        try:
            yield folder
        finally:
            lock.unlink(missing_ok=True)


@contextmanager
def hold_temporary() -> Iterator[Path]:
    """Give a folder for temporary files, which goes with the block; raises StoreError where there can be none."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="indexer-")
    except OSError as error:
        raise StoreError(f"no folder for temporary files: {error.strerror}; set TMPDIR to one") from error
    with folder as name:
        yield Path(name)


@contextmanager
def tell_refusals(folder: Path) -> Iterator[None]:
    """Raise StoreError for what a work folder, or its disk, refuses in the block."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSED or (error.filename and not _lies_below(error.filename, folder)):
            raise
        hint = "check the work folder, its rights and the disk"
        if error.errno in TOO_MANY:
            hint = "let the process open more files (`ulimit -n`), or choose fewer shards"
        raise StoreError(f"{error.filename or folder}: {error.strerror or error}; {hint}") from error


def _lies_below(name: str | bytes, folder: Path) -> bool:
    """Whether a file lies below the work folder, or a folder that it would lie in."""
    path, work = Path(os.fsdecode(name)).absolute(), folder.absolute()
    return path.is_relative_to(work) or work.is_relative_to(path)


def remove_abandoned(parent: Path, pattern: str, kept: Callable[[], Collection[str]]) -> list[str]:
    """Remove the abandoned folders below `parent` whose names match, and return the names.

    `kept` names folders that stay; it is asked after a folder has proved abandoned, since its process may have
    finished its work just before it ended.
    """
    names = {path.name.removesuffix(".lock") for path in parent.glob(pattern)}
    return [name for name in sorted(names) if _is_abandoned(parent / name) and _remove(parent / name, kept)]


def _is_abandoned(folder: Path) -> bool:
    try:
        with _lock_of(folder).open("r+") as file:
            locked = _try_lock(file.fileno())
            if locked and file.read() == _machine():
                return True
            return locked is not False and _is_idle(folder)
    except FileNotFoundError:
        return _is_idle(folder)
    except OSError:
        return False


def _try_lock(descriptor: int) -> bool | None:
    """Return whether the lock could be had, or None where the file system knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_idle(folder: Path) -> bool:
    paths = [folder, _lock_of(folder), *folder.rglob("*")]
    try:
        newest = max(path.lstat().st_mtime for path in paths if path.exists())
    except (OSError, ValueError):
        return False
    return time.time() - newest > IDLE_SECONDS


def _remove(folder: Path, kept: Callable[[], Collection[str]]) -> bool:
    if folder.name in kept():
        return False
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        return False
    _lock_of(folder).unlink(missing_ok=True)
    return True


def _lock_of(folder: Path) -> Path:
    return folder.parent / f"{folder.name}.lock"


def _machine() -> str:
    """Return a name of this machine since its last start."""
    return BOOT_ID.read_text() if BOOT_ID.exists() else platform.node()
