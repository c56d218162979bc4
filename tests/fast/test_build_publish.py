"""The objects and markers of a run: what is written, what is adopted, and who gives way to whom."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from indexer.build.publish import (
    MAX_MARKER_BYTES,
    RunFolder,
    Seal,
    SealedEncoder,
    SealedShard,
    commit_publication,
    encoder_entry,
    encoder_seal,
    publish,
    shard_seal,
)
from indexer.errors import IntegrityError, ObjectExistsError, PublishConflictError
from indexer.log import LogEntry, log_key, read_head, read_manifest
from indexer.manifest import EncoderEntry, Manifest, ObjectEntry, write_manifest
from indexer.object_cache import ObjectCache
from indexer.releases.changes import commit_keeping, pin, roll_back, unpin
from indexer.releases.history import read_history
from indexer.signature import SigningKey
from indexer.store import LocalStore
from indexer.strict_json import MAX_DOCUMENT_BYTES
from tests.small_releases import make_manifest, make_shard, make_signing_key, publish_run, put

FINGERPRINT = "f" * 64
KEY = make_signing_key()


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "release")


def describe(data: bytes, key: str) -> ObjectEntry:
    return ObjectEntry(key=key, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def test_objects_lie_under_the_name_of_their_attempt(store: LocalStore, tmp_path: Path):
    for name in ("encoder.json", "products-00012.faiss"):
        (tmp_path / name).write_bytes(name.encode())
    run = RunFolder(store, "night", attempt="aaa")
    assert run.upload(tmp_path / "products-00012.faiss", "products-00012.faiss") == describe(
        b"products-00012.faiss", "v/night/products-00012.aaa.faiss"
    )
    assert run.upload(tmp_path / "encoder.json", "report.html.gz").key == "v/night/report.aaa.html.gz"
    assert run.upload(tmp_path / "encoder.json", "plain").key == "v/night/plain.aaa"
    assert run.upload_encoder(tmp_path, ["encoder.json"]) == (
        describe(b"encoder.json", "v/night/encoder/aaa/encoder.json"),
    )
    assert len(RunFolder(store, "night").attempt) == 12


def test_an_upload_that_did_not_arrive_whole_is_noticed(store: LocalStore, tmp_path: Path):
    class CutStore(LocalStore):
        def put_file(self, key: str, path: Path) -> None:
            self.put_new(key, path.read_bytes()[:-1])

    (tmp_path / "file").write_bytes(b"four")
    with pytest.raises(IntegrityError) as caught:
        RunFolder(CutStore(tmp_path / "release"), "night", attempt="aaa").upload(tmp_path / "file", "a.ids")
    assert str(caught.value) == (
        f"{store.url}/v/night/a.aaa.ids: expected 4 bytes, found 3; the upload did not arrive whole, run again"
    )


def test_a_manifest_is_stored_as_its_entry_says(store: LocalStore):
    manifest = make_manifest(store, "night", (make_shard(store, "night"),), 0)
    stored = RunFolder(store, "night", attempt="aaa").put_manifest(manifest)
    assert stored == describe(write_manifest(manifest), "v/night/manifest.aaa.json")
    assert store.get(stored.key) == write_manifest(manifest)


def sealed_shard(store: LocalStore) -> SealedShard:
    shard = make_shard(store, "night")
    return SealedShard(
        shard=replace(shard, fingerprint=FINGERPRINT),
        probe=put(store, "v/night/0.probe", b"probe"),
        duplicates=2,
        rejected={"text_empty": 3},
        examples={"text_empty": "P1"},
        truncated=4,
        cut_fields={"title": 3},
        embedded=5,
        norm_error=0.25,
    )


def sealed_encoder(store: LocalStore) -> SealedEncoder:
    return SealedEncoder(fingerprint=FINGERPRINT, objects=(put(store, "v/night/encoder.json", b"x"),))


CASES: list[tuple[Callable[[LocalStore], SealedShard | SealedEncoder], Callable[[], Seal], str]] = [
    (sealed_shard, lambda: shard_seal("products", 7, FINGERPRINT), "products-00007"),
    (sealed_encoder, lambda: encoder_seal(FINGERPRINT), "encoder"),
]


@pytest.mark.parametrize(("make", "describe_seal", "name"), CASES)
@pytest.mark.parametrize("key", [None, KEY])
def test_what_one_attempt_seals_the_next_finds(
    store: LocalStore,
    make: Callable[[LocalStore], SealedShard | SealedEncoder],
    describe_seal: Callable[[], Seal],
    name: str,
    key: SigningKey | None,
):
    first, second, seal = RunFolder(store, "night", key=key), RunFolder(store, "night", key=key), describe_seal()
    assert second.find_sealed(seal) is None
    document = make(store)
    assert first.seal(seal, document) is document
    assert second.find_sealed(seal) == document
    assert second.seal(seal, document) == document
    assert [item.key for item in store.list("v/night/done/")] == [f"v/night/done/{name}.json"]
    written = json.loads(store.get(f"v/night/done/{name}.json"))
    signature = written.pop("signature", None)
    assert (signature is None) == (key is None)
    said = (json.dumps(written, indent=1, sort_keys=True) + "\n").encode()
    if key is not None and signature is not None:
        assert key.trusted.verifies(said, signature)
    assert (
        written.pop("sha256")
        == hashlib.sha256((json.dumps(written, indent=1, sort_keys=True) + "\n").encode()).hexdigest()
    )
    assert written == json.loads(json.dumps(asdict(document)))


@pytest.mark.parametrize("cached", [False, True])
def test_a_marker_whose_object_is_lost_is_replaced_by_the_next(store: LocalStore, tmp_path: Path, cached: bool):
    run = RunFolder(store, "night", cache=ObjectCache(store, tmp_path / "cache") if cached else None)
    seal = encoder_seal(FINGERPRINT)
    first = run.seal(seal, sealed_encoder(store))
    store.delete("v/night/encoder.json")
    assert run.find_sealed(seal) is None
    second = SealedEncoder(fingerprint=FINGERPRINT, objects=(put(store, "v/night/second/encoder.json", b"x"),))
    assert run.seal(seal, second) is second
    assert first != second == run.find_sealed(seal)
    # Whoever comes third adopts it, too.
    assert run.seal(seal, first) == second
    assert [item.key for item in store.list("v/night/done/")] == [
        "v/night/done/encoder.2.json",
        "v/night/done/encoder.json",
    ]


def test_a_marker_of_other_work_is_passed_over(store: LocalStore):
    run = RunFolder(store, "night")
    run.seal(encoder_seal("0" * 64), SealedEncoder(fingerprint="0" * 64, objects=()))
    assert run.find_sealed(encoder_seal(FINGERPRINT)) is None
    own = sealed_encoder(store)
    assert run.seal(encoder_seal(FINGERPRINT), own) is own
    assert run.find_sealed(encoder_seal(FINGERPRINT)) == own


@pytest.mark.parametrize("ours", [None, KEY])
@pytest.mark.parametrize("theirs", [None, KEY, make_signing_key("other.pem")])
def test_markers_are_adopted_from_those_who_sign_alike(
    store: LocalStore, ours: SigningKey | None, theirs: SigningKey | None
):
    seal, document = encoder_seal(FINGERPRINT), sealed_encoder(store)
    RunFolder(store, "night", key=theirs).seal(seal, document)
    assert RunFolder(store, "night", key=ours).find_sealed(seal) == (document if ours is theirs else None)


def test_a_marker_larger_than_any_is_not_read(store: LocalStore):
    run, seal, document = RunFolder(store, "night"), encoder_seal(FINGERPRINT), sealed_encoder(store)
    store.put_new("v/night/done/encoder.json", b"{")
    with (store.root / "v/night/done/encoder.json").open("r+b") as file:
        file.truncate(1 << 40)
    assert run.find_sealed(seal) is None
    assert run.seal(seal, document) is document
    assert run.find_sealed(seal) == document
    assert store.get("v/night/done/encoder.2.json")
    other = RunFolder(store, "other")
    other.seal(seal, replace(document, objects=document.objects * 10_000))
    assert MAX_MARKER_BYTES < store.size("v/other/done/encoder.json") < MAX_DOCUMENT_BYTES
    assert other.find_sealed(seal) is None


def test_twenty_markers_are_looked_at(store: LocalStore):
    run, seal, document = RunFolder(store, "night"), encoder_seal(FINGERPRINT), sealed_encoder(store)
    names = ["encoder", *(f"encoder.{number}" for number in range(2, 21))]
    for name in names[:-1]:
        store.put_new(f"v/night/done/{name}.json", b"{")
    assert run.find_sealed(seal) is None
    assert run.seal(seal, document) is document
    assert store.get("v/night/done/encoder.20.json")
    assert run.find_sealed(seal) == document
    store.delete("v/night/done/encoder.20.json")
    store.put_new("v/night/done/encoder.20.json", b"{")
    # The shard counts as unsealed then: an attempt that is killed builds it once more.
    assert run.find_sealed(seal) is None
    assert run.seal(seal, document) is document
    assert len(list(store.list("v/night/done/"))) == 20


def test_the_encoder_of_a_release_is_the_one_that_was_sealed(store: LocalStore):
    sealed = sealed_encoder(store)
    assert encoder_entry(sealed) == EncoderEntry(fingerprint=FINGERPRINT, objects=sealed.objects)


@pytest.mark.parametrize("key", [None, KEY])
def test_what_is_published_is_the_manifest_and_its_entry(store: LocalStore, key: SigningKey | None):
    publish_run(store, "a")
    manifest = make_manifest(store, "b", (make_shard(store, "b"),), 1)
    entry = publish(RunFolder(store, "b", key=key), manifest)
    assert (entry.sequence, entry.kind, entry.run_id, entry.parent) == (2, "publish", "b", 1)
    assert (entry.signature is None) == (key is None)
    assert read_manifest(store, entry) == manifest
    assert read_history(store, key=key.trusted if key else None).require_live() == entry


def test_a_lost_object_is_named_before_anything_is_stored(store: LocalStore):
    shard = make_shard(store, "a")
    manifest = make_manifest(store, "a", (shard,), 0)
    store.delete(shard.ids.key)
    with pytest.raises(IntegrityError) as caught:
        publish(RunFolder(store, "a"), manifest)
    assert str(caught.value) == (
        f"{store.url}/v/a/0.ids: no such object; nothing was published, run again to rebuild it, "
        "what an earlier run made with --reuse none"
    )
    assert not [item.key for item in store.list("v/a/") if "manifest" in item.key]


class BusyStore(LocalStore):
    """A folder in which something happens each time before a log entry is created."""

    def __init__(self, root: Path, *happens: Callable[[LocalStore], object]) -> None:
        super().__init__(root)
        self.happens = list(happens)

    def put_new(self, key: str, data: bytes) -> None:
        if key.startswith("log/") and self.happens:
            self.happens.pop(0)(LocalStore(self.root))
        super().put_new(key, data)


def ready(folder: Path, *happens: Callable[[LocalStore], object]) -> tuple[BusyStore, Manifest, ObjectEntry]:
    """Publish run a; store run b, which meets what happens when it goes live."""
    quiet = LocalStore(folder / "release")
    publish_run(quiet, "a")
    manifest = make_manifest(quiet, "b", (make_shard(quiet, "b"),), 1)
    stored = RunFolder(quiet, "b").put_manifest(manifest)
    return BusyStore(folder / "release", *happens), manifest, stored


def pin_a(store: LocalStore) -> None:
    pin(store, "a")


def unpin_a(store: LocalStore) -> None:
    unpin(store, "a")


def retire_b(store: LocalStore) -> None:
    commit_keeping(store, read_history(store).head, "retire", ("b",))


def lose_b(store: LocalStore) -> None:
    pin_a(store)
    store.delete("v/b/0.ids")


def publish_c(store: LocalStore) -> None:
    publish_run(store, "c")


def publish_b(store: LocalStore) -> None:
    manifest = read_history(store).releases["a"].manifest
    entry = LogEntry(
        sequence=3, kind="publish", run_id="b", manifest=manifest, parent=2, created_at="2026-11-20T00:00:00Z"
    )
    store.put_new(log_key(3), json.dumps({k: v for k, v in asdict(entry).items() if v is not None}).encode())


def pin_and_publish_c(store: LocalStore) -> None:
    pin_a(store)
    publish_c(store)


def pin_and_publish_b(store: LocalStore) -> None:
    pin_a(store)
    publish_b(store)


@pytest.mark.parametrize(("happens", "head"), [([], 2), ([pin_a], 3), ([pin_a, unpin_a, pin_a, unpin_a], 6)])
def test_a_publisher_follows_entries_about_what_is_kept(tmp_path: Path, happens: list, head: int):
    store, manifest, stored = ready(tmp_path, *happens)
    entry = commit_publication(store, manifest, stored, 1)
    assert (entry.sequence, entry.parent, entry.run_id, entry.manifest) == (head, head - 1, "b", stored)
    assert (entry.kind, read_head(store)) == ("publish", head)


def test_a_publisher_takes_the_entry_that_another_process_made_of_its_run(tmp_path: Path):
    store, manifest, stored = ready(tmp_path, pin_and_publish_b)
    assert commit_publication(store, manifest, stored, 1).sequence == 3
    assert read_head(store) == 3


@pytest.mark.parametrize(
    ("happens", "error", "message", "head"),
    [
        ([retire_b], PublishConflictError, "run b was retired while it was built; run again", 2),
        (
            [pin_and_publish_c],
            PublishConflictError,
            "run c was published first, as log entry 3; run b is not live, plan it again on the new head",
            3,
        ),
        (
            [pin_a, unpin_a, pin_a, unpin_a, pin_a],
            PublishConflictError,
            "the log moved on 5 times meanwhile; run again",
            6,
        ),
    ],
)
def test_a_publisher_gives_way(tmp_path: Path, happens: list, error: type[Exception], message: str, head: int):
    store, manifest, stored = ready(tmp_path, *happens)
    with pytest.raises(error) as caught:
        commit_publication(store, manifest, stored, 1)
    assert str(caught.value) == f"{store.url}: {message}"
    assert read_head(store) == head


def test_objects_are_looked_for_again_where_the_log_moved_on(tmp_path: Path):
    store, manifest, stored = ready(tmp_path, lose_b)
    with pytest.raises(IntegrityError, match=r"v/b/0\.ids: no such object; nothing was published, run again"):
        commit_publication(store, manifest, stored, 1)
    assert read_head(store) == 2


def test_a_rollback_to_the_run_itself_overtakes_it(store: LocalStore):
    for run_id in ("a", "b"):
        publish_run(store, run_id)
    first = read_history(store).releases["a"]
    roll_back(store, "a")
    with pytest.raises(PublishConflictError, match="run a was published first, as log entry 3; run a is not live"):
        commit_publication(store, read_manifest(store, first), first.manifest, 2)


def test_objects_are_never_overwritten(store: LocalStore, tmp_path: Path):
    (tmp_path / "file").write_bytes(b"1")
    run = RunFolder(store, "run", attempt="aaa")
    run.upload(tmp_path / "file", "a.ids")
    with pytest.raises(ObjectExistsError):
        run.upload(tmp_path / "file", "a.ids")
