"""Whole builds on a tiny shop: published, resumed, refused, repeated."""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from jinja2 import TemplateNotFound

from indexer import hnsw
from indexer.build import publish, release, shard
from indexer.build.plan import hold_scratch
from indexer.build.publish import RunFolder, encoder_seal
from indexer.build.release import build_release
from indexer.build.summary import ReleaseSummary
from indexer.cli.summary import print_release
from indexer.config import Config
from indexer.errors import (
    ConfigError,
    ContractError,
    GateError,
    IntegrityError,
    ObjectExistsError,
    PublishConflictError,
    StoreError,
)
from indexer.index_config import GatesConfig
from indexer.log import commit_entry, live_entry, read_head, read_manifest
from indexer.manifest import Manifest
from indexer.reader import open_index
from indexer.releases.garbage import KeepingRule, collect_garbage, plan_garbage
from indexer.releases.history import read_history
from indexer.store import LocalStore
from tests.small_releases import read_history_at

Shop = Callable[..., Config]
RUN_DATE = "2026-11-20"


@pytest.fixture
def build(encoder_directory: Path) -> Callable[..., ReleaseSummary]:
    def run(config: Config, run_date: str = RUN_DATE) -> ReleaseSummary:
        return build_release(config, run_date, encoder_directory=encoder_directory, story={}, progress=False)

    return run


def live_manifest(config: Config) -> Manifest:
    store = LocalStore(Path(config.shop.release))
    entry = live_entry(store)
    assert entry is not None
    return read_manifest(store, entry)


def test_a_release_holds_every_row_once_and_says_so(make_shop: Shop, build: Any, products: Any):
    rows = [*products(300), ("P00001", *products(2)[1][1:]), ("X", "mug", "a"), ("X", "cup", "a"), ("E", "中国", "")]
    config = make_shop(rows, queries=["red mug", "school bag", "lamp"], shards=3)
    summary = build(config)
    assert (summary.status, summary.sequence) == ("published", 1)
    figures = {item["name"]: item for item in summary.collections}
    counted = {
        name: figures["products"][name] for name in ("rows_in", "rows", "duplicates", "rejected", "shards", "built")
    }
    assert counted == {"rows_in": 304, "rows": 300, "duplicates": 1, "rejected": 3, "shards": 3, "built": 3}
    assert figures["queries"]["rows"] == 3
    manifest = live_manifest(config)
    assert manifest.collections[0].rejected == {"duplicate_id": 2, "text_empty": 1}
    assert all(gate.passed for gate in manifest.gates)
    assert {row["reason"]: (row["count"], row["key"]) for row in summary.rejects} == {
        "duplicate_id": (2, "X"),
        "text_empty": (1, "E"),
    }
    index = open_index(config.shop.release)
    found = {hit.id for hit in index.search("mug", k=1000)}
    assert found == {f"P{number:05d}" for number in range(300)}
    assert index.reformulate("mugs red", k=1) == ["red mug"]
    # Recall, and the time of a search, of both collections that have more than one value of efSearch to measure.
    assert Path(summary.report).read_text().count('aria-label="recall_10, recall_100"') == 1
    json.dumps(summary.as_dict())


def test_the_summary_says_what_was_mended_and_which_columns_were_not_read(
    make_shop: Shop, build: Any, products: Any, capsys: pytest.CaptureFixture[str]
):
    odd = [("A", "Salt &amp; pepper", None), ("B", "cafe\u0301 lamp", None), ("C", "x", None)]
    config = make_shop([*products(97), *odd])
    catalogue = Path(config.catalogue.path)
    catalogue.write_text(
        "".join(f"{line},x\n" for line in catalogue.read_text().splitlines()).replace(",x", ",shelf", 1)
    )
    summary = build(config)
    remarks = {"fixed": {"composed": 1, "entities_decoded": 1}, "unknown_columns": "shelf"}
    assert summary.remarks == {"CATALOGUE": {**remarks, "texts_of_one_character": 1}}
    assert "shelf" in Path(summary.report).read_text()
    print_release(summary.as_dict())
    assert "unknown_columns shelf" in capsys.readouterr().out


def test_the_same_run_again_is_already_published(make_shop: Shop, build: Any, products: Any):
    config = make_shop(products(100))
    first = build(config)
    before = sorted(Path(config.shop.release).rglob("*"))
    again = build(config)
    assert (again.status, again.run_id, again.sequence) == ("already published", first.run_id, 1)
    assert [list(item) for item in again.collections] == [list(item) for item in first.collections]
    assert [item["reused"] for item in again.collections] == [1]
    assert sorted(Path(config.shop.release).rglob("*")) == before
    assert again.bytes == first.bytes
    assert Path(again.report).read_bytes() == Path(first.report).read_bytes()


def test_other_inputs_or_options_are_another_run(make_shop: Shop, build: Any, products: Any):
    config = make_shop(products(100))
    first = build(config)
    second = build(replace(config, index=replace(config.index, m=9)))
    third = build(make_shop(products(101)))
    fourth = build(make_shop(products(102)), "2026-11-21")
    assert len({first.run_id, second.run_id, third.run_id, fourth.run_id}) == 4
    assert fourth.sequence == 4


def test_the_files_of_an_earlier_night_again_make_no_release(make_shop: Shop, build: Any, products: Any):
    first = build(make_shop(products(100)))
    again = build(make_shop(products(100)), "2026-11-21")
    assert (again.status, again.run_id, again.sequence) == ("unchanged", first.run_id, 1)
    build(make_shop(products(101)), "2026-11-22")
    # What was live two nights ago is news today.
    assert build(make_shop(products(100)), "2026-11-23").status == "published"


def test_a_catalogue_much_smaller_than_that_of_an_earlier_night_is_refused(make_shop: Shop, build: Any, products: Any):
    first = build(make_shop(products(100)))
    with pytest.raises(GateError, match=r"lost since an earlier night: expected at most 0.3, found 0.4000"):
        build(make_shop(products(60)), "2026-11-21")
    assert read_head(LocalStore(Path(make_shop(products(1)).shop.release))) == first.sequence
    assert build(make_shop(products(70)), "2026-11-21").status == "published"
    # The same night may be run again, and is measured by the night before, not by itself.
    with pytest.raises(GateError, match=r"found 0.6000"):
        build(make_shop(products(40)), "2026-11-21")
    assert build(make_shop(products(75)), "2026-11-21").status == "published"
    accepted = make_shop(products(10), gates=GatesConfig(max_shrink=1))
    assert build(accepted, "2026-11-22").status == "published"


def test_a_run_that_another_of_its_date_replaced_goes_live_again(make_shop: Shop, build: Any, products: Any):
    config = make_shop(products(100))
    first = build(config)
    build(replace(config, index=replace(config.index, m=9)))
    again = build(config)
    assert (again.status, again.run_id, again.sequence) == ("published again", first.run_id, 3)
    entry = live_entry(LocalStore(Path(config.shop.release)))
    assert entry is not None
    assert (entry.kind, entry.parent, entry.run_id) == ("publish", 2, first.run_id)
    assert open_index(config.shop.release).release.run_id == first.run_id
    third = build(config)
    assert (third.status, third.sequence) == ("already published", 3)
    assert read_head(LocalStore(Path(config.shop.release))) == 3


def test_a_rerun_of_an_old_night_never_replaces_a_newer_one(make_shop: Shop, build: Any, products: Any):
    config = make_shop(products(100))
    build(config, "2026-11-20")
    newer = build(make_shop(products(101)), "2026-11-21")
    with pytest.raises(PublishConflictError, match="of the newer night 2026-11-21 is live") as caught:
        build(make_shop(products(101)), "2026-11-20")
    assert caught.value.exit_code == 5
    late = build(make_shop(products(100)), "2026-11-20")
    assert (late.status, late.sequence) == ("published before", 1)
    assert open_index(config.shop.release).release.run_id == newer.run_id


def test_a_rerun_of_an_old_night_that_was_retired_changes_nothing(make_shop: Shop, build: Any, products: Any):
    config = make_shop(products(100))
    store = LocalStore(Path(config.shop.release))
    first = build(config, "2026-11-20")
    build(make_shop(products(101)), "2026-11-21")
    collect_garbage(store, plan_garbage(store, KeepingRule(releases=1, grace=timedelta(0))))
    assert read_history(store).retired == {first.run_id}
    late = build(make_shop(products(100)), "2026-11-20")
    assert (late.status, late.run_id, late.sequence, late.bytes) == ("retired", first.run_id, 1, 0)
    assert read_head(store) == 3


def test_a_newer_night_that_lost_an_object_is_not_replaced_by_an_older_one(make_shop: Shop, build: Any, products: Any):
    newer = build(make_shop(products(100)), "2026-11-21")
    release = Path(make_shop(products(90)).shop.release)
    next(release.glob(f"v/{newer.run_id}/*.ids")).unlink()
    with pytest.raises(PublishConflictError, match="of the newer night 2026-11-21 is live"):
        build(make_shop(products(90)), "2026-11-20")
    assert read_head(LocalStore(release)) == 1


def test_a_rerun_does_not_undo_an_operators_rollback(make_shop: Shop, build: Any, products: Any):
    config = make_shop(products(100))
    store = LocalStore(Path(config.shop.release))
    first = build(config)
    withdrawn = build(make_shop(products(101)))
    target = read_history_at(store, 2).releases.get(first.run_id)
    assert target is not None
    commit_entry(store, 2, replace(target, sequence=3, kind="rollback", parent=2))
    assert build(make_shop(products(101))).status == "published before"
    assert open_index(config.shop.release).release.run_id == first.run_id != withdrawn.run_id


@pytest.mark.parametrize("lost", ["*.faiss", "manifest.*.json"])
def test_a_live_run_whose_objects_are_lost_is_mended_by_its_rerun(
    make_shop: Shop, build: Any, products: Any, lost: str
):
    config = make_shop(products(100))
    first = build(config)
    next(Path(config.shop.release).glob(f"v/{first.run_id}/{lost}")).unlink()
    again = build(config)
    assert (again.status, again.run_id, again.sequence) == ("published", first.run_id, 2)
    assert open_index(config.shop.release).search("red mug", k=1)


def test_a_replaced_run_whose_objects_are_lost_is_built_anew(make_shop: Shop, build: Any, products: Any):
    config = make_shop(products(100))
    first = build(config)
    lost = next(Path(config.shop.release).glob(f"v/{first.run_id}/*.faiss"))
    build(replace(config, index=replace(config.index, m=9)))
    lost.unlink()
    again = build(config)
    assert (again.status, again.sequence, again.collections[0]["built"]) == ("published", 3, 1)
    assert open_index(config.shop.release).search("red mug", k=1)


def test_a_replaced_run_of_which_a_byte_was_changed_is_built_anew(make_shop: Shop, build: Any, products: Any):
    config = make_shop(products(100))
    first = build(config)
    changed = next(Path(config.shop.release).glob(f"v/{first.run_id}/*.faiss"))
    build(replace(config, index=replace(config.index, m=9)))
    flip(changed)
    again = build(config)
    assert (again.status, again.sequence, again.collections[0]["built"]) == ("published", 3, 1)
    assert open_index(config.shop.release).search("red mug", k=1)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_two_builds_give_the_same_bytes(make_shop: Shop, build: Any, products: Any, tmp_path: Path):
    config = make_shop(products(200), queries=["red mug", "lamp"], shards=2)
    other = replace(config, shop=replace(config.shop, release=str(tmp_path / "other")))
    build(config)
    build(replace(other, index=replace(config.index, threads=2)))
    first, second = live_manifest(config), live_manifest(other)
    assert first.run_id == second.run_id
    assert [entry.sha256 for entry in first.objects if entry is not first.report] == [
        entry.sha256 for entry in second.objects if entry is not second.report
    ]


def count_builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    built: list[int] = []
    original = hnsw.build_index
    monkeypatch.setattr(
        shard, "build_index", lambda vectors, options: built.append(len(vectors)) or original(vectors, options)
    )
    return built


class _Stop(Exception):
    """Stands for a crash."""


def stop_at(name: str) -> pytest.MonkeyPatch:
    """Make one stage of the build crash; returns a patch that can be undone alone."""
    patch = pytest.MonkeyPatch()

    def crash(*_: Any, **__: Any) -> None:
        raise _Stop

    patch.setattr(release, name, crash)
    return patch


def test_a_collection_that_is_gone_lost_all_its_rows(make_shop: Shop, build: Any, products: Any):
    build(make_shop(products(60), queries=["red mug", "school bag"]))
    message = r"gate queries share lost since an earlier night: expected at most 0.3, found 1.0000"
    with pytest.raises(GateError, match=message):
        build(make_shop(products(60)), "2026-11-25")
    accepted = build(make_shop(products(60), gates=GatesConfig(max_shrink=1)), "2026-11-25")
    assert [item["name"] for item in accepted.collections] == ["products"]


def test_what_killed_builds_of_any_date_left_is_removed(tmp_path: Path):
    old = tmp_path / "run_date=2026-11-19" / "scratch-host-4711"
    fresh = tmp_path / "run_date=2026-11-20" / "scratch-0123456789ab"
    for folder in (old, fresh):
        (folder / "spool").mkdir(parents=True)
    for path in (old, old / "spool"):
        os.utime(path, (0, 0))
    with hold_scratch(tmp_path / "run_date=2026-11-21") as scratch:
        assert scratch.is_dir()
        assert (old.exists(), fresh.exists()) == (False, True)
        with hold_scratch(tmp_path / "run_date=2026-11-21") as other:
            assert scratch.is_dir()
            assert other != scratch
    assert [path.name for path in tmp_path.rglob("scratch-*")] == [fresh.name]


@pytest.mark.parametrize("stage", ["judge_finished", "write_report", "publish"])
def test_an_interrupted_build_goes_on_without_building_a_sealed_shard(
    make_shop: Shop, build: Any, products: Any, monkeypatch: pytest.MonkeyPatch, stage: str
):
    config = make_shop(products(300), shards=3)
    patch = stop_at(stage)
    with pytest.raises(_Stop):
        build(config)
    patch.undo()
    store = LocalStore(Path(config.shop.release))
    assert read_head(store) == 0
    markers = {item.key: store.get(item.key) for item in store.list("v/") if "/done/products-" in item.key}
    assert len(markers) == 3
    built = count_builds(monkeypatch)
    summary = build(config)
    assert built == []
    assert summary.collections[0]["reused"] == 3
    assert {key: store.get(key) for key in markers} == markers
    assert not list(Path(config.shop.work).rglob("scratch-*"))


@pytest.mark.parametrize("damage", ["missing", "cut", "changed", "foreign", "other count", "broken marker"])
@pytest.mark.line(91, 92)
def test_a_marker_that_cannot_be_trusted_rebuilds_its_shard_only(
    make_shop: Shop, build: Any, products: Any, monkeypatch: pytest.MonkeyPatch, damage: str
):
    config = make_shop(products(300), shards=3)
    patch = stop_at("publish")
    with pytest.raises(_Stop):
        build(config)
    patch.undo()
    folder = next(Path(config.shop.release).glob("v/*"))
    target = next(folder.glob("products-00001.*.faiss"))
    marker = folder / "done" / "products-00001.json"
    if damage == "missing":
        target.unlink()
    elif damage == "changed":
        flip(target)
    elif damage == "cut":
        target.write_bytes(target.read_bytes()[:-1])
    elif damage == "foreign":
        document = json.loads(marker.read_text())
        document["shard"]["fingerprint"] = "0" * 64
        marker.write_text(json.dumps(document))
    elif damage == "other count":
        marker.write_text(marker.read_text().replace('"truncated": 0', '"truncated": 8'))
    else:
        marker.write_text("{")
    built = count_builds(monkeypatch)
    assert build(config).collections[0]["reused"] == 2
    assert len(built) == 1
    assert open_index(config.shop.release).search("red mug", k=3)
    assert (folder / "done" / "products-00001.2.json").exists()


def test_a_sabotaged_index_is_blocked_by_the_recall_gate(
    make_shop: Shop, build: Any, products: Any, monkeypatch: pytest.MonkeyPatch
):
    config = make_shop(products(300))
    build(config)
    changed = make_shop(products(400))

    def sabotage(vectors: np.ndarray, options: Any) -> Any:
        index = hnsw.build_index(vectors, options)
        links = faiss.vector_to_array(index.hnsw.neighbors)
        links[:] = -1
        faiss.copy_array_to_vector(links, index.hnsw.neighbors)
        return index

    monkeypatch.setattr(shard, "build_index", sabotage)
    with pytest.raises(GateError, match=r"gate products recall@10: expected at least 0\.95, found 0\.") as caught:
        build(changed)
    assert caught.value.exit_code == 4
    assert read_head(LocalStore(Path(config.shop.release))) == 1
    report = next(Path(config.shop.work).rglob("report-*.html"), None)
    assert report is not None
    assert any('class="refused"' in path.read_text() for path in Path(config.shop.work).rglob("report-*.html"))


def test_a_vector_that_is_not_of_unit_length_is_blocked(
    make_shop: Shop, build: Any, products: Any, monkeypatch: pytest.MonkeyPatch
):
    original = shard.embed_rows

    def spoil(*arguments: Any, **options: Any) -> Any:
        embedded = original(*arguments, **options)
        embedded.vectors[7] = np.nan
        return embedded

    monkeypatch.setattr(shard, "embed_rows", spoil)
    config = make_shop(products(100))
    with pytest.raises(GateError, match="gate max_norm_error, shard products-00000"):
        build(config)
    assert not list(Path(config.shop.release).rglob("*.faiss"))


def test_too_many_rejects_stop_the_release(make_shop: Shop, build: Any, products: Any):
    config = make_shop([*products(100), ("X", "mug"), ("X", "cup")], max_reject_share=0.01)
    with pytest.raises(
        ContractError, match=r"2 of 102 rows rejected \(duplicate_id 2\), more than the allowed share 0.01"
    ):
        build(config)
    assert read_head(LocalStore(Path(config.shop.release))) == 0


def test_another_run_that_was_first_wins(make_shop: Shop, build: Any, products: Any, monkeypatch: pytest.MonkeyPatch):
    config = make_shop(products(100))
    late = make_shop(products(101))
    early = replace(config, index=replace(config.index, m=9))
    original = release.publish

    def lose(run: RunFolder, manifest: Manifest) -> Any:
        monkeypatch.setattr(release, "publish", original)
        winners.append(build(early))
        return original(run, manifest)

    winners: list[ReleaseSummary] = []
    monkeypatch.setattr(release, "publish", lose)
    with pytest.raises(PublishConflictError, match="was published first, as log entry 1") as caught:
        build(late)
    assert winners[0].run_id in str(caught.value)
    assert open_index(config.shop.release).release.run_id == winners[0].run_id
    assert build(late).sequence == 2


def test_two_processes_of_one_run_are_one_entry(
    make_shop: Shop, build: Any, products: Any, monkeypatch: pytest.MonkeyPatch
):
    config = make_shop(products(100))
    original = release.publish

    def overtake(run: RunFolder, manifest: Manifest) -> Any:
        monkeypatch.setattr(release, "publish", original)
        assert build(config).sequence == 1
        return original(run, manifest)

    monkeypatch.setattr(release, "publish", overtake)
    assert build(config).sequence == 1
    assert read_head(LocalStore(Path(config.shop.release))) == 1
    assert open_index(config.shop.release).search("red mug", k=1)


def test_nothing_is_committed_when_an_object_is_gone(
    make_shop: Shop, build: Any, products: Any, monkeypatch: pytest.MonkeyPatch
):
    config = make_shop(products(100))
    original = release.publish

    def lose(run: RunFolder, manifest: Manifest) -> Any:
        run.store.delete(manifest.collections[0].shards[0].ids.key)
        return original(run, manifest)

    monkeypatch.setattr(release, "publish", lose)
    with pytest.raises(IntegrityError, match=r"\.ids: no such object; nothing was published"):
        build(config)
    assert read_head(LocalStore(Path(config.shop.release))) == 0


def test_the_second_to_seal_adopts_the_first(tmp_path: Path):
    store = LocalStore(tmp_path)
    first, second = RunFolder(store, "run"), RunFolder(store, "run")
    assert first.attempt != second.attempt
    seal = encoder_seal("0" * 64)
    one = publish.SealedEncoder(fingerprint="0" * 64, objects=())
    assert first.seal(seal, one) is one
    assert second.find_sealed(seal) == one
    assert second.seal(seal, publish.SealedEncoder(fingerprint="0" * 64, objects=())) == one
    assert [item.key for item in store.list("")] == ["v/run/done/encoder.json"]


def test_objects_of_two_attempts_never_meet(tmp_path: Path):
    store = LocalStore(tmp_path / "store")
    (tmp_path / "file").write_bytes(b"1")
    keys = {RunFolder(store, "run").upload(tmp_path / "file", "products-00000.faiss").key for _ in range(3)}
    assert len(keys) == 3
    run = RunFolder(store, "run")
    run.upload(tmp_path / "file", "products-00000.faiss")
    with pytest.raises(ObjectExistsError):
        run.upload(tmp_path / "file", "products-00000.faiss")


def test_texts_can_be_left_out_of_the_release(make_shop: Shop, build: Any, products: Any):
    config = make_shop(products(100), queries=["red mug"], texts=False)
    build(config)
    index = open_index(config.shop.release)
    assert index.search("red mug", k=1)[0].text is None
    assert [hit.text for hit in index.search("red mug", collection="queries", k=1)] == ["red mug"]


def test_a_summary_says_how_many_shards_were_wanted(make_shop: Shop, build: Any, products: Any):
    figures = build(make_shop(products(20), queries=["red mug", "lamp"], shards=8)).collections
    assert [item["shards_wanted"] for item in figures] == [8, 8]
    assert figures[1]["shards"] == 1


def test_a_wrong_date_and_a_missing_step_are_refused(make_shop: Shop, build: Any, products: Any):
    with pytest.raises(ConfigError, match="expected YYYY-MM-DD"):
        build(make_shop(products(100)), "20.11.2026")
    with pytest.raises(ContractError, match="run the step curated_queries for this date first"):
        build(make_shop(products(100), queries=["a"]), "2026-11-25")


def test_memory_held_at_a_time_is_one_shard(
    make_shop: Shop, build: Any, products: Any, monkeypatch: pytest.MonkeyPatch
):
    built = count_builds(monkeypatch)
    build(make_shop(products(600), max_shard_rows=100))
    assert len(built) == 6
    assert max(built) < 150
    assert sum(built) == 600


def fill_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", ["write_index", "write_lines", "write_probe"])
def test_a_full_disk_is_worth_another_try_and_leaves_no_scratch(
    make_shop: Shop, build: Any, products: Any, monkeypatch: pytest.MonkeyPatch, name: str
):
    config = make_shop(products(100))
    work = Path(config.shop.work) / "build" / f"run_date={RUN_DATE}"
    with monkeypatch.context() as patch:
        patch.setattr(shard, name, fill_disk)
        with pytest.raises(StoreError) as caught:
            build(config)
    assert str(caught.value) == f"{work}: No space left on device; check the work folder, its rights and the disk"
    assert caught.value.exit_code == 75
    assert list(work.iterdir()) == []
    assert build(config).status == "published"


@pytest.mark.parametrize(
    "error",
    [
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        TemplateNotFound("report.html"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/inputs/golden.tsv"),
        PermissionError(errno.EACCES, "Permission denied", "/inputs/golden.tsv"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_not_about_the_work_folder_is_not_said_of_it(
    make_shop: Shop, build: Any, products: Any, monkeypatch: pytest.MonkeyPatch, error: OSError
):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(shard, "write_index", fail)
    with pytest.raises(type(error)) as caught:
        build(make_shop(products(100)))
    assert caught.value is error


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([(f"P{number}", "\u4e2d\u56fd " * (1 + number % 7), "") for number in range(90)], "text_empty"),
        ([(f"P{number // 2}", f"red mug {number}", "") for number in range(90)], "duplicate_id"),
    ],
)
def test_a_table_of_which_nothing_is_left_is_a_matter_of_the_table(
    make_shop: Shop, build: Any, shards: int, rows: list[tuple[str, str, str]], reason: str
):
    with pytest.raises(ContractError) as caught:
        build(make_shop(rows, shards=shards))
    assert re.fullmatch(
        rf"shard products-00000: all of its rows were rejected \({reason} \d+\); correct the table, or choose fewer "
        r"shards where few rows are bad \(index.shards\)",
        str(caught.value),
    )


@pytest.mark.parametrize("name", ["encoder.json", "tokenizer.json"])
def test_an_encoder_that_is_exchanged_while_it_is_used_is_not_published(
    make_shop: Shop, products: Any, encoder_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    folder = Path(shutil.copytree(encoder_directory, tmp_path / "encoder"))
    config, upload = make_shop(products(100)), RunFolder.upload_encoder

    def exchange(run: RunFolder, directory: Path, names: Any) -> Any:
        document = json.loads((directory / name).read_text())
        (directory / name).chmod(0o644)
        (directory / name).write_text(json.dumps(document, indent=3))
        return upload(run, directory, names)

    def run() -> ReleaseSummary:
        return build_release(config, RUN_DATE, encoder_directory=folder, story={}, progress=False)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "upload_encoder", exchange)
        with pytest.raises(StoreError, match=rf"{name}: was exchanged after the build had read it; .* run it again"):
            run()
    shutil.rmtree(folder)
    shutil.copytree(encoder_directory, folder)
    assert run().status == "published"
    assert open_index(config.shop.release).search("red mug")


def test_a_work_folder_that_cannot_be_made_is_named(make_shop: Shop, build: Any, products: Any):
    config = make_shop(products(100))
    Path(config.shop.work).write_text("not a folder")
    with pytest.raises(StoreError, match=r"work.*: cannot be written: Not a directory; correct shop.work$") as caught:
        build(config)
    assert caught.value.exit_code == 75


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({}, r"no such bucket; create it or correct the address"),
        (
            {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"},
            r"storage cannot be reached .*check the endpoint",
        ),
    ],
)
def test_storage_that_fails_stops_the_build_before_the_work(
    make_shop: Shop, build: Any, products: Any, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch,
    fault: dict[str, str], message: str,
):  # fmt: skip
    for name, value in fault.items():
        monkeypatch.setenv(name, value)
    built = count_builds(monkeypatch)
    config = make_shop(products(100), release="s3://no-such-bucket/shop")
    with pytest.raises(StoreError, match=message) as caught:
        build(config)
    assert caught.value.exit_code == 75
    assert built == []
    assert not (Path(config.shop.work) / "build").exists()
