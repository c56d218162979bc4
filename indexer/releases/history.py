"""What the whole log says: which runs were published, which is live, which are pinned and which are retired."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from indexer.errors import ConfigError
from indexer.log import Entry, KeepingEntry, LogEntry, read_any_entry, read_head, refuse_empty
from indexer.log_signature import check_entries
from indexer.signature import PublicKey
from indexer.store import Store

READERS = 16
"""Entries that are fetched at once: a store answers each in some tens of milliseconds."""


@dataclass(frozen=True, kw_only=True)
class History:
    """The log up to a head."""

    url: str
    entries: tuple[Entry, ...]
    """All of them, oldest first."""

    @property
    def head(self) -> int:
        """The number of the newest entry."""
        return len(self.entries)

    @cached_property
    def live(self) -> LogEntry | None:
        """The newest entry that makes a release live."""
        return next((entry for entry in reversed(self.entries) if isinstance(entry, LogEntry)), None)

    @cached_property
    def releases(self) -> dict[str, LogEntry]:
        """Run -> its newest publication, in the order of these."""
        found: dict[str, LogEntry] = {}
        for entry in self.entries:
            if isinstance(entry, LogEntry) and entry.kind == "publish":
                found.pop(entry.run_id, None)
                found[entry.run_id] = entry
        return found

    @cached_property
    def retired(self) -> frozenset[str]:
        """Runs that can never go live again."""
        return frozenset(run for entry in self._keeping("retire") for run in entry.runs)

    @cached_property
    def pinned(self) -> frozenset[str]:
        """Runs that are kept until they are unpinned."""
        found: set[str] = set()
        for entry in self._keeping("pin", "unpin"):
            found = found | set(entry.runs) if entry.kind == "pin" else found - set(entry.runs)
        return frozenset(found)

    @cached_property
    def replaced(self) -> dict[str, LogEntry]:
        """Run that is not live -> the entry that replaced it last."""
        lived = [entry for entry in self.entries if isinstance(entry, LogEntry)]
        found = {earlier.run_id: later for earlier, later in pairwise(lived)}
        return {run_id: entry for run_id, entry in found.items() if run_id != lived[-1].run_id}

    def find_release(self, run_id: str) -> LogEntry:
        """Return the newest publication of a run; raises ConfigError for one that is not there or retired."""
        found = self.releases.get(run_id)
        if found is None:
            known = ", ".join(list(self.releases)[-5:]) or "none"
            raise ConfigError(f"{self.url}: run {run_id} was never published; the newest that were: {known}")
        if run_id in self.retired:
            raise ConfigError(f"{self.url}: run {run_id} is retired, its objects may be deleted; choose another")
        return found

    def list_names(self, run_id: str) -> list[str]:
        """Return the names of a run: the retired ones, which stay so, and last the one it has now, with a number."""
        names = [run_id]
        while names[-1] in self.retired:
            names.append(f"{run_id}-{len(names) + 1}")
        return names

    def require_live(self) -> LogEntry:
        """Return the live entry; raises StoreError where nothing was published."""
        if self.live is None:
            raise refuse_empty(self.url)
        return self.live

    def _keeping(self, *kinds: str) -> Iterable[KeepingEntry]:
        return (entry for entry in self.entries if isinstance(entry, KeepingEntry) and entry.kind in kinds)


def read_history(store: Store, head: int | None = None, key: PublicKey | None = None) -> History:
    """Read the log up to a head, or all of it; raises IntegrityError where it is damaged.

    With a key, also where an entry is not signed by it that comes after one that is signed.
    """
    numbers = range(1, (read_head(store) if head is None else head) + 1)
    with ThreadPoolExecutor(READERS) as pool:
        entries = tuple(pool.map(lambda number: read_any_entry(store, number), numbers))
    if key is not None:
        check_entries(entries, key, store.url)
    return History(url=store.url, entries=entries)
