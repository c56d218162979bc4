"""Runs that were published before: left alone, or live again where another run of their date replaced them."""

from indexer.build.publish import find_damage
from indexer.build.summary import ReleaseSummary, summarise_published
from indexer.log import LogEntry, commit_entry, find_publication, live_entry, read_manifest
from indexer.runs import now_text
from indexer.store import Store


def find_published(store: Store, run_id: str, head: int) -> ReleaseSummary | None:
    """Return the summary of the run if it was published before, live again where another run of its date is live.

    A release of another date stays live: a late rerun of an old night must not take the place of a newer one.
    Raises PublishConflictError where another run was first.
    """
    if not any(store.list(f"v/{run_id}/manifest.")):
        return None
    entry, live = find_publication(store, run_id, head), live_entry(store, head)
    if entry is None or live is None:
        return None
    if live.run_id == run_id:
        return summarise_published("already published", store.url, live, read_manifest(store, live))
    manifest = read_manifest(store, entry)
    if read_manifest(store, live).run_date != manifest.run_date:
        return summarise_published("already published", store.url, entry, manifest)
    if find_damage(store, manifest.objects):
        # Built and published anew: what is lost cannot become live.
        return None
    return summarise_published("published again", store.url, _publish_again(store, entry, head), manifest)


def _publish_again(store: Store, published: LogEntry, head: int) -> LogEntry:
    """Make the stored release of an earlier entry live again, by a new entry of kind `rollback`."""
    entry = LogEntry(
        sequence=head + 1,
        kind="rollback",
        run_id=published.run_id,
        manifest=published.manifest,
        parent=head,
        created_at=now_text(),
    )
    return commit_entry(store, head, entry)
