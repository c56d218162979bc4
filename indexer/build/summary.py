"""What a build did, for the command line, the nightly summary and the report."""

from dataclasses import asdict, dataclass, field
from typing import Any

from indexer.log import LogEntry
from indexer.manifest import Manifest

FIGURES = (
    "name",
    "rows_in",
    "rows",
    "duplicates",
    "rejected",
    "embedded",
    "truncated",
    "cut_fields",
    "shards",
    "shards_wanted",
    "deltas",
    "dead_rows",
    "built",
    "reused",
    "ef_search",
    "probes",
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
    `published before` where a newer night is live, and `retired` where that run was retired since;
    `unchanged` where the live release of an earlier night was made of the same; `planned` where no more was wanted."""
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
    plan: dict[str, Any] = field(default_factory=dict)
    """What was expected before the work; nothing where there was none to do."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Stage -> wall time."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def summarise_published(status: str, url: str, entry: LogEntry, manifest: Manifest) -> ReleaseSummary:
    """Return the summary of a run that was published before."""
    return ReleaseSummary(
        status=status,
        run_id=manifest.run_id,
        run_date=manifest.run_date,
        url=url,
        sequence=entry.sequence,
        collections=_read_figures(manifest),
        bytes=release_bytes(manifest),
        report=f"{url}/{manifest.report.key}" if manifest.report else "",
    )


def _read_figures(manifest: Manifest) -> list[dict[str, Any]]:
    """Return the figures that the builder noted; a manifest is not refused for what only people read."""
    shards = {item.name: len(item.shards) for item in manifest.collections}
    noted = manifest.counts.get("collections")
    items = [item for item in noted if isinstance(item, dict)] if isinstance(noted, list) else []
    return [
        {name: item[name] for name in FIGURES if _is_figure(item.get(name))}
        | {"built": 0, "reused": shards[item["name"]]}
        for item in items
        if isinstance(item.get("name"), str) and item["name"] in shards
    ]


def _is_figure(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(part, int | float) for part in value.values())
    return isinstance(value, int | float | str)


def summarise_retired(url: str, entry: LogEntry, run_date: str) -> ReleaseSummary:
    """Return the summary of a run that was published before and retired since: its objects may be gone."""
    return ReleaseSummary(
        status="retired",
        run_id=entry.run_id,
        run_date=run_date,
        url=url,
        sequence=entry.sequence,
        collections=[],
        bytes=0,
    )


def release_bytes(manifest: Manifest) -> int:
    """Return the size of what a consumer downloads."""
    return sum(entry.bytes for entry in manifest.downloads)
