"""The commit protocol: one winner, read-back after lost answers, and nothing else."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from indexer.errors import (
    IntegrityError,
    ManifestError,
    ObjectExistsError,
    ObjectMissingError,
    OutcomeUnknownError,
    PublishConflictError,
    StoreError,
    StoreRefusedError,
    UntrustedError,
)
from indexer.log import (
    Entry,
    KeepingEntry,
    LogEntry,
    commit_entry,
    find_damage,
    live_entry,
    log_key,
    parse_entry,
    read_entry,
    read_head,
    read_manifest,
    require_live,
    signed_bytes,
    write_entry,
)
from indexer.manifest import ObjectEntry
from indexer.store import WHOLE_BYTES, StoredObject, check_size
from indexer.strict_json import write_document

OBJECT = ObjectEntry(key="v/run/manifest.a.json", bytes=3, sha256="0" * 64)


class MemoryStore:
    """A store in a dictionary; `faults` are run before or after a create is applied, one per call."""

    url = "memory"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.before: list[Callable[[], None]] = []
        self.after: list[Callable[[], None]] = []
        self.reading: list[Callable[[], None]] = []
        self.tried: list[str] = []
        self.got: list[str] = []

    def get(self, key: str, limit: int = WHOLE_BYTES) -> bytes:
        _run_next(self.reading)
        self.got.append(key)
        if key not in self.objects:
            raise ObjectMissingError(key)
        check_size(len(self.objects[key]), limit, f"{self.url}: {key}")
        return self.objects[key]

    def put_new(self, key: str, data: bytes) -> None:
        self.tried.append(key)
        _run_next(self.before)
        if key in self.objects:
            raise ObjectExistsError(key)
        self.objects[key] = data
        _run_next(self.after)

    def size(self, key: str) -> int:
        if key not in self.objects:
            raise ObjectMissingError(key)
        return len(self.objects[key])

    def list(self, prefix: str) -> Iterator[StoredObject]:
        return (StoredObject(key, len(self.objects[key])) for key in sorted(self.objects) if key.startswith(prefix))

    def get_file(self, key: str, path: Path) -> None:
        path.write_bytes(self.get(key))

    def put_file(self, key: str, path: Path) -> None:
        self.put_new(key, path.read_bytes())

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)


def _run_next(faults: list[Callable[[], None]]) -> None:
    if faults:
        faults.pop(0)()


def fail(error: Exception) -> Callable[[], None]:
    def run() -> None:
        raise error

    return run


def entry(sequence: int, run_id: str, kind: str = "publish") -> LogEntry:
    return LogEntry(
        sequence=sequence,
        kind=kind,
        run_id=run_id,
        manifest=OBJECT,
        parent=sequence - 1,
        created_at="2026-11-20T04:00:00+00:00",
    )


def keeping(sequence: int, kind: str, *runs: str) -> KeepingEntry:
    return KeepingEntry(
        sequence=sequence, kind=kind, runs=runs, parent=sequence - 1, created_at="2026-11-20T04:00:00+00:00"
    )


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def commit(store: MemoryStore, head: int, run_id: str, kind: str = "publish") -> LogEntry:
    return commit_entry(store, head, entry(head + 1, run_id, kind), sleep=lambda _: None)


def test_the_first_release_is_entry_one(store: MemoryStore):
    assert read_head(store) == 0
    assert live_entry(store) is None
    commit(store, 0, "a")
    assert log_key(1) == "log/00000000000000000001.json"
    assert list(store.objects) == [log_key(1)]
    assert read_head(store) == 1
    assert live_entry(store) == entry(1, "a")


def test_entries_follow_each_other_and_the_newest_is_live(store: MemoryStore):
    commit(store, 0, "a")
    commit(store, 1, "b")
    commit(store, 2, "a", "rollback")
    live = live_entry(store)
    assert live is not None
    assert (live.sequence, live.kind, live.run_id) == (3, "rollback", "a")


def test_an_entry_that_does_not_follow_the_head_is_a_fault_of_the_caller(store: MemoryStore):
    with pytest.raises(ValueError, match="entry 2 of parent 1 does not follow head 0"):
        commit_entry(store, 0, entry(2, "a"))
    with pytest.raises(ValueError, match="entry 1 of parent 4 does not follow head 0"):
        commit_entry(store, 0, replace(entry(1, "a"), parent=4))
    assert store.objects == {}


def test_the_loser_is_told_who_won_and_tries_no_other_number(store: MemoryStore):
    commit(store, 0, "a")
    commit(store, 1, "winner")
    with pytest.raises(PublishConflictError) as caught:
        commit(store, 1, "loser")
    assert str(caught.value) == (
        "memory: run winner was published first, as log entry 2; run loser is not live, plan it again on the new head"
    )
    assert caught.value.exit_code == 5
    assert set(store.tried) == {log_key(1), log_key(2)}
    assert read_head(store) == 2


def test_the_same_run_twice_is_one_entry(store: MemoryStore):
    first = commit(store, 0, "a")
    assert commit(store, 0, "a") == first
    assert read_head(store) == 1


@pytest.mark.parametrize("lost", [StoreError("timeout"), ObjectExistsError("412 for its own write")])
def test_a_lost_answer_is_settled_by_reading_back(store: MemoryStore, lost: Exception):
    store.after = [fail(lost)]
    assert commit(store, 0, "a") == entry(1, "a")
    assert read_head(store) == 1
    assert len(store.tried) == 1


def test_a_lost_request_is_sent_again_under_the_same_number(store: MemoryStore):
    store.before = [fail(StoreError("409 conflict")), fail(StoreError("reset"))]
    commit(store, 0, "a")
    assert store.tried == [log_key(1)] * 3


def test_waits_between_attempts_double_and_differ_by_half(store: MemoryStore, monkeypatch: pytest.MonkeyPatch):
    store.before = [fail(StoreError("reset"))] * 9
    waits: list[float] = []
    limits: list[tuple[float, float]] = []

    def draw(least: float, most: float) -> float:
        limits.append((least, most))
        return most

    monkeypatch.setattr("indexer.log.random.uniform", draw)
    with pytest.raises(OutcomeUnknownError):
        commit_entry(store, 0, entry(1, "a"), sleep=waits.append)
    assert store.tried == [log_key(1)] * 5
    assert waits == pytest.approx([0.2, 0.4, 0.8, 1.6])
    assert limits == [(0.5, 1.0)] * 4


def test_after_forty_seconds_no_further_attempt_is_begun(store: MemoryStore, monkeypatch: pytest.MonkeyPatch):
    store.before = [fail(StoreError("reset"))] * 9
    clock = iter([1_000.0, 1_040.0, 1_040.1])
    monkeypatch.setattr("indexer.log.time", SimpleNamespace(monotonic=lambda: next(clock)))
    with pytest.raises(OutcomeUnknownError):
        commit(store, 0, "a")
    assert store.tried == [log_key(1)] * 2


def test_a_store_proves_before_each_commit_that_it_creates_once(store: MemoryStore, monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[object, str]] = []
    monkeypatch.setattr("indexer.log.prove_creates", lambda *arguments: asked.append(arguments))
    commit(store, 0, "a")
    commit_entry(store, 1, keeping(2, "pin", "x"))
    commit_entry(store, 2, keeping(3, "retire", "y", "z"))
    assert asked == [(store, "a"), (store, "x"), (store, "y")]


def test_a_lost_race_behind_a_lost_answer_is_a_conflict(store: MemoryStore):
    def rival() -> None:
        store.objects[log_key(1)] = write_entry(entry(1, "rival"))
        raise StoreError("timeout")

    store.before = [rival]
    with pytest.raises(PublishConflictError, match="run rival"):
        commit(store, 0, "a")


def test_what_cannot_be_read_back_is_unknown(store: MemoryStore):
    store.after = [fail(StoreError("reset"))]
    store.reading = [fail(StoreError("reset"))] * 9
    with pytest.raises(OutcomeUnknownError) as caught:
        commit(store, 0, "a")
    assert str(caught.value) == (
        f"memory: log entry 1 was sent, but its outcome cannot be read back ({log_key(1)}); "
        "nothing was deleted, run the same command again to settle it"
    )
    assert caught.value.exit_code == 75
    store.reading = []
    assert commit(store, 0, "a") == entry(1, "a")


def test_a_request_that_never_arrives_is_unknown_too(store: MemoryStore):
    store.before = [fail(StoreError("reset"))] * 9
    with pytest.raises(OutcomeUnknownError):
        commit(store, 0, "a")


def test_a_refusal_is_certain_only_before_anything_was_lost(store: MemoryStore):
    store.before = [fail(StoreRefusedError("403"))]
    with pytest.raises(StoreRefusedError, match="403"):
        commit(store, 0, "a")
    store.before = [fail(StoreError("timeout"))] + [fail(StoreRefusedError("token expired"))] * 9
    with pytest.raises(OutcomeUnknownError):
        commit(store, 0, "a")


KEEPING = (
    b'{"format": 1, "sequence": 2, "kind": "%s", "runs": ["x"], "parent": 1, "created_at": "2026-11-20T00:00:00+00:00"}'
)


def test_entries_about_keeping_change_nothing_for_a_consumer(store: MemoryStore):
    commit(store, 0, "a")
    store.objects[log_key(2)] = KEEPING % b"retire"
    assert read_head(store) == 2
    live = live_entry(store)
    assert live is not None
    assert live.sequence == 1
    with pytest.raises(PublishConflictError) as caught:
        commit(store, 1, "b")
    assert str(caught.value) == "memory: log entry 2 was taken meanwhile; run again"


def test_an_entry_about_keeping_gives_way_to_any_but_itself(store: MemoryStore):
    ours = keeping(1, "pin", "x")
    assert commit_entry(store, 0, ours) == commit_entry(store, 0, ours) == ours
    for other in (keeping(1, "unpin", "x"), keeping(1, "pin", "y"), entry(1, "x")):
        with pytest.raises(PublishConflictError, match="memory: log entry 1 was taken meanwhile; run again"):
            commit_entry(store, 0, other)
    store.objects = {log_key(1): write_entry(entry(1, "x"))}
    with pytest.raises(PublishConflictError, match="memory: log entry 1 was taken meanwhile; run again"):
        commit_entry(store, 0, ours)


def test_entries_of_both_kinds_are_read_as_they_were_written(store: MemoryStore):
    commit(store, 0, "a")
    commit_entry(store, 1, keeping(2, "retire", "x", "y"))
    assert read_entry(store, 1) == entry(1, "a")
    assert read_entry(store, 2) == keeping(2, "retire", "x", "y")


def test_the_live_entry_of_a_head_and_those_after_it_are_checked(store: MemoryStore):
    with pytest.raises(StoreError) as caught:
        require_live(store)
    assert str(caught.value) == (
        "memory: no release is published here (no log/00000000000000000001.json); build one first"
    )
    commit(store, 0, "a")
    commit(store, 1, "b")
    commit_entry(store, 2, keeping(3, "pin", "a"))
    commit_entry(store, 3, keeping(4, "unpin", "a"))
    for find in (live_entry, require_live):
        seen: list[object] = []
        assert find(store, check=seen.append) == live_entry(store, 4) == entry(2, "b")
        assert seen == [keeping(4, "unpin", "a"), keeping(3, "pin", "a"), entry(2, "b")]
    assert live_entry(store, 1) == entry(1, "a")
    assert live_entry(store, 0) is None


def test_entries_that_are_not_trusted_count_for_nothing(store: MemoryStore):
    for head, run_id in enumerate("abcd"):
        commit(store, head, run_id)

    def trust(*trusted: str) -> Callable[[Entry], None]:
        def check(found: Entry) -> None:
            assert isinstance(found, LogEntry)
            if found.run_id not in trusted:
                raise UntrustedError(f"{found.run_id} is not trusted")

        return check

    for trusted, newest in (("a", 1), ("ab", 2), ("abd", 4)):
        assert live_entry(store, check=trust(*trusted)) == entry(newest, trusted[-1])
    for find in (live_entry, require_live):
        with pytest.raises(UntrustedError, match=r"^d is not trusted$"):
            find(store, check=trust())


def test_an_entry_of_the_same_run_that_is_not_trusted_is_no_answer_to_ours(store: MemoryStore):
    other = replace(entry(1, "a"), created_at="2026-11-21T00:00:00+00:00")
    store.objects[log_key(1)] = write_entry(other)
    assert commit(store, 0, "a") == other

    def refuse(found: Entry) -> None:
        raise UntrustedError(f"of {found.created_at}")

    with pytest.raises(PublishConflictError) as caught:
        commit_entry(store, 0, entry(1, "a"), check=refuse)
    assert str(caught.value) == "memory: log entry 1 was taken meanwhile; run again (of 2026-11-21T00:00:00+00:00)"
    rolled_back = replace(entry(1, "a"), kind="rollback")
    with pytest.raises(PublishConflictError, match="run a was published first, as log entry 1"):
        commit_entry(store, 0, rolled_back)


SIGNATURE = "A" * 86 + "=="
SIGNED = [
    replace(entry(1, "a"), format=2, signature=SIGNATURE),
    replace(entry(1, "a"), format=2, signature=SIGNATURE, expires_at="2026-11-28T04:00:00+00:00"),
    replace(keeping(1, "pin", "x"), format=2, signature=SIGNATURE),
]


@pytest.mark.parametrize("signed", SIGNED)
def test_a_signed_entry_is_read_as_it_was_written(signed: Entry):
    data = write_entry(signed)
    assert parse_entry(data, "log", 1) == signed
    assert json.loads(signed_bytes(signed)) == {k: v for k, v in json.loads(data).items() if k != "signature"}
    for other in (data.rstrip(), data.replace(b" ", b"", 1)):
        with pytest.raises(ManifestError) as caught:
            parse_entry(other, "log", 1)
        assert str(caught.value) == "log: expected the one spelling that is signed, found 'another'"
    with pytest.raises(ManifestError, match=r"^log\.signature: expected text of the form "):
        parse_entry(write_entry(replace(signed, signature="A" * 88)), "log", 1)


def test_entries_about_keeping_do_not_expire():
    data = write_document(json.loads(write_entry(SIGNED[2])) | {"expires_at": "2026-11-28T04:00:00+00:00"})
    with pytest.raises(ManifestError, match=r"^log: unknown field 'expires_at'"):
        parse_entry(data, "log", 1)


def test_objects_that_are_lost_or_of_another_size_are_named(store: MemoryStore):
    store.objects = {"v/a/whole": b"four", "v/a/short": b"abc", "v/a/long": b"abcde"}
    names = ("lost", "whole", "short", "long", "gone")
    assert find_damage(store, [ObjectEntry(key=f"v/a/{name}", bytes=4, sha256="0" * 64) for name in names]) == [
        "memory/v/a/lost: no such object",
        "memory/v/a/short: expected 4 bytes, found 3",
        "memory/v/a/long: expected 4 bytes, found 5",
        "memory/v/a/gone: no such object",
    ]
    assert store.got == []


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "kind",
            "replace",
            "kind: expected one of publish, rollback, pin, unpin, retire, or a newer program, found 'replace'",
        ),
        ("format", 3, "this program reads formats 1 to 2, found 3; upgrade"),
        ("format", 2, "field 'signature' is missing"),
        ("signature", "A" * 86 + "==", "unknown field 'signature'"),
        ("expires_at", "2026-11-21T00:00:00Z", "unknown field 'expires_at'"),
        ("sequence", 7, "sequence: expected 1, found 7"),
        ("sequence", 0, "sequence: expected a whole number from 1"),
        ("parent", 3, "parent: expected 0, found 3"),
        ("run_id", "../x", "run_id: expected text of the form"),
        ("manifest", {"key": "other/x", "bytes": 1, "sha256": "0" * 64}, "expected a plain key below v/"),
        ("extra", 1, "unknown field 'extra'"),
    ],
)
def test_a_malformed_entry_is_refused(store: MemoryStore, field: str, value: object, message: str):
    store.objects[log_key(1)] = write_document(json.loads(write_entry(entry(1, "a"))) | {field: value})
    with pytest.raises(ManifestError, match=message) as caught:
        read_entry(store, 1)
    assert str(caught.value).startswith(f"memory/{log_key(1)}")
    assert store.tried == []


def test_an_entry_that_nobody_could_read_is_not_written(store: MemoryStore):
    with pytest.raises(ManifestError, match=f"^memory/{log_key(1)}.run_id: expected text of the form"):
        commit(store, 0, "../x")
    assert store.tried == []


RUN_LINE_BYTES = 106
"""Of a run id of 100 characters in an entry: two spaces, quotes, a comma and the end of the line."""


def test_an_entry_that_nobody_would_read_is_not_written(store: MemoryStore):
    few, many = ([f"{number:0100d}" for number in range(count)] for count in (9_800, 9_900))
    size = len(write_entry(keeping(1, "retire", *many)))
    assert size == len(write_entry(keeping(1, "retire", *few))) + 100 * RUN_LINE_BYTES
    with pytest.raises(ManifestError) as caught:
        commit_entry(store, 0, keeping(1, "retire", *many))
    assert str(caught.value) == (
        f"memory/{log_key(1)}: {size} bytes; expected at most 1048576, so it was not written; name fewer runs in one "
        "entry"
    )
    assert store.tried == []
    commit_entry(store, 0, keeping(1, "retire", *few))
    assert (read_head(store), read_entry(store, 1)) == (1, keeping(1, "retire", *few))


def test_an_entry_of_the_greatest_size_is_written(store: MemoryStore, monkeypatch: pytest.MonkeyPatch):
    size = len(write_entry(entry(1, "a")))
    monkeypatch.setattr("indexer.log.MAX_ENTRY_BYTES", size - 1)
    with pytest.raises(ManifestError, match=f"{size} bytes; expected at most {size - 1}, so it was not written"):
        commit(store, 0, "a")
    monkeypatch.setattr("indexer.log.MAX_ENTRY_BYTES", size)
    assert commit(store, 0, "a") == read_entry(store, 1)


@pytest.mark.line(88)
def test_a_gap_in_the_log_is_found(store: MemoryStore):
    commit(store, 0, "a")
    commit(store, 1, "b")
    store.delete(log_key(1))
    with pytest.raises(IntegrityError, match="log entry 1 is missing"):
        read_head(store)


def test_a_foreign_or_huge_object_in_the_log_is_refused(store: MemoryStore):
    for key, data in (("log/latest", b""), ("log/.DS_Store", b""), ("log/x/", b""), ("log/", b"x")):
        store.objects = {key: data, log_key(1): b""}
        with pytest.raises(IntegrityError, match=f"log entry [12] is missing, found {key}; restore"):
            read_head(store)
    store.objects = {log_key(1): bytes(2 << 20)}
    with pytest.raises(ManifestError) as caught:
        read_head(store)
    assert str(caught.value) == f"memory/{log_key(1)}: 2097152 bytes; expected at most 1048576"
    store.objects = {log_key(1): bytes(1 << 20)}
    assert read_head(store) == 1


def test_the_mark_of_a_folder_is_no_entry(store: MemoryStore):
    store.objects["log/"] = b""
    assert read_head(store) == 0
    commit(store, 0, "a")
    commit(store, 1, "b")
    assert (read_head(store), require_live(store)) == (2, entry(2, "b"))
    store.delete(log_key(1))
    with pytest.raises(IntegrityError, match=f"log entry 1 is missing, found {log_key(2)}"):
        read_head(store)


def test_an_entry_that_grew_since_it_was_listed_is_not_read(store: MemoryStore):
    store.objects[log_key(1)] = bytes((1 << 20) + 1)
    with pytest.raises(IntegrityError) as caught:
        read_entry(store, 1)
    assert str(caught.value) == (f"memory: {log_key(1)}: 1048577 bytes; expected at most 1048576, so it was not read")
    with pytest.raises(IntegrityError, match="1048577 bytes"):
        commit(store, 0, "a")


@pytest.mark.line(89)
def test_a_manifest_must_be_the_one_the_entry_names(store: MemoryStore, golden: Path, monkeypatch: pytest.MonkeyPatch):
    data = next((golden / "release_v1").glob("v/*/manifest.*.json")).read_bytes()
    named = ObjectEntry(key="v/run/manifest.a.json", bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    live = replace(entry(1, "2026-11-20-49d9754a9949"), manifest=named)
    place = f"memory/{named.key}"

    def refusal(error: type[Exception], asked: LogEntry = live) -> str:
        with pytest.raises(error) as caught:
            read_manifest(store, asked)
        return str(caught.value)

    missing = f"{place}: log entry 1 names this manifest, but it is not there"
    assert refusal(IntegrityError) == missing
    store.objects[named.key] = data
    assert read_manifest(store, live).run_id == live.run_id
    other = replace(live, run_id="other")
    assert refusal(ManifestError, other) == f"{place}.run_id: expected 'other' of the log, found {live.run_id!r}"
    store.objects[named.key], store.got = data[:-1], []
    changed = "the object was changed"
    assert refusal(IntegrityError) == f"{place}: expected {len(data)} bytes, found {len(data) - 1}; {changed}"
    # What has another size is not read, however large it is.
    assert store.got == []
    # One that grew since its size was asked for is not read either.
    monkeypatch.setattr(store, "size", lambda _: named.bytes - 1)
    short = replace(live, manifest=replace(named, bytes=named.bytes - 1))
    store.objects[named.key] = data
    assert refusal(IntegrityError, short) == (
        f"memory: {named.key}: {len(data)} bytes; expected at most {len(data) - 1}, so it was not read"
    )
    monkeypatch.undo()
    huge = replace(live, manifest=replace(named, bytes=(16 << 20) + 1))
    assert refusal(IntegrityError, huge) == (f"{place}: 16777217 bytes; expected at most 16777216, so it was not read")
    spoilt = store.objects[named.key] = data.replace(b"2026", b"2027", 1)
    found = hashlib.sha256(spoilt).hexdigest()
    assert refusal(IntegrityError) == f"{place}: expected SHA-256 {named.sha256}, found {found}; {changed}"
    store.objects[named.key] = b"{}" + data[2:]
    broken = replace(live, manifest=replace(named, sha256=hashlib.sha256(store.objects[named.key]).hexdigest()))
    assert refusal(ManifestError, broken).startswith(f"{place}: not strict JSON")
