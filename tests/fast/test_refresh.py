"""Newer releases: swapped in whole, under searches, the old one kept on any error and its memory freed after."""

import errno
import json
import os
import shutil
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from indexer.build.release import build_release
from indexer.config import Config
from indexer.errors import ConfigError, IndexerError, IntegrityError, StoreError
from indexer.index_config import GatesConfig
from indexer.log import KeepingEntry, commit_entry, log_key
from indexer.object_cache import ObjectCache
from indexer.reader import Index, open_index
from indexer.store import LocalStore


@pytest.fixture
def release(golden: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(golden / "release_v1", tmp_path / "release"))


def append_entry(release: Path, sequence: int, **changes: Any) -> None:
    entry = json.loads((release / log_key(1)).read_bytes())
    entry |= {"sequence": sequence, "parent": sequence - 1} | changes
    (release / log_key(sequence)).write_text(json.dumps(entry))


class TestRefresh:
    @pytest.fixture
    def index(self, release: Path) -> Index:
        return open_index(str(release))

    def test_nothing_new_is_false(self, index: Index):
        assert index.refresh() is False

    def test_a_rollback_entry_is_followed(self, index: Index, release: Path):
        append_entry(release, 2, kind="rollback")
        assert index.refresh() is True
        assert index.release.sequence == 2

    def test_entries_about_keeping_change_nothing(self, index: Index, release: Path):
        created = "2026-11-21T00:00:00+00:00"
        entry = KeepingEntry(sequence=2, kind="pin", runs=(index.release.run_id,), parent=1, created_at=created)
        commit_entry(LocalStore(release), 1, entry)
        assert index.refresh() is False
        assert index.release.sequence == 1

    @pytest.mark.line(88)
    def test_a_log_that_lost_entries_is_refused(self, index: Index, release: Path):
        append_entry(release, 2)
        index.refresh()
        (release / log_key(2)).unlink()
        with pytest.raises(IntegrityError, match="log ends at 1, but 2 was served already"):
            index.refresh()
        assert index.release.sequence == 2
        assert index.search("red mug", k=1)

    def test_room_is_made_before_a_newer_release_is_fetched(
        self, release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        cache = tmp_path / "cache"
        copying = lambda store, folder, copied: ObjectCache(store, folder, copied=True)  # noqa: E731
        monkeypatch.setattr("indexer.reader.ObjectCache", copying)
        index = open_index(str(release), cache=cache)
        (folder,) = cache.iterdir()
        old = folder / ("0" * 64)
        for path in (*folder.iterdir(), old):
            path.touch()
            os.utime(path, (0, 0))
        append_entry(release, 2, kind="rollback")

        def refuse(*_: Any) -> None:
            raise StoreError("the disk is full")

        monkeypatch.setattr("indexer.reader.fetch_files", refuse)
        with pytest.raises(StoreError, match="the disk is full"):
            index.refresh()
        assert not old.exists()
        # What the newer release shares with this one need not come again.
        assert len(list(folder.iterdir())) == len({item.sha256 for item in index._release.manifest.downloads})

    def test_too_many_open_files_are_a_matter_of_the_machine(
        self, index: Index, release: Path, monkeypatch: pytest.MonkeyPatch
    ):
        def refuse(*_: Any, **__: Any) -> None:
            raise OSError(errno.EMFILE, "Too many open files", "products.ids")

        append_entry(release, 2, kind="rollback")
        monkeypatch.setattr("indexer.reader.open_release", refuse)
        with pytest.raises(StoreError, match=r"products\.ids: cannot be opened: Too many open files; .*ulimit -n"):
            index.refresh()
        assert index.release.sequence == 1

    @pytest.mark.parametrize(
        "changes", [{"kind": "unheard-of"}, {"format": 9}, {"manifest": {"key": "v/x", "bytes": 1, "sha256": "0" * 64}}]
    )
    def test_any_error_keeps_the_old_release(self, index: Index, release: Path, changes: dict[str, Any]):
        before = index.search("red mug", k=3)
        append_entry(release, 2, **changes)
        with pytest.raises(IndexerError):
            index.refresh()
        assert index.release.sequence == 1
        assert index.search("red mug", k=3) == before


def test_a_newer_release_is_seen_and_its_encoder_used(make_shop: Any, encoder_directory: Path, products: Any):
    first = make_shop(products(100))
    build_release(first, "2026-11-20", encoder_directory=encoder_directory, story={}, progress=False)
    index = open_index(first.shop.release)
    assert index.search("brand new lamp 777", k=1)[0].id != "NEW"
    second = make_shop([*products(100), ("NEW", "brand new lamp 777", "zeta")])
    build_release(second, "2026-11-21", encoder_directory=encoder_directory, story={}, progress=False)
    assert index.refresh() is True
    assert index.search("brand new lamp 777 zeta", k=1)[0].id == "NEW"
    assert index.release.sequence == 2


class TestReleasesThatFollowEachOther:
    """Three nights whose titles name the night; the log entries of the later two arrive one by one."""

    @pytest.fixture
    def nights(
        self, make_shop: Callable[..., Config], encoder_directory: Path, products: Callable[[int], Sequence[Any]]
    ) -> tuple[Path, dict[int, Path]]:
        for night in (1, 2, 3):
            rows = [(name, f"{title} night {night}", brand) for name, title, brand in products(120)]
            config = make_shop([*rows, (f"N{night}", f"red mug night {night}", "acme")], shards=3)
            build_release(
                config, f"2026-11-{19 + night}", encoder_directory=encoder_directory, story={}, progress=False
            )
        release = Path(config.shop.release)
        held = {night: (release / log_key(night)).rename(release / f"held-{night}") for night in (2, 3)}
        return release, held

    @staticmethod
    def publish(release: Path, held: dict[int, Path], night: int) -> None:
        held[night].rename(release / log_key(night))

    @pytest.mark.parametrize("threads", [1, 3])
    @pytest.mark.parametrize("mapped", [False, True])
    def test_every_answer_belongs_to_one_of_them(
        self, nights: tuple[Path, dict[int, Path]], threads: int, mapped: bool
    ):
        release, held = nights
        index = open_index(str(release), threads=threads, mapped=mapped)
        few = index.prepare_filter(among=[f"P{number:05d}" for number in range(0, 120, 7)])
        searches = (
            lambda: index.search_batch(["red mug", "school bag"], k=40)[1],
            lambda: index.search("red mug", k=30, ids=few),
            lambda: index.search("desk lamp", k=30, without=["P00001"]),
        )
        answered = [threading.Semaphore(0) for _ in searches]
        stop, wrong, nights_seen = threading.Event(), [], [set() for _ in searches]

        def go_on(number: int) -> None:
            while not stop.is_set():
                try:
                    found = {str(hit.text).split()[-1] for hit in searches[number]()}
                    nights_seen[number] |= found
                    if len(found) != 1:
                        wrong.append(found)
                except Exception as error:
                    wrong.append(error)
                answered[number].release()

        threads_ = [threading.Thread(target=go_on, args=[number]) for number in range(len(searches))]
        for thread in threads_:
            thread.start()
        for night in (1, 2, 3):
            if night > 1:
                self.publish(release, held, night)
                assert index.refresh() is True
            # Of what was answered by now one may be older; of two more, one began after the swap.
            for answers in answered:
                while answers.acquire(blocking=False):
                    pass
                answers.acquire()
                answers.acquire()
        stop.set()
        for thread in threads_:
            thread.join()
        assert wrong == []
        assert nights_seen == [{"1", "2", "3"}] * 3

    @pytest.mark.parametrize("mapped", [False, True])
    def test_the_old_one_is_freed_at_once(self, nights: tuple[Path, dict[int, Path]], mapped: bool):
        release, held = nights
        index = open_index(str(release), threads=2, mapped=mapped)
        few = index.prepare_filter(among=["P00001", "N2"])
        assert [hit.id for hit in index.search("red mug", ids=few)] == ["P00001"]
        old = [weakref.ref(index._release), *map(weakref.ref, index._release.shards["products"])]
        assert all(reference() is not None for reference in old)
        self.publish(release, held, 2)
        index.refresh()
        assert [reference() for reference in old] == [None] * 4
        assert {hit.id for hit in index.search("red mug", ids=few)} == {"P00001", "N2"}

    def test_filters_are_ready_before_the_swap_and_forgotten_with_their_last_user(
        self, nights: tuple[Path, dict[int, Path]], monkeypatch: pytest.MonkeyPatch
    ):
        release, held = nights
        index = open_index(str(release))
        kept, dropped = index.prepare_filter(among=["P00001"]), index.prepare_filter(without=["P00001"])
        assert len(index._release._selections) == 2
        del dropped
        assert len(index._release._selections) == 1
        self.publish(release, held, 2)
        index.refresh()
        monkeypatch.setattr("indexer.loaded_shard.LoadedShard.select", lambda *_: pytest.fail("a search had to wait"))
        assert index.search("red mug", ids=kept)[0].text.endswith("night 2")


def test_a_filter_of_a_collection_that_is_gone_stops_no_refresh(
    make_shop: Callable[..., Config], encoder_directory: Path, products: Callable[[int], Sequence[Any]]
):
    for day, queries in ((20, ["red mug", "school bag"]), (21, [])):
        # That all queries go is accepted here.
        config = make_shop(products(60 + day), queries=queries, gates=GatesConfig(max_shrink=1))
        build_release(config, f"2026-11-{day}", encoder_directory=encoder_directory, story={}, progress=False)
        if day == 20:
            index = open_index(config.shop.release)
            denied = index.prepare_filter(without=[], collection="queries")
            assert len(index.search("red mug", "queries", ids=denied)) == 2
    assert index.refresh() is True
    assert index.release.collections == ("products",)
    with pytest.raises(ConfigError, match="collection 'queries': expected one of products"):
        index.search("red mug", "queries", ids=denied)
