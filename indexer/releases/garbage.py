"""Collect garbage: retire releases that nobody needs, then delete what only they had.

Where nothing is live nothing is touched: it is the wrong address, or a log that was lost and must be restored.

A run is retired in the log before anything of it is deleted, so whoever publishes or rolls back on an older head is too
late by its number, reads why, and gives up. Objects of a retired run that a kept release names stay: nights share them.
"""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from indexer.creation import is_proof
from indexer.errors import ConfigError, IntegrityError
from indexer.log import LogEntry, log_key, read_manifest
from indexer.manifest import COLLECTION, RUN_ID, Manifest
from indexer.releases.changes import commit_keeping
from indexer.releases.history import History, read_own
from indexer.signature import SigningKey
from indexer.store import LocalStore, Store, StoredObject

OBJECTS = "v/"
LOG = "log/"
RETIRED_AT_ONCE = 1_000
"""Runs of one log entry, far below the size that readers refuse."""
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.=-]*"
_OBJECT = re.compile(rf"{OBJECTS}({RUN_ID})/({_PART}(?:/{_PART})*)")
"""Keys of the project's own objects; what else lies there is left alone."""
_ATTEMPT = r"[0-9a-f]{12}"
_BUILT = re.compile(
    rf"(?:manifest|report|canaries|{COLLECTION}-\d{{5}})\.{_ATTEMPT}\..+|encoder/{_ATTEMPT}/.+|"
    rf"done/(?:encoder|{COLLECTION}-\d{{5}})(?:\.\d+)?\.json"
)
"""Names that builds give: a folder without one of them is no run, unless the log knows it."""


@dataclass(frozen=True, kw_only=True)
class KeepingRule:
    """Which releases are kept beside the live one and those that are pinned."""

    releases: int = 7
    """The newest that were published."""
    grace: timedelta = timedelta(days=3)
    """What was live or written so short a time ago is kept, for consumers and builds that still read it."""


@dataclass(frozen=True, kw_only=True)
class GarbagePlan:
    """What a collection will do at a head of the log."""

    history: History
    kept: tuple[str, ...]
    retire: tuple[str, ...]
    """Runs to be retired now."""
    delete: tuple[StoredObject, ...]
    """Objects that no kept release names, of runs that are retired or will be, and what old proofs left."""
    left: int
    """Bytes that stay."""
    runs: int = 0
    """Runs that have not been retired yet."""
    foreign: int = 0
    """Objects below `v/` that no build writes; nothing is done about them."""
    drafts: tuple[StoredObject, ...] = ()
    """Unfinished files of a folder that nobody has written to within the grace period: a bucket keeps none."""
    before: datetime = datetime.min.replace(tzinfo=UTC)
    """Where the grace period begins."""

    @property
    def bytes(self) -> int:
        """Bytes to be deleted."""
        return sum(item.bytes for item in (*self.delete, *self.drafts))

    @property
    def takes_most(self) -> bool:
        """Whether more than half of the runs go, as by a wrong rule or a wrong address."""
        return 2 * len(self.retire) > self.runs

    @property
    def distrusted(self) -> tuple[str, ...]:
        """Runs to be retired that another key pinned, or it alone published; what nobody signed counts for nothing."""
        own = self.history.releases
        published = set(self.history.find_void_runs("publish", "rollback", signed=True)).difference(own)
        named = published | self.history.pinned_by_others
        return tuple(run_id for run_id in self.retire if run_id in named)


def plan_garbage(
    store: Store, rule: KeepingRule, now: datetime | None = None, key: SigningKey | None = None
) -> GarbagePlan:
    """Work out what can go, reading the log, the manifests of kept releases and one listing; change nothing.

    Where no release is live nothing goes. Entries that no trusted key signed keep nothing and retire nothing. Raises
    IntegrityError where the manifest of a kept release cannot be read: what it names would be unknown.
    """
    history = read_own(store, key)
    clock = now or datetime.now(UTC)
    stored: dict[str, list[StoredObject]] = {}
    known = set(history.releases) | history.retired
    foreign = 0
    proofs = []
    for item in store.list(OBJECTS):
        if is_proof(item.key):
            # No run depends on it: none is retired for its sake.
            proofs += [item] if item.modified <= clock - rule.grace else []
        elif named_run := _OBJECT.fullmatch(item.key):
            stored.setdefault(named_run[1], []).append(item)
            if _BUILT.fullmatch(named_run[2]):
                known.add(named_run[1])
        else:
            foreign += 1
    foreign += sum(len(stored.pop(run_id)) for run_id in set(stored) - known)
    live = history.live
    if live is None:
        every = sum(item.bytes for items in stored.values() for item in items)
        return GarbagePlan(history=history, kept=(), retire=(), delete=(), left=every, foreign=foreign)
    # The store's own times: the clocks of builders may be wrong.
    written = {item.key: item.modified for item in store.list(LOG)}
    kept = _find_kept(history, live.run_id, rule, clock, written)
    named = _name_objects(store, history, [live, *(history.releases[run_id] for run_id in kept)])
    # A run may be published again, of other shards, while consumers still fetch those it had.
    for earlier, later in pairwise(history.lived):
        if earlier.run_id in kept and earlier.manifest.key not in named and _is_recent(later, rule, clock, written):
            with suppress(IntegrityError):
                named |= _name_objects(store, history, [earlier])
    building = _find_building(stored, history, rule, clock)
    runs = (set(stored) | set(history.releases)) - history.retired
    retire = tuple(sorted(runs - set(kept) - building))
    gone = history.retired | set(retire)
    delete = [item for run_id, items in sorted(stored.items()) if run_id in gone for item in items]
    delete = [item for item in delete if item.key not in named]
    every = sum(item.bytes for items in stored.values() for item in items)
    left = every - sum(item.bytes for item in delete)
    return GarbagePlan(
        history=history,
        kept=tuple(kept),
        retire=retire,
        delete=(*delete, *proofs),
        left=left,
        runs=len(runs),
        foreign=foreign,
        drafts=tuple(_find_abandoned(store, clock - rule.grace)),
        before=clock - rule.grace,
    )


def collect_garbage(store: Store, plan: GarbagePlan, key: SigningKey | None = None, *, most: bool = False) -> int:
    """Retire and delete as planned; return the bytes deleted.

    Raises PublishConflictError where the log has moved on since the plan was made: then nothing was deleted; and
    ConfigError where more than half of the runs would go, or some that entries of other keys published or pinned,
    unless `most` says that they may.
    """
    if plan.distrusted and not most:
        raise ConfigError(
            f"{store.url}: {len(plan.distrusted)} of the runs that would be retired, such as {plan.distrusted[0]}, "
            "were published or pinned by a key that is not trusted here; trust it, too (--public-key), or give "
            "--yes-delete"
        )
    if plan.takes_most and not most:
        raise ConfigError(
            f"{store.url}: {len(plan.retire)} of {plan.runs} runs would be retired, more than half; look at the "
            "address and, without --yes, at the plan, then give --yes-delete"
        )
    head = plan.history.head
    for start in range(0, len(plan.retire), RETIRED_AT_ONCE):
        head = commit_keeping(store, head, "retire", plan.retire[start : start + RETIRED_AT_ONCE], key).sequence
    for item in (*plan.delete, *plan.drafts):
        store.delete(item.key)
    if isinstance(store, LocalStore) and plan.history.live:
        for prefix in (OBJECTS, LOG):
            store.remove_empty_folders(prefix, plan.before)
    return plan.bytes


def _find_abandoned(store: Store, before: datetime) -> list[StoredObject]:
    """Return the drafts of killed processes; a bucket drops unfinished uploads by its own rule."""
    if not isinstance(store, LocalStore):
        return []
    # A folder may hold more than releases: what lies beside them is somebody else's.
    return [item for prefix in (OBJECTS, LOG) for item in store.list_drafts(prefix) if item.modified <= before]


def _find_kept(
    history: History, live_run: str, rule: KeepingRule, now: datetime, written: Mapping[str, datetime]
) -> list[str]:
    """Return the runs that stay as releases, in the order of their publication."""
    releases = [run_id for run_id in history.releases if run_id not in history.retired]
    newest = set(releases[-rule.releases :] if rule.releases else ())
    return [
        run_id
        for run_id in releases
        if run_id in newest | history.pinned | {live_run}
        or _is_recent(history.replaced.get(run_id), rule, now, written)
    ]


def _find_building(
    stored: Mapping[str, Iterable[StoredObject]], history: History, rule: KeepingRule, now: datetime
) -> set[str]:
    """Return the runs that were never published and wrote something a short time ago."""
    return {
        run_id
        for run_id, items in stored.items()
        if run_id not in history.releases and any(now - item.modified < rule.grace for item in items)
    }


def _is_recent(replaced: LogEntry | None, rule: KeepingRule, now: datetime, written: Mapping[str, datetime]) -> bool:
    return replaced is not None and now - written[log_key(replaced.sequence)] < rule.grace


def _name_objects(store: Store, history: History, entries: Iterable[LogEntry]) -> set[str]:
    """Return the keys of what entries made live."""
    found: set[str] = set()
    for entry in {entry.manifest.key: entry for entry in entries}.values():
        found |= {entry.manifest.key, *(item.key for item in _read_kept(store, history, entry).objects)}
    return found


def _read_kept(store: Store, history: History, entry: LogEntry) -> Manifest:
    """Read a kept release's manifest; where it is gone, a retirement may be the cause that counts no more."""
    try:
        return read_manifest(store, entry)
    except IntegrityError as error:
        retired = history.find_void_runs("retire").get(entry.run_id)
        if retired is None:
            raise
        raise IntegrityError(
            f"{error}; log entry {retired} had retired the run, but no trusted key signed that: trust its key, too "
            "(--public-key), or keep fewer releases"
        ) from None
