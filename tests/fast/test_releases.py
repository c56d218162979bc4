"""Rollback, pins, retirement and the deletion of what nobody needs, on releases that share objects."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from indexer.build.publish import RunFolder, commit_publication, publish
from indexer.cli.group import indexer
from indexer.errors import (
    ConfigError,
    IntegrityError,
    ManifestError,
    PublishConflictError,
    StoreError,
    UntrustedError,
)
from indexer.log import LogEntry, commit_entry, live_entry, log_key, read_entry, read_head, read_manifest, signed_bytes
from indexer.log_signature import sign_entry
from indexer.manifest import Manifest, ObjectEntry
from indexer.object_cache import ObjectCache
from indexer.releases import changes
from indexer.releases.changes import pin, roll_back, unpin
from indexer.releases.describe import compare_releases, describe_history
from indexer.releases.garbage import KeepingRule, collect_garbage, plan_garbage
from indexer.releases.history import History, read_history, read_own
from indexer.releases.verify import verify_objects, verify_release
from indexer.signature import PublicKey
from indexer.store import DRAFT, LocalStore, hash_file, open_store
from tests.small_releases import make_manifest, make_shard, make_signing_key, publish_run, put

LATER = datetime.now(UTC) + timedelta(days=30)
ONE = KeepingRule(releases=1)
DRAFT_NAME = f"{DRAFT}{'1' * 32}"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "release")


def live_run(store: LocalStore) -> str:
    entry = live_entry(store)
    assert entry is not None
    return entry.run_id


def keys(store: LocalStore, run_id: str) -> set[str]:
    return {item.key.rpartition("/")[2] for item in store.list(f"v/{run_id}/")}


def test_a_rollback_is_a_new_entry_and_by_default_the_release_before(store: LocalStore):
    for run_id in ("a", "b", "c"):
        publish_run(store, run_id)
    assert (roll_back(store).run_id, live_run(store), read_head(store)) == ("b", "b", 4)
    # The same command once more, as after an answer that was lost, must not bring the bad release back.
    with pytest.raises(ConfigError, match="log entry 4 is a rollback to run b already; name the run"):
        roll_back(store)
    assert (roll_back(store, "a").run_id, live_run(store), read_head(store)) == ("a", "a", 5)
    publish_run(store, "d")
    assert (live_run(store), read_head(store)) == ("d", 6)
    assert roll_back(store).run_id == "a"


@pytest.mark.parametrize(
    ("run_id", "message"),
    [("x", "run x was never published; the newest that were: a, b"), ("b", "run b is live already")],
)
def test_a_rollback_that_makes_no_sense_is_refused(store: LocalStore, run_id: str, message: str):
    publish_run(store, "a")
    with pytest.raises(ConfigError, match="no earlier release"):
        roll_back(store)
    publish_run(store, "b")
    with pytest.raises(ConfigError, match=message):
        roll_back(store, run_id)
    assert read_head(store) == 2


def test_a_rollback_that_expires_is_prolonged_and_never_cut_short(store: LocalStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("indexer.releases.changes.now_text", lambda: "2026-11-20T00:00:00+00:00")
    key = make_signing_key(expires_days=2)
    end = "2026-11-22T00:00:00+00:00"

    def last(run_id: str, days: int) -> str | int:
        try:
            return roll_back(store, run_id, replace(key, expires_days=days)).sequence
        except ConfigError as error:
            return (
                str(error).removeprefix(f"{store.url}: ").removesuffix(" (--expires-days, INDEXER_SHOP_EXPIRES_DAYS)")
            )

    for run_id in ("a", "b"):
        publish_run(store, run_id, key=key)
    assert last("b", 9) == "run b is live already; name an earlier one"
    assert last("a", 2) == 3
    assert [last("a", days) for days in (1, 2)] == [f"run a is live until {end} already; say for more days"] * 2
    never = f"the live release expires at {end}, the rollback never; say for how many days it is served"
    assert [last(run_id, 0) for run_id in ("a", "b")] == [never] * 2
    assert (last("a", 3), read_entry(store, 4).expires_at) == (4, "2026-11-23T00:00:00+00:00")
    assert last("b", 1) == 5
    assert read_head(store) == 5


def test_a_run_that_nobody_knows_is_answered_with_the_newest_five(store: LocalStore):
    with pytest.raises(ConfigError) as caught:
        pin(store, "x")
    assert str(caught.value) == f"{store.url}: run x was never published; the newest that were: none"
    for run_id in "abcdefg":
        publish_run(store, run_id)
    with pytest.raises(ConfigError, match=r"the newest that were: c, d, e, f, g$"):
        roll_back(store, "x")


def test_without_a_release_the_place_is_named(store: LocalStore):
    with pytest.raises(StoreError) as caught:
        read_history(store).require_live()
    assert str(caught.value) == f"{store.url}: no release is published here (no {log_key(1)}); build one first"


def test_a_release_that_lost_an_object_cannot_go_live_again(store: LocalStore):
    shard = publish_run(store, "a")
    publish_run(store, "b")
    store.delete(shard.ids.key)
    with pytest.raises(IntegrityError, match=r"0\.ids: no such object; run a cannot go live"):
        roll_back(store)
    assert live_run(store) == "b"


def test_a_release_that_has_a_changed_byte_cannot_go_live_again(store: LocalStore):
    shard = publish_run(store, "a")
    publish_run(store, "b")
    path = store.local_path(shard.ids.key)
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(IntegrityError, match=r"0\.ids: expected SHA-256 .*; run a cannot go live"):
        roll_back(store)
    with pytest.raises(IntegrityError, match=r"0\.ids: expected SHA-256 .*; nothing was published, run again"):
        publish_run(store, "c", shard)
    assert live_run(store) == "b"


def test_pins_hold_until_they_are_taken_off(store: LocalStore):
    for run_id in ("a", "b", "c"):
        publish_run(store, run_id)
    pin(store, "a")
    assert read_history(store).pinned == {"a"}
    with pytest.raises(ConfigError, match="run a is pinned already"):
        pin(store, "a")
    assert plan_garbage(store, ONE, LATER).retire == ("b",)
    unpin(store, "a")
    with pytest.raises(ConfigError, match=r"run a is not pinned; pinned are: none$"):
        unpin(store, "a")
    assert plan_garbage(store, ONE, LATER).retire == ("a", "b")
    for run_id in ("c", "b"):
        pin(store, run_id)
    with pytest.raises(ConfigError, match=r"run a is not pinned; pinned are: b, c$"):
        unpin(store, "a")
    for run_id in ("b", "c"):
        unpin(store, run_id)
    with pytest.raises(ConfigError, match="never published"):
        pin(store, "x")
    assert live_run(store) == "c"


def test_shared_objects_outlive_the_release_that_made_them(store: LocalStore):
    shard = publish_run(store, "a")
    second = publish_run(store, "b", shard)
    plan = plan_garbage(store, ONE, LATER)
    assert (plan.kept, plan.retire) == (("b",), ("a",))
    before = sum(item.bytes for item in store.list("v/"))
    deleted = collect_garbage(store, plan)
    assert keys(store, "a") == {"0.index", "0.ids"}
    assert sum(item.bytes for item in store.list("v/")) == before - deleted == plan.left
    entry = read_history(store).live
    assert entry is not None
    assert not [line for line in verify_objects(store, read_manifest(store, entry).objects, None) if line]
    with pytest.raises(ConfigError, match="run a is retired"):
        roll_back(store, "a")
    # When the next release names the shared shard no more, it goes, too, with no new entry about run a.
    publish_run(store, "c", second)
    collect_garbage(store, plan_garbage(store, ONE, LATER))
    assert keys(store, "a") == set()
    assert keys(store, "b") == {"1.index", "1.ids"}
    assert live_run(store) == "c"


def test_what_was_live_or_written_a_short_time_ago_is_kept(store: LocalStore):
    publish_run(store, "a")
    publish_run(store, "b")
    put(store, "v/unfinished/products-00000.0123456789ab.faiss", b"x")
    now = datetime.now(UTC)
    assert plan_garbage(store, ONE, now).retire == ()
    assert plan_garbage(store, KeepingRule(releases=1, grace=timedelta(0)), now).retire == ("a", "unfinished")
    assert plan_garbage(store, ONE, LATER).retire == ("a", "unfinished")
    assert plan_garbage(store, KeepingRule(releases=2), LATER).retire == ("unfinished",)


def test_whether_something_was_live_lately_is_told_by_the_store_and_no_builders_clock(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
):
    publish_run(store, "a")
    for run_id, text in (("b", "2001-01-01T00:00:00+00:00"), ("c", "2099-01-01T00:00:00+00:00")):
        monkeypatch.setattr("indexer.build.publish.now_text", lambda text=text: text)
        publish_run(store, run_id)
    assert plan_garbage(store, ONE, datetime.now(UTC)).retire == ()
    assert plan_garbage(store, ONE, LATER).retire == ("a", "b")


def test_drafts_of_killed_uploads_and_empty_folders_go_after_the_grace_period(store: LocalStore):
    publish_run(store, "a")
    draft = f".new-{1:032x}"
    old, new = (store.root / place / draft for place in ("v/dead/done", "log"))
    # What else a folder may hold, were it a home directory: none of it is the project's.
    others = [store.root / "notes" / ".new-ideas.txt", store.root / "v" / ".new-1", store.root / "notes" / draft]
    inbox = store.root / "mail" / "inbox"
    for folder in (old.parent, others[0].parent, inbox):
        folder.mkdir(parents=True)
    for path in (old, new, *others):
        path.write_bytes(b"half")
    for path in (old, old.parent, old.parent.parent, *others, inbox, inbox.parent):
        os.utime(path, (0, time.time() - 4 * 86_400))
    plan = plan_garbage(store, ONE)
    assert ([item.key for item in plan.drafts], plan.bytes) == ([f"v/dead/done/{draft}"], 4)
    assert collect_garbage(store, plan) == 4
    assert not old.exists()
    assert new.exists()
    # To remove a file is a change in its folder: that goes with the next collection after another grace period.
    assert old.parent.exists()
    for later in (4, 8):
        collect_garbage(store, plan_garbage(store, ONE, datetime.now(UTC) + timedelta(days=later)))
    assert not old.parent.parent.exists()
    assert not new.exists()
    assert (store.root / "log").exists()
    assert all(path.exists() for path in (*others, inbox))


def test_what_a_proof_left_goes_after_the_grace_period_and_retires_nobody(store: LocalStore):
    publish_run(store, "a")
    left = [f"v/{run_id}/create.{number:032x}" for number, run_id in enumerate(("a", "2026-11-20-start"))]
    for key in left:
        store.put_new(key, b"0")
    assert plan_garbage(store, ONE).delete == ()
    plan = plan_garbage(store, ONE, LATER)
    assert (plan.retire, sorted(item.key for item in plan.delete)) == ((), sorted(left))
    assert collect_garbage(store, plan) == 2
    assert not {*left} & {item.key for item in store.list("v/")}
    assert read_head(store) == 1


def date_everything(store: LocalStore, moment: datetime) -> None:
    for path in store.root.rglob("*"):
        os.utime(path, (moment.timestamp(),) * 2)


@pytest.mark.parametrize(
    ("later", "retired", "drafts"),
    [(timedelta(days=3) - timedelta(seconds=1), (), []), (timedelta(days=3), ("a", "dead"), [f"v/dead/{DRAFT_NAME}"])],
)
def test_the_grace_period_ends_after_three_days(
    store: LocalStore, later: timedelta, retired: tuple[str, ...], drafts: list[str]
):
    publish_run(store, "a")
    publish_run(store, "b")
    put(store, "v/dead/products-00000.0123456789ab.faiss", b"x")
    (store.root / "v/dead" / DRAFT_NAME).write_bytes(b"half")
    proof = put(store, f"v/b/create.{1:032x}", b"0").key
    moment = datetime(2026, 11, 20, 4, tzinfo=UTC)
    date_everything(store, moment)
    plan = plan_garbage(store, ONE, moment + later)
    assert (plan.retire, [item.key for item in plan.drafts]) == (retired, drafts)
    assert (proof in [item.key for item in plan.delete]) == bool(retired)
    assert plan.before == moment + later - timedelta(days=3)


@pytest.mark.parametrize("recent", [True, False])
def test_what_a_run_named_before_it_was_published_again_stays_as_long_as_it_is_fetched(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, recent: bool
):
    before, now = publish_run(store, "x"), publish_run(store, "y")
    own = publish_run(store, "a", before)
    first = read_manifest(store, read_history(store).releases["a"])
    shards = (replace(now, number=0), replace(own, number=1))
    publish(
        RunFolder(store, "a"), replace(first, parent=3, collections=(replace(first.collections[0], shards=shards),))
    )
    newest = read_entry(store, 4)
    assert isinstance(newest, LogEntry)
    commit_entry(store, 4, replace(newest, sequence=5, parent=4))
    moment = datetime(2026, 11, 20, 4, tzinfo=UTC)
    date_everything(store, moment)
    for sequence in (1, 2, 3):
        os.utime(store.local_path(log_key(sequence)), (0, 0))

    def deleted(later: timedelta) -> list[bool]:
        plan = plan_garbage(store, ONE, moment + later)
        # Both were live too long ago.
        assert (plan.kept, plan.retire) == (("a",), ("x", "y"))
        keys = {item.key for item in plan.delete}
        return [shard.ids.key in keys for shard in (before, now)]

    assert deleted(timedelta(0) if recent else timedelta(days=3)) == [not recent, False]
    # Nights that prolong a release name its manifest again, which is read once.
    read: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr("indexer.releases.garbage.read_manifest", lambda *words: read.append("") or read_manifest(*words))
        deleted(timedelta(0) if recent else timedelta(days=3))
    assert len(read) == 1 + recent
    # Of a release whose manifest is lost nobody fetches anything.
    store.delete(read_history(store).lived[2].manifest.key)
    assert deleted(timedelta(0)) == [True, False]


def test_what_is_deleted_and_what_stays_is_counted(store: LocalStore):
    publish_run(store, "a")
    publish_run(store, "b")
    put(store, "v/dead/products-00000.0123456789ab.faiss", b"12345")
    # A name of the project's alphabet that no build gives, in a run of its own.
    put(store, "v/dead/notes.txt", b"123")
    put(store, "v/.DS_Store", b"1234567")
    (store.root / "v/dead" / DRAFT_NAME).write_bytes(b"half")
    sizes = {item.key: item.bytes for item in store.list("v/") if not item.key.endswith(".DS_Store")}
    gone = {key: size for key, size in sizes.items() if not key.startswith("v/b/")}
    plan = plan_garbage(store, ONE, LATER)
    assert [item.key for item in plan.delete] == sorted(gone)
    assert plan.bytes == sum(gone.values()) + len(b"half")
    assert plan.left == sum(sizes.values()) - sum(gone.values())
    assert plan.foreign == 1
    assert (plan.history.head, plan.kept) == (2, ("b",))
    assert collect_garbage(store, plan, most=True) == plan.bytes
    after = plan_garbage(store, ONE, LATER)
    assert (after.retire, after.delete, after.bytes, after.left) == ((), (), 0, plan.left)


def test_what_the_log_knows_is_a_run_whatever_its_objects_are_called(store: LocalStore):
    """As after a killed collection that had deleted the names by which a run is known."""
    for run_id in ("published", "live"):
        publish_run(store, run_id)
    put(store, "v/dead/products-00000.0123456789ab.faiss", b"x")
    changes.commit_keeping(store, 2, "retire", ("dead",))
    for run_id in ("published", "dead"):
        for item in list(store.list(f"v/{run_id}/")):
            store.delete(item.key)
    left = [put(store, f"v/{run_id}/rest", b"x").key for run_id in ("dead", "published")]
    plan = plan_garbage(store, ONE, LATER)
    assert ([item.key for item in plan.delete], plan.retire, plan.foreign) == (left, ("published",), 0)


def test_as_many_of_the_newest_releases_are_kept_as_the_rule_says(store: LocalStore):
    for run_id in ("a", "b", "c", "d"):
        publish_run(store, run_id)
    for releases, retired in ((0, ("a", "b", "c")), (1, ("a", "b", "c")), (3, ("a",)), (4, ()), (9, ())):
        assert plan_garbage(store, KeepingRule(releases=releases), LATER).retire == retired
    # One that is published again is the newest.
    again = read_history(store).releases["a"]
    commit_publication(store, read_manifest(store, again), again.manifest, 4)
    assert plan_garbage(store, KeepingRule(releases=2), LATER).retire == ("b", "c")


def test_where_nothing_is_live_nothing_goes(store: LocalStore):
    put(store, "v/dead/products-00000.0123456789ab.faiss", b"x")
    assert (plan_garbage(store, ONE, LATER).retire, plan_garbage(store, ONE, LATER).delete) == ((), ())
    publish_run(store, "a")
    publish_run(store, "b")
    assert plan_garbage(store, ONE, LATER).retire == ("a", "dead")
    # The log is lost: what it made live must be there when it is restored.
    for item in list(store.list("log/")):
        store.delete(item.key)
    plan = plan_garbage(store, ONE, LATER)
    assert (plan.kept, plan.retire, plan.delete, plan.foreign) == ((), (), (), 0)
    assert plan.left == sum(item.bytes for item in store.list("v/"))
    for folder in ("log/nginx", "v/empty"):
        (store.root / folder).mkdir(parents=True)
        os.utime(store.root / folder, (0, 0))
    (store.root / "v/empty" / DRAFT_NAME).write_bytes(b"half")
    before = sorted(store.root.rglob("*"))
    assert collect_garbage(store, plan_garbage(store, ONE, LATER)) == 0
    assert sorted(store.root.rglob("*")) == before


def test_a_folder_that_no_build_made_is_no_run(store: LocalStore):
    publish_run(store, "a")
    names = ("2023/photos/cat.jpg", "archive/report.html", "models/encoder/model.bin", "models/done/list.json")
    for name in (*names, "album/products-00001.faiss"):
        put(store, f"v/{name}", b"x")
    plan = plan_garbage(store, ONE, LATER)
    assert (plan.retire, plan.delete, plan.foreign) == ((), (), 5)


@pytest.mark.parametrize(
    "name",
    [
        "done/products-00003.2.json",
        "done/encoder.json",
        "encoder/0123456789ab/encoder.onnx",
        "manifest.0123456789ab.json",
    ],
)
def test_a_run_is_known_by_any_name_that_builds_give(store: LocalStore, name: str):
    publish_run(store, "a")
    put(store, f"v/dead/{name}", b"x")
    put(store, "v/dead/other", b"x")
    plan = plan_garbage(store, ONE, LATER)
    assert (plan.retire, len(plan.delete)) == (("dead",), 2)


def test_more_than_half_of_the_runs_go_only_on_a_second_word(store: LocalStore):
    for run_id in ("a", "b", "c"):
        publish_run(store, run_id)
    head = read_head(store)
    plan = plan_garbage(store, ONE, LATER)
    with pytest.raises(ConfigError) as caught:
        collect_garbage(store, plan)
    assert str(caught.value) == (
        f"{store.url}: 2 of 3 runs would be retired, more than half; look at the address and, without --yes, at the "
        "plan, then give --yes-delete"
    )
    assert read_head(store) == head
    half = plan_garbage(store, KeepingRule(releases=2), LATER)
    assert (half.retire, half.runs, half.takes_most) == (("a",), 3, False)
    collect_garbage(store, plan, most=True)
    assert read_history(store).retired == {"a", "b"}


def test_an_entry_retires_so_many_runs_that_it_stays_small(store: LocalStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("indexer.releases.garbage.RETIRED_AT_ONCE", 2)
    for run_id in ("a", "b", "c", "d", "e", "f"):
        publish_run(store, run_id)
    collect_garbage(store, plan_garbage(store, ONE, LATER), most=True)
    history = read_history(store)
    assert (history.head, history.retired) == (9, {"a", "b", "c", "d", "e"})
    assert {item.key.split("/")[1] for item in store.list("v/")} == {"f"}


def test_nothing_is_deleted_where_another_entry_comes_between_two_retirements(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("indexer.releases.garbage.RETIRED_AT_ONCE", 2)
    for run_id in ("a", "b", "c", "d", "e"):
        publish_run(store, run_id)

    def let_another_in(store: LocalStore, head: int, *rest: Any) -> Any:
        entry = changes.commit_keeping(store, head, *rest)
        if head == 5:
            pin(store, "e")
        return entry

    monkeypatch.setattr("indexer.releases.garbage.commit_keeping", let_another_in)
    before = list(store.list("v/"))
    with pytest.raises(PublishConflictError):
        collect_garbage(store, plan_garbage(store, ONE, LATER), most=True)
    assert list(store.list("v/")) == before
    # The next one finishes what the first began.
    monkeypatch.undo()
    collect_garbage(store, plan_garbage(store, ONE, LATER), most=True)
    assert read_history(store).retired == {"a", "b", "c", "d"}
    assert {item.key.split("/")[1] for item in store.list("v/")} == {"e"}


class Bucket:
    """What a bucket offers of a folder."""

    def __init__(self, store: LocalStore) -> None:
        self.url, self.list, self.get, self.size, self.delete = (
            store.url, store.list, store.get, store.size, store.delete
        )  # fmt: skip
        self.put_new = store.put_new


def test_a_bucket_has_neither_drafts_nor_folders(store: LocalStore):
    publish_run(store, "a")
    put(store, "v/dead/products-00000.0123456789ab.faiss", b"x")
    (store.root / "v/dead" / DRAFT_NAME).write_bytes(b"half")
    bucket: Any = Bucket(store)
    plan = plan_garbage(bucket, ONE, LATER)
    assert (plan.retire, plan.drafts, plan.bytes) == (("dead",), (), 1)
    assert collect_garbage(bucket, plan) == 1
    assert [path.name for path in (store.root / "v/dead").iterdir()] == [DRAFT_NAME]


def test_what_the_live_entry_and_the_newest_publication_of_its_run_name_is_kept(store: LocalStore):
    first, second = publish_run(store, "x"), publish_run(store, "y")
    publish_run(store, "a", first)
    older = read_history(store).releases["a"]
    mended = read_manifest(store, older)
    shards = (mended.collections[0].shards[1], second)
    shards = tuple(replace(shard, number=number) for number, shard in enumerate(shards))
    collection = replace(mended.collections[0], shards=shards)
    publish(RunFolder(store, "a"), replace(mended, collections=(collection,), parent=3))
    # A rollback that was planned before it was mended.
    commit_entry(store, 4, replace(older, sequence=5, parent=4, kind="rollback"))
    plan = plan_garbage(store, ONE, LATER)
    assert (plan.kept, plan.retire) == (("a",), ("x", "y"))
    collect_garbage(store, plan, most=True)
    assert keys(store, "x") == {"0.index", "0.ids"}
    assert keys(store, "y") == {"0.index", "0.ids"}
    # The run is live, but not as it was published last.
    assert roll_back(store, "a").manifest == read_history(store).releases["a"].manifest != older.manifest


# What is signed is tested here, too: the commands and builds of test_signatures.py take too long for `make mutation`.
KEY = make_signing_key()


def say_void(store: LocalStore, sequence: int) -> str:
    return f"{store.url}/{log_key(sequence)}: expected a signature of the key key.pem, found none; it is not trusted"


def test_who_signs_reads_what_is_signed_and_signs_what_is_added(store: LocalStore):
    for run_id in ("a", "b", "c"):
        publish_run(store, run_id, key=KEY)
    added = [pin(store, "a", KEY), unpin(store, "a", KEY), roll_back(store, "a", KEY)]
    collect_garbage(store, plan_garbage(store, ONE, LATER, KEY), KEY)
    entries = read_history(store, key=KEY.trusted).entries
    assert [entry.kind for entry in entries[3:]] == ["pin", "unpin", "rollback", "retire"]
    assert list(entries[3:6]) == added
    assert all(KEY.trusted.verifies(signed_bytes(entry), str(entry.signature)) for entry in entries)
    with pytest.raises(ConfigError, match="log entry 7 is signed, so whoever adds to this log must sign"):
        pin(store, "a")


def test_what_nobody_signed_is_refused_by_its_reason(store: LocalStore):
    publish_run(store, "a", key=KEY)
    for run_id in ("x", "y"):
        publish_run(store, run_id)
    history = read_history(store, key=KEY.trusted)
    assert history.void == {sequence: say_void(store, sequence) for sequence in (2, 3)}
    assert (history.url, history.require_live().run_id) == (store.url, "a")
    with pytest.raises(UntrustedError) as caught:
        history.find_release("x")
    assert str(caught.value) == say_void(store, 2)
    with pytest.raises(ConfigError, match="run z was never published; the newest that were: a"):
        history.find_release("z")
    with pytest.raises(UntrustedError) as caught:
        replace(history, void={1: "older", **history.void}).require_live()
    assert str(caught.value) == say_void(store, 3)


def test_who_adds_to_a_signed_log_is_told_what_to_give(store: LocalStore):
    other = make_signing_key("other.pem")
    for run_id in ("a", "b", "c"):
        publish_run(store, run_id, key=KEY)
    publish_run(store, "d")
    with pytest.raises(ConfigError) as lacking:
        read_own(store, None)
    assert str(lacking.value) == (
        f"{store.url}: log entry 3 is signed, so whoever adds to this log must sign; give the key "
        "(shop.signing_key, --signing-key)"
    )
    with pytest.raises(IntegrityError) as wrong:
        read_own(store, other)
    assert str(wrong.value) == (
        f"{store.url}/{log_key(3)}: the signature is not one of the key other.pem; the entry is not trusted; nor is "
        "another entry: give this store's key, and where it was replaced a file of both public keys "
        "(shop.public_keys, --public-key)"
    )
    assert read_own(store, KEY).live == read_history(store).entries[2]


def test_a_key_rolls_back_to_what_is_signed_and_expires_where_the_live_release_does(store: LocalStore):
    lasting, ending = (replace(KEY, expires_days=days) for days in (0, 8))
    publish_run(store, "a")
    for run_id in ("b", "c"):
        publish_run(store, run_id, key=ending)
    with pytest.raises(ConfigError) as caught:
        roll_back(store, "a", ending)
    assert str(caught.value) == (
        f"{store.url}: run a was published before this log was signed, and nobody vouches for it; choose a signed one, "
        "or build the night again"
    )
    live = read_history(store).require_live()
    with pytest.raises(ConfigError) as caught:
        roll_back(store, "b", lasting)
    assert str(caught.value) == (
        f"{store.url}: the live release expires at {live.expires_at}, the rollback never; say for how many days it is "
        "served (--expires-days, INDEXER_SHOP_EXPIRES_DAYS)"
    )
    entry = roll_back(store, "b", ending)
    assert (entry.run_id, entry.sequence, bool(entry.expires_at)) == ("b", 4, True)


def test_what_a_dropped_key_published_is_kept_where_a_trusted_one_rolled_back_to_it(store: LocalStore):
    old, new = KEY, make_signing_key("new.pem")
    both = replace(new, trusted=PublicKey("both.pem", (*old.trusted.keys, *new.trusted.keys)))
    for run_id, key in (("a", old), ("b", both)):
        publish_run(store, run_id, key=key)
    for run_id in ("a", "b", "a"):
        entry = roll_back(store, run_id, both)
    history = read_own(store, new)
    assert (list(history.releases), list(history.void)) == (["b", "a"], [1])
    assert (history.live, history.find_release("a").sequence) == (entry, 5)
    assert [(line["run_id"], line["state"]) for line in describe_history(history)] == [("a", ["live"]), ("b", [])]
    plan = plan_garbage(store, ONE, LATER, new)
    assert (plan.kept, plan.retire) == (("a",), ("b",))
    before = keys(store, "a")
    collect_garbage(store, plan, new)
    assert keys(store, "a") == before
    publish_run(store, "c", key=new)
    # It was live lately.
    assert plan_garbage(store, ONE, datetime.now(UTC), new).retire == ()
    assert roll_back(store, key=new).run_id == "a"


def test_a_run_whose_publications_count_for_nothing_is_what_was_rolled_back_to_last():
    told = [
        ("publish", "a"),
        ("publish", "a"),
        ("rollback", "a"),
        ("publish", "b"),
        ("rollback", "a"),
        ("rollback", "b"),
    ]
    entries = tuple(
        LogEntry(
            sequence=sequence,
            kind=kind,
            run_id=run_id,
            manifest=ObjectEntry(key=f"v/{run_id}/manifest.{sequence}.json", bytes=1, sha256="0" * 64),
            parent=sequence - 1,
            created_at="2026-11-20T00:00:00+00:00",
        )
        for sequence, (kind, run_id) in enumerate(told, 1)
    )
    for void, newest in (((), 2), ((1,), 2), ((2,), 1), ((1, 2), 5), ((1, 2, 5), 3)):
        history = History(url="store", entries=entries, void=dict.fromkeys(void, "not trusted"))
        assert [(run_id, entry.sequence) for run_id, entry in history.releases.items()] == [("a", newest), ("b", 4)]


def test_an_unsigned_rollback_that_comes_between_is_not_taken_for_ones_own(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
):
    for run_id in ("a", "b"):
        publish_run(store, run_id, key=KEY)
    late = replace(read_history(store).releases["a"], sequence=3, parent=2, kind="rollback", signature=None, format=1)

    def let_another_in(*_: Any) -> list[str]:
        commit_entry(store, 2, late)
        return []

    monkeypatch.setattr("indexer.releases.changes.examine_objects", let_another_in)
    with pytest.raises(PublishConflictError) as caught:
        roll_back(store, "a", KEY)
    assert str(caught.value) == f"{store.url}: log entry 3 was taken meanwhile; run again ({say_void(store, 3)})"


def test_an_unsigned_publication_that_comes_between_takes_a_number_and_no_more(store: LocalStore):
    publish_run(store, "a", key=KEY)
    manifest = make_manifest(store, "b", (make_shard(store, "b"),), 1)
    publish(RunFolder(store, "b"), manifest)
    entry = publish(RunFolder(store, "b", key=KEY), manifest)
    assert (entry.sequence, entry.parent) == (3, 2)
    assert read_history(store, key=KEY.trusted).live == entry


def test_a_release_that_an_operator_chose_is_kept_however_old_it_is(store: LocalStore):
    for run_id in ("a", "b", "c"):
        publish_run(store, run_id)
    roll_back(store, "a")
    assert plan_garbage(store, ONE, LATER).retire == ("b",)


def test_nothing_is_deleted_when_the_log_has_moved_on(store: LocalStore):
    publish_run(store, "a")
    publish_run(store, "b")
    plan = plan_garbage(store, ONE, LATER)
    roll_back(store, "a")
    with pytest.raises(PublishConflictError):
        collect_garbage(store, plan)
    assert keys(store, "a") >= {"0.index", "0.ids", "encoder.json"}


def test_a_kept_release_whose_manifest_is_lost_stops_the_collection(store: LocalStore):
    publish_run(store, "a")
    publish_run(store, "b")
    entry = read_history(store).live
    assert entry is not None
    store.delete(entry.manifest.key)
    with pytest.raises(IntegrityError, match="names this manifest, but it is not there"):
        plan_garbage(store, ONE, LATER)


def test_a_publisher_goes_on_after_entries_about_what_is_kept(store: LocalStore):
    publish_run(store, "a")
    head = read_head(store)
    manifest = make_manifest(store, "b", (make_shard(store, "b"),), head)
    pin(store, "a")
    assert publish(RunFolder(store, "b"), manifest).sequence == 3
    assert live_run(store) == "b"


def test_a_run_that_is_published_again_goes_on_after_them_too(store: LocalStore):
    for run_id in ("a", "b"):
        publish_run(store, run_id)
    first, head = read_history(store).releases["a"], read_head(store)
    pin(store, "b")
    assert commit_publication(store, read_manifest(store, first), first.manifest, head).sequence == 4
    assert live_run(store) == "a"


def test_of_two_publishers_of_a_run_the_second_takes_the_entry_of_the_first(store: LocalStore):
    publish_run(store, "a")
    head = read_head(store)
    manifest = make_manifest(store, "b", (make_shard(store, "b"),), head)
    pin(store, "a")
    entries = [publish(RunFolder(store, "b"), manifest) for _ in range(2)]
    assert entries[0] == entries[1]
    assert read_head(store) == 3


def test_a_publisher_whose_run_was_retired_gives_up(store: LocalStore):
    publish_run(store, "a")
    manifest = make_manifest(store, "b", (make_shard(store, "b"),), read_head(store))
    put(store, "v/b/products-00000.0123456789ab.faiss", b"x")
    collect = plan_garbage(store, ONE, LATER)
    assert collect.retire == ("b",)
    changes.commit_keeping(store, collect.history.head, "retire", collect.retire)
    with pytest.raises(PublishConflictError, match="run b was retired while it was built"):
        publish(RunFolder(store, "b"), manifest)
    assert live_run(store) == "a"


def test_a_publisher_that_another_release_overtook_gives_up(store: LocalStore):
    publish_run(store, "a")
    manifest = make_manifest(store, "b", (make_shard(store, "b"),), read_head(store))
    pin(store, "a")
    publish_run(store, "c")
    with pytest.raises(PublishConflictError, match="run c was published first, as log entry 3; run b is not live"):
        publish(RunFolder(store, "b"), manifest)
    assert live_run(store) == "c"


def test_a_run_that_was_retired_is_built_again_under_another_name(store: LocalStore):
    publish_run(store, "a")
    put(store, "v/b/products-00000.0123456789ab.faiss", b"x")
    collect_garbage(store, plan_garbage(store, ONE, LATER))
    history = read_history(store)
    assert [history.list_names(run_id) for run_id in ("a", "b")] == [["a"], ["b", "b-2"]]
    publish_run(store, "b-2")
    assert read_history(store).list_names("b")[-1] == "b-2"


def test_what_no_build_writes_is_left_alone(store: LocalStore):
    publish_run(store, "a")
    for key in ("v/.DS_Store", "v/a b/x", "v/b/.hidden", "v/-b/x"):
        put(store, key, b"x")
    plan = plan_garbage(store, ONE, LATER)
    assert (plan.retire, plan.delete, plan.foreign) == ((), (), 4)


def test_an_entry_that_nobody_could_read_is_not_written(store: LocalStore):
    publish_run(store, "a")
    history = read_history(store)
    with pytest.raises(ManifestError, match="runs: expected different texts"):
        changes.commit_keeping(store, history.head, "retire", (".DS_Store",))
    assert read_head(store) == 1


def test_a_run_that_was_mended_is_no_hindrance(store: LocalStore):
    shard = make_shard(store, "a")
    first = publish(RunFolder(store, "a"), make_manifest(store, "a", (shard,), 0))
    put(store, "v/a/second/encoder.json", b"a")
    manifest = read_manifest(store, first)
    publish(RunFolder(store, "a"), replace(manifest, parent=1))
    store.delete(first.manifest.key)
    assert plan_garbage(store, ONE, LATER).kept == ("a",)


def test_equal_objects_are_verified_side_by_side(tmp_path: Path, bucket: str):
    from indexer.store import S3Store

    store = open_store(bucket)
    assert isinstance(store, S3Store)
    path = tmp_path / "same"
    path.write_bytes(b"x" * 100_000)
    entries = []
    for number in range(12):
        store.put_file(f"v/a/{number}", path)
        entries.append(ObjectEntry(key=f"v/a/{number}", bytes=100_000, sha256=hash_file(path)))
    cache = ObjectCache(store, tmp_path / "cache")
    assert list(verify_objects(store, entries, cache)) == [None] * 12


def test_verification_reads_once_and_a_slow_child_damages_nothing(golden: Path, monkeypatch: pytest.MonkeyPatch):
    store = LocalStore(golden / "release_v3")
    entry = live_entry(store)
    assert entry is not None
    manifest, read, tried = read_manifest(store, entry), [], []
    monkeypatch.setattr("indexer.object_cache.hash_file", lambda path: read.append(path) or hash_file(path))

    def give_up(manifest: Manifest, files: dict[str, Path], *, place: str) -> None:
        tried.append(files)
        raise StoreError("did not end")

    monkeypatch.setattr("indexer.releases.verify.try_release", give_up)
    with pytest.raises(StoreError, match="did not end"):
        list(verify_release(store, manifest))
    assert len(read) == len(manifest.objects)
    assert tried == [{item.key: store.local_path(item.key) for item in manifest.downloads}]
    result = CliRunner().invoke(indexer, ["release", "verify", str(store.root)])
    assert (result.exit_code, "damaged" in result.output) == (75, False)


def test_verification_names_each_damaged_object(store: LocalStore, tmp_path: Path):
    shard = publish_run(store, "a")
    entry = read_history(store).live
    assert entry is not None
    objects, cache = read_manifest(store, entry).objects, ObjectCache(store, tmp_path / "cache")
    path = store.local_path(shard.ids.key)
    path.write_bytes(bytes(len(path.read_bytes())))
    assert [line for line in verify_objects(store, objects, None) if line] == []
    (line,) = (line for line in verify_objects(store, objects, cache) if line)
    assert "0.ids: expected SHA-256" in line
    path.unlink()
    assert [line for line in verify_objects(store, objects, cache) if line] == [
        f"{store.url}/{shard.ids.key}: no such object"
    ]


def test_a_comparison_shows_what_differs_and_what_is_shared(store: LocalStore):
    shard = publish_run(store, "a")
    publish_run(store, "b", shard)
    history = read_history(store)
    before, after = (read_manifest(store, history.find_release(run_id)) for run_id in ("a", "b"))
    found = compare_releases(before, after)
    assert found["collections"]["products rows"] == [1, 2]
    assert found["shared_bytes"] == shard.index.bytes + shard.ids.bytes
    assert found["new_bytes"] == len("b1") * 2 + len("b") + 2
    assert not found["same_encoder"]
    assert found["config"] == found["versions"] == {}


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"index": {"m": 8}, "note": "by hand"}, {"index.m": [None, 8], "note": [None, "by hand"]}),
        ({"index": None, "list": [1]}, {"list": [None, [1]]}),
        ({"a": {"b": {"c": 1}}}, {"a.b": [None, {"c": 1}]}),
    ],
)
def test_a_comparison_takes_settings_of_any_form(store: LocalStore, config: dict[str, Any], found: dict[str, Any]):
    publish_run(store, "a")
    manifest = read_manifest(store, read_history(store).find_release("a"))
    assert compare_releases(manifest, replace(manifest, config=config))["config"] == found


def test_a_comparison_for_people_shows_what_one_side_has_not(store: LocalStore):
    publish_run(store, "a")
    manifest = make_manifest(store, "b", (make_shard(store, "b"),), 1)
    publish(RunFolder(store, "b"), replace(manifest, config={"a": {"b": {"c": 1}}, "d": {"e": 2}}))
    result = CliRunner().invoke(indexer, ["release", "diff", store.url, "a", "b"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    start = lines.index("config")
    assert lines[start : start + 5] == ["config", "  a.b  None", "  a.b", "    c  1", "  d.e  None, 2"]
    back = CliRunner().invoke(indexer, ["release", "diff", store.url, "b", "a"]).stdout.splitlines()
    start = back.index("config")
    assert back[start : start + 5] == ["config", "  a.b", "    c  1", "  a.b  None", "  d.e  2, None"]


@pytest.fixture
def run(store: LocalStore) -> Callable[..., object]:
    def invoke(*arguments: str, code: int = 0) -> object:
        result = CliRunner().invoke(indexer, ["release", arguments[0], store.url, *arguments[1:], "--json"])
        assert result.exit_code == code, result.output
        return json.loads(result.stdout) if result.stdout else result.stderr

    return invoke


def test_the_commands_do_what_they_say(store: LocalStore, run: Callable[..., object]):
    publish_run(store, "z")
    publish_run(store, "y")
    shard = publish_run(store, "a")
    publish_run(store, "b")
    listed = run("list")
    assert isinstance(listed, list)
    assert [(line["run_id"], line["state"]) for line in listed] == [("b", ["live"]), ("a", []), ("y", []), ("z", [])]
    assert run("show")["run_id"] == "b"  # type: ignore[index]
    assert run("diff", "a")["after"] == "b"  # type: ignore[index]
    assert run("rollback") == {"status": "rolled back", "run_id": "a", "sequence": 5}
    assert run("pin", "b") == {"status": "pinned", "run_id": "b", "sequence": 6}
    assert run("unpin", "b") == {"status": "unpinned", "run_id": "b", "sequence": 7}
    planned = run("gc", "--keep", "2", "--grace-days", "0")
    assert planned["retire"] == ["y", "z"]  # type: ignore[index]
    assert planned["status"] == "planned"  # type: ignore[index]
    assert read_head(store) == 7
    assert run("gc", "--keep", "2", "--grace-days", "0", "--yes") == {**planned, "status": "deleted"}  # type: ignore[dict-item]
    assert run("verify", "--sizes-only") == {"run_id": "a", "objects": 5, "opened": False, "damaged": []}
    # Its bytes are those that were published, but no consumer could open them.
    assert "the encoder of the release" in run("verify", code=6)["damaged"][0]  # type: ignore[index]
    store.delete(shard.ids.key)
    assert "1 of 5 objects are damaged or" in CliRunner().invoke(indexer, ["release", "verify", store.url]).stderr
    assert run("show", "x", code=2)


def test_a_release_is_verified_by_opening_it(golden: Path, bucket: str, tmp_path: Path):
    release = golden / "release_v3"
    for path in release.rglob("*.*"):
        open_store(bucket).put_file(path.relative_to(release).as_posix(), path)
    for url in (str(release), bucket):
        result = CliRunner().invoke(indexer, ["release", "verify", url, "--json"])
        document = json.loads(result.stdout)
        assert (document["objects"], document["opened"], document["damaged"]) == (27, True, [])


def test_a_store_without_releases_is_told_in_one_sentence(tmp_path: Path):
    result = CliRunner().invoke(indexer, ["release", "show", str(tmp_path)])
    assert result.exit_code == 75
    assert result.stderr.count("\n") == 1
    assert "no release is published here" in result.stderr


def test_gc_says_that_nothing_is_live_and_deletes_nothing(tmp_path: Path):
    (tmp_path / "v" / "2023").mkdir(parents=True)
    (tmp_path / "v" / "2023" / "cat.jpg").write_bytes(b"x")
    result = CliRunner().invoke(indexer, ["release", "gc", str(tmp_path), "--yes"])
    assert result.exit_code == 0
    assert "deleted" not in result.output
    assert "nothing is live here, so nothing goes" in result.output
    document = json.loads(CliRunner().invoke(indexer, ["release", "gc", str(tmp_path), "--yes", "--json"]).stdout)
    assert (document["status"], document["live"], document["foreign_objects"]) == ("untouched", None, 1)
    assert (tmp_path / "v" / "2023" / "cat.jpg").exists()


def test_a_collector_asks_before_it_takes_what_another_key_keeps(store: LocalStore):
    other, own = make_signing_key(), make_signing_key("own.pem")
    for run_id, keys in (("theirs", [other]), ("both", [other, own]), ("pinned", [own]), ("unsigned", [own])):
        publish_run(store, run_id, key=keys[0])
        for key in keys[1:]:
            entry = read_entry(store, read_head(store))
            assert isinstance(entry, LogEntry)
            again = replace(entry, sequence=entry.sequence + 1, parent=entry.sequence, signature=None, format=1)
            commit_entry(store, entry.sequence, sign_entry(again, key))
    publish_run(store, "rolled", key=other)
    rolled = read_entry(store, read_head(store))
    assert isinstance(rolled, LogEntry)
    back = replace(
        rolled, kind="rollback", sequence=rolled.sequence + 1, parent=rolled.sequence, signature=None, format=1
    )
    commit_entry(store, rolled.sequence, sign_entry(back, other))
    kept = [("pin", "pinned", other), ("pin", "unsigned", None), ("pin", "both", other), ("unpin", "both", other)]
    for kind, run_id, key in [*kept, ("retire", "both", other), ("retire", "pinned", other)]:
        changes.commit_keeping(store, read_head(store), kind, (run_id,), key)
    publish_run(store, "live", key=own)
    plan = plan_garbage(store, ONE, LATER, own)
    assert plan.kept == ("live",)
    assert plan.retire == ("both", "pinned", "rolled", "theirs", "unsigned")
    assert plan.distrusted == ("pinned", "rolled", "theirs")
    history = read_history(store, own.trusted)
    assert history.find_void_runs("publish") == {"theirs": 1, "both": 2, "rolled": 6}
    assert history.find_void_runs("pin") == {"pinned": 8, "unsigned": 9, "both": 10}
    assert history.find_void_runs("publish", signed=True) == history.find_void_runs("publish")
    assert history.find_void_runs("pin", signed=True) == {"pinned": 8, "both": 10}
    assert (history.pinned, history.pinned_by_others) == (frozenset(), {"pinned"})
    before = list(store.list("v/"))
    for most in (False, True):
        if most:
            assert collect_garbage(store, plan, own, most=True) == plan.bytes
            continue
        with pytest.raises(ConfigError) as caught:
            collect_garbage(store, plan, own)
        assert str(caught.value) == (
            f"{store.url}: 3 of the runs that would be retired, such as pinned, were published or pinned by a key that "
            "is not trusted here; trust it, too (--public-key), or give --yes-delete"
        )
        assert list(store.list("v/")) == before
    both = replace(own, trusted=PublicKey("both", (*other.trusted.keys, *own.trusted.keys)))
    assert plan_garbage(store, ONE, LATER, both).distrusted == ()


def test_the_cause_of_a_missing_manifest_may_be_a_retirement_that_counts_no_more(store: LocalStore):
    other, own = make_signing_key(), make_signing_key("own.pem")
    for run_id in ("a", "b", "c"):
        publish_run(store, run_id, key=own)
    for kind, run_id in (("retire", "a"), ("pin", "b")):
        changes.commit_keeping(store, read_head(store), kind, (run_id,), other)
    lost = {run_id: read_history(store).releases[run_id].manifest.key for run_id in ("a", "b")}
    for run_id, hint in (
        ("b", ""),
        (
            "a",
            "; log entry 4 had retired the run, but no trusted key signed that: trust its key, too (--public-key), or "
            "keep fewer releases",
        ),
    ):
        held = store.get(lost[run_id])
        store.delete(lost[run_id])
        with pytest.raises(IntegrityError) as caught:
            plan_garbage(store, KeepingRule(), LATER, own)
        number = {"a": 1, "b": 2}[run_id]
        assert str(caught.value) == (
            f"{store.url}/{lost[run_id]}: log entry {number} names this manifest, but it is not there{hint}"
        )
        store.put_new(lost[run_id], held)
