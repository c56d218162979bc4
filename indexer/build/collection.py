"""Make the shards of a collection: keep what the live release has, build what changed, measure both.

A base shard holds the ids of its hash. What changed in one night goes into a delta beside them, and what these rows
were is dead. A base shard with too many of either is built anew and takes its rows out of the deltas.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from indexer.build.digests import digest
from indexer.build.duplicates import UniqueRows, resolve_duplicates
from indexer.build.embed import KINDS, Mask, Vectors
from indexer.build.finished import FinishedCollection, Tally
from indexer.build.live import LiveCollection, OldRow, read_old_rows
from indexer.build.plan import CollectionPlan
from indexer.build.publish import SealedShard, shard_name
from indexer.build.recall import Probe, Recall, choose_ef_search, measure_recall, merge_probes, name_row, probe_shard
from indexer.build.shard import FindVectors, ShardBuilder, carries_texts, fetch_probe
from indexer.build.verify import check_vectors
from indexer.manifest import DeadRows, ShardEntry
from indexer.shard_file import read_lines

EMBEDDED_AGAIN = 16
"""Rows of a kept shard whose texts are embedded once more, to compare with what it holds."""


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
    curves: dict[str, dict[int, Recall]] = field(default_factory=dict)
    """Key of a measured shard's index -> its recall at each efSearch."""
    merged: Probe | None = None
    """What the probe queries found in all shards that were measured so far."""
    dead: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Number of a live delta -> its rows that died tonight."""

    def finish(self) -> FinishedCollection:
        """Return the collection with all its shards."""
        folder, name = self.builder.folder, self.plan.spool.collection
        fresh, held = (DeltaSpool(folder / f"{name}-{part}.arrow") for part in ("fresh", "held"))
        old_files = self.live.split_rows(folder, len(self.files)) if self.live else [None] * len(self.files)
        pairs = tqdm(
            list(zip(self.files, old_files, strict=True)),
            desc=f"shards of {name}",
            unit=" shards",
            disable=not self.builder.progress,
        )
        shards = [self._finish_base(number, file, old, fresh, held) for number, (file, old) in enumerate(pairs)]
        fresh.close()
        held.close()
        if self.keeps:
            shards += self._finish_deltas(fresh, held)
        assert self.merged
        curve = {rung: measure_recall(self.merged, rung) for rung in self.merged.rungs}
        return FinishedCollection(
            plan=self.plan,
            shards=[replace(shard, number=number) for number, shard in enumerate(shards)],
            tally=self.tally,
            queries=self.builder.queries[name],
            probe=self.merged,
            curve=curve,
            shard_curves={
                number: self.curves[shard.index.key]
                for number, shard in enumerate(shards)
                if shard.index.key in self.curves
            },
            ef_search=self._choose_ef_search(curve, len(shards)),
        )

    def _choose_ef_search(self, curve: dict[int, Recall], shards: int) -> int:
        """Return the set efSearch, or the smallest that reaches the targets.

        Where a shard was not measured tonight it is no smaller than what was live: an earlier night saw that shard.
        """
        options, gates = self.builder.config.index, self.builder.config.gates
        if options.ef_search:
            return options.ef_search
        targets = Recall(
            max(options.target_recall_10, gates.min_recall_10), max(options.target_recall_100, gates.min_recall_100)
        )
        chosen = choose_ef_search([curve, *self.curves.values()], targets)
        return max(chosen, self.live.entry.ef_search) if self.live and len(self.curves) < shards else chosen

    def _measure(self, key: str, probe: Probe) -> None:
        self.curves[key] = {rung: measure_recall(probe, rung) for rung in probe.rungs}
        self.merged = merge_probes([self.merged, probe] if self.merged else [probe])

    def _finish_base(
        self, number: int, file: Path, old_file: Path | None, fresh: "DeltaSpool", held: "DeltaSpool"
    ) -> ShardEntry:
        unique = resolve_duplicates(read_rows(file))
        file.unlink()
        live = self.live
        if live is None or old_file is None:
            return self._build(number, unique, [])
        own = live.read_rows(number) if live.is_aligned(len(self.files)) else ()
        old = dict(chain(own, read_old_rows(old_file)))
        old_file.unlink()
        if not self.keeps:
            places = find_old_texts(unique.rows, old)
            del old
            return self._build(number, unique, places)
        changes = compare_rows(unique.rows, old, base=len(self.files))
        self._leave_out_empty(changes, unique)
        if self._is_stale(number, changes, unique):
            self._bury(row for row in old.values() if row.shard != number)
            places = find_old_texts(unique.rows, old)
            del old, changes
            return self._build(number, unique, places)
        self.tally.add(unique)
        fresh.add(changes.fresh, *live.find_vectors(changes.found, number))
        if len(live.entry.deltas) >= self.builder.config.index.max_deltas:
            places = [place for _, place in changes.held]
            held.add([row for row, _ in changes.held], *live.find_vectors(places, number))
        self._bury(row for row in changes.gone if row.shard != number)
        return self._keep(
            number, [row.row for row in changes.gone if row.shard == number], _take_same(number, unique, old)
        )

    def _leave_out_empty(self, changes: Changes, unique: UniqueRows) -> None:
        """Reject fresh rows without a known word: they were no part of the live release, and will be none."""
        texts = [row.text for row in changes.fresh]
        empty = self.builder.encoder.find_empty(texts, kind=KINDS[self.plan.spool.collection])
        if not empty.any():
            return
        rejected = [row for row, is_empty in zip(changes.fresh, empty, strict=True) if is_empty]
        kept = np.flatnonzero(~empty).tolist()
        changes.fresh[:], changes.found[:] = [changes.fresh[at] for at in kept], [changes.found[at] for at in kept]
        unique.reject("text_empty", rejected)
        names = {row.id for row in rejected}
        unique.rows = [row for row in unique.rows if row.id not in names]

    def _is_stale(self, number: int, changes: Changes, unique: UniqueRows) -> bool:
        """Whether a base shard is to be built anew."""
        assert self.live
        options, shard = self.builder.config.index, self.live.entry.shards[number]
        if (changes.fresh or changes.gone) and not options.max_deltas:
            return True
        died = sum(row.shard == number for row in changes.gone) + shard.rows - shard.live_rows
        stale = died + len(changes.fresh) + len(changes.held)
        return stale > options.max_stale_share * len(unique.rows)

    def _bury(self, rows: Iterable[OldRow]) -> None:
        for row in rows:
            self.dead[row.shard].append(row.row)

    def _build(self, number: int, unique: UniqueRows, places: Sequence[OldRow | None]) -> ShardEntry:
        known = partial(self.live.find_vectors, places, number) if self.live and any(places) else None
        return self._take(*self.builder.finish_shard(self.plan.spool.collection, number, unique, known=known))

    def _take(self, sealed: SealedShard, built: bool) -> ShardEntry:
        self.tally.take(sealed, built=built)
        self._measure(sealed.shard.index.key, fetch_probe(self.builder.run.store, sealed, self.builder.folder))
        return sealed.shard

    def _keep(self, number: int, died: Sequence[int], same: Sequence[tuple[Row, OldRow]] = ()) -> ShardEntry:
        """Return a live shard's entry with more dead rows, and measure it if it is its turn.

        `same` are some rows whose text is what it was. Golden queries are asked of every shard.
        """
        assert self.live
        shard, before = self.live.entry.shards[number], self.live.read_dead(number)
        dead = np.union1d(before, np.array(died, dtype=np.uint32)).astype(np.uint32)
        queries, turn = self.builder.queries[shard.collection], (number - self.shift) % len(self.files)
        if shard.delta or queries.golden or turn < self.builder.config.index.kept_probes:
            self._probe(number, dead, same)
        if not died:
            return shard
        path = self.builder.folder / f"{shard_name(shard.collection, number)}.dead"
        dead.astype("<u4").tofile(path)
        stored = self.builder.run.upload(path, path.name)
        path.unlink()
        return replace(shard, dead=DeadRows(count=len(dead), rows=stored))

    def _probe(self, number: int, dead: npt.NDArray[np.uint32], same: Sequence[tuple[Row, OldRow]]) -> None:
        """Read a kept shard as a consumer does, and measure it."""
        assert self.live
        config, shard, cache = self.builder.config, self.live.entry.shards[number], self.live.cache
        ids = read_lines(cache.fetch(shard.ids), shard.rows)
        texts = read_lines(cache.fetch(shard.texts), shard.rows) if shard.texts else None
        index = self.live.open_index(number)
        vectors = index.reconstruct_n(0, index.ntotal)
        if self.live.gives_vectors:
            place = f"shard {shard.index.key}"
            error = check_vectors(vectors, ids, max_norm_error=config.gates.max_norm_error, place=place)
            self.tally.norm_error = max(self.tally.norm_error, error)
        if same:
            again = self.builder.encoder.encode([row.text for row, _ in same], kind=KINDS[shard.collection]).vectors
            stored = vectors[[old.row for _, old in same]]
            stored = stored / np.linalg.norm(stored, axis=1, keepdims=True)
            self.tally.kept_cosines.extend(np.einsum("nd,nd->n", again, stored).tolist())

        queries = self.builder.queries[shard.collection]
        self._measure(
            shard.index.key,
            probe_shard(index, vectors, queries, config.index.ef_search, dead, name=partial(name_row, ids, texts)),
        )

    def _finish_deltas(self, fresh: "DeltaSpool", held: "DeltaSpool") -> list[ShardEntry]:
        """Return the live deltas that still have a row, and tonight's; where there would be too many, it takes all."""
        assert self.live
        first, options = len(self.files), self.builder.config.index
        numbers = range(first, len(self.live.entry.shards))
        kept = [n for n in numbers if self.live.entry.shards[n].live_rows > len(self.dead[n])]
        parts, whole = (-(-rows // options.max_shard_rows) for rows in (fresh.rows, fresh.rows + held.rows))
        if parts and len(numbers) >= options.max_deltas and whole < len(kept) + parts:
            return self._build_deltas(first, whole, [fresh, held])
        shards = [self._keep(number, self.dead[number]) for number in kept]
        return shards + self._build_deltas(first + len(shards), parts, [fresh])

    def _build_deltas(self, first: int, parts: int, spools: Sequence["DeltaSpool"]) -> list[ShardEntry]:
        """Build a delta of the spooled rows, in parts where it would be larger than a shard may be."""
        shards = []
        for part in range(parts):
            rows, known = read_spools(spools, part, parts, self.builder.encoder.dimension)
            finished = self.builder.finish_shard(
                self.plan.spool.collection, first + part, UniqueRows(rows=rows), known=known, delta=True
            )
            shards.append(self._take(*finished))
        return shards


def _take_same(number: int, unique: UniqueRows, old: Mapping[str, OldRow]) -> list[tuple[Row, OldRow]]:
    """Return some rows, spread over the shard of the number, that lie in it with the same text."""
    places = np.unique(np.linspace(0, len(unique.rows) - 1, EMBEDDED_AGAIN).astype(int)).tolist() if unique.rows else []
    pairs = [(row, old[row.id]) for row in map(unique.rows.__getitem__, places) if row.id in old]
    return [(row, found) for row, found in pairs if found.shard == number and found.text == digest(row.text)]


class DeltaSpool:
    """Rows for a delta on disk, with the vectors that are known of them."""

    schema = SCHEMA.append(pa.field("vector", pa.binary()))

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, 0
        self._sink = pa.ipc.new_stream(str(path), self.schema)

    def add(self, rows: Sequence[Row], vectors: Vectors, known: Mask) -> None:
        """Write rows, their vectors (rows, dimension), and which of these are known."""
        if not rows:
            return
        found = [vector.tobytes() if is_known else None for vector, is_known in zip(vectors, known, strict=True)]
        columns = [pa.array(values, pa.string()) for values in zip(*rows, strict=True)]
        self._sink.write_batch(pa.RecordBatch.from_arrays([*columns, pa.array(found, pa.binary())], schema=self.schema))
        self.rows += len(rows)

    def close(self) -> None:
        """End the file."""
        self._sink.close()

    def read(self) -> Iterator[tuple[Row, bytes | None]]:
        """Yield the rows with their vectors."""
        with pa.ipc.open_stream(str(self.path)) as stream:
            for batch in stream:
                *columns, vectors = (batch.column(name).to_pylist() for name in batch.schema.names)
                yield from zip(map(Row._make, zip(*columns, strict=True)), vectors, strict=True)


def read_spools(spools: Sequence[DeltaSpool], part: int, parts: int, dimension: int) -> tuple[list[Row], FindVectors]:
    """Return the rows of one part of the spools in id order, and what gives their vectors and which are known."""
    every = chain.from_iterable(spool.read() for spool in spools)
    chosen = ((row, vector) for row, vector in every if shard_of(row.id, parts) == part)
    found = sorted(chosen, key=lambda pair: pair[0].id)
    vectors = np.zeros((len(found), dimension), dtype=np.float32)
    known = np.array([vector is not None for _, vector in found], dtype=np.bool_)
    for place, (_, vector) in enumerate(found):
        if vector is not None:
            vectors[place] = np.frombuffer(vector, dtype=np.float32)
    return [row for row, _ in found], lambda: (vectors, known)
