"""Build one shard: unique rows in id order, their vectors, the index, and the files a consumer reads.

Peak memory of a shard of n rows and d dimensions is at most n (12 d + 8 M + 300) bytes for vectors, index and links
(see `hnsw.estimate_bytes`) and about n (470 + 2 t) bytes for ids and texts of t characters; nothing else grows
with the catalogue.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from indexer.build.digests import write_digests
from indexer.build.duplicates import UniqueRows
from indexer.build.embed import EmbeddedRows, Mask, Vectors, embed_rows
from indexer.build.probe_file import read_probe, write_probe
from indexer.build.publish import RunFolder, SealedShard, shard_name, shard_seal
from indexer.build.recall import Probe, ProbeQueries, find_targets, measure_recall, name_row, probe_shard
from indexer.build.verify import check_shard_files, check_vectors
from indexer.config import Config, as_document
from indexer.encoder import Encoder
from indexer.errors import ConfigError, ContractError, IndexerError, IntegrityError
from indexer.hnsw import build_index, is_coded, write_index
from indexer.index_config import IndexConfig
from indexer.manifest import ObjectEntry, ShardEntry
from indexer.runs import fingerprint
from indexer.shard_file import write_lines
from indexer.store import Store, hash_file

UNREAD_OPTIONS = ("threads", "max_deltas", "max_stale_share", "kept_probes", "memory_limit_gib")
"""Index options that do not change a byte of a shard."""

FindVectors = Callable[[], tuple[Vectors, Mask]]


@dataclass(frozen=True, kw_only=True)
class ShardBuilder:
    """What all shards of a run have in common."""

    config: Config
    encoder: Encoder
    run: RunFolder
    queries: Mapping[str, ProbeQueries]
    """Collection -> what its shards are searched with."""
    folder: Path
    """Scratch folder of this process."""
    progress: bool = True

    def finish_shard(
        self, collection: str, number: int, unique: UniqueRows, *, known: FindVectors | None = None, delta: bool = False
    ) -> tuple[SealedShard, bool]:
        """Return the sealed shard and whether it was built now, or by an earlier attempt.

        `known` gives the vectors of rows that were embedded before, and which these are.
        """
        identity = fingerprint_shard(
            unique, self.encoder.fingerprint, self.config, self.queries[collection].texts, delta=delta
        )
        sealed = self.run.find_sealed(shard_seal(collection, number, identity))
        if sealed:
            return sealed, False
        return self._build(collection, number, unique, identity, known=known, delta=delta), True

    def _build(
        self,
        collection: str,
        number: int,
        unique: UniqueRows,
        identity: str,
        *,
        known: FindVectors | None,
        delta: bool,
    ) -> SealedShard:
        name = shard_name(collection, number)
        embedded = embed_rows(
            self.encoder,
            collection,
            unique.rows,
            label=name,
            progress=self.progress,
            known=known() if known else None,
        )
        if embedded.empty:
            unique.reject("text_empty", embedded.empty)
        if not embedded.rows:
            raise _refuse_empty(name, unique)
        ids = [row.id for row in embedded.rows]
        error = check_vectors(
            embedded.vectors, ids, max_norm_error=self.config.gates.max_norm_error, place=f"shard {name}"
        )
        files = self._write_files(collection, name, embedded)
        probe = self._probe(collection, files, embedded)
        if not self._suffices(probe) and is_coded(embedded.vectors, self.config.index):
            write_index(build_index(embedded.vectors, replace(self.config.index, graph_dimensions=0)), files["index"])
            probe = self._probe(collection, files, embedded)
        sealed = SealedShard(
            shard=self._upload(collection, number, name, files, len(ids), identity, delta),
            probe=self._upload_probe(name, probe),
            duplicates=unique.duplicates,
            rejected=dict(unique.rejected),
            examples=unique.examples,
            truncated=embedded.truncated,
            cut_fields=embedded.cut_fields,
            embedded=embedded.embedded,
            norm_error=error,
        )
        for file in files.values():
            file.unlink()
        return self.run.seal(shard_seal(collection, number, identity), sealed)

    def _probe(self, collection: str, files: dict[str, Path], embedded: EmbeddedRows) -> Probe:
        ids, texts = [row.id for row in embedded.rows], [row.display for row in embedded.rows]
        index = check_shard_files(files, ids, texts, embedded.vectors, self.config.index)
        return probe_shard(
            index,
            embedded.vectors,
            self.queries[collection],
            self.config.index.ef_search,
            name=partial(name_row, ids, texts if "texts" in files else None),
        )

    def _suffices(self, probe: Probe) -> bool:
        """Whether a shard reaches the target recalls at the set efSearch, or at any that may be chosen."""
        found = measure_recall(probe, self.config.index.ef_search or max(probe.rungs))
        targets = find_targets(self.config)
        return found.at_10 >= targets.at_10 and found.at_100 >= targets.at_100

    def _write_files(self, collection: str, name: str, embedded: EmbeddedRows) -> dict[str, Path]:
        files = {kind: self.folder / f"{name}.{ending}" for kind, ending in (("index", "faiss"), ("ids", "ids"))}
        write_index(build_index(embedded.vectors, self.config.index), files["index"])
        write_lines(files["ids"], (row.id for row in embedded.rows))
        files["digests"] = self.folder / f"{name}.digests"
        write_digests(files["digests"], embedded.rows)
        if carries_texts(collection, self.config.index):
            files["texts"] = self.folder / f"{name}.texts"
            write_lines(files["texts"], (row.display for row in embedded.rows))
        return files

    def _upload(
        self, collection: str, number: int, name: str, files: dict[str, Path], rows: int, identity: str, delta: bool
    ) -> ShardEntry:
        stored = {kind: self.run.upload(path, f"{name}{path.suffix}") for kind, path in files.items()}
        return ShardEntry(
            collection=collection,
            number=number,
            rows=rows,
            fingerprint=identity,
            index=stored["index"],
            ids=stored["ids"],
            texts=stored.get("texts"),
            digests=stored["digests"],
            delta=delta,
        )

    def _upload_probe(self, name: str, probe: Probe) -> ObjectEntry:
        path = self.folder / f"{name}.probe.npz"
        write_probe(path, probe)
        stored = self.run.upload(path, path.name)
        path.unlink()
        return stored


def carries_texts(collection: str, options: IndexConfig) -> bool:
    """Whether a collection's shards have texts beside their ids."""
    return options.texts or collection == "queries"


def fingerprint_shard(
    unique: UniqueRows, encoder_fingerprint: str, config: Config, asked: Sequence[str], *, delta: bool = False
) -> str:
    """Return the SHA-256 of everything that decides a shard's bytes, and of the queries it is measured by."""
    digest = hashlib.sha256()
    for row in unique.rows:
        for value in row[:3]:
            data = value.encode()
            digest.update(len(data).to_bytes(8, "big") + data)
    options, targets = read_options(config.index), list(find_targets(config))
    return fingerprint(digest.hexdigest(), encoder_fingerprint, options, targets, list(asked), delta)


def read_options(options: IndexConfig) -> dict[str, Any]:
    """Return the index options that decide a shard's bytes."""
    return {name: value for name, value in as_document(options).items() if name not in UNREAD_OPTIONS}


def fetch_probe(store: Store, sealed: SealedShard, folder: Path) -> Probe:
    """Fetch a sealed shard's probe; raises IntegrityError where it is not the one sealed."""
    path = folder / f"{shard_name(sealed.shard.collection, sealed.shard.number)}.probe.npz"
    store.get_file(sealed.probe.key, path)
    try:
        if hash_file(path) != sealed.probe.sha256:
            raise IntegrityError(f"{store.url}/{sealed.probe.key}: the object was changed; build with --reuse none")
        return read_probe(path)
    finally:
        path.unlink(missing_ok=True)


def _refuse_empty(name: str, unique: UniqueRows) -> IndexerError:
    """Return the error for a shard of which no row is left."""
    if not unique.rejected:
        return ConfigError(f"index.shards: no rows are left for shard {name}; choose fewer shards")
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(unique.rejected.items()))
    return ContractError(
        f"shard {name}: all of its rows were rejected ({reasons}); correct the table, or choose fewer shards where few "
        "rows are bad (index.shards)"
    )
