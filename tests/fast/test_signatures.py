"""Signed logs against plain `cryptography`: who pins a key serves what the key's owner published, and nothing else."""

import base64
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from indexer.build.publish import publish
from indexer.build.release import build_release
from indexer.cli.group import indexer
from indexer.cli.steps import _check_start
from indexer.config import Config, ShopConfig
from indexer.config_file import load_config
from indexer.doctor.machine import check_signing
from indexer.errors import ConfigError, IndexerError, IntegrityError, PublishConflictError, StoreError
from indexer.loaded_release import open_release
from indexer.log import commit_entry, log_key, parse_entry, read_entry, read_head, write_entry
from indexer.log_signature import sign_entry, trust_publisher
from indexer.reader import Index, open_index
from indexer.releases.garbage import KeepingRule, plan_garbage
from indexer.releases.history import read_history
from indexer.served_marks import ServedMarks
from indexer.signature import open_public_key, open_signing_key
from indexer.store import LocalStore


@pytest.fixture(autouse=True)
def keep_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what a test copies into the default cache below the test's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg-cache"))


class Keys:
    """A key pair in two files."""

    def __init__(self, folder: Path, name: str) -> None:
        self.pair = Ed25519PrivateKey.generate()
        self.private, self.public = folder / f"{name}.pem", folder / f"{name}.pub"
        self.private.write_bytes(self.pair.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.public.write_bytes(self.pair.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    def sign(self, document: dict[str, Any]) -> bytes:
        """Return the bytes of an entry with a signature, made without the project's code."""
        unsigned = {name: value for name, value in document.items() if name != "signature"}
        signature = base64.b64encode(self.pair.sign(canonical(unsigned))).decode()
        return canonical({**unsigned, "signature": signature})


def canonical(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path, "key")


@pytest.fixture
def release(golden: Path, tmp_path: Path, keys: Keys) -> Path:
    """Two signed nights."""
    folder = Path(shutil.copytree(golden / "release_v3", tmp_path / "release"))
    for sequence in (1, 2):
        path = folder / log_key(sequence)
        path.write_bytes(keys.sign(json.loads(path.read_bytes()) | {"format": 2}))
    return folder


def read(release: Path, sequence: int) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((release / log_key(sequence)).read_bytes())
    return document


def test_what_nobody_signs_is_written_as_it_always_was(golden: Path):
    for path in golden.glob("release_v*/log/*.json"):
        data = path.read_bytes()
        assert write_entry(parse_entry(data, "log", int(path.stem))) == data


def test_what_the_project_signs_is_verified_by_hand(release: Path, keys: Keys):
    key = open_signing_key(str(keys.private), expires_days=3)
    assert key is not None
    unsigned = replace(read_entry(LocalStore(release), 2), signature=None, format=1)
    document = json.loads(write_entry(sign_entry(unsigned, key)))
    signature = base64.b64decode(document.pop("signature"))
    keys.pair.public_key().verify(signature, canonical(document))
    assert set(document) == {
        *("format", "kind", "sequence", "run_id", "manifest", "parent", "created_at", "expires_at")
    }
    created = datetime.fromisoformat(document["created_at"])
    assert datetime.fromisoformat(document["expires_at"]) == created + timedelta(days=3)
    with pytest.raises(InvalidSignature):
        keys.pair.public_key().verify(signature, canonical({**document, "sequence": 3}))


def test_a_signed_release_is_served_with_and_without_the_key(release: Path, keys: Keys):
    for public_key in (keys.public, None):
        assert open_index(str(release), public_key=public_key).search("red mug", k=1)


@pytest.mark.parametrize("mapped", [False, True])
def test_what_is_served_by_a_pinned_key_is_what_was_verified(
    release: Path, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped: bool
):
    signed = open_index(str(release), public_key=keys.public, cache=tmp_path / "cache").search("red mug", k=5)

    def change_first(*arguments: Any, **options: Any) -> Any:
        for path in (release / "v").rglob("*.*"):
            path.write_bytes(bytes(path.stat().st_size))
        return open_release(*arguments, **options)

    monkeypatch.setattr("indexer.reader.open_release", change_first)
    index = open_index(str(release), public_key=keys.public, cache=tmp_path / "other", mapped=mapped)
    assert index.search("red mug", k=5) == signed


def test_a_file_of_two_keys_trusts_both(release: Path, keys: Keys, tmp_path: Path):
    older = Keys(tmp_path, "older")
    both = tmp_path / "both.pub"
    both.write_bytes(older.public.read_bytes() + keys.public.read_bytes())
    assert open_index(str(release), public_key=both).release.sequence == 2
    with pytest.raises(IntegrityError, match=r"the signature is not one of the key .*older\.pub"):
        open_index(str(release), public_key=older.public)


def forge_rollback(release: Path, keys: Keys) -> bytes:
    return canonical({**read(release, 1), "kind": "rollback", "sequence": 3, "parent": 2})


def publish_unsigned(release: Path, keys: Keys) -> bytes:
    entry = {**read(release, 1), "sequence": 3, "parent": 2, "format": 1}
    del entry["signature"]
    return canonical(entry)


def pin_unsigned(release: Path, keys: Keys) -> bytes:
    document = {"format": 1, "kind": "pin", "sequence": 3, "parent": 2, "created_at": read(release, 1)["created_at"]}
    return canonical({**document, "runs": [read(release, 1)["run_id"]]})


def sign_by_another(release: Path, keys: Keys) -> bytes:
    return Keys(release.parent, "thief").sign({**read(release, 1), "sequence": 3, "parent": 2})


def swap_manifest(release: Path, keys: Keys) -> bytes:
    return canonical({**read(release, 2), "sequence": 3, "parent": 2, "manifest": read(release, 1)["manifest"]})


def replay(release: Path, keys: Keys) -> bytes:
    return (release / log_key(1)).read_bytes()


def outlive(release: Path, keys: Keys) -> bytes:
    yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    return keys.sign({**read(release, 2), "sequence": 3, "parent": 2, "expires_at": yesterday})


def postpone(release: Path, keys: Keys) -> bytes:
    """An entry that has expired, with its time moved by whoever has no key."""
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    return canonical({**json.loads(outlive(release, keys)), "expires_at": tomorrow})


def respell_signature(release: Path, keys: Keys) -> bytes:
    """The newest entry once more, as a rollback to it, with unread bits of its signature changed."""
    entry = json.loads(keys.sign({**read(release, 2), "sequence": 3, "parent": 2, "kind": "rollback"}))
    last = entry["signature"][-3]
    other = chr(ord(last) + 1)
    entry["signature"] = f"{entry['signature'][:-3]}{other}=="
    assert base64.b64decode(entry["signature"]) == base64.b64decode(f"{entry['signature'][:-3]}{last}==")
    return canonical(entry)


VOID = [respell_signature, forge_rollback, publish_unsigned, pin_unsigned, sign_by_another, swap_manifest, postpone]


@pytest.mark.parametrize("attack", VOID)
def test_an_entry_that_no_trusted_key_signed_counts_for_nothing(
    release: Path, keys: Keys, attack: Callable[[Path, Keys], bytes]
):
    index = open_index(str(release), public_key=keys.public, guard="never")
    (release / log_key(3)).write_bytes(attack(release, keys))
    assert index.refresh() is False
    assert open_index(str(release), public_key=keys.public, guard="never").release.sequence == 2
    # What is signed after it is followed.
    (release / log_key(4)).write_bytes(keys.sign({**read(release, 1), "sequence": 4, "parent": 3, "kind": "rollback"}))
    assert index.refresh() is True
    assert (index.release.sequence, index.release.run_id) == (4, read(release, 1)["run_id"])


@pytest.mark.parametrize(
    ("attack", "message"), [(replay, "sequence: expected 3, found 1"), (outlive, "run 2026-11-21-.* expired at")]
)
def test_an_attack_is_refused_and_the_old_release_stays(
    release: Path, keys: Keys, attack: Callable[[Path, Keys], bytes], message: str
):
    index = open_index(str(release), public_key=keys.public, guard="never")
    before = index.search("red mug", k=5)
    (release / log_key(3)).write_bytes(attack(release, keys))
    for serve in (index.refresh, lambda: open_index(str(release), public_key=keys.public)):
        with pytest.raises(IntegrityError, match=message) as caught:
            serve()
        assert caught.value.exit_code == 6
    assert (index.release.sequence, index.search("red mug", k=5)) == (2, before)


def test_a_genuine_rollback_is_followed(release: Path, keys: Keys):
    index = open_index(str(release), public_key=keys.public, guard="never")
    result = CliRunner().invoke(indexer, ["release", "rollback", str(release), "--signing-key", str(keys.private)])
    assert result.exit_code == 0, result.output
    assert index.refresh()
    assert (index.release.sequence, index.release.run_date) == (3, "2026-11-20")


def test_entries_that_are_taken_away_or_changed_are_noticed(release: Path, keys: Keys):
    index = open_index(str(release), public_key=keys.public)
    newest = (release / log_key(2)).read_bytes()
    (release / log_key(2)).write_bytes(
        keys.sign(
            {
                "format": 2,
                "kind": "pin",
                "sequence": 2,
                "parent": 1,
                "runs": ["a"],
                "created_at": "2026-11-21T00:00:00Z",
            }
        )
    )
    with pytest.raises(IntegrityError, match="log entry 2 was served already, but 1 is live"):
        index.refresh()
    (release / log_key(2)).write_bytes(newest)
    (release / log_key(1)).unlink()
    with pytest.raises(IntegrityError, match="log entry 1 is missing"):
        index.refresh()
    (release / log_key(2)).unlink()
    with pytest.raises(IntegrityError, match="log ends at 0, but 2 was served already"):
        index.refresh()
    assert index.search("red mug", k=1)


def test_a_consumer_that_starts_anew_goes_not_behind_what_was_served(release: Path, keys: Keys, tmp_path: Path):
    def start(folder: str) -> Index:
        return open_index(str(release), public_key=keys.public, cache=tmp_path / folder, guard="never")

    assert start("kept").release.sequence == 2
    newest = (release / log_key(2)).read_bytes()
    (release / log_key(2)).unlink()
    lost = r"log ends at 1, but 2 was served already.* delete \S+/served/\w{16} and start anew"
    with pytest.raises(IntegrityError, match=lost) as caught:
        start("kept")
    # Whoever has seen nothing cannot know; whoever pins no key follows whoever may write.
    assert start("fresh").release.sequence == 1
    assert open_index(str(release), cache=tmp_path / "kept").release.sequence == 1
    # A void entry in its place brings the older one no further.
    (release / log_key(2)).write_bytes(canonical({**json.loads(newest), "created_at": "2026-11-21T00:00:00Z"}))
    with pytest.raises(IntegrityError, match="log entry 2 was served already, but 1 is live"):
        start("kept")
    (release / log_key(2)).write_bytes(newest)
    assert start("kept").release.sequence == 2
    # Taken back on purpose.
    (release / log_key(2)).unlink()
    shutil.rmtree(re.search(r"delete (\S+) and", str(caught.value))[1])
    assert start("kept").release.sequence == 1


def test_what_one_consumer_served_another_of_the_same_cache_knows(release: Path, keys: Keys, tmp_path: Path):
    newest = (release / log_key(2)).read_bytes()
    (release / log_key(2)).unlink()
    behind = open_index(str(release), public_key=keys.public, cache=tmp_path, guard="never")
    (release / log_key(2)).write_bytes(newest)
    (release / log_key(3)).write_bytes(keys.sign({**read(release, 1), "sequence": 3, "parent": 2, "kind": "rollback"}))
    ahead = open_index(str(release), public_key=keys.public, cache=tmp_path, guard="never")
    assert (behind.release.sequence, ahead.release.sequence) == (1, 3)
    (release / log_key(3)).unlink()
    with pytest.raises(IntegrityError, match="log ends at 2, but 3 was served already"):
        behind.refresh()
    assert behind.release.sequence == 1


def test_a_newer_release_that_another_consumer_marks_meanwhile_is_no_loss(
    release: Path, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    mine, other = (open_index(str(release), public_key=keys.public, cache=tmp_path, guard="never") for _ in range(2))
    rollback = keys.sign({**read(release, 1), "sequence": 3, "parent": 2, "kind": "rollback"})

    def overtake(store: Any) -> int:
        monkeypatch.undo()
        head = read_head(store)
        (release / log_key(3)).write_bytes(rollback)
        assert other.refresh()
        return head

    monkeypatch.setattr("indexer.reader.read_head", overtake)
    assert mine.refresh() is False
    assert mine.refresh() is True
    assert mine.release.sequence == 3


def test_marks_outlast_a_replaced_key(release: Path, keys: Keys, tmp_path: Path):
    """Both keys are trusted for a while, then the new one alone; what it did not sign nobody has to have seen."""
    new = Keys(tmp_path, "new")
    trusted = tmp_path / "trusted.pub"

    def start() -> int:
        return open_index(str(release), public_key=trusted, cache=tmp_path, guard="never").release.sequence

    trusted.write_bytes(keys.public.read_bytes())
    assert start() == 2
    trusted.write_bytes(keys.public.read_bytes() + new.public.read_bytes())
    newest = (release / log_key(2)).read_bytes()
    (release / log_key(2)).unlink()
    with pytest.raises(IntegrityError, match="log ends at 1, but 2 was served already"):
        start()
    (release / log_key(2)).write_bytes(newest)
    (release / log_key(3)).write_bytes(new.sign({**read(release, 1), "sequence": 3, "parent": 2, "kind": "rollback"}))
    assert start() == 3
    trusted.write_bytes(new.public.read_bytes())
    assert start() == 3
    # Who trusts the old key alone counts for itself: it never saw entry 3 count.
    trusted.write_bytes(keys.public.read_bytes())
    assert start() == 2


def test_marks_are_those_of_a_place(release: Path, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two shops may call their folders alike, and one by two names."""
    marks, elsewhere = [], tmp_path / "elsewhere"
    elsewhere.mkdir()
    for folder, url in ((release.parent, release.name), (elsewhere, str(release)), (elsewhere, release.name)):
        monkeypatch.chdir(folder)
        marks.append(ServedMarks(tmp_path, LocalStore(Path(url)), open_public_key(keys.public)).folder)
    assert marks[0] == marks[1] != marks[2]


def test_the_greatest_mark_stays_whoever_comes_last(release: Path, keys: Keys, tmp_path: Path):
    marks = ServedMarks(tmp_path, LocalStore(release), open_public_key(keys.public))

    def add(sequence: int) -> None:
        signed = canonical({**read(release, 2), "sequence": sequence, "parent": sequence - 1})
        marks.add(parse_entry(keys.sign(json.loads(signed)), "test", sequence))

    assert marks.newest() == 0
    for sequence in (5, 12, 7, 12):
        add(sequence)
    assert marks.newest() == 12
    add(13)
    (kept,) = marks.folder.iterdir()
    (kept / "note").touch()
    assert (marks.newest(), sorted(os.listdir(kept))) == (13, ["13", "note"])
    shutil.rmtree(kept)
    kept.write_text("in the way")
    with pytest.raises(StoreError, match=r"served/\w{16}: .*check the cache folder"):
        add(1)


def test_what_was_served_shows_when_it_expires(release: Path, keys: Keys):
    """A freeze: nothing new arrives, and what is there runs out."""
    index = open_index(str(release), public_key=keys.public)
    assert index.refresh() is False
    path = release / log_key(2)
    path.write_bytes(keys.sign({**read(release, 2), "expires_at": "2026-11-22T00:00:00Z"}))
    with pytest.raises(IntegrityError, match="expired at 2026-11-22T00:00:00Z; publish a newer release"):
        index.refresh()


@pytest.mark.parametrize("command", ["list", "show", "verify", "diff", "query", "export"])
def test_the_commands_go_by_what_is_signed(release: Path, keys: Keys, tmp_path: Path, command: str):
    words = {
        "query": ["query", str(release), "red mug", "--json"],
        "export": ["export", str(release), str(tmp_path / "new"), "--format", "npy"],
        "diff": ["release", "diff", str(release), read(release, 1)["run_id"]],
    }
    arguments = words.get(command, ["release", command, str(release)])
    pinned = [*arguments, "--public-key", str(keys.public)]
    before = CliRunner().invoke(indexer, pinned)
    assert before.exit_code == 0, before.output
    (release / log_key(3)).write_bytes(forge_rollback(release, keys))
    shutil.rmtree(tmp_path / "new", ignore_errors=True)
    after = CliRunner().invoke(indexer, pinned)
    assert (after.exit_code, after.stdout) == (0, before.stdout)
    assert (f"warning: {release}/{log_key(3)}: the signature is not" in after.stderr) == (
        command not in ("query", "export")
    )
    shutil.rmtree(tmp_path / "new", ignore_errors=True)
    other = Keys(tmp_path, "other")
    assert CliRunner().invoke(indexer, [*arguments, "--public-key", str(other.public)]).exit_code == 6


def invoke(*words: str, **environment: str) -> Any:
    return CliRunner().invoke(indexer, ["release", *words], env=environment)


def test_nobody_adds_to_a_signed_log_without_a_key(release: Path, keys: Keys):
    run_id = read(release, 1)["run_id"]
    for words in (["rollback"], ["pin", run_id], ["unpin", run_id], ["gc", "--yes"]):
        result = invoke(words[0], str(release), *words[1:])
        assert (result.exit_code, "log entry 2 is signed" in result.stderr) == (2, True), result.output
    assert not (release / log_key(3)).exists()
    found = invoke("pin", str(release), run_id, INDEXER_SHOP_SIGNING_KEY=str(keys.private))
    assert found.exit_code == 0, found.output
    assert "signature" in read(release, 3)


def test_who_adds_to_a_log_goes_on_after_a_void_entry(release: Path, keys: Keys):
    (release / log_key(3)).write_bytes(forge_rollback(release, keys))
    result = invoke("rollback", str(release), "--signing-key", str(keys.private))
    assert result.exit_code == 0, result.output
    assert (read(release, 4)["run_id"], read(release, 4)["parent"]) == (read(release, 1)["run_id"], 3)


def test_a_void_entry_keeps_and_retires_nothing(release: Path, keys: Keys):
    first, second = (read(release, sequence)["run_id"] for sequence in (1, 2))
    for sequence, kind, run_id in ((3, "retire", first), (4, "pin", second)):
        document = {"format": 1, "kind": kind, "runs": [run_id], "created_at": read(release, 1)["created_at"]}
        (release / log_key(sequence)).write_bytes(canonical({**document, "sequence": sequence, "parent": sequence - 1}))
    plan = plan_garbage(LocalStore(release), KeepingRule(), key=open_signing_key(str(keys.private)))
    assert (plan.history.retired, plan.history.pinned) == (set(), set())
    assert (plan.kept, plan.retire, plan.delete) == ((first, second), (), ())


def test_a_collector_that_trusts_one_key_of_two_asks_before_it_takes_what_the_other_keeps(
    release: Path, keys: Keys, tmp_path: Path
):
    first, new = read(release, 1), Keys(tmp_path, "new")
    own = open_signing_key(str(new.private))
    both = tmp_path / "both.pub"
    both.write_bytes(keys.public.read_bytes() + new.public.read_bytes())
    document = {"format": 2, "kind": "pin", "runs": [first["run_id"]], "created_at": first["created_at"]}
    (release / log_key(3)).write_bytes(keys.sign({**document, "sequence": 3, "parent": 2}))
    assert invoke("rollback", str(release), "--signing-key", str(new.private), "--public-key", str(both)).exit_code == 0
    (release / log_key(4)).rename(release / "held")
    rollback = json.loads((release / "held").read_bytes()) | {"run_id": read(release, 2)["run_id"]}
    (release / log_key(4)).write_bytes(new.sign({**rollback, "manifest": read(release, 2)["manifest"]}))
    words = ["gc", str(release), "--signing-key", str(new.private), "--grace-days", "0"]
    plan = invoke(*words)
    assert plan.exit_code == 0, plan.output
    assert [line.split(":")[0] for line in plan.stderr.splitlines()] == ["warning"] * 3
    assert f"distrusted  {first['run_id']}" in plan.stdout
    assert plan.stdout.endswith("give --yes-delete to do it\n")
    refused = invoke(*words, "--yes")
    assert (refused.exit_code, read_head(LocalStore(release))) == (2, 4)
    assert refused.stderr.endswith(
        f"indexer: {release}: 1 of the runs that would be retired, such as {first['run_id']}, were published or pinned "
        "by a key that is not trusted here; trust it, too (--public-key), or give --yes-delete\n"
    )
    # What nobody signed asks for nothing.
    store, pins = LocalStore(release), {**document, "sequence": 3, "parent": 2}
    held = (release / log_key(3)).read_bytes()
    (release / log_key(3)).write_bytes(canonical({**pins, "format": 1}))
    first_two = [(release / log_key(number)).read_bytes() for number in (1, 2)]
    for number in (1, 2):
        (release / log_key(number)).write_bytes(new.sign(read(release, number)))
    unsigned = plan_garbage(store, KeepingRule(releases=1), datetime.now(UTC) + timedelta(days=9), own)
    assert (unsigned.retire, unsigned.distrusted) == ((first["run_id"],), ())
    # Nor does a run that both keys published.
    (release / log_key(3)).write_bytes(keys.sign({**read(release, 1), "sequence": 3, "parent": 2}))
    both_published = plan_garbage(store, KeepingRule(releases=1), datetime.now(UTC) + timedelta(days=9), own)
    assert (both_published.retire, both_published.distrusted) == ((first["run_id"],), ())
    for number, data in zip((1, 2, 3), (*first_two, held), strict=True):
        (release / log_key(number)).write_bytes(data)
    trusting = invoke(*words, "--public-key", str(both), "--yes", "--json")
    assert (trusting.exit_code, json.loads(trusting.stdout)["distrusted"], trusting.stderr) == (0, [], "")
    done = invoke(*words, "--yes-delete", "--json")
    assert (done.exit_code, json.loads(done.stdout)["retire"]) == (0, [first["run_id"]]), done.output


def test_a_retirement_goes_with_its_key_and_is_named_where_its_run_is_missed(release: Path, keys: Keys, tmp_path: Path):
    store, old = LocalStore(release), Keys(tmp_path, "old")
    first, key = read(release, 1), open_signing_key(str(keys.private))
    document = {"format": 2, "kind": "retire", "runs": [first["run_id"]], "created_at": first["created_at"]}
    (release / log_key(3)).write_bytes(old.sign({**document, "sequence": 3, "parent": 2}))
    assert plan_garbage(store, KeepingRule(), key=key).retire == ()
    (release / first["manifest"]["key"]).unlink()
    with pytest.raises(IntegrityError) as caught:
        plan_garbage(store, KeepingRule(), key=key)
    assert str(caught.value) == (
        f"{release}/{first['manifest']['key']}: log entry 1 names this manifest, but it is not there; log entry 3 had "
        "retired the run, but no trusted key signed that: trust its key, too (--public-key), or keep fewer releases"
    )
    assert plan_garbage(store, KeepingRule(releases=1), datetime.now(UTC) + timedelta(days=9), key).retire == (
        first["run_id"],
    )


def test_a_key_without_a_name_is_no_wish_for_none(release: Path):
    """As of a variable that is not set."""
    for words in (["verify", str(release), "--public-key", ""], ["list", str(release), "--public-key", ""]):
        refused = invoke(*words)
        assert (refused.exit_code, "expected a PEM file, found an empty name" in refused.stderr) == (2, True)
    with pytest.raises(ConfigError) as caught:
        open_index(str(release), public_key="")
    assert str(caught.value) == ("public key: expected a PEM file, found an empty name; who pins no key names none")


def test_a_wrong_key_is_told_at_once_and_a_new_one_needs_the_old_beside_it(release: Path, keys: Keys, tmp_path: Path):
    run_id, new = read(release, 1)["run_id"], Keys(tmp_path, "new")
    both = tmp_path / "both.pub"
    both.write_bytes(keys.public.read_bytes() + new.public.read_bytes())
    wrong = invoke("pin", str(release), run_id, "--signing-key", str(new.private))
    assert (wrong.exit_code, "nor is another entry" in wrong.stderr) == (6, True), wrong.output
    options = {"INDEXER_SHOP_SIGNING_KEY": str(new.private)}
    lacking = invoke("pin", str(release), run_id, **options, INDEXER_SHOP_PUBLIC_KEYS=str(keys.public))
    assert (lacking.exit_code, "public half" in lacking.stderr) == (2, True), lacking.output
    assert invoke("pin", str(release), run_id, **options, INDEXER_SHOP_PUBLIC_KEYS=str(both)).exit_code == 0
    assert read_history(LocalStore(release), key=open_public_key(both)).pinned == {run_id}


def test_a_rollback_signs_nothing_that_nobody_had_signed(golden: Path, release: Path, keys: Keys):
    (release / log_key(1)).write_bytes((golden / "release_v3" / log_key(1)).read_bytes())
    result = invoke("rollback", str(release), "--signing-key", str(keys.private))
    assert (result.exit_code, "before this log was signed" in result.stderr) == (2, True), result.output


def test_a_rollback_of_what_expires_expires(release: Path, keys: Keys):
    path = release / log_key(2)
    path.write_bytes(keys.sign({**read(release, 2), "expires_at": "2036-11-22T00:00:00Z"}))
    words = ["rollback", str(release), "--signing-key", str(keys.private)]
    refused = invoke(*words)
    assert (refused.exit_code, "--expires-days" in refused.stderr) == (2, True), refused.output
    assert invoke(*words, INDEXER_SHOP_EXPIRES_DAYS="7").exit_code == 0
    assert "expires_at" in read(release, 3)


def test_a_rollback_that_expires_is_prolonged_by_naming_its_run(release: Path, keys: Keys):
    words = ["rollback", str(release), "--signing-key", str(keys.private)]
    assert invoke(*words, "--expires-days", "1").exit_code == 0
    entry = read(release, 3)
    ended = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    (release / log_key(3)).write_bytes(keys.sign(entry | {"expires_at": ended}))
    with pytest.raises(IntegrityError, match="or roll back to it once more"):
        open_index(str(release), public_key=keys.public)
    vague = invoke(*words, "--expires-days", "7")
    assert (vague.exit_code, "is a rollback to run" in vague.stderr) == (2, True), vague.output
    endless = invoke(*words, entry["run_id"])
    assert (endless.exit_code, "say for how many days" in endless.stderr) == (2, True), endless.output
    assert invoke(*words, entry["run_id"], "--expires-days", "7").exit_code == 0
    left = datetime.fromisoformat(read(release, 4)["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=6.9) < left <= timedelta(days=7)
    assert read(release, 4)["manifest"] == entry["manifest"]
    shorter = invoke(*words, entry["run_id"], "--expires-days", "6")
    assert (shorter.exit_code, "say for more days" in shorter.stderr) == (2, True), shorter.output
    assert read_head(LocalStore(release)) == 4
    assert open_index(str(release), public_key=keys.public).release.sequence == 4


def test_a_rollback_that_never_expires_is_not_cut_short(release: Path, keys: Keys):
    words = ["rollback", str(release), "--signing-key", str(keys.private)]
    assert invoke(*words).exit_code == 0
    refused = invoke(*words, read(release, 3)["run_id"], "--expires-days", "7")
    assert (refused.exit_code, "is live already" in refused.stderr) == (2, True), refused.output


def test_what_a_night_published_is_no_rollbacks_to_prolong(release: Path, keys: Keys):
    words = ["rollback", str(release), read(release, 2)["run_id"], "--signing-key", str(keys.private)]
    refused = invoke(*words, "--expires-days", "7")
    assert (refused.exit_code, "is live already" in refused.stderr) == (2, True), refused.output


def test_an_entry_of_the_same_run_by_somebody_else_is_not_taken_for_ours(release: Path, keys: Keys):
    store, key = LocalStore(release), open_signing_key(str(keys.private))
    ours = replace(read_entry(store, 1), sequence=3, parent=2, created_at="2026-11-22T00:00:00Z")
    (release / log_key(3)).write_bytes(publish_unsigned(release, keys))
    with pytest.raises(PublishConflictError, match=r"log entry 3 was taken meanwhile.*found none"):
        commit_entry(store, 2, sign_entry(ours, key), check=trust_publisher(key, store.url))
    (release / log_key(3)).write_bytes(keys.sign({**read(release, 1), "sequence": 3, "parent": 2}))
    found = commit_entry(store, 2, sign_entry(ours, key), check=trust_publisher(key, store.url))
    assert found.created_at == read(release, 1)["created_at"]


def test_the_doctor_opens_the_key(keys: Keys, tmp_path: Path):
    found = [
        check_signing(ShopConfig(signing_key=str(path))) for path in (keys.private, keys.public, tmp_path / "absent")
    ]
    assert [(item.state, item.exit_code) for item in found] == [("ok", 0), ("failed", 2), ("failed", 2)]


def test_a_night_learns_of_its_key_at_its_start(release: Path, keys: Keys, tmp_path: Path):
    """Before any step: the input is not read, and nothing is written."""
    catalogue = tmp_path / "catalogue.csv"
    catalogue.write_text("product_id,title\n1,mug\n")
    labels = tmp_path / "labels.csv"
    labels.write_text("query,product_id,grade\nmug,1,3\n")
    config = tmp_path / "shop.toml"
    config.write_text(
        f'[shop]\nrelease = "{release}"\n[catalogue]\npath = "{catalogue}"\n[labels]\npath = "{labels}"\n'
    )
    other = Keys(tmp_path, "other")
    for private, code in ((None, 2), (tmp_path / "absent", 2), (other.private, 6)):
        words = ["--set", f"shop.signing_key={private}"] if private else []
        with pytest.raises(IndexerError) as caught:
            _check_start(load_config(str(config), options=tuple(words[1:])), "2026-11-22")
        assert caught.value.exit_code == code
    _check_start(load_config(str(config), options=(f"shop.signing_key={keys.private}",)), "2026-11-22")


@pytest.mark.parametrize("command", ["show", "verify"])
def test_a_run_from_before_signing_began_is_not_trusted(golden: Path, release: Path, keys: Keys, command: str):
    first = (golden / "release_v3" / log_key(1)).read_bytes()
    (release / log_key(1)).write_bytes(first)
    arguments = ["release", command, str(release), json.loads(first)["run_id"]]
    assert CliRunner().invoke(indexer, arguments).exit_code == 0
    assert CliRunner().invoke(indexer, [*arguments, "--public-key", str(keys.public)]).exit_code == 6
    assert open_index(str(release), public_key=keys.public).release.sequence == 2


class StoppedError(Exception):
    """What ends a build before it goes live."""


def stop(*_: Any) -> None:
    raise StoppedError


class TestBuilder:
    @pytest.fixture
    def build(
        self,
        make_shop: Callable[..., Config],
        encoder_directory: Path,
        products: Callable[[int], Sequence[Any]],
        keys: Keys,
    ) -> Callable[..., Any]:
        def build(
            date: str,
            rows: int,
            *,
            signed: bool = True,
            expires_days: int = 0,
            key: Keys = keys,
            public_keys: str = "",
        ) -> Any:
            config = make_shop(products(rows), shards=2)
            shop = ShopConfig(
                work=config.shop.work,
                release=config.shop.release,
                signing_key=str(key.private) if signed else "",
                public_keys=public_keys,
                expires_days=expires_days,
            )
            config = replace(config, shop=shop)
            return build_release(config, date, encoder_directory=encoder_directory, story={}, progress=False)

        return build

    def test_what_nobody_signed_is_built_anew_before_it_is_signed(self, build: Callable[..., Any], keys: Keys):
        url = build("2026-11-20", 60, signed=False).url
        with pytest.raises(IntegrityError, match="found none"):
            open_index(url, public_key=keys.public)
        second = build("2026-11-21", 60)
        assert (second.status, second.collections[0]["embedded"]) == ("published", 60)
        third = build("2026-11-22", 61)
        assert (third.collections[0]["reused"], third.collections[0]["embedded"]) == (2, 1)
        assert open_index(url, public_key=keys.public, guard="always").release.sequence == 3

    def test_an_entry_without_signature_after_signed_ones_stops_nothing(self, build: Callable[..., Any], keys: Keys):
        url = build("2026-11-20", 60).url
        entry = json.loads((Path(url) / log_key(1)).read_bytes()) | {"sequence": 2, "parent": 1, "format": 1}
        del entry["signature"]
        (Path(url) / log_key(2)).write_bytes(canonical(entry))
        with pytest.raises(ConfigError, match="log entry 1 is signed"):
            build("2026-11-21", 61, signed=False)
        second = build("2026-11-21", 61)
        assert (second.status, second.sequence) == ("published", 3)
        assert "found none" in second.remarks["LOG"]["not_trusted"]
        assert open_index(url, public_key=keys.public).release.sequence == 3

    def test_a_void_entry_that_comes_between_takes_a_number_and_no_more(
        self, build: Callable[..., Any], keys: Keys, monkeypatch: pytest.MonkeyPatch
    ):
        log = Path(build("2026-11-20", 60).url)

        def publish_late(run: Any, manifest: Any) -> Any:
            entry = json.loads((log / log_key(1)).read_bytes()) | {"sequence": 2, "parent": 1, "format": 1}
            del entry["signature"]
            (log / log_key(2)).write_bytes(canonical(entry | {"run_id": manifest.run_id}))
            return publish(run, manifest)

        monkeypatch.setattr("indexer.build.release.publish", publish_late)
        assert build("2026-11-21", 61).sequence == 3
        assert open_index(str(log), public_key=keys.public).release.sequence == 3

    def test_a_key_is_replaced_while_consumers_trust_both(self, build: Callable[..., Any], keys: Keys, tmp_path: Path):
        """What the old key published is used again."""
        new, both = Keys(tmp_path, "new"), tmp_path / "both.pub"
        both.write_bytes(keys.public.read_bytes() + new.public.read_bytes())
        url = build("2026-11-20", 60).url
        with pytest.raises(IntegrityError, match="nor is another entry"):
            build("2026-11-21", 61, key=new)
        second = build("2026-11-21", 61, key=new, public_keys=str(both))
        assert (second.sequence, second.collections[0]["embedded"]) == (2, 1)
        assert open_index(url, public_key=both).release.sequence == 2
        assert open_index(url, public_key=keys.public).release.sequence == 1

    def test_markers_that_the_key_did_not_sign_are_not_adopted(
        self, build: Callable[..., Any], keys: Keys, monkeypatch: pytest.MonkeyPatch
    ):
        """A night that is stopped before it goes live is taken up again, unless somebody else wrote its markers."""
        with monkeypatch.context() as patched:
            patched.setattr("indexer.build.release.publish", stop)
            # Without the key, as whoever may write to the store could.
            for signed in (False, True):
                with pytest.raises(StoppedError):
                    build("2026-11-20", 60, signed=signed)
        built = build("2026-11-20", 60)
        # The markers of the second attempt: the first one's were not its own.
        assert (built.collections[0]["reused"], built.collections[0]["built"]) == (2, 0)
        markers = sorted(path.name for path in Path(built.url).glob("v/*/done/products-*.json"))
        assert markers == [
            "products-00000.2.json",
            "products-00000.json",
            "products-00001.2.json",
            "products-00001.json",
        ]

    def test_markers_of_a_replaced_key_are_not_adopted(
        self, build: Callable[..., Any], keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        new, both = Keys(tmp_path, "new"), tmp_path / "both.pub"
        both.write_bytes(keys.public.read_bytes() + new.public.read_bytes())
        with monkeypatch.context() as patched:
            patched.setattr("indexer.build.release.publish", stop)
            with pytest.raises(StoppedError):
                build("2026-11-20", 60)
        built = build("2026-11-20", 60, key=new, public_keys=str(both))
        assert (built.status, built.collections[0]["built"]) == ("published", 2)

    def test_an_unchanged_night_renews_what_would_expire(self, build: Callable[..., Any], keys: Keys):
        url = build("2026-11-20", 60, expires_days=8).url
        assert build("2026-11-21", 60, expires_days=8).sequence == 1
        path = Path(url) / log_key(1)
        soon = (datetime.now(UTC) + timedelta(days=3)).isoformat()
        path.write_bytes(keys.sign(json.loads(path.read_bytes()) | {"expires_at": soon}))
        renewed = build("2026-11-22", 60, expires_days=8)
        assert (renewed.status, renewed.sequence, renewed.remarks) == ("unchanged", 2, {})
        live = read_history(LocalStore(Path(url)), key=open_public_key(keys.public)).require_live()
        assert datetime.fromisoformat(str(live.expires_at)) > datetime.now(UTC) + timedelta(days=7)
        rollback = {**json.loads((Path(url) / log_key(2)).read_bytes()), "kind": "rollback", "expires_at": soon}
        (Path(url) / log_key(2)).write_bytes(keys.sign(rollback))
        left = build("2026-11-23", 60, expires_days=8)
        assert (left.status, left.sequence) == ("unchanged", 2)
        assert left.remarks["LOG"]["rollback_expires"].startswith(soon)


def write_wrong_keys(folder: Path) -> dict[str, bytes]:
    pair = rsa.generate_private_key(65537, 1024)
    secret = Ed25519PrivateKey.generate()
    return {
        "rsa": pair.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "rsa public": pair.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "password": secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")),
        "junk": b"TOP SECRET",
        "empty": b"",
        "huge": b"x" * 100_000,
    }


def test_wrong_keys_are_named_and_their_content_is_not(tmp_path: Path):
    for name, data in write_wrong_keys(tmp_path).items():
        path = tmp_path / name.replace(" ", "-")
        path.write_bytes(data)
        for read_key in (open_signing_key, open_public_key):
            with pytest.raises(ConfigError, match=str(path)) as caught:
                read_key(str(path))
            assert not any(line in str(caught.value) for line in data.decode().splitlines() if line)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        open_signing_key(str(tmp_path / "absent"))
    assert open_signing_key("") is open_public_key(None) is None


def test_without_the_package_the_extra_is_named(keys: Keys, monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in sys.modules if name.startswith("cryptography")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for read_key, path in ((open_signing_key, keys.private), (open_public_key, keys.public)):
        with pytest.raises(IndexerError, match="nightly-semantic-index\\[signing\\]"):
            read_key(str(path))
