"""The rules of the protocol, each with what breaks it, to see that the simulation would notice."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from indexer import log
from indexer.build import publish as publishing
from indexer.build import published
from indexer.errors import ObjectExistsError, OutcomeUnknownError, PublishConflictError, StoreError
from indexer.log import LogEntry
from indexer.manifest import Manifest
from indexer.object_cache import ObjectCache
from indexer.releases import changes, garbage, history


def _retire_nothing(store: Any, head: int, *_: object) -> Any:
    return SimpleNamespace(sequence=head)


def _overwrite_commit(store: Any, head: int, entry: Any, **_: object) -> Any:
    store.create(log.log_key(entry.sequence), log.write_entry(entry), attempts=1, replacing=True)
    return entry


def _commit_once(store: Any, head: int, entry: Any, **_: object) -> Any:
    """Commit without reading back what a lost answer or a 412 meant."""
    data = log.write_entry(entry)
    for _attempt in range(3):
        try:
            store.put_new(log.log_key(entry.sequence), data)
            return entry
        except ObjectExistsError:
            raise PublishConflictError("taken") from None
        except StoreError:
            continue
    raise PublishConflictError("given up")


def _refuse_unknown(store: Any, manifest: Manifest, stored: Any, head: int, key: Any = None) -> LogEntry:
    """Take a commit that cannot be read back for one that did not happen."""
    try:
        return commit_on(store, manifest, stored, head, key)
    except OutcomeUnknownError:
        raise PublishConflictError("not there") from None


def _give_up(*_: object, **__: object) -> None:
    """Take a conflict for lost without reading whose entry stands there."""
    raise PublishConflictError("taken")


def _delete_log(store: Any, plan: Any, **options: Any) -> int:
    deleted = garbage_collect(store, plan, **options)
    for entry in plan.history.entries[:-3]:
        store.delete(log.log_key(entry.sequence))
    return deleted


def _ignore_parent(run: Any, manifest: Manifest) -> LogEntry:
    for _ in range(5):
        try:
            return publish_once(run, replace(manifest, parent=log.read_head(run.store)))
        except ObjectExistsError:
            raise PublishConflictError("the manifest stands already") from None
        except PublishConflictError:
            continue
    raise PublishConflictError("given up")


def commit_anywhere(store: Any, manifest: Manifest, stored: Any, head: int, key: Any = None) -> LogEntry:
    """Go on at the new head, whatever went live since."""
    for _ in range(5):
        try:
            return commit_on(store, manifest, stored, head, key)
        except PublishConflictError:
            head = log.read_head(store)
    raise PublishConflictError("given up")


def _publish_always_again(store: Any, names: list[str], run_date: str, past: Any, *rest: Any, **options: Any) -> Any:
    """Make a run live again that was live before, whatever replaced it."""
    earlier = past.releases.get(names[-1])
    manifest = published.read_whole(store, earlier) if earlier and past.live.run_id != names[-1] else None
    if manifest is None:
        return find_published(store, names, run_date, past, *rest, **options)
    again = publishing.commit_publication(store, manifest, earlier.manifest, past.head)
    return published.summarise_published("published again", store.url, again, manifest)


def _fetch_unverified(self: ObjectCache, entry: Any) -> Path:
    path = self._folder.parent / "object"
    self._store.get_file(entry.key, path)
    return path


def _build_for_ever(stored: Any, past: Any, *_: object) -> set[str]:
    return set(stored) - set(past.releases)


garbage_collect, publish_once, commit_on = garbage.collect_garbage, publishing.publish, publishing.commit_publication
find_published = published.find_published

Patch = tuple[Any, str, Any]
BROKEN: dict[str, tuple[Patch, ...]] = {
    "retire": ((garbage, "commit_keeping", _retire_nothing),),
    "shared": ((garbage, "_name_objects", lambda *_: set()),),
    "overwrite": ((publishing, "commit_entry", _overwrite_commit), (changes, "commit_entry", _overwrite_commit)),
    "read-back": ((publishing, "commit_entry", _commit_once), (publishing, "read_own", _give_up)),
    "unknown": ((publishing, "commit_publication", _refuse_unknown),),
    "log": ((garbage, "collect_garbage", _delete_log),),
    "base": ((publishing, "publish", _ignore_parent),),
    "moved-on": ((publishing, "commit_publication", commit_anywhere),),
    "pins": ((history.History, "pinned", property(lambda self: frozenset())),),
    "retired": (
        (history.History, "retired", property(lambda self: frozenset())),
        (changes, "examine_objects", lambda *_: []),
    ),
    "rollback": ((published, "find_published", _publish_always_again),),
    "older": ((published, "_refuse_older", lambda *_: None),),
    "building": ((garbage, "_find_building", lambda *_: set()),),
    "recent": ((garbage, "_is_recent", lambda *_: False),),
    "leak": ((garbage, "_find_building", _build_for_ever),),
    "keys": (),
    "hashes": ((ObjectCache, "fetch", _fetch_unverified),),
}
"""Rule of the protocol -> what is replaced to break it; the last two give all attempts the same keys."""
