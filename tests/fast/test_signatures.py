"""Signed logs against plain `cryptography`: who pins a key serves what the key's owner published, and nothing else."""

import base64
import json
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

from indexer.build.release import build_release
from indexer.cli.group import indexer
from indexer.config import Config, ShopConfig
from indexer.errors import ConfigError, IndexerError, IntegrityError
from indexer.log import log_key, parse_entry, read_any_entry, write_entry
from indexer.log_signature import sign_entry
from indexer.reader import open_index
from indexer.releases.history import read_history
from indexer.signature import open_public_key, open_signing_key
from indexer.store import LocalStore


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
    unsigned = replace(read_any_entry(LocalStore(release), 2), signature=None, format=1)
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


ATTACKS: list[tuple[Callable[[Path, Keys], bytes], str]] = [
    (forge_rollback, "the signature is not one of the key"),
    (publish_unsigned, "expected a signature of the key .*, found none"),
    (pin_unsigned, "expected a signature of the key .*, found none"),
    (sign_by_another, "the signature is not one of the key"),
    (swap_manifest, "the signature is not one of the key"),
    (replay, "sequence: expected 3, found 1"),
    (outlive, "run 2026-11-21-.* expired at"),
    (postpone, "the signature is not one of the key"),
]


@pytest.mark.parametrize(("attack", "message"), ATTACKS)
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


def test_what_was_served_shows_when_it_expires(release: Path, keys: Keys):
    """A freeze: nothing new arrives, and what is there runs out."""
    index = open_index(str(release), public_key=keys.public)
    assert index.refresh() is False
    path = release / log_key(2)
    path.write_bytes(keys.sign({**read(release, 2), "expires_at": "2026-11-22T00:00:00Z"}))
    with pytest.raises(IntegrityError, match="expired at 2026-11-22T00:00:00Z; publish a newer release"):
        index.refresh()


@pytest.mark.parametrize("command", ["list", "show", "verify", "query"])
def test_the_commands_refuse_what_is_not_signed(release: Path, keys: Keys, command: str):
    arguments = ["query", str(release), "red mug"] if command == "query" else ["release", command, str(release)]
    arguments += ["--public-key", str(keys.public)]
    assert CliRunner().invoke(indexer, arguments).exit_code == 0
    (release / log_key(3)).write_bytes(forge_rollback(release, keys))
    assert CliRunner().invoke(indexer, arguments).exit_code == 6


@pytest.mark.parametrize("command", ["show", "verify"])
def test_a_run_from_before_signing_began_is_not_trusted(golden: Path, release: Path, keys: Keys, command: str):
    first = (golden / "release_v3" / log_key(1)).read_bytes()
    (release / log_key(1)).write_bytes(first)
    arguments = ["release", command, str(release), json.loads(first)["run_id"]]
    assert CliRunner().invoke(indexer, arguments).exit_code == 0
    assert CliRunner().invoke(indexer, [*arguments, "--public-key", str(keys.public)]).exit_code == 6
    assert open_index(str(release), public_key=keys.public).release.sequence == 2


class TestBuilder:
    @pytest.fixture
    def build(
        self,
        make_shop: Callable[..., Config],
        encoder_directory: Path,
        products: Callable[[int], Sequence[Any]],
        keys: Keys,
    ) -> Callable[..., Any]:
        def build(date: str, rows: int, *, signed: bool = True, expires_days: int = 0) -> Any:
            config = make_shop(products(rows), shards=2)
            shop = ShopConfig(
                work=config.shop.work,
                release=config.shop.release,
                signing_key=str(keys.private) if signed else "",
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

    def test_an_entry_without_signature_after_signed_ones_stops_everything(self, build: Callable[..., Any], keys: Keys):
        url = build("2026-11-20", 60).url
        entry = json.loads((Path(url) / log_key(1)).read_bytes()) | {"sequence": 2, "parent": 1, "format": 1}
        del entry["signature"]
        (Path(url) / log_key(2)).write_bytes(canonical(entry))
        with pytest.raises(IntegrityError, match="found none"):
            build("2026-11-21", 61)
        for command in (["rollback"], ["gc", "--yes"]):
            arguments = ["release", command[0], url, *command[1:], "--signing-key", str(keys.private)]
            assert CliRunner().invoke(indexer, arguments).exit_code == 6

    def test_markers_that_the_key_did_not_sign_are_not_adopted(
        self, build: Callable[..., Any], keys: Keys, monkeypatch: pytest.MonkeyPatch
    ):
        """A night that is stopped before it goes live is taken up again, unless somebody else wrote its markers."""

        class StoppedError(Exception):
            pass

        def stop(*_: Any) -> None:
            raise StoppedError

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

    def test_an_unchanged_night_renews_what_would_expire(self, build: Callable[..., Any], keys: Keys):
        url = build("2026-11-20", 60, expires_days=8).url
        assert build("2026-11-21", 60, expires_days=8).sequence == 1
        path = Path(url) / log_key(1)
        soon = (datetime.now(UTC) + timedelta(days=3)).isoformat()
        path.write_bytes(keys.sign(json.loads(path.read_bytes()) | {"expires_at": soon}))
        renewed = build("2026-11-22", 60, expires_days=8)
        assert (renewed.status, renewed.sequence) == ("unchanged", 2)
        live = read_history(LocalStore(Path(url)), key=open_public_key(keys.public)).require_live()
        assert datetime.fromisoformat(str(live.expires_at)) > datetime.now(UTC) + timedelta(days=7)


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
