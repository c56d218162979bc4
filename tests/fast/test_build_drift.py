"""Nights beside the live release: canary queries of both, golden queries over all shards, efSearch of the night."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from indexer import encoder
from indexer.build import release, verdict
from indexer.build.catalogue import shard_of
from indexer.build.drift import Baseline, Drift
from indexer.build.release import build_release
from indexer.build.summary import ReleaseSummary
from indexer.config import Config
from indexer.encoder import Encoder
from indexer.errors import EncoderError, GateError
from indexer.index_config import GatesConfig
from indexer.log import commit_entry, live_entry, read_manifest
from indexer.manifest import CollectionEntry
from indexer.object_cache import ObjectCache
from indexer.reader import open_index
from indexer.store import LocalStore, S3Store, open_store
from tests.small_releases import read_history_at

Product = tuple[str, str, str]


def night(number: int) -> str:
    return f"2026-11-{number:02d}"


@pytest.fixture
def drifts(monkeypatch: pytest.MonkeyPatch) -> list[Drift | None]:
    """Return what each build measures beside the live release."""
    found: list[Drift | None] = []
    measure = verdict._measure_drift

    def listen(*arguments: Any) -> Drift | None:
        found.append(measure(*arguments))
        return found[-1]

    monkeypatch.setattr(verdict, "_measure_drift", listen)
    return found


@pytest.fixture
def build(make_shop: Callable[..., Config], encoder_directory: Path) -> Callable[..., tuple[Config, ReleaseSummary]]:
    def run(
        rows: Sequence[Product], number: int, *, encoder: Path = encoder_directory, reuse: str = "all", **options: Any
    ) -> tuple[Config, ReleaseSummary]:
        config = make_shop(rows, **{"shards": 4, "max_stale_share": 0.5, "ef_search": 0, "kept_probes": 4} | options)
        return config, build_release(
            config, night(number), encoder_directory=encoder, story={}, progress=False, reuse=reuse
        )

    return run


def live(config: Config) -> CollectionEntry:
    store = open_store(config.shop.release)
    entry = live_entry(store)
    assert entry
    return read_manifest(store, entry).collections[0]


def change(rows: Sequence[Product], every: int, title: str) -> list[Product]:
    return [(name, f"{title} {at}" if at % every == 0 else old, brand) for at, (name, old, brand) in enumerate(rows)]


def test_canaries_have_the_answers_of_both_releases(build: Any, products: Any, drifts: list[Drift | None]):
    rows = products(300)
    config, _ = build(rows, 1)
    assert drifts == [None]
    before = open_index(config.shop.release)
    config, _ = build(change(rows, 30, "red mug"), 2)
    after = open_index(config.shop.release)
    found = drifts[-1]
    assert found
    assert (found.same_encoder, found.live_rows, len(found.canaries)) == (True, 300, 20)
    for canary in found.canaries:
        for index, names in ((before, canary.live), (after, canary.new)):
            assert [(hit.id, hit.text) for hit in index.search(canary.query, k=10)] == names
    assert (found.churn.live, found.churn.gone, found.churn.new) == (300, 0, 0)
    build([*change(rows, 30, "red mug")[6:], ("N", "blue lamp", "acme")], 3)
    assert drifts[-1]
    assert (drifts[-1].churn.live, drifts[-1].churn.gone, drifts[-1].churn.new) == (300, 6, 1)


def test_a_night_that_runs_twice_is_compared_only_where_it_was_measured(
    build: Any, products: Any, drifts: list[Drift | None]
):
    rows = products(600)
    build(rows, 1, shards=8)
    build(rows, 2, shards=8, reuse="none")
    # Most shards are kept of the night's first run, which the night before does not have.
    _, summary = build([(rows[0][0], "red mug 9", "acme"), *rows[1:]], 2, shards=8, kept_probes=1)
    assert summary.status == "published"
    assert summary.remarks["products"]["canaries_not_asked"]
    assert drifts[-1]
    assert (drifts[-1].canaries, drifts[-1].churn.gone) == ([], 0)


def test_a_release_of_another_encoder_is_asked_in_its_own_space(
    build: Any, products: Any, drifts: list[Drift | None], encoder_directory: Path, tmp_path: Path
):
    rows = products(200)
    config, _ = build(rows, 1)
    before = open_index(config.shop.release)
    other = shutil.copytree(encoder_directory, tmp_path / "other")
    description = json.loads((other / "encoder.json").read_text())
    (other / "encoder.json").write_text(json.dumps(description | {"name": "renamed"}))
    build(rows[::-1], 2, encoder=other)
    found = drifts[-1]
    assert found
    assert (found.same_encoder, found.overlap) == (False, 1.0)
    for canary in found.canaries:
        assert [(hit.id, hit.text) for hit in before.search(canary.query, k=10)] == canary.live


def watch_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list of the objects that builds will read, but for the last look at all that goes live."""
    read: list[str] = []
    fetch = ObjectCache.fetch
    monkeypatch.setattr(ObjectCache, "fetch", lambda self, entry: read.append(entry.key) or fetch(self, entry))
    monkeypatch.setattr("indexer.build.publish.examine_objects", lambda *_: [])
    return read


def test_no_canaries_read_no_index_of_the_live_release(build: Any, products: Any, monkeypatch: pytest.MonkeyPatch):
    rows = products(200)
    build(rows, 1)
    read = watch_reads(monkeypatch)
    build(rows[::-1], 2, gates=GatesConfig(canaries=0), reuse="none")
    assert not [key for key in read if key.endswith((".faiss", ".texts"))]
    build(rows, 3, reuse="none")
    assert len({key for key in read if key.endswith(".faiss")}) == 4


def test_canaries_are_asked_where_every_shard_is_measured(
    build: Any, products: Any, drifts: list[Drift | None], monkeypatch: pytest.MonkeyPatch
):
    rows = products(300)
    build(rows, 1)
    read = watch_reads(monkeypatch)
    _, summary = build(rows[::-1], 2, kept_probes=1)
    assert len({key for key in read if key.endswith(".faiss")}) == 1
    assert summary.remarks["products"]["canaries_not_asked"] == "3 shards were kept and not measured"
    assert drifts[-1]
    assert (drifts[-1].canaries, drifts[-1].churn.live) == ([], 300)
    build(rows, 3, kept_probes=4)
    assert drifts[-1]
    assert (len(drifts[-1].canaries), drifts[-1].overlap) == (20, 1.0)


def test_the_measure_is_what_was_live_before_tonight(build: Any, products: Any, drifts: list[Drift | None]):
    rows = products(200)
    config, _ = build(rows, 1)
    _, second = build(change(rows, 40, "red mug"), 2)
    # The same night again is measured by the night before.
    build(change(rows, 40, "blue mug"), 2)
    assert [found and len(found.canaries) for found in drifts] == [None, 20, 20]
    # An operator withdrew the second night.
    store = LocalStore(Path(config.shop.release))
    first = read_history_at(store, 1).live
    assert first
    commit_entry(store, 3, replace(first, sequence=4, kind="rollback", parent=3))
    build([*rows, ("N", "green lamp", "acme")], 3)
    assert drifts[-1]
    assert (drifts[-1].churn.new, drifts[-1].churn.gone, second.sequence) == (1, 0, 2)


def test_a_damaged_live_release_is_not_compared_and_the_summary_says_so(build: Any, products: Any):
    rows = products(200)
    config, _ = build(rows, 1)
    path = Path(config.shop.release) / live(config).shards[1].ids.key
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"P", b"Q", 1))
    _, summary = build(rows[::-1], 2, reuse="none")
    assert "it was changed" in summary.remarks["products"]["not_compared"]
    assert "it was changed" in Path(summary.report).read_text()


def test_an_encoder_that_fails_here_blocks_no_new_one(
    build: Any, products: Any, encoder_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As an earlier one in int8 does on other processors than its own."""
    build(products(200), 1)
    newer = Path(shutil.copytree(encoder_directory, tmp_path / "newer"))
    description = json.loads((newer / "encoder.json").read_text())
    (newer / "encoder.json").write_text(json.dumps(description | {"name": "newer"}))
    check = encoder.check_self_test

    def refuse(loaded: Encoder, place: str) -> None:
        if loaded.description.name != "newer":
            raise EncoderError(f"{place}: the self-test failed")
        check(loaded, place)

    monkeypatch.setattr(encoder, "check_self_test", refuse)
    _, summary = build(products(201), 2, encoder=newer)
    assert summary.status == "published"
    assert "the encoder of the live release: " in summary.remarks["products"]["not_compared"]


def write_golden(config_folder: Path, rows: Sequence[Sequence[Any]]) -> GatesConfig:
    path = config_folder / "golden.csv"
    path.write_text("query,product_id,within\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    return GatesConfig(golden=str(path))


def test_golden_queries_are_asked_of_every_shard(build: Any, products: Any, tmp_path: Path):
    rows = products(300)
    config, _ = build(rows, 1)
    queries = ["red mug", "school bag 7", "desk lamp"]
    hits = open_index(config.shop.release).search_batch(queries, "products", 100)
    # Rank 1, 10 and 100 of a consumer's answer, each just within.
    golden = [
        (query, found[rank - 1].id, rank) for query, found in zip(queries, hits, strict=True) for rank in (1, 10, 100)
    ]
    _, summary = build(rows[::-1], 2, kept_probes=1, gates=write_golden(tmp_path, [*golden, ("red mug", "GONE", 10)]))
    assert summary.remarks["GOLDEN_QUERIES"] == {"absent": 1, "absent_such_as": "GONE"}
    assert "not in the catalogue" in Path(summary.report).read_text()
    # A score that ties with the next would leave room for the product.
    late = next(
        (query, found[rank].id, rank)
        for query, found in zip(queries, hits, strict=True)
        for rank in (1, 9)
        if found[rank].score < found[rank - 1].score
    )
    with pytest.raises(GateError, match=r"golden queries: expected at least 1\.0 \(1 not within rank"):
        build(rows[1:], 3, kept_probes=1, gates=write_golden(tmp_path, [*golden[:1], late]))


def interrupt(build: Any, rows: Sequence[Product], monkeypatch: pytest.MonkeyPatch) -> None:
    """Build the first night up to its publication."""
    with monkeypatch.context() as patch:
        patch.setattr(release, "publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build(rows, 1)


def test_other_golden_queries_measure_a_sealed_shard_anew(
    build: Any, products: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = products(200)
    interrupt(build, rows, monkeypatch)
    with pytest.raises(GateError, match="1 not within rank"):
        build(rows, 1, gates=write_golden(tmp_path, [("red mug", "P00000", 1), ("red mug", rows[9][0], 100)]))
    _, summary = build(rows, 1)
    assert summary.collections[0]["built"] == 0


def test_a_marker_of_the_format_before_is_built_anew(
    build: Any, products: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = products(200)
    interrupt(build, rows, monkeypatch)
    markers = list((tmp_path / "release").glob("v/*/done/products-*.json"))
    assert len(markers) == 4
    for marker in markers:
        document = json.loads(marker.read_text())
        marker.chmod(0o644)
        marker.write_text(json.dumps(document | {"format": 2}))
    assert build(rows, 1)[1].collections[0]["built"] == 4


def test_the_smallest_value_that_reaches_the_targets_stands_in_the_manifest(build: Any, products: Any):
    rows = products(400)
    config, summary = build(
        rows, 1, target_recall_10=0.0, target_recall_100=0.0, gates=GatesConfig(min_recall_10=0.0, min_recall_100=0.0)
    )
    assert live(config).ef_search == summary.collections[0]["ef_search"] == 16
    assert build(rows, 2, ef_search=77)[1].collections[0]["ef_search"] == 77
    assert live(config).ef_search == 77
    # Kept shards are measured from the live value on; where all are built anew it may fall again.
    free = {"target_recall_10": 0.0, "target_recall_100": 0.0}
    assert build(rows[::-1], 3, **free)[1].collections[0]["ef_search"] == 77
    assert build(rows, 4, reuse="vectors", **free)[1].collections[0]["ef_search"] < 77
    build(rows[::-1], 5, ef_search=333)
    # One of four shards is measured: what an earlier night needed for the others stays.
    assert build(rows, 6, kept_probes=1)[1].collections[0]["ef_search"] == 333


def test_text_of_the_catalogue_is_no_markup_in_the_report(build: Any, products: Any):
    rows = [*products(200), ("<b>X</b>", "red mug <script>alert(1)</script>", "acme")]
    build(rows, 1)
    _, summary = build(rows[1:], 2)
    page = Path(summary.report).read_text()
    assert "<script" not in page
    assert "<b>" not in page


def test_a_night_on_a_bucket_downloads_no_object_twice(
    build: Any, products: Any, bucket: str, monkeypatch: pytest.MonkeyPatch, drifts: list[Drift | None], tmp_path: Path
):
    rows = products(300)
    # A share of changes that builds two of four shards anew and keeps the others.
    tonight = [
        (name, f"red mug {at}" if shard_of(name, 4) < 2 and at % 5 else title, brand)
        for at, (name, title, brand) in enumerate(rows)
    ]
    options = {"release": f"{bucket}/shop", "gates": write_golden(tmp_path, [("red mug", rows[0][0], 100)])}
    options["gates"] = replace(options["gates"], min_golden=0, min_overlap=0)
    first, _ = build(rows, 1, **options)
    fetched: list[str] = []
    left: set[str] = set()
    measure = verdict.measure_drift

    def look(baseline: Baseline, **rest: Any) -> Drift:
        found = measure(baseline, **rest)
        left.update(path.name for path in baseline.cache._folder.iterdir())
        return found

    monkeypatch.setattr(verdict, "measure_drift", look)
    before = [entry for shard in live(first).shards for entry in (shard.ids, shard.index)]
    get_file = S3Store.get_file
    monkeypatch.setattr(S3Store, "get_file", lambda self, key, path: fetched.append(key) or get_file(self, key, path))
    _, summary = build(tonight, 2, **options)
    assert (summary.collections[0]["built"], summary.collections[0]["reused"]) == (2, 2)
    assert drifts[-1]
    assert len(drifts[-1].canaries) == 20
    assert sum(key.endswith(".faiss") for key in fetched) == 4
    assert len(fetched) == len(set(fetched))
    # What was read for the comparison is not kept on the disk.
    assert left
    assert left.isdisjoint(entry.sha256 for entry in before)
