"""A consumer: verified files, whole releases, and the old one kept whatever goes wrong."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from indexer.encoder import open_encoder
from indexer.errors import ConfigError, IntegrityError, StoreError
from indexer.log import log_key
from indexer.reader import open_index
from indexer.shard_file import read_dead
from indexer.store import open_store

RUN_ID = "2026-11-20-49d9754a9949"
BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "pyspark", "pyarrow", "click", "sentence_transformers", "transformers",
                                      "pandas", "jinja2", "tqdm", "scipy", "sklearn", "onnx"}:
            raise ImportError(f"{name} is not installed at a consumer")
sys.meta_path.insert(0, Block())
"""


@pytest.fixture
def release(golden: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(golden / "release_v1", tmp_path / "release"))


class TestGoldenReleaseOfTwoNights:
    @pytest.mark.parametrize("name", ["release_v2", "release_v3"])
    def test_it_opens_and_answers_as_on_the_first_day(self, golden: Path, name: str):
        index = open_index(str(golden / name))
        hits = index.search("red baby bottle", k=4)
        assert [hit.id for hit in hits] == ["P005", "P010", "P015", "P000"]
        # Its title is that of the second night.
        assert hits[3].text == "red baby bottle of steel"
        assert (index.release.run_date, index.release.sequence) == ("2026-11-21", 2)

    def test_dead_rows_are_not_found_and_all_others_are_once(self, golden: Path):
        hits = open_index(str(golden / "release_v2")).search("red mug", k=1000)
        ids = {f"P{number:03d}" for number in range(200)} - {"P007", "P008"} | {"P900", "P901"}
        assert sorted(hit.id for hit in hits) == sorted(ids)
        assert {hit.id: hit.text for hit in hits}["P040"] == "red cup of steel"

    @pytest.mark.parametrize("dead", [[3, 3, 5], [5, 4, 6], [1, 2, 92]])
    def test_dead_rows_that_are_not_rising_rows_of_the_shard_are_refused(self, tmp_path: Path, dead: list[int]):
        path = tmp_path / "products-00000.dead"
        np.array(dead, dtype="<u4").tofile(path)
        with pytest.raises(IntegrityError, match="expected rising row numbers below 92"):
            read_dead(path, 92)


class TestGoldenRelease:
    def test_it_opens_and_answers_as_on_the_first_day(self, golden: Path):
        index = open_index(str(golden / "release_v1"))
        hits = index.search("red baby bottle", k=4)
        assert [hit.id for hit in hits] == ["P005", "P010", "P015", "P000"]
        assert hits[0].text == "cotton baby bottle"
        assert hits[0].score == pytest.approx(0.853129, abs=1e-5)
        assert index.reformulate("RED\u00a0mug", k=2) == ["red hose", "mug"]

    def test_it_names_no_folder_of_the_machine_that_made_it(self, golden: Path):
        files = [path for path in golden.rglob("*") if path.is_file() and path.suffix != ".py"]
        assert len(files) > 15
        for path in files:
            assert not any(folder in path.read_bytes() for folder in (b"/work", b"/tmp", b"/home", b"/root")), path

    def test_it_says_what_it_is(self, golden: Path):
        info = open_index(str(golden / "release_v1")).release
        assert (info.run_id, info.run_date, info.sequence) == (RUN_ID, "2026-11-20", 1)
        assert info.collections == ("products", "queries")
        assert info.age_seconds >= 0

    def test_hits_are_those_of_exact_search_over_both_shards(self, golden: Path):
        index = open_index(str(golden / "release_v1"))
        encoder = open_encoder(golden / "encoder_v1", threads=1)
        shards = index._release.shards["products"]
        vectors = np.concatenate([shard.index.reconstruct_n(0, shard.index.ntotal) for shard in shards])
        ids = [shard.id(row) for shard in shards for row in range(shard.index.ntotal)]
        for query in ("steel cup", "blue school bag", "garden hose green", "desk"):
            scores = vectors @ encoder.encode_queries([query])[0]
            found = index.search(query, k=10)
            assert [hit.score for hit in found] == pytest.approx(sorted(scores, reverse=True)[:10], abs=1e-5)
            for hit in found:
                assert hit.score == pytest.approx(scores[ids.index(hit.id)], abs=1e-5)

    def test_a_batch_answers_like_single_searches(self, golden: Path):
        index = open_index(str(golden / "release_v1"))
        queries = ["red mug", "中国", "white desk lamp"]
        together = index.search_batch(queries, k=5)
        assert [[hit.id for hit in hits] for hits in together] == [
            [hit.id for hit in index.search(query, k=5)] for query in queries
        ]
        assert together[1] == []
        assert index.search_batch([]) == []

    def test_more_hits_than_rows_are_all_rows_once(self, golden: Path):
        hits = open_index(str(golden / "release_v1")).search("red mug", k=1000)
        assert len(hits) == len({hit.id for hit in hits}) == 200
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)

    @pytest.mark.parametrize("query", ["", "   ", "\u200b", "!!!"])
    def test_a_query_without_a_word_has_no_hits(self, golden: Path, query: str):
        assert open_index(str(golden / "release_v1")).search(query, k=3) == []

    def test_half_of_a_surrogate_pair_is_no_part_of_a_query(self, golden: Path):
        index = open_index(str(golden / "release_v1"))
        assert index.search("red \ud83d mug", k=3) == index.search("red mug", k=3)
        assert index.search("\udc00", k=3) == []

    def test_wrong_arguments_are_named(self, golden: Path):
        index = open_index(str(golden / "release_v1"))
        with pytest.raises(ConfigError, match="collection 'titles': expected one of products, queries"):
            index.search("a", collection="titles")
        for k in (0, -1, 10_001):
            with pytest.raises(ConfigError, match="k: expected 1 to 10000"):
                index.search("a", k=k)


def test_nothing_published_is_said(tmp_path: Path):
    with pytest.raises(StoreError, match="no release is published here"):
        open_index(str(tmp_path))


def objects_of(release: Path) -> list[str]:
    manifest = json.loads(max(release.glob("v/*/manifest.*.json")).read_bytes())
    shards = [shard for item in manifest["collections"] for shard in item["shards"]]
    entries = manifest["encoder"]["objects"] + [shard[kind] for shard in shards for kind in ("index", "ids", "texts")]
    entries += [shard["dead"]["rows"] for shard in shards if shard.get("dead")]
    entries += [manifest["canaries"]] if manifest.get("canaries") else []
    return [entry["key"] for entry in entries]


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "flip": flip,
    "cut": lambda data: data[:-2],
    "junk": lambda data: data + b"\0" * 64,
    "empty": lambda data: b"",
    "zeroed": lambda data: data[: len(data) // 3] + bytes(len(data) - len(data) // 3),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("name", "objects"), [("release_v1", 15), ("release_v2", 20), ("release_v3", 21)])
@pytest.mark.line(93)
def test_every_damaged_object_is_refused_before_it_is_parsed(
    golden: Path, tmp_path: Path, name: str, objects: int, damage: str, monkeypatch: pytest.MonkeyPatch
):
    release = Path(shutil.copytree(golden / name, tmp_path / "release"))
    for parser in ("reader.try_release", "loaded_release.load_encoder", "loaded_release.open_shard"):
        monkeypatch.setattr(f"indexer.{parser}", lambda *_, **__: pytest.fail("parsed before all was verified"))
    keys = objects_of(release)
    assert len(keys) == objects
    for key in keys:
        original = (release / key).read_bytes()
        (release / key).write_bytes(DAMAGES[damage](original))
        with pytest.raises(IntegrityError, match="it was changed") as caught:
            open_index(str(release), guard="always")
        assert key in str(caught.value)
        assert caught.value.exit_code == 6
        (release / key).write_bytes(original)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_manifest_or_log_entry_is_refused(release: Path, damage: str):
    for path in (next(release.glob("v/*/manifest.*.json")), release / log_key(1)):
        original = path.read_bytes()
        path.write_bytes(DAMAGES[damage](original))
        with pytest.raises(IntegrityError):
            open_index(str(release))
        path.write_bytes(original)


def test_swapped_shards_and_missing_objects_are_refused(release: Path):
    first, second = sorted(release.glob("v/*/products-*.faiss"))
    a, b = first.read_bytes(), second.read_bytes()
    first.write_bytes(b)
    second.write_bytes(a)
    with pytest.raises(IntegrityError, match="it was changed"):
        open_index(str(release))
    first.write_bytes(a)
    second.unlink()
    with pytest.raises(IntegrityError, match="names this object, but it is not there"):
        open_index(str(release))


def test_downloads_are_kept_by_hash_and_verified_each_time(bucket: str, release: Path, tmp_path: Path):
    store = open_store(f"{bucket}/shop")
    for file in sorted(path for path in release.rglob("*") if path.is_file()):
        store.put_file(file.relative_to(release).as_posix(), file)
    cache = tmp_path / "cache"
    assert open_index(f"{bucket}/shop", cache=cache).search("red mug", k=1)
    kept = sorted(path for path in cache.rglob("*") if path.is_file())
    assert len(kept) == 15
    largest = max(kept, key=lambda path: path.stat().st_size)
    largest.write_bytes(flip(largest.read_bytes()))
    for key in objects_of(release):
        if (release / key).stat().st_size != largest.stat().st_size:
            store.delete(key)
    assert open_index(f"{bucket}/shop", cache=cache).search("red mug", k=1)
    assert not list(cache.rglob(".new-*"))


def test_downloads_that_no_release_asks_for_are_removed(bucket: str, release: Path, tmp_path: Path):
    store = open_store(bucket)
    for file in sorted(path for path in release.rglob("*") if path.is_file()):
        store.put_file(file.relative_to(release).as_posix(), file)
    open_index(bucket, cache=tmp_path)
    kept = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    stale, fresh = kept[0].with_name("0" * 64), kept[0].with_name("1" * 64)
    for path in (stale, fresh, *kept):
        path.touch()
    for path in (stale, *kept):
        os.utime(path, (0, 0))
    open_index(bucket, cache=tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted([fresh, *kept])


def test_importing_the_reader_needs_only_what_a_consumer_has(golden: Path):
    script = BLOCK + (
        f"from indexer.reader import open_index\n"
        f"index = open_index({str(golden / 'release_v1')!r})\n"
        "print([hit.id for hit in index.search('red baby bottle', k=2)])\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(loaded & {'torch', 'pyspark', 'pyarrow', 'click', 'pandas', 'jinja2', 'tqdm', 'boto3'}))\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout.splitlines() == ["['P005', 'P010']", "[]"]
