"""Every store passes the same tests; faults end in one clear sentence."""

import errno
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from urllib3.exceptions import SSLError

from indexer.errors import (
    ConfigError,
    IntegrityError,
    ObjectExistsError,
    ObjectMissingError,
    StoreError,
    StoreRefusedError,
    StoreUnsupportedError,
)
from indexer.store import LocalStore, S3Store, SingleWriterStore, Store, check_key, open_store
from indexer.store import local as stores
from indexer.store.s3 import store_errors


@pytest.fixture(params=["local", "strict", "moto", pytest.param("endpoint", marks=pytest.mark.endpoint)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Open a fresh store: a folder, the strict server, moto, and where STORE_URL names it any other S3 endpoint."""
    if request.param == "local":
        yield open_store(str(tmp_path / "root"))
    elif request.param == "strict":
        request.getfixturevalue("strict_s3").page = 4
        yield open_store("s3://bucket/some/prefix")
    elif request.param == "moto":
        yield open_store(request.getfixturevalue("bucket") + "/some/prefix")
    else:
        if not (url := os.environ.get("STORE_URL")):
            pytest.skip("STORE_URL names no endpoint's bucket")
        opened = open_store(f"{url}/{uuid.uuid4().hex}", single_writer=bool(os.environ.get("STORE_SINGLE_WRITER")))
        yield opened
        for item in opened.list(""):
            opened.delete(item.key)


class TestEveryStore:
    def test_bytes_come_back(self, store: Store):
        store.put_new("a/b.json", b"\x00data\xff")
        assert store.get("a/b.json") == b"\x00data\xff"
        assert store.size("a/b.json") == 6

    def test_an_empty_object_is_an_object(self, store: Store):
        store.put_new("empty", b"")
        assert store.get("empty") == b""
        assert store.size("empty") == 0

    def test_a_taken_key_is_refused_and_keeps_its_bytes(self, store: Store):
        store.put_new("a", b"first")
        with pytest.raises(ObjectExistsError):
            store.put_new("a", b"second")
        assert store.get("a") == b"first"

    def test_more_than_is_wanted_is_not_read(self, store: Store):
        store.put_new("a/b", b"four")
        assert store.get("a/b", 4) == b"four"
        with pytest.raises(IntegrityError) as caught:
            store.get("a/b", 3)
        assert str(caught.value) == f"{store.url}: a/b: 4 bytes; expected at most 3, so it was not read"
        assert store.get("a/b") == b"four"

    @pytest.mark.parametrize(
        "read", [lambda s, p: s.get("no"), lambda s, p: s.size("no"), lambda s, p: s.get_file("no", p)]
    )
    def test_a_missing_object_is_named(self, store: Store, tmp_path: Path, read: Callable[[Store, Path], object]):
        with pytest.raises(ObjectMissingError, match="no: no such object"):
            read(store, tmp_path / "target")

    def test_files_of_several_parts_come_back(self, store: Store, tmp_path: Path):
        source, target = tmp_path / "source", tmp_path / "target"
        source.write_bytes(bytes(range(256)) * 4096 * 9)  # 9 MiB: above the size at which S3 uploads go in parts
        store.put_file("big.bin", source)
        store.get_file("big.bin", target)
        assert target.read_bytes() == source.read_bytes()
        assert store.size("big.bin") == 9 << 20

    def test_a_listing_is_in_key_order_with_sizes_and_only_the_prefix(self, store: Store):
        for key in ("log/3", "log/1", "log/2", "logs/1", "v/x/log/1", "v/x-1"):
            store.put_new(key, key.encode())
        listed = list(store.list("log/"))
        assert [(item.key, item.bytes) for item in listed] == [("log/1", 5), ("log/2", 5), ("log/3", 5)]
        assert all(abs((datetime.now(UTC) - item.modified).total_seconds()) < 3_600 for item in listed)
        assert [item.key for item in store.list("v/x")] == ["v/x-1", "v/x/log/1"]
        assert [item.key for item in store.list("")] == ["log/1", "log/2", "log/3", "logs/1", "v/x-1", "v/x/log/1"]
        assert list(store.list("nothing/")) == []

    def test_deleting_twice_is_deleting_once(self, store: Store):
        store.put_new("a", b"1")
        store.delete("a")
        store.delete("a")
        assert list(store.list("")) == []
        store.put_new("a", b"2")

    def test_of_many_writers_exactly_one_wins(self, store: Store):
        if isinstance(store, SingleWriterStore):
            pytest.skip("of many writers at once, several may win: that is what the store is for")
        barrier = threading.Barrier(8)
        won: list[int] = []

        def create(number: int) -> None:
            barrier.wait()
            try:
                store.put_new("log/1", str(number).encode())
                won.append(number)
            except ObjectExistsError:
                pass

        threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert store.get("log/1") == str(won[0]).encode()

    @pytest.mark.parametrize("key", ["../a", "a/../b", "/a", "a//b", "a\\b", "a\0b", "", "."])
    def test_a_key_cannot_leave_the_store(self, store: Store, key: str):
        with pytest.raises(StoreError, match="leaves the store"):
            store.put_new(key, b"")
        with pytest.raises(StoreError, match="leaves the store"):
            check_key(key)


@pytest.mark.parametrize("url", ["gs://bucket/a", "s3://", "s3:///prefix", "s3://bucket/../other", "http://host/a"])
def test_an_unknown_address_is_a_configuration_error(url: str):
    with pytest.raises(ConfigError, match="store address"):
        open_store(url)


class TestLocalStore:
    def test_unfinished_files_are_invisible_and_removed(self, tmp_path: Path):
        store = LocalStore(tmp_path)
        with pytest.raises(ZeroDivisionError):
            store._create("a/b", lambda file: 1 / 0)
        assert list(store.list("")) == []
        assert list((tmp_path / "a").iterdir()) == []

    def test_empty_folders_go_whoever_was_faster(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        store, later = LocalStore(tmp_path / "release"), datetime.now(UTC) + timedelta(days=1)
        store.put_new("v/kept/object", b"x")
        for name in ("a/b/c", "gone", "d"):
            (store.root / "v" / name).mkdir(parents=True)
        listed = os.scandir

        def let_another_in(path: str) -> Any:
            found = listed(path)
            if str(path) == str(store.root / "v"):
                # After the folder above was listed, before this one is.
                (store.root / "v" / "gone").rmdir()
            return found

        monkeypatch.setattr(os, "scandir", let_another_in)
        store.remove_empty_folders("v/", datetime.now(UTC) - timedelta(days=1))
        assert sorted(path.name for path in (store.root / "v").iterdir()) == ["a", "d", "kept"]
        monkeypatch.undo()
        store.remove_empty_folders("v/", later)
        assert [path.name for path in (store.root / "v").iterdir()] == ["kept"]
        store.delete("v/kept/object")
        store.remove_empty_folders("v/", later)
        assert list(store.root.iterdir()) == [store.root / "v"]

    def test_a_file_in_place_of_a_folder_is_a_store_error(self, tmp_path: Path):
        (tmp_path / "log").write_text("not a folder")
        with pytest.raises(StoreError) as caught:
            LocalStore(tmp_path).put_new("log/1", b"")
        assert not isinstance(caught.value, ObjectExistsError)
        assert "check the folder" in str(caught.value)

    @pytest.mark.parametrize("key", ["file/below", "folder", "x" * 300, "folder/" + "x" * 300])
    def test_a_name_that_no_object_can_have_is_missing(self, tmp_path: Path, key: str):
        store = LocalStore(tmp_path / "root")
        store.put_new("file", b"1")
        store.put_new("folder/object", b"1")
        reads: list[Callable[[], object]] = [
            lambda: store.get(key),
            lambda: store.size(key),
            lambda: store.get_file(key, tmp_path / "target"),
            lambda: store.local_path(key),
        ]
        for read in reads:
            with pytest.raises(ObjectMissingError) as caught:
                read()
            assert str(caught.value) == f"{store.url}: {key}: no such object"
        store.delete(key)
        assert [item.key for item in store.list("")] == ["file", "folder/object"]

    def test_names_of_new_folders_are_on_the_disk_before_the_object_counts(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        synced: list[str] = []
        monkeypatch.setattr(
            stores, "sync_folder", lambda folder: synced.append(folder.relative_to(tmp_path).as_posix())
        )
        store = LocalStore(tmp_path / "shop" / "live")
        store.put_new("v/run/a", b"1")
        # The name of each new folder stands in the one above, that of the object in the last.
        assert synced == [".", "shop", "shop/live", "shop/live/v", "shop/live/v/run"]
        synced.clear()
        store.put_new("v/run/b", b"1")
        assert synced == ["shop/live/v/run"]
        store.put_new("v/run/done/c", b"1")
        assert synced == ["shop/live/v/run"] * 2 + ["shop/live/v/run/done"]

    def test_a_working_folder_that_is_gone_is_a_store_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        gone = tmp_path / "gone"
        gone.mkdir()
        monkeypatch.chdir(gone)
        gone.rmdir()
        with pytest.raises(StoreError, match=r"no such object|No such file"):
            LocalStore(Path("release")).put_new("v/a", b"1")

    def test_a_folder_that_cannot_be_read_is_no_empty_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        store = LocalStore(tmp_path)
        store.put_new("log/1", b"1")
        scan = os.scandir

        def refuse(path: str) -> object:
            if Path(path).name == "log":
                raise PermissionError(errno.EACCES, "Permission denied", path)
            return scan(path)

        monkeypatch.setattr(os, "scandir", refuse)
        with pytest.raises(StoreError, match="Permission denied; check the folder, its rights and the disk"):
            list(store.list("log/"))
        assert list(store.list("v/")) == []

    def test_a_file_system_without_hard_links_is_told_for_good(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
        with pytest.raises(StoreUnsupportedError, match="expected a file system with hard links") as caught:
            LocalStore(tmp_path).put_new("log/1", b"1")
        assert caught.value.exit_code == 2
        assert list((tmp_path / "log").iterdir()) == []

    def test_a_full_disk_leaves_nothing_behind(self, tmp_path: Path):
        def fill(file: object) -> None:
            raise OSError(28, "No space left on device")

        with pytest.raises(StoreError, match="No space left on device; check the folder, its rights and the disk"):
            LocalStore(tmp_path)._create("a", fill)
        assert list(tmp_path.iterdir()) == []


class _Answer(BaseHTTPRequestHandler):
    """Answer every request with one status and error code."""

    status = 200
    code = ""
    stated = True
    """Whether the answer says how long it is."""

    def _answer(self) -> None:
        body = f"<Error><Code>{self.code}</Code><Message>said the server</Message></Error>".encode()
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.status)
        if self.stated:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _answer

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def answering(s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., S3Store]]:
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, code: str, stated: bool = True) -> S3Store:
        said = {"status": status, "code": code, "stated": stated}
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answer", (_Answer,), said))
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
        return S3Store("bucket", "prefix")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_what_the_connection_says_in_the_middle_of_a_body_is_a_matter_of_storage():
    with pytest.raises(StoreError, match="broke off") as caught, store_errors("s3://bucket", "key"):
        raise SSLError("bad record mac")
    assert caught.value.exit_code == 75


class TestS3Faults:
    @pytest.mark.parametrize("code", ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"])
    def test_wrong_credentials_are_refused_for_certain(self, answering: Callable[[int, str], S3Store], code: str):
        store = answering(403, code)
        for call in (lambda: store.get("a"), lambda: list(store.list("")), lambda: store.put_new("a", b"")):
            with pytest.raises(
                StoreRefusedError, match=f"access refused \\({code}\\); check the credentials"
            ) as caught:
                call()
            assert caught.value.exit_code == 75
            assert "testing" not in str(caught.value)

    def test_a_race_and_a_broken_server_are_worth_a_retry(self, answering: Callable[[int, str], S3Store]):
        for status, code in ((409, "ConditionalRequestConflict"), (500, "InternalError"), (503, "SlowDown")):
            with pytest.raises(StoreError, match=f"storage answered {code} \\({status}\\)") as caught:
                answering(status, code).put_new("a", b"")
            assert type(caught.value) is StoreError

    @pytest.mark.parametrize("stated", [True, False])
    def test_an_answer_is_read_up_to_the_limit(self, answering: Callable[..., S3Store], stated: bool):
        store = answering(200, "x", stated)
        whole = store.get("a")
        assert whole.startswith(b"<Error><Code>x</Code>")
        assert store.get("a", len(whole)) == whole
        with pytest.raises(IntegrityError, match=r"s3://bucket/prefix: a: \d+ bytes; expected at most 5, so"):
            store.get("a", 5)

    def test_a_create_is_sent_once(self, answering: Callable[[int, str], S3Store], monkeypatch: pytest.MonkeyPatch):
        sent: list[str] = []
        store = answering(503, "SlowDown")
        store._once.meta.events.register("before-send.s3.PutObject", lambda **_: sent.append("put"))
        with pytest.raises(StoreError):
            store.put_new("a", b"")
        assert sent == ["put"]

    def test_a_missing_bucket_is_named(self, s3_environment: dict[str, str]):
        with pytest.raises(StoreRefusedError, match="s3://no-such-bucket: log/: no such bucket; create it"):
            list(S3Store("no-such-bucket", "").list("log/"))
        with pytest.raises(StoreRefusedError, match="no such bucket"):
            S3Store("no-such-bucket", "").put_new("a", b"")

    @pytest.mark.parametrize("name", ["a b", "büro", "x" * 256])
    def test_a_name_that_no_bucket_has_is_a_wrong_address(self, s3_environment: dict[str, str], name: str):
        store = open_store(f"s3://{name}/x")
        for call in (lambda: store.get("a"), lambda: list(store.list("")), lambda: store.put_new("a", b"")):
            with pytest.raises(ConfigError, match=r": Invalid bucket name \".*\"; correct the address$"):
                call()

    def test_a_name_that_the_service_refuses_is_a_wrong_address(self, answering: Callable[[int, str], S3Store]):
        store = answering(400, "InvalidBucketName")
        for call in (lambda: store.get("a"), lambda: list(store.list("")), lambda: store.put_new("a", b"")):
            with pytest.raises(StoreUnsupportedError, match="no buckets of such a name; correct the address") as caught:
                call()
            assert caught.value.exit_code == 2

    def test_uploads_into_a_missing_bucket_say_so(self, s3_environment: dict[str, str], tmp_path: Path):
        (tmp_path / "file").write_bytes(b"1")
        with pytest.raises(StoreRefusedError, match="no such bucket"):
            S3Store("no-such-bucket", "").put_file("a", tmp_path / "file")

    def test_an_unreachable_endpoint_fails_in_seconds(
        self, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
        waited: list[float] = []
        sleep, own = time.sleep, threading.get_ident()
        # Threads that other tests have left go on sleeping.
        monkeypatch.setattr(
            time, "sleep", lambda seconds: (waited.append if threading.get_ident() == own else sleep)(seconds)
        )
        with pytest.raises(
            StoreError, match=r"storage cannot be reached .*127\.0\.0\.1:9.*; check the endpoint"
        ) as caught:
            S3Store("bucket", "").get("a")
        assert caught.value.exit_code == 75
        assert sum(waited) < 10

    def test_no_credentials_at_all_is_one_sentence(
        self, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        with pytest.raises(StoreRefusedError, match="no AWS credentials found; set a profile, a role"):
            S3Store("bucket", "").get("a")
