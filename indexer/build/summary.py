"""What a build did, for the command line, the nightly summary and the report."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from indexer.build.duplicates import UniqueRows
from indexer.build.plan import CollectionPlan
from indexer.build.publish import SealedShard
from indexer.build.recall import Recall
from indexer.config import IndexConfig
from indexer.contracts.rejects import InputCounts
from indexer.log import LogEntry
from indexer.manifest import CollectionEntry, GateResult, Manifest, ShardEntry

FIGURES = (
    "name",
    "rows_in",
    "rows",
    "duplicates",
    "rejected",
    "embedded",
    "truncated",
    "shards",
    "shards_wanted",
    "deltas",
    "dead_rows",
    "built",
    "reused",
    "recall_10",
    "recall_100",
    "bytes",
)
"""A collection's figures in the order they are shown; a manifest keeps its keys sorted."""


@dataclass(frozen=True, kw_only=True)
class ReleaseSummary:
    """What a build did."""

    status: str
    """`published`; of a run that was there before `already published`, or `published again` where it was replaced;
    `unchanged` where the live release of an earlier night was made of the same."""
    run_id: str
    run_date: str
    url: str
    sequence: int
    collections: list[dict[str, Any]]
    """Rows, rejects, shards, recall and bytes of each."""
    bytes: int
    """Size of everything a consumer downloads."""
    report: str = ""
    """Where the report lies: on this machine, or in the store where the run was published before."""
    rejects: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the REJECTS table."""
    remarks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Table -> what was mended in its texts, and its columns that were not read."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Stage -> wall time."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


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
    embedded: int = 0
    """Different texts that were embedded."""
    norm_error: float = 0.0

    def add(self, unique: UniqueRows) -> None:
        """Count the rows of a part that is kept."""
        self._count(unique.duplicates, unique.rejected, unique.examples)

    def take(self, sealed: SealedShard, *, built: bool) -> None:
        """Count a shard that was built, now or by an earlier attempt."""
        self.built += built
        self._count(sealed.duplicates, sealed.rejected, sealed.examples)
        self.truncated += sealed.truncated
        self.embedded += sealed.embedded
        self.norm_error = max(self.norm_error, sealed.norm_error)

    def merge(self, other: "Tally") -> None:
        """Count what another part has counted."""
        self.built += other.built
        self._count(other.duplicates, other.rejected, other.examples)
        self.truncated += other.truncated
        self.embedded += other.embedded
        self.norm_error = max(self.norm_error, other.norm_error)

    def _count(self, duplicates: int, rejected: Mapping[str, int], examples: Mapping[str, str]) -> None:
        self.duplicates += duplicates
        self.rejected.update(rejected)
        self.examples = {**examples, **self.examples}


@dataclass
class FinishedCollection:
    """A collection whose shards are all there."""

    plan: CollectionPlan
    shards: list[ShardEntry]
    tally: Tally
    shard_recall: dict[int, Recall]
    """Number of a shard -> its recall; kept shards are measured in turn."""
    recall: Recall
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
            ef_search=options.ef_search,
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
            "shards": len(self.shards),
            "shards_wanted": self.plan.shards_wanted,
            "deltas": sum(shard.delta for shard in self.shards),
            "dead_rows": sum(shard.rows - shard.live_rows for shard in self.shards),
            "built": self.tally.built,
            "reused": len(self.shards) - self.tally.built,
            "recall_10": round(self.recall.at_10, 4),
            "recall_100": round(self.recall.at_100, 4),
            "bytes": sum(entry.bytes for shard in self.shards for entry in shard.downloads),
        }


def summarise_published(status: str, url: str, entry: LogEntry, manifest: Manifest) -> ReleaseSummary:
    """Return the summary of a run that was published before."""
    shards = {item.name: len(item.shards) for item in manifest.collections}
    figures = manifest.counts.get("collections", [])
    collections = [
        {name: item[name] for name in FIGURES if name in item} | {"built": 0, "reused": shards.get(item.get("name"), 0)}
        for item in figures
    ]
    return ReleaseSummary(
        status=status,
        run_id=manifest.run_id,
        run_date=manifest.run_date,
        url=url,
        sequence=entry.sequence,
        collections=collections,
        bytes=release_bytes(manifest),
        report=f"{url}/{manifest.report.key}" if manifest.report else "",
    )


def release_bytes(manifest: Manifest) -> int:
    """Return the size of what a consumer downloads."""
    return sum(entry.bytes for entry in manifest.downloads)
