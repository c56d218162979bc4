"""Folders of live processes stay; those of killed ones go as soon as that is sure."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from indexer import claims
from indexer.claims import claim_folder, hold_temporary, remove_abandoned, tell_refusals
from indexer.contracts.files import local_files
from indexer.errors import StoreError

HOLDER = """
import sys
from pathlib import Path
from indexer.claims import claim_folder
with claim_folder(Path(sys.argv[1])) as folder:
    folder.mkdir()
    (folder / "part-0").write_text("half")
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that works in the folder `a-1` until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "a-1")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def remove(tmp_path, kept=()):
    return remove_abandoned(tmp_path, "a-*", lambda: kept)


def test_a_live_process_keeps_its_folder_and_a_killed_one_does_not(tmp_path, holder):
    (tmp_path / "b-1").mkdir()
    assert remove(tmp_path) == []
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-1", "a-1.lock", "b-1"]
    assert remove(tmp_path, kept=("a-1",)) == []
    assert remove(tmp_path) == ["a-1"]
    assert [path.name for path in tmp_path.iterdir()] == ["b-1"]


def test_a_process_that_ends_well_leaves_its_folder_and_no_lock(tmp_path, holder):
    holder.communicate("")
    assert [path.name for path in tmp_path.iterdir()] == ["a-1"]
    assert remove(tmp_path) == []


def test_what_finished_while_its_end_was_looked_at_stays(tmp_path, holder):
    holder.kill()
    holder.wait()
    asked = []
    assert remove_abandoned(tmp_path, "a-*", lambda: asked.append("now") or {"a-1"}) == []
    assert asked == ["now"]
    assert (tmp_path / "a-1" / "part-0").exists()


@pytest.mark.parametrize("lock", ["another machine\n", "", None])
def test_without_proof_a_folder_stays_until_it_has_been_idle_for_long(tmp_path, lock):
    part = tmp_path / "a-1" / "deep" / "part-0"
    part.parent.mkdir(parents=True)
    part.touch()
    paths = [part, part.parent, tmp_path / "a-1"]
    if lock is not None:
        (tmp_path / "a-1.lock").write_text(lock)
        paths.append(tmp_path / "a-1.lock")
    assert remove(tmp_path) == []
    for path in paths:
        assert remove(tmp_path) == []
        os.utime(path, (0, time.time() - claims.IDLE_SECONDS - 60))
    assert remove(tmp_path) == ["a-1"]
    assert list(tmp_path.iterdir()) == []


def test_a_held_lock_keeps_a_folder_however_old(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(claims, "IDLE_SECONDS", -1)
    monkeypatch.setattr(claims, "_machine", lambda: "another machine")
    assert remove(tmp_path) == []


def test_a_file_system_without_locks_leaves_the_age(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(95, "not supported")

    monkeypatch.setattr(claims.fcntl, "flock", refuse)
    with claim_folder(tmp_path / "a-1") as folder:
        folder.mkdir()
        assert remove(tmp_path) == []
        monkeypatch.setattr(claims, "IDLE_SECONDS", -1)
        assert remove(tmp_path) == ["a-1"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "work").write_text("a file")
    with (
        pytest.raises(StoreError, match=r"work: cannot be written: .*correct shop.work"),
        claim_folder(tmp_path / "work" / "a-1"),
    ):
        pass


def test_no_place_for_temporary_files_is_told(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent/folder")
    with pytest.raises(StoreError) as caught, hold_temporary():
        pass
    assert str(caught.value) == "no folder for temporary files: No such file or directory; set TMPDIR to one"
    with pytest.raises(StoreError, match="set TMPDIR"), local_files("s3://bucket/c.csv", section="catalogue"):
        pass


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.EMFILE, "let the process open more files (`ulimit -n`), or choose fewer shards"),
        (errno.ENOSPC, "check the work folder, its rights and the disk"),
    ],
)
def test_what_a_work_folder_refuses_is_told(tmp_path, number, hint):
    with pytest.raises(StoreError) as caught, tell_refusals(tmp_path):
        raise OSError(number, "Refused", str(tmp_path / "a"))
    assert (str(caught.value), caught.value.exit_code) == (f"{tmp_path / 'a'}: Refused; {hint}", 75)
