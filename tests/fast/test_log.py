"""The commit protocol: one winner, read-back after lost answers, and nothing else."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

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
)
from indexer.log import (
    LogEntry,
    commit_entry,
    live_entry,
    log_key,
    read_entry,
    read_head,
    read_manifest,
    write_entry,
)
from indexer.manifest import ObjectEntry
from indexer.store import StoredObject
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

    def get(self, key: str) -> bytes:
        _run_next(self.reading)
        if key not in self.objects:
            raise ObjectMissingError(key)
        return self.objects[key]

    def put_new(self, key: str, data: bytes) -> None:
        self.tried.append(key)
        _run_next(self.before)
        if key in self.objects:
            raise ObjectExistsError(key)
        self.objects[key] = data
        _run_next(self.after)

    def size(self, key: str) -> int:
        return len(self.get(key))

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
    with pytest.raises(ValueError, match="does not follow"):
        commit_entry(store, 0, entry(2, "a"))
    assert store.objects == {}


def test_the_loser_is_told_who_won_and_tries_no_other_number(store: MemoryStore):
    commit(store, 0, "a")
    commit(store, 1, "winner")
    with pytest.raises(PublishConflictError, match="run winner was published first, as log entry 2") as caught:
        commit(store, 1, "loser")
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
    waits: list[float] = []
    commit_entry(store, 0, entry(1, "a"), sleep=waits.append)
    assert store.tried == [log_key(1)] * 3
    assert len(waits) == 2
    assert 0 < waits[0] < waits[1] < 2


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
    with pytest.raises(OutcomeUnknownError, match="run the same command again to settle it") as caught:
        commit(store, 0, "a")
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
    with pytest.raises(PublishConflictError, match="log entry 2 was taken"):
        commit(store, 1, "b")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("kind", "replace", "kind: expected one of publish, rollback"),
        ("format", 3, "this program reads formats 1 to 2, found 3; upgrade"),
        ("format", 2, "field 'signature' is missing"),
        ("signature", "A" * 86 + "==", "unknown field 'signature'"),
        ("expires_at", "2026-11-21T00:00:00Z", "unknown field 'expires_at'"),
        ("sequence", 7, "sequence: expected 1, found 7"),
        ("parent", 3, "parent: expected 0, found 3"),
        ("run_id", "../x", "run_id: expected text of the form"),
        ("manifest", {"key": "other/x", "bytes": 1, "sha256": "0" * 64}, "expected a plain key below v/"),
        ("extra", 1, "unknown field 'extra'"),
    ],
)
def test_a_malformed_entry_is_refused(store: MemoryStore, field: str, value: object, message: str):
    store.objects[log_key(1)] = write_document(json.loads(write_entry(entry(1, "a"))) | {field: value})
    with pytest.raises(ManifestError, match=message):
        read_entry(store, 1)


@pytest.mark.line(88)
def test_a_gap_in_the_log_is_found(store: MemoryStore):
    commit(store, 0, "a")
    commit(store, 1, "b")
    store.delete(log_key(1))
    with pytest.raises(IntegrityError, match="log entry 1 is missing"):
        read_head(store)


def test_a_foreign_or_huge_object_in_the_log_is_refused(store: MemoryStore):
    store.objects["log/latest"] = b""
    with pytest.raises(IntegrityError, match="log entry 1 is missing, found log/latest"):
        read_head(store)
    store.objects = {log_key(1): bytes(2 << 20)}
    with pytest.raises(ManifestError, match="expected at most"):
        read_head(store)


@pytest.mark.line(89)
def test_a_manifest_must_be_the_one_the_entry_names(store: MemoryStore, golden: Path):
    data = next((golden / "release_v1").glob("v/*/manifest.*.json")).read_bytes()
    named = ObjectEntry(key="v/run/manifest.a.json", bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    live = replace(entry(1, "2026-11-20-49d9754a9949"), manifest=named)
    with pytest.raises(IntegrityError, match="names this manifest, but it is not there"):
        read_manifest(store, live)
    store.objects[named.key] = data
    assert read_manifest(store, live).run_id == live.run_id
    with pytest.raises(ManifestError, match="run_id: expected 'other'"):
        read_manifest(store, replace(live, run_id="other"))
    store.objects[named.key] = data[:-1]
    with pytest.raises(IntegrityError, match=f"expected {len(data)} bytes, found {len(data) - 1}"):
        read_manifest(store, live)
    store.objects[named.key] = data.replace(b"2026", b"2027", 1)
    with pytest.raises(IntegrityError, match="expected SHA-256"):
        read_manifest(store, live)
