"""Make the shards of a collection: keep what the live release has, build what changed, measure both.

A base shard holds the ids of its hash. What changed in one night goes into a delta beside them, and what these rows
were is dead. A base shard with too many of either is built anew and takes its rows out of the deltas.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tqdm import tqdm

from indexer.build.catalogue import SCHEMA, Row, read_rows, shard_of
from indexer.build.changes import Changes, compare_rows, find_old_texts
from indexer.build.duplicates import UniqueRows, resolve_duplicates
from indexer.build.live import LiveCollection, OldRow, read_old_rows
from indexer.build.plan import CollectionPlan
from indexer.build.publish import SealedShard, shard_name
from indexer.build.recall import Probe, measure_recall, merge_probes, probe_shard
from indexer.build.shard import FindVectors, ShardBuilder, carries_texts, read_probe
from indexer.build.summary import FinishedCollection, Tally
from indexer.build.verify import check_vectors
from indexer.manifest import DeadRows, ShardEntry


def finish_collection(
    builder: ShardBuilder,
    plan: CollectionPlan,
    files: Sequence[Path],
    live: LiveCollection | None,
    *,
    keep: bool,
    night: int,
) -> FinishedCollection:
    """Return the collection of the rows in the files, one per base shard.

    `keep` lets shards of the live release stay; otherwise its vectors alone are used. `night` is a number that rises
    by one a night: other kept shards are measured each.
    """
    options = builder.config.index
    texts = carries_texts(plan.spool.collection, options)
    keeps = keep and live is not None and live.is_aligned(len(files)) and live.keeps_shards(options, texts=texts)
    return CollectionBuilder(
        builder=builder, plan=plan, files=files, live=live, keeps=keeps, shift=night * options.kept_probes
    ).finish()


@dataclass
class CollectionBuilder:
    """One collection on its way."""

    builder: ShardBuilder
    plan: CollectionPlan
    files: Sequence[Path]
    live: LiveCollection | None
    keeps: bool
    """Whether live shards may stay."""
    shift: int
    """Which kept base shards are measured first; another number each night."""
    tally: Tally = field(default_factory=Tally)
    probes: list[Probe] = field(default_factory=list)
    dead: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Number of a live delta -> its rows that died tonight."""

    def finish(self) -> FinishedCollection:
        """Return the collection with all its shards."""
        folder, name = self.builder.folder, self.plan.spool.collection
        delta = DeltaSpool(folder / f"{name}-delta.arrow")
        old_files = self.live.split_rows(folder, len(self.files)) if self.live else [None] * len(self.files)
        pairs = tqdm(
            list(zip(self.files, old_files, strict=True)),
            desc=f"shards of {name}",
            unit=" shards",
            disable=not self.builder.progress,
        )
        shards = [self._finish_base(number, file, old, delta) for number, (file, old) in enumerate(pairs)]
        delta.close()
        if self.keeps:
            shards += self._keep_deltas()
            shards += self._build_deltas(len(shards), delta)
        return FinishedCollection(
            plan=self.plan,
            shards=[replace(shard, number=number) for number, shard in enumerate(shards)],
            tally=self.tally,
            shard_recall=[measure_recall(probe) for probe in self.probes],
            recall=measure_recall(merge_probes(self.probes)),
        )

    @property
    def _folds(self) -> bool:
        """Whether there are so many deltas that tonight's takes in their rows."""
        most = self.builder.config.index.max_deltas
        return self.keeps and self.live is not None and len(self.live.entry.deltas) >= most

    def _finish_base(self, number: int, file: Path, old_file: Path | None, delta: "DeltaSpool") -> ShardEntry:
        unique = resolve_duplicates(read_rows(file))
        file.unlink()
        live = self.live
        if live is None or old_file is None:
            return self._build(number, unique)
        own = live.read_rows(number) if live.is_aligned(len(self.files)) else ()
        old = dict(chain(own, read_old_rows(old_file)))
        old_file.unlink()
        changes = compare_rows(unique.rows, old, base=len(self.files), fold=self._folds)
        if not self.keeps or self._is_stale(number, changes, unique):
            self._bury(row for row in old.values() if row.shard != number)
            return self._build(number, unique, find_old_texts(unique.rows, old))
        self.tally.add(unique)
        delta.add(changes, live)
        gone = [row for row in changes.gone if row.shard == number]
        self._bury(row for row in changes.gone if row.shard != number)
        return self._keep(number, [row.row for row in gone])

    def _is_stale(self, number: int, changes: Changes, unique: UniqueRows) -> bool:
        """Whether a base shard is to be built anew."""
        assert self.live
        options, shard = self.builder.config.index, self.live.entry.shards[number]
        changed = len(changes.fresh) + len(changes.gone)
        if changed and not options.max_deltas:
            return True
        died = sum(row.shard == number for row in changes.gone) + shard.rows - shard.live_rows
        stale = died + len(changes.fresh) + changes.in_deltas
        # A shard without a live row could not be listed.
        return stale > options.max_stale_share * max(1, len(unique.rows)) or died == shard.rows

    def _bury(self, rows: Iterable[OldRow]) -> None:
        for row in rows:
            self.dead[row.shard].append(row.row)

    def _build(self, number: int, unique: UniqueRows, places: Sequence[OldRow | None] = ()) -> ShardEntry:
        known = partial(self.live.find_vectors, places) if self.live and any(places) else None
        finished = self.builder.finish_shard(self.plan.spool.collection, number, unique, known=known)
        assert finished
        return self._take(*finished)

    def _take(self, sealed: SealedShard, built: bool) -> ShardEntry:
        self.tally.take(sealed, built=built)
        self.probes.append(read_probe(self.builder.run.store, sealed, self.builder.folder))
        return sealed.shard

    def _keep(self, number: int, died: Sequence[int]) -> ShardEntry:
        """Return a live shard's entry with more dead rows, and measure it if it is its turn."""
        assert self.live
        shard, before = self.live.entry.shards[number], self.live.read_dead(number)
        dead = np.union1d(before, np.array(died, dtype=np.uint32)).astype(np.uint32)
        if shard.delta or (number - self.shift) % len(self.files) < self.builder.config.index.kept_probes:
            self._probe(number, dead)
        self.tally.kept += 1
        if not died:
            return shard
        path = self.builder.folder / f"{shard_name(shard.collection, number)}.dead"
        dead.astype("<u4").tofile(path)
        stored = self.builder.run.upload(path, path.name)
        path.unlink()
        return replace(shard, dead=DeadRows(count=len(dead), rows=stored))

    def _probe(self, number: int, dead: npt.NDArray[np.uint32]) -> None:
        assert self.live
        config, name = self.builder.config, shard_name(self.plan.spool.collection, number)
        index = self.live.open_index(number)
        vectors = index.reconstruct_n(0, index.ntotal)
        if self.live.gives_vectors:
            numbers = [str(row) for row in range(len(vectors))]
            error = check_vectors(vectors, numbers, max_norm_error=config.gates.max_norm_error, place=f"shard {name}")
            self.tally.norm_error = max(self.tally.norm_error, error)
        queries = self.builder.probes[self.plan.spool.collection]
        self.probes.append(probe_shard(index, vectors, queries, config.index.ef_search, dead))

    def _keep_deltas(self) -> list[ShardEntry]:
        """Return the live deltas that still have a row; where tonight's takes them in, there are none."""
        assert self.live
        first = len(self.files)
        kept = []
        for number in range(first, len(self.live.entry.shards)):
            shard = self.live.entry.shards[number]
            if not self._folds and shard.live_rows > len(self.dead[number]):
                kept.append(self._keep(number, self.dead[number]))
        return kept

    def _build_deltas(self, first: int, delta: "DeltaSpool") -> list[ShardEntry]:
        """Build tonight's delta, in parts where it is larger than a shard may be."""
        options = self.builder.config.index
        parts = -(-delta.rows // options.max_shard_rows)
        shards: list[ShardEntry] = []
        for part in range(parts):
            rows, known = delta.read(part, parts, self.builder.encoder.dimension)
            unique = UniqueRows(rows=rows)
            finished = self.builder.finish_shard(
                self.plan.spool.collection, first + len(shards), unique, known=known, delta=True
            )
            if finished:
                shards.append(self._take(*finished))
            else:
                self.tally.add(unique)
        return shards


class DeltaSpool:
    """Tonight's changed rows on disk, with the vectors that are known of them."""

    schema = SCHEMA.append(pa.field("vector", pa.binary()))

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, 0
        self._sink = pa.ipc.new_stream(str(path), self.schema)

    def add(self, changes: Changes, live: LiveCollection) -> None:
        """Write the fresh rows of a base shard's ids."""
        if not changes.fresh:
            return
        vectors, known = live.find_vectors(changes.found)
        found = [vector.tobytes() if is_known else None for vector, is_known in zip(vectors, known, strict=True)]
        columns = [pa.array(values, pa.string()) for values in zip(*changes.fresh, strict=True)]
        self._sink.write_batch(pa.RecordBatch.from_arrays([*columns, pa.array(found, pa.binary())], schema=self.schema))
        self.rows += len(changes.fresh)

    def close(self) -> None:
        """End the file."""
        self._sink.close()

    def read(self, part: int, parts: int, dimension: int) -> tuple[list[Row], FindVectors]:
        """Return the rows of one part in id order, and what gives their vectors and which of these are known."""
        chosen = ((row, vector) for row, vector in self._read_all() if shard_of(row.id, parts) == part)
        found = sorted(chosen, key=lambda pair: pair[0].id)
        vectors = np.zeros((len(found), dimension), dtype=np.float32)
        known = np.array([vector is not None for _, vector in found], dtype=np.bool_)
        for place, (_, vector) in enumerate(found):
            if vector is not None:
                vectors[place] = np.frombuffer(vector, dtype=np.float32)
        return [row for row, _ in found], lambda: (vectors, known)

    def _read_all(self) -> Iterator[tuple[Row, bytes | None]]:
        with pa.ipc.open_stream(str(self.path)) as stream:
            for batch in stream:
                *columns, vectors = (batch.column(name).to_pylist() for name in batch.schema.names)
                yield from zip(map(Row._make, zip(*columns, strict=True)), vectors, strict=True)
