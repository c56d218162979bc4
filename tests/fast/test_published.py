"""What a new build finds in the log, and when it builds, goes live again or leaves everything as it is."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from indexer.build.publish import RunFolder, publish
from indexer.build.published import find_baseline, find_published, read_live, read_whole, refuse_older, remark_rollback
from indexer.build.summary import ReleaseSummary
from indexer.errors import PublishConflictError
from indexer.log import commit_entry, live_entry, read_head, read_manifest
from indexer.log_signature import sign_entry
from indexer.manifest import ObjectEntry
from indexer.releases.changes import commit_keeping, pin, roll_back
from indexer.releases.history import read_history
from indexer.signature import SigningKey
from indexer.store import LocalStore
from tests.small_releases import make_manifest, make_shard, make_signing_key, publish_run, read_history_at

FIRST, SECOND, THIRD = "2026-01-01", "2026-01-02", "2026-01-03"
Damage = Callable[[LocalStore, str], None]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "release")


def publish_night(store: LocalStore, run_id: str) -> None:
    publish_run(store, run_id, run_date=run_id[:10])


def manifest_entry(store: LocalStore, run_id: str) -> ObjectEntry:
    return read_history(store).releases[run_id].manifest


def lose_manifest(store: LocalStore, run_id: str) -> None:
    store.delete(manifest_entry(store, run_id).key)


def lose_object(store: LocalStore, run_id: str) -> None:
    store.delete(f"v/{run_id}/0.ids")


def change_object(store: LocalStore, run_id: str) -> None:
    path = store.local_path(f"v/{run_id}/0.ids")
    path.write_bytes(path.read_bytes()[::-1])


def look(
    store: LocalStore, names: Sequence[str], key: SigningKey | None = None, *, dry: bool = False
) -> ReleaseSummary | None:
    """Look for a run in the log as a build does."""
    history = read_history(store)
    return find_published(store, names, names[0][:10], history, read_live(store, history), key, dry=dry)


def find(store: LocalStore, *names: str, dry: bool = False) -> tuple[str, str, int, int] | None:
    """Return the status, the run and the entry that are told, and the head of the log afterwards."""
    found = look(store, names, dry=dry)
    if found is None:
        return None
    assert (found.url, found.run_date) == (store.url, found.run_id[:10])
    return found.status, found.run_id, found.sequence, read_head(store)


@pytest.mark.parametrize(
    ("nights", "asked", "told"),
    [
        ([], f"{SECOND}-a", None),
        ([f"{SECOND}-a"], f"{SECOND}-a", ("already published", f"{SECOND}-a", 1, 1)),
        ([f"{FIRST}-a"], f"{SECOND}-a", ("unchanged", f"{FIRST}-a", 1, 1)),
        ([f"{FIRST}-b"], f"{SECOND}-a", None),
        ([f"{SECOND}-b"], f"{SECOND}-a", None),
        # Another of its date replaced it.
        ([f"{SECOND}-a", f"{SECOND}-b"], f"{SECOND}-a", ("published again", f"{SECOND}-a", 3, 3)),
        ([f"{SECOND}-a", f"{THIRD}-b"], f"{SECOND}-a", ("published before", f"{SECOND}-a", 1, 2)),
        # What a newer night made of the same is no reason to leave this one out.
        ([f"{SECOND}-a", f"{THIRD}-a"], f"{SECOND}-a", ("published before", f"{SECOND}-a", 1, 2)),
    ],
)
def test_what_becomes_of_a_run(
    store: LocalStore, nights: list[str], asked: str, told: tuple[str, str, int, int] | None
):
    for run_id in nights:
        publish_night(store, run_id)
    assert find(store, asked) == told


def test_a_dry_run_makes_nothing_live(store: LocalStore):
    for run_id in (f"{SECOND}-a", f"{SECOND}-b"):
        publish_night(store, run_id)
    assert find(store, f"{SECOND}-a", dry=True) == ("to be published again", f"{SECOND}-a", 1, 2)
    assert find(store, f"{SECOND}-b", dry=True) == ("already published", f"{SECOND}-b", 2, 2)


@pytest.mark.parametrize(
    ("noted", "told"),
    [
        ({}, []),
        ({"collections": 5}, []),
        ({"collections": [5, None, [], {}, {"name": ["products"]}, {"name": "others", "rows": 1}]}, []),
        (
            {"collections": [{"name": "products", "rows": 1, "bytes": [2], "recall_10": {"a": {}}, "more": 3}]},
            [{"name": "products", "rows": 1, "built": 0, "reused": 1}],
        ),
        (
            {"collections": [{"cut_fields": {"title": 2}, "built": 7, "recall_10": 0.5, "name": "products"}]},
            [{"name": "products", "cut_fields": {"title": 2}, "built": 0, "recall_10": 0.5, "reused": 1}],
        ),
    ],
)
def test_figures_that_nobody_checks_end_no_build(store: LocalStore, noted: dict[str, Any], told: list[dict[str, Any]]):
    manifest = replace(make_manifest(store, f"{SECOND}-a", (make_shard(store, f"{SECOND}-a"),), 0), counts=noted)
    entry = publish(RunFolder(store, f"{SECOND}-a"), replace(manifest, run_date=SECOND))
    found = look(store, [f"{SECOND}-a"])
    assert found
    assert (read_manifest(store, entry).counts, found.status) == (noted, "already published")
    assert [list(item.items()) for item in found.collections] == [list(item.items()) for item in told]


def test_what_goes_live_again_is_the_same_manifest(store: LocalStore):
    for run_id in (f"{SECOND}-a", f"{SECOND}-b"):
        publish_night(store, run_id)
    before = manifest_entry(store, f"{SECOND}-a")
    find(store, f"{SECOND}-a")
    live = read_history(store).require_live()
    assert (live.run_id, live.kind, live.parent, live.manifest) == (f"{SECOND}-a", "publish", 2, before)


@pytest.mark.parametrize("damage", [lose_manifest, lose_object, change_object])
def test_a_damaged_run_is_built_anew(store: LocalStore, damage: Damage):
    for run_id in (f"{SECOND}-a", f"{SECOND}-b"):
        publish_night(store, run_id)
    damage(store, f"{SECOND}-a")
    assert find(store, f"{SECOND}-a") is None
    assert find(store, f"{SECOND}-a", dry=True) is None


@pytest.mark.parametrize("damage", [lose_manifest, lose_object])
@pytest.mark.parametrize("asked", [f"{SECOND}-a", f"{THIRD}-a"])
def test_a_damaged_live_run_is_built_anew(store: LocalStore, damage: Damage, asked: str):
    publish_night(store, f"{SECOND}-a")
    damage(store, f"{SECOND}-a")
    assert find(store, asked) is None
    assert read_head(store) == 1


@pytest.mark.parametrize("asked", [f"{SECOND}-a", f"{THIRD}-a"])
def test_a_changed_live_run_is_not_published_once_more(store: LocalStore, asked: str):
    key = make_signing_key(expires_days=4)
    publish_run(store, f"{SECOND}-a", run_date=SECOND, key=replace(key, expires_days=1))
    change_object(store, f"{SECOND}-a")
    # Before half of its time is over nobody reads it.
    early = look(store, [asked], replace(key, expires_days=1))
    assert (early.sequence if early else None, read_head(store)) == (1, 1)
    dry = look(store, [asked], key, dry=True)
    assert (dry.sequence if dry else None, read_head(store)) == (1, 1)
    assert look(store, [asked], key) is None
    assert read_head(store) == 1
    change_object(store, f"{SECOND}-a")
    again = look(store, [asked], key)
    assert (again.sequence if again else None, read_head(store)) == (2, 2)


def test_an_operators_rollback_stands(store: LocalStore):
    for run_id in (f"{SECOND}-a", f"{SECOND}-b"):
        publish_night(store, run_id)
    roll_back(store, f"{SECOND}-a")
    assert find(store, f"{SECOND}-b") == ("published before", f"{SECOND}-b", 2, 3)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lose_object, ("published before", f"{SECOND}-a", 1, 2)),
        # Of a release without its manifest nobody can tell the night.
        (lose_manifest, ("published again", f"{SECOND}-a", 3, 3)),
    ],
)
def test_a_newer_night_that_is_damaged(store: LocalStore, damage: Damage, told: tuple[str, str, int, int]):
    for run_id in (f"{SECOND}-a", f"{THIRD}-b"):
        publish_night(store, run_id)
    damage(store, f"{THIRD}-b")
    assert find(store, f"{SECOND}-a") == told


NEWER = (
    f"run {THIRD}-b of the newer night {THIRD} is live, and a release of {SECOND} would replace it; "
    "run the newer night again instead"
)


def test_a_night_that_was_never_published_does_not_replace_a_newer_one(store: LocalStore):
    publish_night(store, f"{THIRD}-b")
    with pytest.raises(PublishConflictError) as caught:
        find(store, f"{SECOND}-a")
    assert str(caught.value) == f"{store.url}: {NEWER}"
    lose_manifest(store, f"{THIRD}-b")
    assert find(store, f"{SECOND}-a") is None


def test_older_nights_are_refused_and_others_are_not(store: LocalStore):
    refuse_older(store, SECOND, read_history_at(store, 0))
    publish_night(store, f"{FIRST}-b")
    publish_night(store, f"{THIRD}-b")
    with pytest.raises(PublishConflictError) as caught:
        refuse_older(store, SECOND, read_history_at(store, 2))
    assert str(caught.value) == f"{store.url}: {NEWER}"
    refuse_older(store, SECOND, read_history_at(store, 1))
    refuse_older(store, THIRD, read_history_at(store, 2))
    lose_manifest(store, f"{THIRD}-b")
    refuse_older(store, SECOND, read_history_at(store, 2))


def retire(store: LocalStore, *runs: str) -> None:
    commit_keeping(store, read_history(store).head, "retire", runs)


@pytest.mark.parametrize(
    ("nights", "retired", "names", "told"),
    [
        (["a"], ["a"], ["a", "a-2"], "a"),
        (["a", "a-2"], ["a", "a-2"], ["a", "a-2", "a-3"], "a-2"),
        # The second was retired before it was ever live.
        (["a"], ["a", "a-2"], ["a", "a-2", "a-3"], "a"),
    ],
)
def test_a_night_that_was_retired_stays_so(
    store: LocalStore, nights: list[str], retired: list[str], names: list[str], told: str
):
    for name in nights:
        publish_night(store, f"{SECOND}-{name}")
    retire(store, *(f"{SECOND}-{name}" for name in retired))
    asked = [f"{SECOND}-{name}" for name in names]
    # It is built again where no newer night is live.
    publish_night(store, f"{SECOND}-z")
    assert find(store, *asked) is None
    publish_night(store, f"{THIRD}-b")
    assert find(store, *asked) == ("retired", f"{SECOND}-{told}", nights.index(told) + 1, read_head(store))
    lose_object(store, f"{THIRD}-b")
    assert find(store, *asked) == ("retired", f"{SECOND}-{told}", nights.index(told) + 1, read_head(store))
    lose_manifest(store, f"{THIRD}-b")
    assert find(store, *asked) is None


def test_the_baseline_is_the_newest_whole_release_of_an_earlier_night(store: LocalStore):
    def baseline(run_date: str, head: int) -> str | None:
        found = find_baseline(store, run_date, read_history_at(store, head))
        return found.run_id if found else None

    assert baseline(THIRD, 0) is None
    for run_id in (f"{FIRST}-a", f"{SECOND}-b", f"{SECOND}-c"):
        publish_night(store, run_id)
    pin(store, f"{FIRST}-a")
    found = [baseline(run_date, 4) for run_date in (FIRST, SECOND, THIRD)]
    assert found == [None, f"{FIRST}-a", f"{SECOND}-c"]
    assert baseline(THIRD, 2) == f"{SECOND}-b"
    lose_manifest(store, f"{SECOND}-c")
    assert baseline(THIRD, 4) == f"{SECOND}-b"
    roll_back(store, f"{FIRST}-a")
    assert baseline(THIRD, 5) == f"{FIRST}-a"


def test_a_release_is_whole_with_every_object_it_names(store: LocalStore):
    publish_night(store, f"{FIRST}-a")
    live = read_history(store).require_live()
    assert read_whole(store, live) == read_manifest(store, live)
    lose_object(store, f"{FIRST}-a")
    assert read_whole(store, live) is None
    lose_manifest(store, f"{FIRST}-a")
    assert read_whole(store, live) is None


class TestRenewal:
    """Releases that a consumer serves for eight days."""

    KEY = make_signing_key(expires_days=8)

    def publish_until(self, store: LocalStore, days: float | None, kind: str = "publish") -> None:
        """Publish a night that expires in so many days."""
        publish_night(store, f"{FIRST}-a")
        unsigned = read_history(store).require_live()
        signed = replace(unsigned, sequence=2, parent=1, kind=kind)
        if days is not None:
            created = datetime.now(UTC) + timedelta(days=days - 8)
            signed = sign_entry(replace(signed, created_at=created.isoformat()), self.KEY)
        commit_entry(store, 1, signed)

    @pytest.mark.parametrize(
        ("days", "renewed"), [(4.01, False), (3.99, True), (7, False), (0.5, True), (-1, True), (None, True)]
    )
    def test_a_release_is_renewed_when_half_of_its_time_is_over(
        self, store: LocalStore, days: float | None, renewed: bool
    ):
        self.publish_until(store, days)
        history = read_history(store)
        for dry in (True, False):
            found = look(store, [f"{SECOND}-a"], self.KEY, dry=dry)
            assert found is not None
            expected = 3 if renewed and not dry else 2
            assert (found.status, found.sequence, read_head(store)) == ("unchanged", expected, expected)
        live = live_entry(store)
        assert live is not None
        assert live.manifest == history.require_live().manifest
        if renewed:
            assert live.parent == 2
            assert live.expires_at is not None
            assert datetime.fromisoformat(live.expires_at) > datetime.now(UTC) + timedelta(days=7.9)

    @pytest.mark.parametrize("key", [None, replace(KEY, expires_days=0)])
    def test_without_an_end_there_is_nothing_to_renew(self, store: LocalStore, key: SigningKey | None):
        self.publish_until(store, 1)
        found = look(store, [f"{SECOND}-a"], key)
        assert found is not None
        assert (found.sequence, read_head(store)) == (2, 2)

    def test_a_rollback_is_its_operators_to_renew(self, store: LocalStore):
        self.publish_until(store, 1, kind="rollback")
        found = look(store, [f"{SECOND}-a"], self.KEY)
        assert found is not None
        assert (found.sequence, read_head(store)) == (2, 2)
        live = read_history(store).require_live()
        told = f"{live.expires_at}, unless it is made once more to run {FIRST}-a"
        assert remark_rollback(live) == {"LOG": {"rollback_expires": told}}
        for other in (None, replace(live, expires_at=None), replace(live, kind="publish")):
            assert remark_rollback(other) == {}

    def test_what_goes_live_again_is_signed_again(self, store: LocalStore):
        for run_id in (f"{SECOND}-a", f"{SECOND}-b"):
            publish_run(store, run_id, run_date=SECOND, key=self.KEY)
        found = look(store, [f"{SECOND}-a"], self.KEY)
        assert found is not None
        assert (found.status, found.sequence) == ("published again", 3)
        live = read_history(store, key=self.KEY.trusted).require_live()
        assert (live.sequence, live.run_id) == (3, f"{SECOND}-a")

    def test_what_nobody_signed_does_not_go_live_again_signed(self, store: LocalStore):
        for run_id in (f"{SECOND}-a", f"{SECOND}-b"):
            publish_night(store, run_id)
        found = look(store, [f"{SECOND}-a"], self.KEY)
        assert found is None
        assert read_head(store) == 2
