"""Objects as local files: read in place or copied, verified each time, and shared with processes that tidy up."""

import errno
import hashlib
import os
import time
from pathlib import Path

import pytest

from indexer import object_cache
from indexer.errors import ConfigError, IntegrityError, StoreError
from indexer.manifest import ObjectEntry
from indexer.object_cache import ObjectCache
from indexer.store import LocalStore, hash_file

DATA = b"vectors"
ENTRY = ObjectEntry(key="v/a/products-00000.faiss", bytes=len(DATA), sha256=hashlib.sha256(DATA).hexdigest())


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    found = LocalStore(tmp_path / "release")
    found.put_new(ENTRY.key, DATA)
    return found


@pytest.fixture
def cache(store: LocalStore, tmp_path: Path) -> ObjectCache:
    return ObjectCache(store, tmp_path / "cache", copied=True)


def test_a_copy_stays_what_it_was(store: LocalStore, cache: ObjectCache):
    copy = cache.fetch(ENTRY)
    store.local_path(ENTRY.key).write_bytes(b"VECTORS")
    assert copy.read_bytes() == DATA
    # What was verified once is asked for again and not copied anew.
    assert cache.fetch(ENTRY) == copy
    cache.drop(ENTRY)
    assert not copy.exists()
    with pytest.raises(IntegrityError, match="expected SHA-256"):
        cache.fetch(ENTRY)
    assert not list(copy.parent.iterdir())


def test_a_file_of_a_folder_is_read_where_it_lies(store: LocalStore, tmp_path: Path):
    cache = ObjectCache(store, tmp_path / "cache")
    assert cache.fetch(ENTRY) == store.local_path(ENTRY.key)
    cache.drop(ENTRY)
    assert cache.fetch(ENTRY).read_bytes() == DATA
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("asked", [True, False])
def test_what_is_asked_for_is_not_pruned_while_it_is_hashed(
    cache: ObjectCache, monkeypatch: pytest.MonkeyPatch, asked: bool
):
    copy = cache.fetch(ENTRY)
    yesterday = time.time() - object_cache.UNUSED_SECONDS - 60
    os.utime(copy, (yesterday, yesterday))

    def prune_first(path: Path) -> str:
        cache.prune()
        return hash_file(path)

    if asked:
        monkeypatch.setattr(object_cache, "hash_file", prune_first)
        assert cache.fetch(ENTRY).read_bytes() == DATA
    else:
        cache.prune()
        assert not copy.exists()


def test_what_a_release_is_about_to_ask_for_is_kept(cache: ObjectCache):
    copy = cache.fetch(ENTRY)
    other = copy.with_name("0" * 64)
    for path in (copy, other):
        path.write_bytes(DATA)
        os.utime(path, (0, 0))
    cache.prune([ENTRY])
    assert [path.exists() for path in (copy, other)] == [True, False]


def test_a_folder_whose_name_is_not_utf8_has_a_place(tmp_path: Path):
    cache = ObjectCache(LocalStore(tmp_path / os.fsdecode(b"caf\xe9")), tmp_path / "cache", copied=True)
    with pytest.raises(IntegrityError, match="not there"):
        cache.fetch(ENTRY)


def test_a_copy_that_another_process_removes_is_made_again(cache: ObjectCache, monkeypatch: pytest.MonkeyPatch):
    copy = cache.fetch(ENTRY)
    removed = []

    def remove_first(path: Path) -> str:
        if not removed:
            path.unlink()
            removed.append(path)
        return hash_file(path)

    monkeypatch.setattr(object_cache, "hash_file", remove_first)
    assert cache.fetch(ENTRY).read_bytes() == DATA
    assert removed == [copy]


def test_what_is_read_in_place_needs_no_cache_folder(store: LocalStore, monkeypatch: pytest.MonkeyPatch):
    """As for a service whose user has no home."""

    def refuse() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", refuse)
    cache = ObjectCache(store)
    cache.prune()
    assert cache.fetch(ENTRY) == store.local_path(ENTRY.key)
    with pytest.raises(ConfigError) as caught:
        ObjectCache(store, copied=True).fetch(ENTRY)
    assert str(caught.value) == ("no home folder to keep downloads in; set XDG_CACHE_HOME, or name a cache folder")


@pytest.mark.parametrize("copied", [True, False])
def test_what_cannot_be_read_is_named_by_where_it_lies(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copied: bool
):
    cache = ObjectCache(store, tmp_path / "cache", copied=copied)
    path = cache.fetch(ENTRY)

    def refuse(path: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(object_cache, "hash_file", refuse)
    with pytest.raises(StoreError) as caught:
        cache.fetch(ENTRY)
    place = (
        f"{path.parent}: Permission denied; check the cache folder"
        if copied
        else (f"{store.url}/{ENTRY.key}: Permission denied; check the folder")
    )
    assert str(caught.value) == f"{place}, its rights and the disk"


def test_a_cache_folder_that_cannot_be_read_stops_no_tidying(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cache = ObjectCache(store, tmp_path / "cache", copied=True)
    cache.fetch(ENTRY)

    def refuse(path: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    cache.prune()
