"""What the whole log says: which runs were published, which is live, which are pinned and which are retired."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from indexer.errors import ConfigError, IntegrityError, UntrustedError
from indexer.log import Entry, KeepingEntry, LogEntry, read_entry, read_head, refuse_empty
from indexer.log_signature import find_void
from indexer.signature import PublicKey, SigningKey
from indexer.store import Store

READERS = 16
"""Entries that are fetched at once: a store answers each in some tens of milliseconds."""


@dataclass(frozen=True, kw_only=True)
class History:
    """The log up to a head."""

    url: str
    entries: tuple[Entry, ...]
    """All of them, oldest first."""
    void: Mapping[int, str] = field(default_factory=dict)
    """Numbers of the entries that count for nothing, as no trusted key signed them, with the reason."""

    @property
    def head(self) -> int:
        """The number of the newest entry."""
        return len(self.entries)

    @cached_property
    def counted(self) -> tuple[Entry, ...]:
        """The entries that count, oldest first."""
        return tuple(entry for entry in self.entries if entry.sequence not in self.void)

    @cached_property
    def lived(self) -> tuple[LogEntry, ...]:
        """The entries that make a release live, oldest first."""
        return tuple(entry for entry in self.counted if isinstance(entry, LogEntry))

    @property
    def live(self) -> LogEntry | None:
        """The newest entry that makes a release live."""
        return self.lived[-1] if self.lived else None

    @cached_property
    def releases(self) -> dict[str, LogEntry]:
        """Run -> its newest publication, in the order of these.

        Where none counts, as its key is trusted no more, the newest rollback to it that does, in the place of the
        first: a rollback names the release by its hash as well.
        """
        found: dict[str, LogEntry] = {}
        for entry in self.lived:
            if entry.kind == "publish":
                found.pop(entry.run_id, None)
            elif entry.run_id in found and found[entry.run_id].kind == "publish":
                continue
            found[entry.run_id] = entry
        return found

    @cached_property
    def retired(self) -> frozenset[str]:
        """Runs that can never go live again."""
        return frozenset(run for entry in self._keeping("retire") for run in entry.runs)

    @cached_property
    def pinned(self) -> frozenset[str]:
        """Runs that are kept until they are unpinned."""
        return _find_pinned(self.counted)

    @property
    def pinned_by_others(self) -> frozenset[str]:
        """The same by signed entries that count for nothing here, as they are another key's."""
        return _find_pinned(entry for entry in self.entries if entry.sequence in self.void and entry.signature)

    @cached_property
    def replaced(self) -> dict[str, LogEntry]:
        """Run that is not live -> the entry that replaced it last."""
        found = {earlier.run_id: later for earlier, later in pairwise(self.lived)}
        return {run_id: entry for run_id, entry in found.items() if run_id != self.lived[-1].run_id}

    def find_void_runs(self, *kinds: str, signed: bool = False) -> dict[str, int]:
        """Return run -> the newest entry of these kinds about it that counts for nothing, or is another key's."""
        return {
            run_id: entry.sequence
            for entry in self.entries
            if entry.sequence in self.void and entry.kind in kinds and not (signed and entry.signature is None)
            for run_id in (entry.runs if isinstance(entry, KeepingEntry) else (entry.run_id,))
        }

    def find_release(self, run_id: str) -> LogEntry:
        """Return the newest publication of a run.

        Raises ConfigError for one that is not there or retired, UntrustedError for one that no trusted key signed.
        """
        found = self.releases.get(run_id)
        if found is None:
            for entry in self.entries:
                if entry.sequence in self.void and isinstance(entry, LogEntry) and entry.run_id == run_id:
                    raise UntrustedError(self.void[entry.sequence])
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
        """Return the live entry; raises StoreError where nothing was published, UntrustedError where nothing counts."""
        if self.live is None and self.void:
            raise UntrustedError(self.void[max(self.void)])
        if self.live is None:
            raise refuse_empty(self.url)
        return self.live

    def _keeping(self, *kinds: str) -> Iterable[KeepingEntry]:
        return (entry for entry in self.counted if isinstance(entry, KeepingEntry) and entry.kind in kinds)


def _find_pinned(entries: Iterable[Entry]) -> frozenset[str]:
    found: set[str] = set()
    for entry in entries:
        if isinstance(entry, KeepingEntry) and entry.kind in ("pin", "unpin"):
            found = found | set(entry.runs) if entry.kind == "pin" else found - set(entry.runs)
    return frozenset(found)


def read_history(store: Store, key: PublicKey | None = None) -> History:
    """Read the log; raises IntegrityError where it is damaged.

    With keys, entries count from the first signed one on only where one of them signed.
    """
    numbers = range(1, read_head(store) + 1)
    with ThreadPoolExecutor(READERS) as pool:
        entries = tuple(pool.map(lambda number: read_entry(store, number), numbers))
    void = find_void(entries, key, store.url) if key is not None else {}
    return History(url=store.url, entries=entries, void=void)


def read_own(store: Store, key: SigningKey | None) -> History:
    """Read the log in order to add to it.

    Raises ConfigError where it is signed and there is no key: what is added would count for nobody who pins one.
    Raises IntegrityError where none of its signatures is of a key that is trusted: then the key is another store's.
    """
    history = read_history(store, key=key.trusted if key else None)
    signed = [entry for entry in history.entries if entry.signature is not None]
    if signed and key is None:
        raise ConfigError(
            f"{store.url}: log entry {signed[-1].sequence} is signed, so whoever adds to this log must sign; give the "
            "key (shop.signing_key, --signing-key)"
        )
    if signed and all(entry.sequence in history.void for entry in signed):
        raise IntegrityError(
            f"{history.void[signed[-1].sequence]}; nor is another entry: give this store's key, and where it "
            "was replaced a file of both public keys (shop.public_keys, --public-key)"
        )
    return history
