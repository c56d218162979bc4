"""Finish one base shard of a collection from the rows of its ids, wherever that is done.

What it keeps and what it builds follows from its rows and the live release alone. What changed in a shard that is kept
is left to the deltas.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from indexer.build.catalogue import Row
from indexer.build.changes import Changes, compare_rows, count_stale, find_old_texts, is_stale
from indexer.build.digests import digest
from indexer.build.duplicates import UniqueRows, resolve_duplicates
from indexer.build.embed import KINDS, Mask, Vectors
from indexer.build.finished import Tally
from indexer.build.live import LiveCollection, OldRow
from indexer.build.publish import SealedShard, shard_name
from indexer.build.recall import Probe, Recall, find_targets, name_row, probe_shard
from indexer.build.shard import ShardBuilder
from indexer.build.verify import check_vectors
from indexer.manifest import DeadRows, ShardEntry
from indexer.shard_file import read_lines

EMBEDDED_AGAIN = 16
"""Rows of a kept shard whose texts are embedded once more, to compare with what it holds."""

Same = Sequence[tuple[Row, OldRow]]
"""Rows that lie in a live shard with the same text."""


class DeltaRows(NamedTuple):
    """Rows for a delta, their vectors (rows, dimension), and which of these are known."""

    rows: list[Row]
    vectors: Vectors
    known: Mask


class KeptShard(NamedTuple):
    """A shard of the live release that stays."""

    shard: ShardEntry
    probe: Probe | None = None
    """What the probe queries found, where it was its turn."""
    norm_error: float = 0.0
    cosines: Sequence[float] = ()
    """Of some of its vectors with those of the same texts embedded tonight."""


@dataclass(frozen=True, kw_only=True)
class FinishedBase:
    """A base shard that is there, and what its ids leave to the deltas."""

    shard: ShardEntry
    tally: Tally
    sealed: SealedShard | None = None
    """The shard's seal where it was built, whose probe lies in the store."""
    probe: Probe | None = None
    """The probe of a kept shard, where it was its turn."""
    fresh: DeltaRows | None = None
    """Rows that are new, or not what they were."""
    held: DeltaRows | None = None
    """Rows that lie in a delta as they are, where that may be the night it is taken in."""
    buried: list[tuple[int, int]] = field(default_factory=list)
    """Number of a live delta and its row, of the rows that died tonight."""


@dataclass(frozen=True, kw_only=True)
class BaseBuilder:
    """What the base shards of a collection have in common."""

    builder: ShardBuilder
    collection: str
    shards: int
    """How many base shards there are."""
    live: LiveCollection | None
    keeps: bool
    """Whether live shards may stay."""
    shift: int
    """Which kept base shards are measured first; another number each night."""

    @property
    def least_ef_search(self) -> int:
        """The efSearch from which kept shards are measured: the live one, or the set one where that is less."""
        live = self.live.entry.ef_search if self.live else 0
        return min(live, self.builder.config.index.ef_search or live)

    def finish(self, number: int, rows: Iterable[Row], strays: Iterable[tuple[str, OldRow]]) -> FinishedBase:
        """Return the base shard of the rows, which may come in any order.

        `strays` are the live rows of its ids that do not lie in the live base shard of the number.
        """
        unique = resolve_duplicates(rows)
        live = self.live
        if live is None:
            return self._build(number, unique, [])
        own = live.read_rows(number) if live.is_aligned(self.shards) else ()
        old = dict(chain(own, strays))
        if not self.keeps:
            places = find_old_texts(unique.rows, old)
            del old
            return self._build(number, unique, places)
        changes = compare_rows(unique.rows, old, base=self.shards)
        self._leave_out_empty(changes, unique)
        if is_stale(
            self.builder.config.index,
            number=number,
            rows=len(unique.rows),
            changed=bool(changes.fresh or changes.gone),
            stale=count_stale(live.entry.shards[number], changes, number=number),
        ):
            buried = _find_buried(old.values(), number)
            places = find_old_texts(unique.rows, old)
            del old, changes
            return self._build(number, unique, places, buried)
        return self._keep_base(number, changes, unique, _take_same(number, unique, old))

    def keep_shard(self, number: int, died: Sequence[int], same: Same = ()) -> KeptShard:
        """Return a live shard's entry with more dead rows, and measure it if its turn has come.

        A delta has the turn of a base shard. `same` are some of its rows whose text is what it was. Golden queries are
        asked of every shard.
        """
        assert self.live
        shard, before = self.live.entry.shards[number], self.live.read_dead(number)
        dead = np.union1d(before, np.array(died, dtype=np.uint32)).astype(np.uint32)
        golden, turn = self.builder.queries[self.collection].golden, (number - self.shift) % self.shards
        kept = KeptShard(shard)
        if golden or turn < self.builder.config.index.kept_probes:
            kept = self._probe(number, dead, same)
        if not died:
            return kept
        path = self.builder.folder / f"{shard_name(shard.collection, number)}.dead"
        # Not by numpy, which does not notice that a small file did not fit.
        path.write_bytes(dead.astype("<u4").tobytes())
        stored = self.builder.run.upload(path, path.name)
        path.unlink()
        return kept._replace(shard=replace(shard, dead=DeadRows(count=len(dead), rows=stored)))

    def _keep_base(self, number: int, changes: Changes, unique: UniqueRows, same: Same) -> FinishedBase:
        live = self.live
        assert live
        fresh = DeltaRows(changes.fresh, *live.find_vectors(changes.found, number))
        held = None
        if live.takes_in(self.builder.config.index):
            places = [place for _, place in changes.held]
            held = DeltaRows([row for row, _ in changes.held], *live.find_vectors(places, number))
        kept = self.keep_shard(number, [row.row for row in changes.gone if row.shard == number], same)
        tally = Tally(norm_error=kept.norm_error, kept_cosines=list(kept.cosines))
        tally.add(unique)
        buried = _find_buried(changes.gone, number)
        return FinishedBase(shard=kept.shard, tally=tally, probe=kept.probe, fresh=fresh, held=held, buried=buried)

    def _build(
        self,
        number: int,
        unique: UniqueRows,
        places: Sequence[OldRow | None],
        buried: Sequence[tuple[int, int]] = (),
    ) -> FinishedBase:
        known = partial(self.live.find_vectors, places, number) if self.live and any(places) else None
        sealed, built = self.builder.finish_shard(self.collection, number, unique, known=known)
        tally = Tally()
        tally.take(sealed, built=built)
        return FinishedBase(shard=sealed.shard, tally=tally, sealed=sealed, buried=list(buried))

    def _leave_out_empty(self, changes: Changes, unique: UniqueRows) -> None:
        """Reject fresh rows without a known word: they were no part of the live release, and will be none."""
        texts = [row.text for row in changes.fresh]
        empty = self.builder.encoder.find_empty(texts, kind=KINDS[self.collection])
        if not empty.any():
            return
        rejected = [row for row, is_empty in zip(changes.fresh, empty, strict=True) if is_empty]
        kept = np.flatnonzero(~empty).tolist()
        changes.fresh[:], changes.found[:] = [changes.fresh[at] for at in kept], [changes.found[at] for at in kept]
        unique.reject("text_empty", rejected)
        names = {row.id for row in rejected}
        unique.rows = [row for row in unique.rows if row.id not in names]

    def _probe(self, number: int, dead: npt.NDArray[np.uint32], same: Same) -> KeptShard:
        """Read a kept shard as a consumer does, and measure it."""
        assert self.live
        config, shard, cache = self.builder.config, self.live.entry.shards[number], self.live.cache
        ids = read_lines(cache.fetch(shard.ids), shard.rows)
        texts = read_lines(cache.fetch(shard.texts), shard.rows) if shard.texts else None
        index = self.live.open_index(number)
        vectors = index.reconstruct_n(0, index.ntotal)
        error, cosines = 0.0, []
        if self.live.gives_vectors:
            place = f"shard {shard.index.key}"
            error = check_vectors(vectors, ids, max_norm_error=config.gates.max_norm_error, place=place)
        if same:
            again = self.builder.encoder.encode([row.text for row, _ in same], kind=KINDS[shard.collection]).vectors
            stored = vectors[[old.row for _, old in same]]
            stored = stored / np.linalg.norm(stored, axis=1, keepdims=True)
            cosines = np.einsum("nd,nd->n", again, stored).tolist()
        # What was live is where the release's efSearch begins: a narrower search need not be measured.
        probe = probe_shard(
            index,
            vectors,
            self.builder.queries[self.collection],
            config.index.ef_search,
            dead,
            name=partial(name_row, ids, texts),
            least=self.least_ef_search,
            enough=_halfway(find_targets(config)),
        )
        return KeptShard(shard, probe, error, cosines)


def _halfway(targets: Recall) -> Recall:
    """Return recalls between the targets and 1: over all shards together there are somewhat fewer than in each."""
    return Recall(*((1 + share) / 2 for share in targets))


def _take_same(number: int, unique: UniqueRows, old: Mapping[str, OldRow]) -> Same:
    """Return some rows, spread over the shard of the number, that lie in it with the same text."""
    places = np.unique(np.linspace(0, len(unique.rows) - 1, EMBEDDED_AGAIN).astype(int)).tolist() if unique.rows else []
    pairs = [(row, old[row.id]) for row in map(unique.rows.__getitem__, places) if row.id in old]
    return [(row, found) for row, found in pairs if found.shard == number and found.text == digest(row.text)]


def _find_buried(rows: Iterable[OldRow], number: int) -> list[tuple[int, int]]:
    return [(row.shard, row.row) for row in rows if row.shard != number]
