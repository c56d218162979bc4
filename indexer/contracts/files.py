"""Where a shop's input lies: a file, a folder of part files or `s3://`, and what kind of file it is."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from indexer.claims import hold_temporary
from indexer.contracts.days import Days, read_day
from indexer.contracts.raw import readable
from indexer.errors import ConfigError, ContractError
from indexer.store import hash_file, open_store

FORMATS = {".parquet": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}


UNFINISHED = re.compile(
    r"_temporary|__magic.*|\.(spark|hive)-staging.*|[^_.].*(\._COPYING_|\.(tmp|partial|filepart|crdownload|inprogress))"
)
"""Names that writers give to files and folders before they are whole."""
SUCCESS = "_SUCCESS"
"""What Spark and Hadoop write last into the folder that they were given: that of the parts, or one above."""


class Delivery(NamedTuple):
    """The files of an input on the local disk."""

    files: list[Path]
    listed_twice: int = 0
    """Objects that the store listed again; each is downloaded once."""


@contextmanager
def local_files(path: str, *, section: str, success_file: bool = False) -> Iterator[Delivery]:
    """Give the input's files on the local disk, in name order; `s3://` objects are downloaded for the while.

    `section` is the configuration's section that has the path, for messages; `success_file` says whether a folder
    must hold `_SUCCESS`.
    """
    check_path(path, section)
    if not path.startswith("s3://"):
        yield Delivery(find_files(Path(path), section=section, success_file=success_file))
        return
    with hold_temporary() as folder:
        yield download_files(path, folder, success_file=success_file)


def check_path(path: str, section: str) -> None:
    """Raise ConfigError where the section has no path."""
    if not path:
        raise ConfigError(f"[{section}] path: not set; give the file or folder of the table")


def find_files(path: Path, *, section: str, days: Days | None = None, success_file: bool = False) -> list[Path]:
    """Return the files of a local input in name order, without hidden ones and those of hidden folders.

    Of daily files those of the given days. Raises ContractError where there are none, or where their writer has not
    finished.
    """
    with readable(path):
        if path.is_file():
            return [path.parent / name for name in _choose_names([path.name], days, path)]
        if not path.is_dir():
            raise ContractError(f"{path}: no such file or folder; correct [{section}] path or deliver the table")
        names = {item: item.relative_to(path).as_posix() for item in _walk(path)}
        finished = set(finished_names(names.values(), path, success_file))
        parts = {item: name for item, name in names.items() if name in finished and _is_part(item)}
        linked: set[tuple[int, int]] = set()
        for item in filter(Path.is_symlink, parts):
            _meet(item, linked)
    files = [path / name for name in _choose_names(list(parts.values()), days, path)]
    if not files:
        raise ContractError(f"{path}: an empty folder; expected part files")
    return files


def hash_input(file: Path) -> str:
    """Return the SHA-256 of an input's file; raises ContractError where it cannot be read."""
    with readable(file):
        return hash_file(file)


def identify_input(path: str | Path) -> list[list[Any]]:
    """Return name and SHA-256 of every file of a local input, so that equal bytes are an equal input."""
    root = Path(path)
    with readable(root):
        files = [item for item in _walk(root) if item.is_file()] if root.is_dir() else [root]
        return [[file.relative_to(root).as_posix(), hash_file(file)] for file in files if file.exists()]


def _walk(root: Path) -> list[Path]:
    """Return the files and folders below an input's folder in name order, those that links lead to, too.

    What lies in hidden folders is left out, and so are links to what is found without them. Raises ContractError for a
    folder that cannot be read, and for one that is linked twice or into itself: its rows would count twice.
    """
    found: list[Path] = []
    met: set[tuple[int, int]] = set()
    roots = [root.resolve()]

    def refuse(error: OSError) -> None:
        raise ContractError(f"{error.filename}: cannot be read: {error.strerror}; let the job read it, or take it away")

    for parent, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        _meet(Path(parent), met)
        found += [Path(parent, name) for name in (*folders, *names)]
        shown = sorted(name for name in folders if not is_hidden(name))
        folders[:] = [name for name in shown if not _leads_back(Path(parent, name), roots)]
        roots += [Path(parent, name).resolve() for name in folders if Path(parent, name).is_symlink()]
    return [path for path in sorted(found) if is_hidden(path.name) or not _leads_back(path, roots)]


def _meet(path: Path, met: set[tuple[int, int]]) -> None:
    """Add what a path leads to; raises ContractError where it was met before."""
    place = path.stat()
    if (place.st_dev, place.st_ino) in met:
        raise ContractError(f"{path}: is linked twice or into itself; take one of the links away")
    met.add((place.st_dev, place.st_ino))


def _leads_back(path: Path, roots: Iterable[Path]) -> bool:
    """Whether it is a link to a file or folder that is found below one of the roots without it."""
    if not path.is_symlink() or not path.exists():
        return False
    target = path.resolve()
    return any(
        target != root
        and target.is_relative_to(root)
        and not any(is_hidden(part) for part in target.relative_to(root).parts)
        for root in roots
    )


def _is_part(path: Path) -> bool:
    """Tell a file from a folder; raises ContractError for what is neither, as a link that leads nowhere."""
    if not path.is_file() and not path.is_dir():
        raise ContractError(f"{path}: expected a file, found a link that leads nowhere, or a device; take it away")
    return path.is_file()


def download_files(url: str, folder: Path, *, days: Days | None = None, success_file: bool = False) -> Delivery:
    """Download the object, or the objects below the prefix, into a folder; raises as `find_files` does."""
    bucket, _, prefix = url.removeprefix("s3://").rstrip("/").partition("/")
    if not bucket or not prefix:
        raise ConfigError(f"{url}: expected s3://bucket/key of a file or folder")
    store = open_store(f"s3://{bucket}")
    # A store may list an object twice while it changes.
    listed = Counter(item.key for item in store.list(prefix))
    found = list(listed)
    # A key that ends in a slash is no file: consoles make such objects to show a folder.
    parts = [key[len(prefix) + 1 :] for key in found if key.startswith(f"{prefix}/") and not key.endswith("/")]
    # A key named in full is wanted, hidden or not.
    keys = {prefix.rpartition("/")[2]: key for key in found if key == prefix}
    finished = finished_names(parts, url, success_file and not keys)
    keys |= {name: f"{prefix}/{name}" for name in finished}
    names = _choose_names(list(keys), days, url)
    if not keys:
        raise ContractError(f"{url}: no such object or folder; correct the address or deliver the table")
    files = []
    for number, name in enumerate(names):
        # The day may stand in a folder's name alone.
        day = f"{read_day(name)}-" if days else ""
        files.append(folder / f"{number:06d}-{day}{re.sub('[^A-Za-z0-9._-]', '_', name.rpartition('/')[2])}")
        store.get_file(keys[name], files[-1])
    return Delivery(files, sum(listed[keys[name]] - 1 for name in names))


def detect_format(path: Path, configured: str = "auto") -> str:
    """Return parquet, csv, tsv or jsonl by the file's name unless it is configured."""
    if configured != "auto":
        return configured
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    if suffixes and suffixes[-1] in FORMATS:
        return FORMATS[suffixes[-1]]
    raise ContractError(f"{path}: unknown kind of file; expected {', '.join(FORMATS)} or set `format`")


def _choose_names(names: list[str], days: Days | None, shown: str | Path) -> list[str]:
    return days.choose_names(names, str(shown)) if days else names


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder of that name is no part of an input; a volume's `lost+found` is none, either."""
    return name.startswith(("_", ".")) or name == "lost+found"


def finished_names(names: Iterable[str], shown: str | Path, success_file: bool) -> list[str]:
    """Return the names, relative to the input's folder, of part files.

    Raises ContractError where their writer has not finished.
    """
    names = list(names)
    for name in names:
        if any(UNFINISHED.fullmatch(part) for part in name.split("/")):
            raise ContractError(f"{shown}: still being written ({name} is there); wait for its writer to finish")
    kept = [name for name in names if not any(is_hidden(part) for part in name.split("/"))]
    whole = {PurePosixPath(name).parent for name in names if PurePosixPath(name).name == SUCCESS}
    for name in kept:
        if success_file and whole.isdisjoint(PurePosixPath(name).parents):
            raise ContractError(
                f"{shown}: no {SUCCESS} for {name}, so its writer has not finished; wait, or set success_file = false"
            )
    return kept
