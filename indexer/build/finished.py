"""A collection whose shards are all there: what became of its rows, and what was measured."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from indexer.build.answers import Hub, OwnTitles, count_own_titles, find_hub
from indexer.build.drift import Drift
from indexer.build.duplicates import UniqueRows
from indexer.build.golden import GoldenFindings
from indexer.build.plan import CollectionPlan
from indexer.build.publish import SealedShard
from indexer.build.recall import Probe, ProbeQueries, Recall, find_rung
from indexer.contracts.rejects import InputCounts
from indexer.index_config import IndexConfig
from indexer.manifest import CollectionEntry, GateResult, ShardEntry


@dataclass
class Tally:
    """What became of a collection's rows, counted as its shards are finished."""

    duplicates: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    """Reason -> id of its first row."""
    built: int = 0
    """Shards built by this process; others were sealed by an earlier one, or kept."""
    truncated: int = 0
    cut_fields: Counter[str] = field(default_factory=Counter)
    """Text field -> rows of which something of it was not read."""
    embedded: int = 0
    """Different texts that were embedded."""
    norm_error: float = 0.0
    kept_cosines: list[float] = field(default_factory=list)
    """Cosines of vectors of the live release with those of the same texts embedded tonight."""

    def add(self, unique: UniqueRows) -> None:
        """Count the rows of a part that is kept."""
        self._count(unique.duplicates, unique.rejected, unique.examples)

    def take(self, sealed: SealedShard, *, built: bool) -> None:
        """Count a shard that was built, now or by an earlier attempt."""
        self.built += built
        self._count(sealed.duplicates, sealed.rejected, sealed.examples)
        self.truncated += sealed.truncated
        self.cut_fields.update(sealed.cut_fields)
        self.embedded += sealed.embedded
        self.norm_error = max(self.norm_error, sealed.norm_error)

    def merge(self, other: "Tally") -> None:
        """Count what another part has counted."""
        self.built += other.built
        self._count(other.duplicates, other.rejected, other.examples)
        self.truncated += other.truncated
        self.cut_fields.update(other.cut_fields)
        self.embedded += other.embedded
        self.norm_error = max(self.norm_error, other.norm_error)
        self.kept_cosines.extend(other.kept_cosines)

    def _count(self, duplicates: int, rejected: Mapping[str, int], examples: Mapping[str, str]) -> None:
        self.duplicates += duplicates
        self.rejected.update(rejected)
        self.examples = {**examples, **self.examples}


HIDDEN_SHARE = 0.05
"""Of the rows, in deltas that were not measured, up to which it is told how many are found by their own text."""


@dataclass
class FinishedCollection:
    """A collection whose shards are all there."""

    plan: CollectionPlan
    shards: list[ShardEntry]
    tally: Tally
    queries: ProbeQueries
    probe: Probe
    """What the queries found in all shards that were measured; kept shards are measured in turn."""
    curve: dict[int, Recall]
    """efSearch -> recall over these shards."""
    shard_curves: dict[int, dict[int, Recall]]
    """Number of a measured shard -> the same of it alone."""
    ef_search: int
    drift: Drift | None = None
    golden: GoldenFindings | None = None
    remarks: dict[str, str] = field(default_factory=dict)
    """What could not be looked at, and why."""
    gates: list[GateResult] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The collection's name."""
        return self.plan.intake.collection

    @property
    def rows(self) -> int:
        """Rows that are indexed."""
        return sum(shard.live_rows for shard in self.shards)

    @property
    def recall(self) -> Recall:
        """Recall over the measured shards at the release's efSearch."""
        return self.curve[find_rung(self.curve, self.ef_search)]

    @property
    def shard_recall(self) -> dict[int, Recall]:
        """Number of a measured shard -> its recall at the release's efSearch."""
        return {number: curve[find_rung(curve, self.ef_search)] for number, curve in self.shard_curves.items()}

    @property
    def hub(self) -> Hub | None:
        """The row that the most sampled queries have among their first 10."""
        return find_hub(self.probe, self.ef_search)

    @property
    def own_titles(self) -> OwnTitles | None:
        """How many rows are found by their own text; None where too many lie in deltas that were not measured."""
        hidden = sum(shard.live_rows for shard in self.shards if shard.delta and shard.number not in self.shard_curves)
        share = hidden / self.rows
        if share > HIDDEN_SHARE:
            return None
        base = sum(not shard.delta for shard in self.shards)
        found = count_own_titles(self.probe, self.queries, self.ef_search, base=base, measured=self.shard_curves)
        # What lies there cannot be found: as many as its share are taken for not asked.
        return found._replace(asked=max(found.found, round(found.asked * (1 - share))))

    @property
    def unmeasured(self) -> set[str]:
        """Keys of the indexes that were kept and not measured."""
        return {shard.index.key for shard in self.shards if shard.number not in self.shard_curves}

    @property
    def duplicates(self) -> int:
        """Rows that repeated another's content."""
        return self.tally.duplicates

    @property
    def rejected(self) -> dict[str, int]:
        """Reason -> rows rejected by the input's contract or later."""
        return dict(self.tally.rejected + self.plan.intake.rejected)

    @property
    def rejects(self) -> list[dict[str, Any]]:
        """Rows of the REJECTS table."""
        table = {"products": "CATALOGUE", "queries": "CURATED_QUERIES"}[self.name]
        late = InputCounts(table, "")
        for reason, count in self.tally.rejected.items():
            late.reject(reason, key=self.tally.examples[reason], count=count)
        return self.plan.intake.rejects + late.as_rows()

    def as_entry(self, dimension: int, options: IndexConfig) -> CollectionEntry:
        """Return the manifest's entry."""
        return CollectionEntry(
            name=self.name,
            rows=self.rows,
            rows_in=self.plan.intake.rows_in,
            duplicates=self.duplicates,
            rejected=self.rejected,
            dimension=dimension,
            metric="inner_product",
            storage=options.storage,
            m=options.m,
            ef_construction=options.ef_construction,
            ef_search=self.ef_search,
            shards=tuple(self.shards),
        )

    def as_figures(self) -> dict[str, Any]:
        """Return the collection's line of the summary."""
        return {
            "name": self.name,
            "rows_in": self.plan.intake.rows_in,
            "rows": self.rows,
            "duplicates": self.duplicates,
            "rejected": sum(self.rejected.values()),
            "embedded": self.tally.embedded,
            "truncated": self.tally.truncated,
            "cut_fields": {name: count for name, count in sorted(self.tally.cut_fields.items()) if count},
            "shards": len(self.shards),
            "shards_wanted": self.plan.shards_wanted,
            "deltas": sum(shard.delta for shard in self.shards),
            "dead_rows": sum(shard.rows - shard.live_rows for shard in self.shards),
            "built": self.tally.built,
            "reused": len(self.shards) - self.tally.built,
            "ef_search": self.ef_search,
            "probes": self.probe.sampled,
            "recall_10": round(self.recall.at_10, 4),
            "recall_100": round(self.recall.at_100, 4),
            "bytes": sum(entry.bytes for shard in self.shards for entry in shard.downloads),
        }
