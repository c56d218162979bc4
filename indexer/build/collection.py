"""Make the shards of a collection: keep what the live release has, build what changed, measure both.

A base shard holds the ids of its hash. What changed in one night goes into a delta beside them, and what these rows
were is dead. A base shard with too many of either is built anew and takes its rows out of the deltas.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa

from indexer.build.base_shard import BaseBuilder, DeltaRows, FinishedBase
from indexer.build.catalogue import SCHEMA, Row, deal_batch, parts_of
from indexer.build.duplicates import UniqueRows
from indexer.build.finished import FinishedCollection, Tally
from indexer.build.live import LiveCollection
from indexer.build.plan import CollectionPlan
from indexer.build.publish import SealedShard
from indexer.build.recall import Probe, Recall, choose_ef_search, find_targets, measure_recall, merge_probes
from indexer.build.shard import FindVectors, ShardBuilder, carries_texts, fetch_probe
from indexer.build.site import Site
from indexer.errors import IntegrityError
from indexer.index_config import IndexConfig
from indexer.manifest import EncoderEntry, ShardEntry


def finish_collection(
    builder: ShardBuilder,
    plan: CollectionPlan,
    site: Site,
    encoder: EncoderEntry,
    live: LiveCollection | None,
    *,
    keep: bool,
    turn: int,
) -> FinishedCollection:
    """Return the collection of the rows that the site has of it, dealt to the shards.

    `keep` lets shards of the live release stay; otherwise its vectors alone are used. `turn` is a number that rises
    with each release: other kept shards are measured each. `encoder` is where the encoder lies in the store.
    """
    options, name = builder.config.index, plan.intake.collection
    bases = BaseBuilder(
        builder=builder,
        collection=name,
        shards=plan.shards,
        live=live,
        keeps=keep and keeps_shards(live, plan, options),
        shift=turn * options.kept_probes,
    )
    return CollectionBuilder(bases=bases, plan=plan).finish(site.finish_bases(bases, encoder))


def keeps_shards(live: LiveCollection | None, plan: CollectionPlan, options: IndexConfig) -> bool:
    """Whether shards of the live release may stay."""
    if live is None or not live.is_aligned(plan.shards):
        return False
    return live.keeps_shards(options, texts=carries_texts(plan.intake.collection, options))


@dataclass
class CollectionBuilder:
    """One collection on its way."""

    bases: BaseBuilder
    plan: CollectionPlan
    tally: Tally = field(default_factory=Tally)
    curves: dict[str, dict[int, Recall]] = field(default_factory=dict)
    """Key of a measured shard's index -> its recall at each efSearch."""
    merged: Probe | None = None
    """What the probe queries found in all shards that were measured so far."""
    dead: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Number of a live delta -> its rows that died tonight."""

    def finish(self, finished: Iterator[FinishedBase]) -> FinishedCollection:
        """Return the collection with all its shards, the base shards being given in order."""
        folder, name = self.bases.builder.folder, self.bases.collection
        fresh, held = (DeltaSpool(folder / f"{name}-{part}.arrow") for part in ("fresh", "held"))
        shards = [self._enter_base(base, fresh, held) for base in finished]
        fresh.close()
        held.close()
        if self.bases.keeps:
            shards += self._finish_deltas(fresh, held)
        if self.merged is None:
            raise IntegrityError(f"{name}: no shard was measured; please report this")
        # Kept shards are measured from the live efSearch on, and not all of them each night.
        least = self.bases.least_ef_search if self._keeps_any(shards) else 0
        rungs = [rung for rung in self.merged.rungs if rung >= least] or self.merged.rungs[-1:]
        curve = {rung: measure_recall(self.merged, rung) for rung in rungs}
        return FinishedCollection(
            plan=self.plan,
            shards=[replace(shard, number=number) for number, shard in enumerate(shards)],
            tally=self.tally,
            queries=self.bases.builder.queries[name],
            probe=self.merged,
            curve=curve,
            shard_curves={
                number: self.curves[shard.index.key]
                for number, shard in enumerate(shards)
                if shard.index.key in self.curves
            },
            ef_search=self._choose_ef_search(curve, least),
        )

    def _keeps_any(self, shards: Sequence[ShardEntry]) -> bool:
        live = self.bases.live
        return live is not None and not {shard.index.key for shard in shards}.isdisjoint(
            shard.index.key for shard in live.entry.shards
        )

    def _choose_ef_search(self, curve: dict[int, Recall], least: int) -> int:
        """Return the set efSearch, or the smallest that reaches the targets, and no smaller than the least."""
        config = self.bases.builder.config
        if config.index.ef_search:
            return config.index.ef_search
        return max(choose_ef_search([curve, *self.curves.values()], find_targets(config)), least)

    def _enter_base(self, base: FinishedBase, fresh: "DeltaSpool", held: "DeltaSpool") -> ShardEntry:
        self.tally.merge(base.tally)
        for spool, part in ((fresh, base.fresh), (held, base.held)):
            if part:
                spool.add(part)
        for number, row in base.buried:
            self.dead[number].append(row)
        if base.sealed:
            self._measure_sealed(base.sealed)
        elif base.probe:
            self._measure(base.shard.index.key, base.probe)
        return base.shard

    def _measure_sealed(self, sealed: SealedShard) -> None:
        builder = self.bases.builder
        self._measure(sealed.shard.index.key, fetch_probe(builder.run.store, sealed, builder.folder))

    def _measure(self, key: str, probe: Probe) -> None:
        self.curves[key] = {rung: measure_recall(probe, rung) for rung in probe.rungs}
        self.merged = merge_probes([self.merged, probe] if self.merged else [probe])

    def _take(self, sealed: SealedShard, built: bool) -> ShardEntry:
        self.tally.take(sealed, built=built)
        self._measure_sealed(sealed)
        return sealed.shard

    def _keep(self, number: int) -> ShardEntry:
        kept = self.bases.keep_shard(number, self.dead[number])
        self.tally.norm_error = max(self.tally.norm_error, kept.norm_error)
        if kept.probe:
            self._measure(kept.shard.index.key, kept.probe)
        return kept.shard

    def _finish_deltas(self, fresh: "DeltaSpool", held: "DeltaSpool") -> list[ShardEntry]:
        """Return the live deltas that still have a row, and tonight's, which may take in the rows of all."""
        live = self.bases.live
        assert live
        first, options = self.bases.shards, self.bases.builder.config.index
        numbers = range(first, len(live.entry.shards))
        kept = [n for n in numbers if live.entry.shards[n].live_rows > len(self.dead[n])]
        parts, whole = (-(-rows // options.max_shard_rows) for rows in (fresh.rows, fresh.rows + held.rows))
        if parts and live.takes_in(options):
            return self._build_deltas(first, whole, [fresh, held])
        shards = [self._keep(number) for number in kept]
        return shards + self._build_deltas(first + len(shards), parts, [fresh])

    def _build_deltas(self, first: int, parts: int, spools: Sequence["DeltaSpool"]) -> list[ShardEntry]:
        """Build a delta of the spooled rows, in parts where it would be larger than a shard may be."""
        builder, shards = self.bases.builder, []
        for part, dealt in enumerate([spools] if parts == 1 else ([one] for one in split_spools(spools, parts))):
            rows, known = read_spools(dealt, builder.encoder.dimension)
            finished = builder.finish_shard(
                self.bases.collection, first + part, UniqueRows(rows=rows), known=known, delta=True
            )
            shards.append(self._take(*finished))
        return shards


class DeltaSpool:
    """Rows for a delta on disk, with the vectors that are known of them."""

    schema = SCHEMA.append(pa.field("vector", pa.binary()))

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, 0
        self._sink = pa.ipc.new_stream(str(path), self.schema)

    def add(self, part: DeltaRows) -> None:
        """Write rows with the vectors that are known of them."""
        rows, vectors, known = part
        if not rows:
            return
        found = [vector.tobytes() if is_known else None for vector, is_known in zip(vectors, known, strict=True)]
        columns = [pa.array(values, pa.string()) for values in zip(*rows, strict=True)]
        self.write(pa.RecordBatch.from_arrays([*columns, pa.array(found, pa.binary())], schema=self.schema))

    def write(self, batch: pa.RecordBatch) -> None:
        """Write a batch of the schema."""
        self._sink.write_batch(batch)
        self.rows += batch.num_rows

    def close(self) -> None:
        """End the file."""
        self._sink.close()

    def read_batches(self) -> Iterator[pa.RecordBatch]:
        """Yield what was written."""
        with pa.ipc.open_stream(str(self.path)) as stream:
            yield from stream

    def read(self) -> Iterator[tuple[Row, bytes | None]]:
        """Yield the rows with their vectors."""
        for batch in self.read_batches():
            *columns, vectors = (batch.column(name).to_pylist() for name in batch.schema.names)
            yield from zip(map(Row._make, zip(*columns, strict=True)), vectors, strict=True)


def split_spools(spools: Sequence[DeltaSpool], parts: int) -> Iterator[DeltaSpool]:
    """Deal the rows to so many spools, by their ids, and yield these one by one; the file of each goes with it."""
    dealt = [DeltaSpool(spools[0].path.with_suffix(f".{part}.arrow")) for part in range(parts)]
    for batch in chain.from_iterable(spool.read_batches() for spool in spools):
        for number, rows in deal_batch(batch, parts_of(batch.column("id").to_pylist(), parts)):
            dealt[number].write(rows)
    for spool in dealt:
        spool.close()
    for spool in dealt:
        yield spool
        spool.path.unlink()


def read_spools(spools: Sequence[DeltaSpool], dimension: int) -> tuple[list[Row], FindVectors]:
    """Return the rows of the spools in id order, and what gives their vectors and which are known."""
    found = sorted(chain.from_iterable(spool.read() for spool in spools), key=lambda pair: pair[0].id)
    vectors = np.zeros((len(found), dimension), dtype=np.float32)
    known = np.array([vector is not None for _, vector in found], dtype=np.bool_)
    for place, (_, vector) in enumerate(found):
        if vector is not None:
            vectors[place] = np.frombuffer(vector, dtype=np.float32)
    return [row for row, _ in found], lambda: (vectors, known)
