"""`indexer doctor` finds what is wrong with a machine or a store, and leaves nothing behind."""

import errno
import json
import threading
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner, Result

from indexer.cli.group import indexer
from indexer.creation import is_proof, prove_creates
from indexer.doctor import machine, storage
from indexer.doctor.findings import Finding, failed, passed, sum_up, warned
from indexer.errors import ConfigError, StoreError, StoreRefusedError
from indexer.manifest import Manifest
from indexer.releases.verify import verify_release
from indexer.store import LocalStore, S3Store, open_store
from indexer.store.s3 import PART_BYTES
from tests.proof.strict_s3 import DEFECTS

URL = "s3://bucket/shop"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage, "ROUNDS", 3)
    monkeypatch.setattr(storage, "LARGE_BYTES", PART_BYTES + 1)


def refuse_entry(path: Path, **_: Any) -> bool:
    raise PermissionError(errno.EACCES, "Permission denied", str(path))


def examine(url: str, **options: Any) -> dict[str, Finding]:
    return {item.subject: item for item in storage.examine_store(url, rounds=2, **options)}


def doctor(*words: str) -> Result:
    return CliRunner().invoke(indexer, ["doctor", *words])


def test_a_sound_bucket_passes_every_check_and_is_left_as_it_was(strict_s3: Any):
    strict_s3.page = 5
    S3Store("bucket", "shop").put_new("log/1", b"kept")
    found = examine(URL)
    assert {item.state for item in found.values()} == {"ok"}, found
    assert set(found) == {
        "reach", "create", "race", "publishing", "read after write", "list", "list after delete", "large object",
        "pages", "checksum", "secret", "unfinished upload", "clock", "clean up",
    }  # fmt: skip
    assert list(strict_s3.objects) == ["bucket/shop/log/1"]
    assert strict_s3.uploads == {}
    assert found["publishing"].found.startswith("atomic")


def test_a_folder_is_atomic_and_left_as_it_was(tmp_path: Path):
    (tmp_path / "store" / "v").mkdir(parents=True)
    found = examine(str(tmp_path / "store"))
    assert {item.state for item in found.values()} == {"ok"}
    assert list((tmp_path / "store").rglob("*")) == [tmp_path / "store" / "v"]


FOUND = {
    "overwrites on create": ("create", 2),
    "says exists and overwrites": ("create", 6),
    "knows no condition": ("create", 2),
    "races on create": ("race", 2),
    "ignores checksums": ("checksum", 6),
    "accepts any secret": ("secret", 6),
    "lists one page only": ("pages", 6),
    "lists out of order": ("list", 6),
    "reads late": ("read after write", 6),
    "lists late": ("read after write", 6),
    "lists deleted objects": ("list after delete", 6),
    "shows unfinished uploads": ("unfinished upload", 6),
    "loses the last part": ("large object", 6),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_store_with_one_defect_is_found_by_the_check_it_breaks(strict_s3: Any, defect: str):
    strict_s3.defects = frozenset({defect})
    subject, code = FOUND[defect]
    found = examine(URL)
    assert found[subject].state != "ok"
    assert found[subject].advice
    assert sum_up(found.values()) == code
    if code == 2:
        assert found["publishing"].found == "single-writer"
        assert "shop.single_writer = true" in found["publishing"].advice
    if defect in ("overwrites on create", "knows no condition"):
        told = examine(URL, single_writer=True)
        assert told["publishing"].state == "warning"
        assert sum_up(told.values()) == 0


def test_a_store_that_refuses_or_is_not_there_ends_with_75(strict_s3: Any, monkeypatch: pytest.MonkeyPatch):
    refused = doctor("s3://no-such-bucket/shop")
    assert refused.exit_code == 75
    assert "failed   reach" in refused.stdout
    assert "no such bucket" in refused.stdout
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert doctor(URL).exit_code == 75
    assert doctor("gs://bucket/shop").exit_code == 2


def test_who_may_only_read_is_told_so_and_not_of_a_broken_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any) -> None:
        raise StoreError("release: probe: Permission denied; check the folder, its rights and the disk")

    for name in ("put_new", "put_file"):
        monkeypatch.setattr(LocalStore, name, refuse)
    found = examine(str(tmp_path))
    assert sum_up(found.values()) == 75
    for subject in ("list", "list after delete"):
        assert found[subject].found == "not tried, since what it needs was not written"
        assert (found[subject].state, found[subject].exit_code) == ("failed", 75)


def test_no_room_for_temporary_files_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(**_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)
    found = examine(str(tmp_path / "store"))["large object"]
    assert (found.exit_code, found.found) == (75, "the folder for temporary files: No usable temporary directory found")
    assert "TMPDIR" in found.advice
    with pytest.raises(StoreError, match="no folder for temporary files: No usable temporary directory found; set"):
        list(verify_release(LocalStore(tmp_path), cast(Manifest, None)))


def test_what_cannot_be_deleted_is_named(strict_s3: Any):
    strict_s3.faults.plan("expired token", lambda operation, key: operation == "DeleteObject", 1e9)
    found = examine(URL)
    assert found["clean up"].state == "warning"
    assert "probe/" in found["clean up"].advice
    assert found["list after delete"].exit_code == 75


def test_the_command_prints_one_line_each_or_one_document(tmp_path: Path):
    config = tmp_path / "shop.toml"
    config.write_text('[shop]\nrelease = "live"\n[catalogue]\npath = "c.csv"\n')
    shown = doctor("--config", str(config))
    assert shown.exit_code == 0, shown.stdout
    document = json.loads(doctor("--config", str(config), "--json").stdout)
    assert document["exit_code"] == 0
    assert document["store"] == str(tmp_path / "live")
    assert len(shown.stdout.splitlines()) == len(document["findings"])
    assert "atomic" in shown.stdout
    assert {"python", "java", "processor", "memory", "disk", "reach"} <= {
        item["subject"] for item in document["findings"]
    }


class TestMachine:
    def test_the_exit_code_is_the_one_for_which_another_try_helps_least(self):
        findings = [passed("a", ""), warned("b", "", "x"), failed("c", "", "x", 75), failed("d", "", "x", 6)]
        assert sum_up(findings[:2]) == 0
        assert sum_up(findings) == 6
        assert sum_up([*findings, failed("e", "", "x", 2)]) == 2

    def test_an_old_python_is_refused(self):
        assert machine.check_python("3.10.2").exit_code == 2
        assert machine.check_python("3.11.0").state == "ok"

    def test_packages_below_their_floor_or_missing_are_named(self, monkeypatch: pytest.MonkeyPatch):
        lines = ["numpy>=9999", "tqdm>=1", 'no-such-package>=1; extra == "distill"', 'click>=1; extra == "spark"']
        monkeypatch.setattr(machine.metadata, "requires", lambda name: lines)
        found = {item.subject: item for item in machine.check_packages()}
        assert found["packages of base"].exit_code == 2
        assert "numpy" in found["packages of base"].found
        assert found["packages of distill"].state == "warning"
        assert "no-such-package" in found["packages of distill"].found
        assert "[distill]" in found["packages of distill"].advice
        assert found["packages of spark"].state == "ok"
        assert "packages of export" not in found

    def test_java_is_needed_where_the_shop_has_purchases(self):
        def absent() -> str:
            raise ConfigError("no Java 17")

        assert machine.check_java(absent, needed=True).exit_code == 2
        assert machine.check_java(absent, needed=False).state == "warning"
        assert machine.check_java(lambda: "21", needed=True).state == "ok"

    @pytest.mark.parametrize(
        ("flags", "level"),
        [
            ("avx2 bmi2 fma f16c movbe avx512f avx512bw avx512cd avx512dq avx512vl sse", "x86-64-v4"),
            ("avx2 bmi2 fma f16c movbe avx512f", "x86-64-v3"),
            ("avx sse4_2", None),
        ],
    )
    def test_the_level_of_a_processor_follows_from_its_flags(self, tmp_path: Path, flags: str, level: str | None):
        (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: {flags}\n")
        assert machine.read_level(tmp_path / "cpuinfo") == level
        assert machine.read_level(tmp_path / "none") is None

    def test_memory_is_what_the_machine_has_or_the_group_leaves(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    8388608 kB\n")
        assert machine.read_memory(tmp_path) == 8 << 30
        group = tmp_path / "sys" / "fs" / "cgroup"
        group.mkdir(parents=True)
        (group / "memory.max").write_text("max\n")
        (group / "memory.current").write_text("5\n")
        assert machine.read_memory(tmp_path) == 8 << 30
        (group / "memory.max").write_text(f"{4 << 30}\n")
        (group / "memory.current").write_text(f"{3 << 30}\n")
        assert machine.read_memory(tmp_path) == 1 << 30
        assert machine.read_memory(tmp_path / "none") is None
        monkeypatch.setattr(machine, "read_memory", lambda: 3 << 30)
        assert machine.check_memory().state == "ok"
        assert "index.memory_limit_gib is 4" in machine.check_memory(4).advice
        monkeypatch.setattr(machine, "read_memory", lambda: 1 << 30)
        assert machine.check_memory().state == "warning"

    def test_a_work_folder_that_cannot_be_written_or_is_full_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        assert machine.check_disk(tmp_path / "not" / "yet").state in ("ok", "warning")
        (tmp_path / "file").write_text("")
        assert machine.check_disk(tmp_path / "file").exit_code == 2
        with monkeypatch.context() as patched:
            patched.setattr(Path, "exists", refuse_entry)
            finding = machine.check_disk(tmp_path / "closed" / "work")
        assert (finding.exit_code, finding.found) == (2, f"{tmp_path}/closed/work: Permission denied")
        monkeypatch.setattr(machine, "LEAST_DISK", 1 << 60)
        assert machine.check_disk(tmp_path).exit_code == 2


class TestProofOfCreates:
    """What a publisher asks of a bucket before it publishes."""

    def test_it_asks_once_and_leaves_one_object_of_the_run(self, strict_s3: Any):
        store = S3Store("bucket", "shop")
        prove_creates(store, "run")
        sent = strict_s3.calls["PutObject"]
        prove_creates(store, "other")
        prove_creates(S3Store("bucket", "shop"), "other")
        assert strict_s3.calls["PutObject"] == sent
        (key,) = strict_s3.objects
        assert is_proof(key)
        prove_creates(S3Store("bucket", "another"), "run")
        assert strict_s3.calls["PutObject"] > sent
        assert key.startswith("bucket/shop/v/run/create.")

    @pytest.mark.parametrize("defect", ["overwrites on create", "races on create"])
    def test_a_bucket_that_overwrites_is_refused_before_the_log_is_touched(self, strict_s3: Any, defect: str):
        strict_s3.defects = frozenset({defect})
        with pytest.raises(ConfigError, match=r"set shop\.single_writer = true"):
            prove_creates(S3Store("bucket", "shop"), "run")

    def test_a_bucket_that_knows_no_condition_is_refused(self, strict_s3: Any, monkeypatch: pytest.MonkeyPatch):
        from tests.proof import s3_faults

        monkeypatch.setitem(s3_faults.ERRORS, "not implemented", (501, "NotImplemented"))
        strict_s3.faults.plan("not implemented", lambda operation, key: operation == "PutObject", 1e9)
        with pytest.raises(ConfigError, match=r"lacks what was asked for.*set shop\.single_writer = true"):
            prove_creates(S3Store("bucket", "shop"), "run")

    @pytest.mark.parametrize("fault", ["slow down", "conflict", "reset before", "reset after"])
    @pytest.mark.parametrize("times", [1, 8])
    def test_faults_that_pass_do_not_change_the_verdict(self, strict_s3: Any, fault: str, times: int):
        strict_s3.faults.plan(fault, lambda operation, key: operation == "PutObject", times)
        prove_creates(S3Store("bucket", "shop"), "run")

    def test_where_no_thread_starts_nobody_waits_for_it(self, strict_s3: Any, monkeypatch: pytest.MonkeyPatch):
        start, started = threading.Thread.start, []

        def refuse(thread: threading.Thread) -> None:
            if thread.name.startswith("ThreadPoolExecutor") and started.append(thread) is None and len(started) > 4:
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(StoreError, match="can't start new thread; let this process start 8 threads"):
            prove_creates(S3Store("bucket", "threads"), "run")

    def test_faults_that_stay_are_a_matter_of_storage(self, strict_s3: Any):
        strict_s3.faults.plan("slow down", lambda operation, key: True, 1e9)
        with pytest.raises(StoreError, match="SlowDown"):
            prove_creates(S3Store("bucket", "shop"), "run")
        strict_s3.faults.plan("expired token", lambda operation, key: True, 1e9)
        with pytest.raises(StoreRefusedError):
            prove_creates(S3Store("bucket", "shop"), "run")

    def test_a_single_writer_creates_by_looking_first(self, strict_s3: Any):
        strict_s3.defects = frozenset({"overwrites on create"})
        store = open_store(URL, single_writer=True)
        prove_creates(store, "run")
        assert strict_s3.calls == {}
        store.put_new("a", b"first")
        with pytest.raises(StoreError, match="exists already"):
            store.put_new("a", b"second")
        assert store.get("a") == b"first"
        assert strict_s3.calls["HeadObject"] == 2

    def test_a_build_does_not_publish_where_it_could_overwrite(
        self, strict_s3: Any, make_shop: Any, products: Any, encoder_directory: Path, tmp_path: Path
    ):
        make_shop(products(30), release=URL)
        config = tmp_path / "shop.toml"
        config.write_text(f'[shop]\nrelease = "{URL}"\n[catalogue]\npath = "catalogue.csv"\nmax_reject_share = 0.5\n')
        strict_s3.defects = frozenset({"overwrites on create"})

        def build(night: str, *words: str) -> Result:
            options = ["--config", str(config), "--run-date", night, "--encoder", str(encoder_directory), *words]
            return CliRunner().invoke(indexer, ["build", *options, "--set", "index.recall_queries=10"])

        refused = build("2026-11-20")
        assert refused.exit_code == 2
        assert "set shop.single_writer = true" in refused.stderr
        # Nothing was built either: what is there is the proof's own.
        assert [key.rpartition(".")[0].rpartition("/")[2] for key in strict_s3.objects] == ["create"]
        single = ("--set", "shop.single_writer=true", "--set", "gates.max_growth=9")
        published = build("2026-11-20", *single)
        assert published.exit_code == 0, published.stderr
        assert "only one process at a time may write to this store" in published.stdout
        (report,) = (item.data for place, item in strict_s3.objects.items() if place.endswith(".html"))
        assert b"only one process at a time may write to this store" in report
        make_shop(products(31), release=URL)
        assert build("2026-11-21", *single).exit_code == 0

        def roll_back(*words: str) -> int:
            return CliRunner().invoke(indexer, ["release", "rollback", URL, *words]).exit_code

        assert roll_back() == 2
        assert len([key for key in strict_s3.objects if "/log/" in key]) == 2
        assert roll_back("--single-writer") == 0
        assert len([key for key in strict_s3.objects if "/log/" in key]) == 3
