"""What a new build finds in the log: itself, a run that replaced it, or a newer night that it must not replace."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from indexer.build.publish import commit_publication
from indexer.build.summary import ReleaseSummary, summarise_published, summarise_retired
from indexer.errors import IntegrityError, PublishConflictError
from indexer.log import LogEntry, find_damage, read_manifest
from indexer.manifest import Manifest
from indexer.releases.history import History
from indexer.releases.verify import examine_objects
from indexer.signature import SigningKey
from indexer.store import Store


def find_published(
    store: Store,
    names: Sequence[str],
    run_date: str,
    history: History,
    live_manifest: Manifest | None,
    key: SigningKey | None,
    *,
    dry: bool,
) -> ReleaseSummary | None:
    """Return the summary of a run that needs no build, or None; a `dry` one makes nothing live.

    `names` are the run's, as `History.list_names` gives them, and `live_manifest` is what `read_live` gives.

    A run that is live and whole is left alone, and so is one of an earlier night that was made of the same: same
    inputs, options, encoder and code. One that another run of its date replaced goes live again, unless
    an operator's rollback stands. One of an earlier night stays what it was: published before, and perhaps retired
    since. A run whose objects are lost or changed is built anew. What is left alone is published once more where half
    of its time is over. Raises PublishConflictError where a night that was never published would replace a newer one,
    or where another run was first.
    """
    live, run_id = history.live, names[-1]
    if live is None:
        return None
    same = live.run_id.endswith(run_id[len(run_date) :])
    if live_manifest and (live.run_id == run_id or (same and live_manifest.run_date < run_date)):
        due = not dry and _is_due(live, key)
        # What was changed in its place is no release to publish once more.
        if not (due and examine_objects(store, live_manifest.objects)):
            status = "already published" if live.run_id == run_id else "unchanged"
            again = commit_publication(store, live_manifest, live.manifest, history.head, key) if due else live
            return summarise_published(status, store.url, again, live_manifest)
    if live.run_id == run_id:
        return None
    earlier = history.releases.get(run_id)
    manifest = read_whole(store, earlier) if earlier else None
    replaced_by = live_manifest.run_date if live_manifest else _read_date(store, live) or run_date
    if earlier is None or manifest is None:
        retired = next((history.releases[name] for name in reversed(names[:-1]) if name in history.releases), None)
        if retired and replaced_by > run_date:
            return summarise_retired(store.url, retired, run_date)
        _refuse_older(store, run_date, live)
        return None
    if replaced_by != run_date or live.kind == "rollback":
        return summarise_published("published before", store.url, earlier, manifest)
    # A key signs nothing that nobody had signed.
    if (key and earlier.signature is None) or examine_objects(store, manifest.objects):
        return None
    if dry:
        return summarise_published("to be published again", store.url, earlier, manifest)
    again = commit_publication(store, manifest, earlier.manifest, history.head, key)
    return summarise_published("published again", store.url, again, manifest)


def remark_rollback(live: LogEntry | None) -> dict[str, dict[str, Any]]:
    """Return when an operator's rollback ends, as remarks on tables are given: no night prolongs it."""
    if live is None or live.kind != "rollback" or live.expires_at is None:
        return {}
    return {"LOG": {"rollback_expires": f"{live.expires_at}, unless it is made once more to run {live.run_id}"}}


def _is_due(live: LogEntry, key: SigningKey | None) -> bool:
    """Whether half of a publication's time is over; rollbacks are operators' to renew."""
    if key is None or not key.expires_days or live.kind == "rollback":
        return False
    half = timedelta(days=key.expires_days) / 2
    return not live.expires_at or datetime.fromisoformat(live.expires_at) - datetime.now(UTC) <= half


def refuse_older(store: Store, run_date: str, history: History) -> None:
    """Raise PublishConflictError where a release of the date would replace one of a newer night."""
    if history.live:
        _refuse_older(store, run_date, history.live)


def _refuse_older(store: Store, run_date: str, live: LogEntry) -> None:
    newer = _read_date(store, live)
    if newer and newer > run_date:
        raise PublishConflictError(
            f"{store.url}: run {live.run_id} of the newer night {newer} is live, and a release of "
            f"{run_date} would replace it; run the newer night again instead"
        )


def _read_date(store: Store, entry: LogEntry) -> str | None:
    """Return the night of a release, whose other objects may be lost; None where its manifest is."""
    try:
        return read_manifest(store, entry).run_date
    except IntegrityError:
        return None


def find_baseline(store: Store, run_date: str, history: History) -> Manifest | None:
    """Return the live release, or the one that was live before where it is of this night; None where there is none.

    A night that runs twice would be measured by itself; one that an operator withdrew is no measure either.
    """
    for entry in reversed(history.lived):
        try:
            manifest = read_manifest(store, entry)
        except IntegrityError:
            continue
        if manifest.run_date < run_date:
            return manifest
    return None


def read_live(store: Store, history: History) -> Manifest | None:
    """Return the live release's manifest if it and every object it names are there."""
    return read_whole(store, history.live) if history.live else None


def read_whole(store: Store, entry: LogEntry) -> Manifest | None:
    """Return the entry's manifest if it and every object it names are there."""
    try:
        manifest = read_manifest(store, entry)
    except IntegrityError:
        return None
    return None if find_damage(store, manifest.objects) else manifest
