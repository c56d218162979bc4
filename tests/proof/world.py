"""What only the simulator knows: the store's true content, and everything that must never happen to it.

The rules of keeping are stated here once more, from the log as it is: they must not come from the code under test.
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from indexer import log
from indexer.errors import ObjectExistsError
from indexer.log import Entry, KeepingEntry, LogEntry
from indexer.manifest import Manifest, parse_manifest

START = datetime(2026, 1, 1, tzinfo=UTC)
GRACE = timedelta(seconds=30)
"""Of the simulated clock, which runs one second a call."""
KEPT_RELEASES = 1


@dataclass(frozen=True)
class Collection:
    """What a collector was to find when it began, by its own clock."""

    head: int
    needless: frozenset[str]
    """Keys that nobody needs."""


@dataclass
class World:
    """The store's true content, and everything that went wrong."""

    objects: dict[str, tuple[bytes, datetime]] = field(default_factory=dict)
    clock: int = 0
    entries: list[Entry] = field(default_factory=list)
    publications: dict[str, list[LogEntry]] = field(default_factory=dict)
    """Run -> the entries that published it, oldest first."""
    named: dict[str, set[str]] = field(default_factory=dict)
    """Run -> keys of its newest publication, in the order of these."""
    lives: list[tuple[LogEntry, datetime]] = field(default_factory=list)
    """Entries that made a release live, and when."""
    numbers: set[str] = field(default_factory=set)
    manifests: dict[str, Manifest] = field(default_factory=dict)
    violations: Counter[str] = field(default_factory=Counter)
    retired: set[str] = field(default_factory=set)
    pinned: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    """Attempts that were told of a conflict."""

    @property
    def now(self) -> datetime:
        return START + timedelta(seconds=self.clock)

    @property
    def live(self) -> LogEntry | None:
        return self.lives[-1][0] if self.lives else None

    def blame(self, sentence: str) -> None:
        self.violations[sentence] += 1

    def create(self, key: str, data: bytes, sender: Any, *, replacing: bool = False) -> None:
        """Apply a request, whenever it arrives."""
        if key in self.objects and not replacing:
            raise ObjectExistsError(key)
        if key.startswith("log/"):
            self._enter(key, data, sender)
        self.objects[key] = (data, self.now)

    def delete(self, key: str) -> None:
        if key.startswith("log/"):
            self.blame("a log entry was deleted")
        elif _run_of(key) not in self.retired:
            self.blame("an object of a run that may go live was deleted")
        if any(key in named for run_id, named in self.named.items() if run_id not in self.retired):
            self.blame("an object of a release that may go live was deleted")
        self.objects.pop(key, None)

    def note_listing(self, prefix: str, sender: Any) -> None:
        if prefix == "v/":
            sender.listed = self.now

    def expect_collection(self, skew: timedelta) -> Collection:
        """Return what a collection that begins now must delete, or leave to one that comes first."""
        clock = self.now + skew
        kept = self._find_kept(clock)
        named = {key for run_id in kept for key in self.named[run_id]}
        for (entry, _), (_, replaced) in pairwise(self.lives):
            if entry.run_id in kept and clock - replaced < GRACE:
                named |= self._read(entry) or set()
        building = self._find_building(clock)
        runs = set(kept) | building
        needless = (key for key in self.objects if key.startswith("v/") and _run_of(key) not in runs)
        return Collection(len(self.entries), frozenset(key for key in needless if key not in named))

    def check_collection(self, before: Collection, began: datetime, retired: bool) -> None:
        """Look at what a finished collection has left; one that the log overtook tells by its number."""
        if len(self.entries) != before.head + retired:
            return
        written = {_run_of(key) for key, (_, time) in self.objects.items() if key.startswith("v/") and time >= began}
        if any(key in self.objects and _run_of(key) not in written for key in before.needless):
            self.blame("a collection left what nobody needed when it began")

    def _enter(self, key: str, data: bytes, sender: Any) -> None:
        if key in self.numbers:
            self.blame("a log number was used twice")
        self.numbers.add(key)
        number = int(key[4:-5])
        entry = log.parse_entry(data, "truth", number)
        if number != len(self.entries) + 1:
            self.blame("the log has a gap")
        self.entries.append(entry)
        if isinstance(entry, KeepingEntry):
            self._keep(entry, sender)
        else:
            self._go_live(entry)

    def _go_live(self, entry: LogEntry) -> None:
        named = self._read(entry)
        if entry.run_id in self.retired:
            self.blame("a retired release went live")
        if named is None or any(key not in self.objects for key in named):
            self.blame("a release went live with missing objects")
        if entry.kind == "publish":
            self._publish(entry, named or set())
        self.lives.append((entry, self.now))

    def _publish(self, entry: LogEntry, named: set[str]) -> None:
        before, earlier = self.live, self.publications.setdefault(entry.run_id, [])
        replaced, manifest = (self.manifests.get(one.manifest.key) if one else None for one in (before, entry))
        again = entry.manifest in [one.manifest for one in earlier]
        if again and before and before.kind == "rollback":
            self.blame("a rerun undid an operator's rollback")
        if again and before and before.manifest == entry.manifest:
            self.blame("a run was published twice")
        if not again and manifest and before and before.sequence > manifest.parent:
            self.blame("a release went live on another than it was planned on")
        if replaced and manifest and manifest.run_date < replaced.run_date:
            self.blame("an older night replaced a newer one")
        if any(f".{attempt}." in entry.manifest.key for attempt in self.refused):
            self.blame("a publisher was told of a conflict, but its release went live later")
        earlier.append(entry)
        self.named.pop(entry.run_id, None)
        self.named[entry.run_id] = named

    def _keep(self, entry: KeepingEntry, sender: Any) -> None:
        runs = set(entry.runs)
        if entry.kind != "retire":
            self.pinned = self.pinned | runs if entry.kind == "pin" else self.pinned - runs
            return
        if runs & (self.pinned | ({self.live.run_id} if self.live else set())):
            self.blame("a live or pinned release was retired")
        clock = sender.listed + sender.skew
        if runs & self._find_building(clock, sender.listed):
            self.blame("a run that may still be built was retired within the grace period")
        if any(run_id in runs and clock - time < GRACE for run_id, time in self._find_replaced().items()):
            self.blame("a release that was live within the grace period was retired")
        self.retired |= runs

    def _find_kept(self, clock: datetime) -> list[str]:
        newest = [run_id for run_id in self.named if run_id not in self.retired][-KEPT_RELEASES:]
        recent = [run_id for run_id, time in self._find_replaced().items() if clock - time < GRACE]
        kept = {*newest, *recent, *self.pinned, *([self.live.run_id] if self.live else [])}
        return [run_id for run_id in self.named if run_id in kept and run_id not in self.retired]

    def _find_building(self, clock: datetime, listed: datetime | None = None) -> set[str]:
        """Return runs without a publication that wrote something within the grace period, up to a listing."""
        return (
            {
                _run_of(key)
                for key, (_, time) in self.objects.items()
                if key.startswith("v/") and clock - time < GRACE and (listed is None or time < listed)
            }
            - set(self.publications)
            - self.retired
        )

    def _find_replaced(self) -> dict[str, datetime]:
        """Return when each run that is not live was replaced last."""
        found = {before.run_id: time for (before, _), (_, time) in pairwise(self.lives)}
        return {run_id: time for run_id, time in found.items() if not self.live or run_id != self.live.run_id}

    def _read(self, entry: LogEntry) -> set[str] | None:
        stored = self.manifests.get(entry.manifest.key)
        if stored is None:
            if entry.manifest.key not in self.objects:
                return None
            stored = parse_manifest(self.objects[entry.manifest.key][0], "truth")
            self.manifests[entry.manifest.key] = stored
        return {entry.manifest.key, *(item.key for item in stored.objects)}


def _run_of(key: str) -> str:
    return key.split("/")[1]
