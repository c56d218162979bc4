"""Releases as documents for people and machines: a list, one of them, and what differs between two."""

from collections.abc import Mapping
from typing import Any

from indexer.log import LogEntry
from indexer.manifest import CollectionEntry, Manifest
from indexer.releases.history import History

ROW_FIGURES = ("rows", "rows_in", "duplicates", "ef_search")


def describe_history(history: History) -> list[dict[str, Any]]:
    """Return one line per published run, newest first: when it was published, and what it is now."""
    live, lines = history.live, []
    for run_id, entry in reversed(history.releases.items()):
        replaced = history.replaced.get(run_id)
        states = {
            "live": live is not None and live.run_id == run_id,
            "pinned": run_id in history.pinned,
            "retired": run_id in history.retired,
        }
        lines.append(
            {
                "run_id": run_id,
                "sequence": entry.sequence,
                "published_at": entry.created_at,
                "replaced_at": replaced.created_at if replaced else None,
                "state": [name for name, holds in states.items() if holds],
            }
        )
    return lines


def describe_release(history: History, entry: LogEntry, manifest: Manifest) -> dict[str, Any]:
    """Return what a manifest says, without the list of objects."""
    (line,) = (line for line in describe_history(history) if line["run_id"] == manifest.run_id)
    return {
        **line,
        "run_date": manifest.run_date,
        "created_at": manifest.created_at,
        "encoder": manifest.encoder.fingerprint,
        "bytes": sum(item.bytes for item in manifest.downloads),
        "objects": len(manifest.objects),
        "collections": [_describe_collection(item) for item in manifest.collections],
        "gates": [gate.__dict__ for gate in manifest.gates],
        "versions": dict(manifest.versions),
        "manifest": entry.manifest.key,
    }


def compare_releases(before: Manifest, after: Manifest) -> dict[str, Any]:
    """Return what differs, as [before, after]: collections, gates, settings, versions; and the bytes they share."""
    old, new = ({item.key: item.bytes for item in manifest.downloads} for manifest in (before, after))
    sections = {
        "collections": [_collections(manifest) for manifest in (before, after)],
        "gates": [{gate.name: gate.found for gate in manifest.gates} for manifest in (before, after)],
        "config": [_flatten(manifest.config) for manifest in (before, after)],
        "versions": [dict(manifest.versions) for manifest in (before, after)],
    }
    return {
        "before": before.run_id,
        "after": after.run_id,
        "same_encoder": before.encoder.fingerprint == after.encoder.fingerprint,
        "shared_bytes": sum(size for key, size in new.items() if key in old),
        "new_bytes": sum(size for key, size in new.items() if key not in old),
        "dropped_bytes": sum(size for key, size in old.items() if key not in new),
        **{name: _differences(*pair) for name, pair in sections.items()},
    }


def _describe_collection(item: CollectionEntry) -> dict[str, Any]:
    return {
        "name": item.name,
        **{name: getattr(item, name) for name in ROW_FIGURES},
        "rejected": dict(item.rejected),
        "shards": len(item.base),
        "deltas": len(item.deltas),
        "dead_rows": sum(shard.rows - shard.live_rows for shard in item.shards),
    }


def _collections(manifest: Manifest) -> dict[str, Any]:
    return {
        f"{item.name} {name}": value
        for item in manifest.collections
        for name, value in _describe_collection(item).items()
        if name != "name"
    }


def _flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings by their full names; what is no section, as another program may write, is one by itself."""
    found: dict[str, Any] = {}
    for section, keys in config.items():
        if isinstance(keys, Mapping):
            found.update({f"{section}.{key}": value for key, value in keys.items()})
        else:
            found[section] = keys
    return found


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[Any]]:
    names = dict.fromkeys([*before, *after])
    return {name: [before.get(name), after.get(name)] for name in names if before.get(name) != after.get(name)}
