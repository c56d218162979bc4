"""Export the live release of a store to a local folder, which appears whole or not at all."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from indexer.errors import ConfigError, StoreError
from indexer.export.arrays import write_npy, write_parquet
from indexer.export.documents import NAMESPACE, write_opensearch, write_vespa
from indexer.export.graph import write_hnswlib
from indexer.export.rows import ShardRows, load_rows
from indexer.log import read_manifest, require_live
from indexer.log_signature import trust
from indexer.manifest import CollectionEntry, Manifest
from indexer.object_cache import ObjectCache
from indexer.signature import open_public_key
from indexer.store import hash_file, open_store, sync_folder
from indexer.strict_json import write_document

FORMAT = 1
SUMMARY = "export.json"
"""Written last: a folder without it is not a finished export."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What of a release is exported, and how."""

    format: str
    """One of FORMATS."""
    collections: tuple[str, ...] = ()
    """By name; none means all."""
    encoder: bool = False
    """Whether the encoder goes along."""
    namespace: str = "shop"
    """Of the document ids for Vespa."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ConfigError(f"format {self.format!r}: expected one of {', '.join(FORMATS)}")
        if not NAMESPACE.fullmatch(self.namespace):
            raise ConfigError(f"namespace {self.namespace!r}: expected letters, digits, '_', '.' and '-', at most 100")


FORMATS: Mapping[str, Callable[[ShardRows, Path, ExportOptions], None]] = {
    "parquet": lambda shard, folder, _: write_parquet(shard, folder),
    "npy": lambda shard, folder, _: write_npy(shard, folder),
    "vespa": lambda shard, folder, options: write_vespa(shard, folder, options.namespace),
    "opensearch": lambda shard, folder, _: write_opensearch(shard, folder),
    "hnswlib": lambda shard, folder, _: write_hnswlib(shard, folder),
}
"""Name -> what writes a shard into its collection's folder; shards come in order."""


@dataclass(frozen=True, kw_only=True)
class ExportedCollection:
    """One collection of an export."""

    name: str
    rows: int
    shards: int
    dimension: int
    metric: str
    storage: str
    vectors: str
    """`as embedded`, or `reconstructed` from quantised storage: close to those that were embedded, not equal."""
    m: int
    ef_search: int
    """What the release's own reader searches with."""


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """One file of an export, by its path in the folder."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ExportSummary:
    """The content of export.json."""

    run_id: str
    run_date: str
    sequence: int
    encoder: str
    """Fingerprint of the encoder that queries must be embedded by: the SHA-256 of its encoder.json."""
    kind: str
    """The format of the files."""
    collections: tuple[ExportedCollection, ...]
    files: tuple[ExportedFile, ...]
    format: int = FORMAT

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.bytes for file in self.files)


def export_release(
    url: str,
    target: Path,
    options: ExportOptions,
    *,
    progress: bool,
    cache: Path | None = None,
    public_key: str | Path | None = None,
) -> ExportSummary:
    """Write collections of the live release, and return what export.json says.

    Rows that are dead, or that deltas replaced, are left out. Each object is verified by size and SHA-256 before it is
    parsed; memory holds one shard. With `public_key`, a PEM file, only what one of its keys signed counts.
    The target must be a new or empty folder, and gets its name when all is written.
    Raises ConfigError for a folder with content or an unknown collection, StoreError where nothing is published or
    storage fails, IntegrityError where bytes are not as promised, ContractError for an id that the format cannot hold.
    """
    draft = target.absolute().parent / f".{target.absolute().name}.new-{uuid.uuid4().hex}"
    try:
        _check_target(target)
        store, key = open_store(url), open_public_key(public_key)
        entry = require_live(store, check=trust(key, store.url))
        manifest = read_manifest(store, entry)
        objects = ObjectCache(store, cache, copied=key is not None)
        objects.prune(manifest.downloads)
        summary = _write_release(manifest, entry.sequence, draft, options, objects, progress=progress)
        _finish(draft, target, summary)
        return summary
    except OSError as error:
        raise StoreError(f"{target}: {error.strerror or error}; check the folder, its rights and the disk") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _check_target(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target}: expected a new or empty folder, found one with content; name another")


def _choose_collections(manifest: Manifest, options: ExportOptions) -> list[CollectionEntry]:
    known = {collection.name: collection for collection in manifest.collections}
    for name in options.collections:
        if name not in known:
            raise ConfigError(f"collection {name!r}: expected one of {', '.join(known)}")
    return [collection for name, collection in known.items() if name in (options.collections or known)]


def _write_release(
    manifest: Manifest, sequence: int, folder: Path, options: ExportOptions, cache: ObjectCache, *, progress: bool
) -> ExportSummary:
    collections = _choose_collections(manifest, options)
    folder.mkdir(parents=True)
    for collection in collections:
        _write_collection(collection, folder / collection.name, options, cache, progress=progress)
    if options.encoder:
        _copy_encoder(manifest, folder / "encoder", cache)
    return ExportSummary(
        run_id=manifest.run_id,
        run_date=manifest.run_date,
        sequence=sequence,
        encoder=manifest.encoder.fingerprint,
        kind=options.format,
        collections=tuple(_describe_collection(entry) for entry in collections),
        files=tuple(_describe_files(folder)),
    )


def _write_collection(
    collection: CollectionEntry, folder: Path, options: ExportOptions, cache: ObjectCache, *, progress: bool
) -> None:
    folder.mkdir()
    write = FORMATS[options.format]
    with tqdm(total=collection.rows, desc=f"exporting {collection.name}", unit=" rows", disable=not progress) as bar:
        for shard in collection.shards:
            # The rows have no name here, so that a shard is freed before the next one is loaded.
            write(load_rows(collection, shard, cache, bar.update), folder, options)


def _copy_encoder(manifest: Manifest, folder: Path, cache: ObjectCache) -> None:
    folder.mkdir()
    for name, item in manifest.encoder.files.items():
        shutil.copyfile(cache.fetch(item), folder / name)


def _describe_collection(entry: CollectionEntry) -> ExportedCollection:
    return ExportedCollection(
        name=entry.name,
        rows=entry.rows,
        shards=len(entry.shards),
        dimension=entry.dimension,
        metric=entry.metric,
        storage=entry.storage,
        vectors="as embedded" if entry.storage == "flat" else "reconstructed",
        m=entry.m,
        ef_search=entry.ef_search,
    )


def _describe_files(folder: Path) -> Iterator[ExportedFile]:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        _sync_file(path)
        yield ExportedFile(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=hash_file(path))


def _finish(draft: Path, target: Path, summary: ExportSummary) -> None:
    """Write export.json, wait until all is on the disk, and give the folder its name."""
    (draft / SUMMARY).write_bytes(write_document(asdict(summary)))
    _sync_file(draft / SUMMARY)
    for folder in (*(path for path in draft.iterdir() if path.is_dir()), draft):
        sync_folder(folder)
    # An empty folder is replaced; one that was filled meanwhile is an error.
    draft.rename(target)
    sync_folder(target.absolute().parent)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
