"""What a build will do, told before it does it: what changed, texts to embed, shards to build, bytes, time.

A few base shards are compared with what is live and stand for the others.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from indexer.build.catalogue import Row
from indexer.build.changes import compare_rows, count_stale, find_old_texts, is_stale
from indexer.build.digests import ROW_BYTES
from indexer.build.duplicates import resolve_duplicates
from indexer.build.embed import KINDS
from indexer.build.live import LiveCollection, OldRow
from indexer.encoder import Encoder
from indexer.hnsw import BYTES_PER_NUMBER
from indexer.index_config import IndexConfig
from indexer.manifest import ShardEntry

GRAPH_RATE = 4_000
"""Rows a second that a graph takes in on two cores: 3,400 on vectors and 8,900 on codes were measured."""
READ_RATE = 30_000
"""Rows a second that are read, compared and hashed."""
RATED_TEXTS = 200
"""Texts at most that are embedded to tell how long the others will take."""
RATED_SHARE, LEAST_RATED = 32, 16
"""A part in so many of the texts tells how long all take, of few fewer, but no less than so many."""
SEEN_BASES = 2
"""Base shards that are looked at."""
LINK_BYTES = 20
"""Of a row in an index file beside its vector and its 2 M links: level, offset, links of higher levels."""


class Work(NamedTuple):
    """What is written of the ids of one base shard."""

    rows: int
    """Rows that go into an index."""
    texts: int
    """Different texts to embed; those without a known word are among them."""
    name_bytes: int
    """Bytes of the rows' ids and texts."""


@dataclass(frozen=True, kw_only=True)
class BaseForecast:
    """What is ahead for the ids of one base shard."""

    number: int
    rows: int
    """Rows with distinct ids."""
    changed: int
    """Those that are new, or not what is live."""
    gone: int
    """Live rows that are to be found no more."""
    anew: Work
    """What is written where the shard is built."""
    kept: Work
    """What goes into a delta where it stays; as much as `anew` where it cannot."""
    stale: int = 0
    """Rows by which the live shard is stale tonight."""


class SeenBases(NamedTuple):
    """What a site knows of the base shards before they are finished."""

    looked: Sequence[BaseForecast]
    """Those that were looked at."""
    beside: Sequence[int]
    """Of every base shard, how many live rows of its ids lie elsewhere: in deltas, where shards may stay."""


@dataclass(frozen=True, kw_only=True)
class CollectionForecast:
    """What is ahead for a collection; where the site did not look at its rows, what is known without."""

    name: str
    rows: int
    rejected: int
    """Rows rejected by the input's contract; repeated ids and texts without a known word come on top."""
    shards: int
    shards_wanted: int
    peak_bytes: int
    changed: int | None = None
    gone: int | None = None
    texts: int | None = None
    built: int | None = None
    """Base shards to build; the others are kept."""
    upload_bytes: int | None = None
    seconds: float | None = None
    """Expected time of reading, embedding and building, by what some texts took."""


@dataclass(frozen=True, kw_only=True)
class BuildForecast:
    """What is ahead for a build."""

    run_id: str
    url: str
    encoder: str
    collections: tuple[CollectionForecast, ...]

    @property
    def peak_bytes(self) -> int:
        """Expected memory at the peak."""
        return max(item.peak_bytes for item in self.collections)

    def as_dict(self) -> dict[str, Any]:
        """Return the forecast for machines."""
        return {**asdict(self), "peak_bytes": self.peak_bytes}


def forecast_base(
    number: int,
    rows: Iterable[Row],
    strays: Iterable[tuple[str, OldRow]],
    *,
    live: LiveCollection | None,
    shards: int,
    keeps: bool,
    options: IndexConfig,
) -> BaseForecast:
    """Count what is ahead for a base shard, built or kept; the arguments are those of a BaseBuilder."""
    unique = resolve_duplicates(rows).rows
    if live is None:
        anew = _count_work(unique, [None] * len(unique))
        return BaseForecast(number=number, rows=len(unique), changed=len(unique), gone=0, anew=anew, kept=anew)
    own = live.read_rows(number) if live.is_aligned(shards) else ()
    old = dict([*own, *strays])
    changes = compare_rows(unique, old, base=shards)
    anew = _count_work(unique, _find_given(find_old_texts(unique, old), live, number))
    found = BaseForecast(
        number=number,
        rows=len(unique),
        changed=len(changes.fresh),
        gone=len(old) - (len(unique) - len(changes.fresh)) - sum(row.id in old for row in changes.fresh),
        anew=anew,
        kept=anew,
    )
    if not keeps:
        return found
    taken = changes.held if live.takes_in(options) else []
    written, places = [*changes.fresh, *(row for row, _ in taken)], [*changes.found, *(place for _, place in taken)]
    return replace(
        found,
        kept=_count_work(written, _find_given(places, live, number)),
        stale=count_stale(live.entry.shards[number], changes, number=number),
    )


def choose_bases(shards: int) -> range:
    """Return the numbers of the base shards that are looked at: ids are dealt by a hash, so some stand for all."""
    return range(0, shards, -(-shards // SEEN_BASES))


def find_built(shards: Sequence[ShardEntry], seen: SeenBases, options: IndexConfig) -> list[bool]:
    """Return of each live base shard whether it is to be built anew; some were looked at.

    How stale each is, is known; what tonight makes of it is, for each live row, what it makes of those.
    """
    looked = {base.number: base for base in seen.looked}
    live = [shard.live_rows + beside for shard, beside in zip(shards, seen.beside, strict=True)]
    before = [shard.rows - shard.live_rows + beside for shard, beside in zip(shards, seen.beside, strict=True)]
    known = max(sum(live[number] for number in looked), 1)
    rows = sum(base.rows for base in seen.looked) / known
    changed = sum(base.changed + base.gone for base in seen.looked) / known
    # Rows of deltas that change again, or go, make a shard no more stale, or less.
    grown = sum(base.stale - before[base.number] for base in seen.looked) / known

    def is_built(number: int) -> bool:
        if base := looked.get(number):
            known_change = bool(base.changed or base.gone)
            return is_stale(options, number=number, rows=base.rows, changed=known_change, stale=base.stale)
        return is_stale(
            options,
            number=number,
            rows=rows * live[number],
            changed=round(changed * live[number]) > 0,
            stale=before[number] + grown * live[number],
        )

    return [is_built(number) for number in range(len(shards))]


def add_bases(
    item: CollectionForecast,
    bases: Sequence[BaseForecast],
    *,
    built: Sequence[bool],
    dimension: int,
    options: IndexConfig,
    measure_rate: Callable[[int], float],
) -> CollectionForecast:
    """Return a collection's forecast with what is ahead for its base shards, of which some were looked at.

    `built` says of each whether it is to be built. `measure_rate` gives the texts that the encoder embeds a second,
    told by so many; it is asked where there is any.
    """
    numbers = {base.number for base in bases}
    others = [is_built for number, is_built in enumerate(built) if number not in numbers]

    def total(what: str) -> int:
        counted: float = sum(getattr(base, what) for base in bases) * item.shards / len(bases)
        return round(counted)

    def total_work(what: str) -> int:
        known: int = sum(getattr(base.anew if built[base.number] else base.kept, what) for base in bases)
        anew: int = sum(getattr(base.anew, what) for base in bases)
        kept: int = sum(getattr(base.kept, what) for base in bases)
        return known + round((sum(others) * anew + (len(others) - sum(others)) * kept) / len(bases))

    texts, written = total_work("texts"), total_work("rows")
    row_bytes = BYTES_PER_NUMBER[options.storage] * dimension + 8 * options.m + LINK_BYTES + ROW_BYTES
    embedding = texts / measure_rate(min(max(texts // RATED_SHARE, LEAST_RATED), RATED_TEXTS)) if texts else 0.0
    return replace(
        item,
        changed=total("changed"),
        gone=total("gone"),
        texts=texts,
        built=sum(built),
        upload_bytes=written * row_bytes + total_work("name_bytes"),
        seconds=round(total("rows") / READ_RATE + embedding + written / GRAPH_RATE, 1),
    )


def measure_rate(encoder: Encoder, texts: Sequence[str], collection: str, count: int) -> float:
    """Return how many texts the encoder embeds a second, told by the first `count` of those given; both above 0."""
    started = time.perf_counter()
    encoder.encode(texts[:count], kind=KINDS[collection])
    return min(count, len(texts)) / (time.perf_counter() - started)


def describe_forecast(forecast: BuildForecast, options: IndexConfig) -> str:
    """Return the forecast for people."""
    lines = [f"run {forecast.run_id} -> {forecast.url}, encoder {forecast.encoder}"]
    for item in forecast.collections:
        wanted = f" ({item.shards_wanted:,} wanted)" if item.shards_wanted > item.shards else ""
        lines.append(
            f"  {item.name}: {item.rows:,} rows in {item.shards:,} shards{wanted} of HNSW M={options.m} "
            f"{options.storage}, {item.rejected:,} rejected"
        )
        if item.upload_bytes is not None:
            lines.append(
                f"    about {item.changed:,} new or changed, {item.gone:,} gone; {item.built:,} shards to build, "
                f"{item.texts:,} texts to embed; {item.upload_bytes / 2**20:,.0f} MiB to upload; "
                f"{item.seconds:,.0f} s"
            )
    return "\n".join([*lines, f"  expected peak memory {forecast.peak_bytes / 2**20:,.0f} MiB"])


def _find_given(places: Iterable[OldRow | None], live: LiveCollection, number: int) -> list[OldRow | None]:
    """Leave out those rows whose vectors the live release does not give."""
    return [
        old if old and (old.vector is not None or (old.shard == number and live.gives_vectors)) else None
        for old in places
    ]


def _count_work(written: Sequence[Row], places: Sequence[OldRow | None]) -> Work:
    return Work(
        rows=len(written),
        texts=len({row.text for row, old in zip(written, places, strict=True) if old is None}),
        name_bytes=sum(len(row.id.encode()) + len(row.display.encode()) + 2 for row in written),
    )
