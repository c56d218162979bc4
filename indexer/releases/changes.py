"""Entries that people add to the log: roll back, pin, unpin."""

from datetime import datetime

from indexer.errors import ConfigError, IntegrityError
from indexer.log import KeepingEntry, LogEntry, commit_entry, read_manifest
from indexer.log_signature import sign_entry, trust_publisher
from indexer.releases.history import History, read_own
from indexer.releases.verify import examine_objects
from indexer.runs import now_text
from indexer.signature import SigningKey
from indexer.store import Store


def roll_back(store: Store, run_id: str | None = None, key: SigningKey | None = None) -> LogEntry:
    """Make an earlier release live again, by default the one that was live before; return the new entry.

    A rollback that stands and expires is prolonged by naming its run again; nights prolong what they published.

    Raises ConfigError for a run that was never published or is retired, for one that is live and would not be for
    longer, or where a key would sign what nobody had signed or would never expire in place of what does;
    IntegrityError where one of its objects is damaged, PublishConflictError where another entry was first.
    """
    history = read_own(store, key)
    target = history.find_release(run_id or _find_previous(history))
    entry = LogEntry(
        sequence=history.head + 1,
        kind="rollback",
        run_id=target.run_id,
        manifest=target.manifest,
        parent=history.head,
        created_at=now_text(),
    )
    entry = sign_entry(entry, key)
    _check_rollback(entry, target, history.live, store.url)
    if damage := examine_objects(store, read_manifest(store, target).objects):
        raise IntegrityError(f"{damage[0]}; run {target.run_id} cannot go live, choose another")
    return commit_entry(store, history.head, entry, check=trust_publisher(key, store.url))


def pin(store: Store, run_id: str, key: SigningKey | None = None) -> KeepingEntry:
    """Keep a release until it is unpinned; raises ConfigError for one that is not there, retired or pinned already."""
    history = read_own(store, key)
    history.find_release(run_id)
    if run_id in history.pinned:
        raise ConfigError(f"{store.url}: run {run_id} is pinned already")
    return commit_keeping(store, history.head, "pin", (run_id,), key)


def unpin(store: Store, run_id: str, key: SigningKey | None = None) -> KeepingEntry:
    """Keep a release no longer than others; raises ConfigError for one that is not pinned."""
    history = read_own(store, key)
    if run_id not in history.pinned:
        pinned = ", ".join(sorted(history.pinned)) or "none"
        raise ConfigError(f"{store.url}: run {run_id} is not pinned; pinned are: {pinned}")
    return commit_keeping(store, history.head, "unpin", (run_id,), key)


def commit_keeping(
    store: Store, head: int, kind: str, runs: tuple[str, ...], key: SigningKey | None = None
) -> KeepingEntry:
    """Add an entry on runs after the head of the log; raises PublishConflictError where another entry was first."""
    entry = KeepingEntry(sequence=head + 1, kind=kind, runs=runs, parent=head, created_at=now_text())
    return commit_entry(store, head, sign_entry(entry, key))


def _check_rollback(entry: LogEntry, target: LogEntry, live: LogEntry | None, url: str) -> None:
    """Raise ConfigError for a rollback that changes nothing, vouches for what nobody did, ends too early or never."""
    days = "(--expires-days, INDEXER_SHOP_EXPIRES_DAYS)"
    same = live is not None and (live.run_id, live.manifest) == (target.run_id, target.manifest)
    if live and same and (live.kind != "rollback" or live.expires_at is None):
        raise ConfigError(f"{url}: run {target.run_id} is live already; name an earlier one")
    if entry.signature and target.signature is None:
        raise ConfigError(
            f"{url}: run {target.run_id} was published before this log was signed, and nobody vouches for it; "
            "choose a signed one, or build the night again"
        )
    if live and live.expires_at and not entry.expires_at:
        raise ConfigError(
            f"{url}: the live release expires at {live.expires_at}, the rollback never; say for how many days "
            f"it is served {days}"
        )
    if live and same and _read_end(entry) <= _read_end(live):
        raise ConfigError(
            f"{url}: run {target.run_id} is live until {live.expires_at} already; say for more days {days}"
        )


def _read_end(entry: LogEntry) -> datetime:
    """Return when an entry that expires is to be served no more."""
    return datetime.fromisoformat(str(entry.expires_at))


def _find_previous(history: History) -> str:
    """Return the run that was live before the one that is; after a rollback nobody can mean that one by saying none."""
    if history.live and history.live.kind == "rollback":
        raise ConfigError(
            f"{history.url}: log entry {history.live.sequence} is a rollback to run {history.live.run_id} already; "
            "name the run that is to go live"
        )
    lived = [entry.run_id for entry in history.lived]
    for run_id in reversed(lived):
        if run_id != lived[-1] and run_id not in history.retired:
            return run_id
    raise ConfigError(f"{history.url}: there is no earlier release to roll back to")
