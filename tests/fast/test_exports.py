"""Exports, each read again by a tool that is not ours."""

import errno
import json
import os
import re
import shutil
import struct
import weakref
from pathlib import Path

import duckdb
import faiss
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from indexer.build.release import build_release
from indexer.cli.group import indexer
from indexer.config import IndexConfig
from indexer.encoder import open_encoder
from indexer.errors import ConfigError, ContractError, IntegrityError, StoreError
from indexer.export import documents, graph, release, rows
from indexer.export.documents import write_vespa
from indexer.export.graph import write_hnswlib
from indexer.export.release import FORMATS, ExportOptions, export_release
from indexer.export.rows import ShardRows, load_rows
from indexer.hnsw import build_index
from indexer.manifest import CollectionEntry
from indexer.reader import open_index
from indexer.shard_file import Lines, LoadedShard, search_shard, select_rows
from indexer.store import hash_file, open_store

RUN_DATE = "2026-11-20"
NO_HNSWLIB = "hnswlib is not installed; pip compiles it: pip install hnswlib"
HOSTILE = (
    'a"b',
    "a\\b",
    "a/b/../c",
    "100%25 d'or",
    "id:shop:products::x",
    "é\u00a0中文😀",
    "e\u0301",
    "a\u2028b",
    "{'a': 1}",
    "<a&b>",
    " a",
    "NULL",
    "-1",
)
DOCUMENT = {"id": {"type": "string", "minLength": 1}, "text": {"type": "string"}}
NUMBERS = {"type": "array", "items": {"type": "number"}, "minItems": 32, "maxItems": 32}


def closed(properties, optional=()):
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


VESPA = closed(
    {
        "put": {"type": "string", "pattern": "^id:[A-Za-z0-9_.-]+:[a-z][a-z0-9_]*::.+$"},
        "fields": closed(DOCUMENT | {"vector": closed({"values": NUMBERS})}, optional=["text"]),
    }
)
ACTION = closed({"index": closed({"_id": {"type": "string", "minLength": 1}})})
SOURCE = closed(DOCUMENT | {"vector": NUMBERS}, optional=["text"])


def export(url, target, kind, **options):
    return export_release(str(url), target, ExportOptions(format=kind, **options), progress=False)


def read_lines(folder, schema):
    """Parse files of one JSON document per line, each of the schema, or of the schemas in turn."""
    schemas = [Draft202012Validator(item) for item in (schema if isinstance(schema, list) else [schema])]
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        lines = path.read_bytes().split(b"\n")
        assert lines.pop() == b""
        assert len(lines) % len(schemas) == 0
        for number, line in enumerate(lines):
            found.append(json.loads(line))
            schemas[number % len(schemas)].validate(found[-1])
    return found


def read_vespa(folder):
    found = read_lines(folder, VESPA)
    for document in found:
        assert document["put"] == f"id:shop:{folder.name}::{document['fields']['id']}"
    fields = [document["fields"] for document in found]
    return (
        [item["id"] for item in fields],
        [item["text"] for item in fields],
        [item["vector"]["values"] for item in fields],
    )


def read_opensearch(folder):
    found = read_lines(folder, [ACTION, SOURCE])
    actions, sources = found[::2], found[1::2]
    assert [action["index"]["_id"] for action in actions] == [source["id"] for source in sources]
    return [[source[name] for source in sources] for name in ("id", "text", "vector")]


def read_parquet(folder):
    files = f"read_parquet('{folder}/part-*.parquet', filename = true)"
    found = duckdb.sql(f"SELECT id, text, vector FROM {files} ORDER BY filename, file_row_number").fetchall()
    return [list(column) for column in zip(*found, strict=True)]


def read_ids(folder):
    return (folder / "ids.txt").read_bytes().decode().removesuffix("\n").split("\n")


def read_npy(folder):
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    assert vectors.dtype == np.dtype("<f4")
    return read_ids(folder), None, vectors


def read_hnswlib(folder):
    hnswlib = pytest.importorskip("hnswlib", reason=NO_HNSWLIB)
    ids, labels, vectors = read_ids(folder), [], []
    for path in sorted(folder.glob("*.hnsw")):
        index = hnswlib.Index(space="ip", dim=32)
        index.load_index(str(path))
        own = sorted(label for label in index.get_ids_list() if label < len(ids))
        labels += own
        vectors.extend(index.get_items(own))
    assert labels == list(range(len(ids)))
    return ids, None, vectors


READERS = {
    "parquet": read_parquet,
    "npy": read_npy,
    "vespa": read_vespa,
    "opensearch": read_opensearch,
    "hnswlib": read_hnswlib,
}


def second_night():
    """Id -> (title, colour) of the golden release's second night, written again from what its maker says of it."""
    things = (
        "baby bottle",
        "water bottle",
        "cup",
        "mug",
        "school bag",
        "running shoes",
        "shirt",
        "dress",
        "desk lamp",
        "hose",
    )
    kinds, colours = ("steel", "cotton", "kids", "garden"), ("red", "blue", "green", "black", "white")
    found = {}
    for number in range(200):
        thing, kind, colour = things[number // 20], kinds[number // 5 % 4], colours[number % 5]
        title = f"red {thing} of {kind}" if number % 40 == 0 else f"{kind} {thing}"
        found[f"P{number:03d}"] = (title, colour)
    del found["P007"], found["P008"]
    return found | {"P900": ("kids water bottle", "green"), "P901": ("garden cup", "white")}


def search_files(folder, dimension, queries, k, ef):
    """Search all files of hnswlib as docs/exports.md does; return labels and scores, (queries, k)."""
    hnswlib = pytest.importorskip("hnswlib", reason=NO_HNSWLIB)
    labels, scores = [], []
    for path in sorted(folder.glob("*.hnsw")):
        index = hnswlib.Index(space="ip", dim=dimension)
        index.load_index(str(path))
        index.set_ef(ef)
        found = index.knn_query(queries, k=k, num_threads=1)
        labels.append(found[0])
        scores.append(1 - found[1])
    labels, scores = np.hstack(labels).astype(np.int64), np.hstack(scores)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(labels, order, axis=1), np.take_along_axis(scores, order, axis=1)


def test_every_format_has_a_reader_here():
    assert set(READERS) == set(FORMATS)


@pytest.mark.parametrize("kind", FORMATS)
class TestEveryFormat:
    def test_it_has_what_is_found_after_two_nights_and_no_dead_row(self, golden, encoder_directory, tmp_path, kind):
        summary = export(golden / "release_v2", tmp_path / "out", kind)
        assert [(item.name, item.rows, item.shards) for item in summary.collections] == [
            ("products", 200, 3),
            ("queries", 60, 2),
        ]
        ids, texts, vectors = READERS[kind](tmp_path / "out" / "products")
        expected = second_night()
        assert sorted(ids) == sorted(expected)
        encoder = open_encoder(encoder_directory, threads=1)
        embedded = encoder.encode_products([" | ".join(expected[name]) for name in ids])
        np.testing.assert_allclose(np.array(vectors, dtype=np.float32), embedded, atol=1e-6)
        assert texts is None or texts == [expected[name][0] for name in ids]

    def test_collections_are_chosen_by_name(self, golden, tmp_path, kind):
        summary = export(golden / "release_v1", tmp_path / "out", kind, collections=("queries",))
        assert [item.name for item in summary.collections] == ["queries"]
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["export.json", "queries"]
        ids, _, vectors = READERS[kind](tmp_path / "out" / "queries")
        assert len(set(ids)) == len(vectors) == 60

    def test_hostile_ids_and_titles_come_back_as_they_were(self, make_shop, encoder_directory, tmp_path, kind):
        products = [(name, f'steel cup "{number}" \\ / %2F </x> é 中😀') for number, name in enumerate(HOSTILE)]
        config = make_shop(products, shards=2)
        build_release(config, RUN_DATE, encoder_directory=encoder_directory, story={}, progress=False)
        export(config.shop.release, tmp_path / "out", kind)
        ids, texts, _ = READERS[kind](tmp_path / "out" / "products")
        assert sorted(ids) == sorted(HOSTILE)
        assert texts is None or dict(zip(ids, texts, strict=True)) == dict(products)

    @pytest.mark.parametrize("storage", ["sqfp16", "sq8"])
    def test_quantised_vectors_are_reconstructed(self, make_shop, products, encoder_directory, tmp_path, kind, storage):
        config = make_shop(products(120), storage=storage)
        build_release(config, RUN_DATE, encoder_directory=encoder_directory, story={}, progress=False)
        (summary,) = export(config.shop.release, tmp_path / "out", kind).collections
        assert (summary.storage, summary.vectors) == (storage, "reconstructed")
        ids, _, vectors = READERS[kind](tmp_path / "out" / "products")
        known = {name: f"{title} | {brand}" for name, title, brand in products(120)}
        embedded = open_encoder(encoder_directory, threads=1).encode_products([known[name] for name in ids])
        difference = np.abs(np.array(vectors, dtype=np.float32) - embedded).max()
        # Half a step of 11 bits of fraction below 1, and of 255 steps between the least and the greatest.
        assert 0 < difference <= {"sqfp16": 2**-12, "sq8": 2 / 255}[storage]

    def test_the_same_release_gives_the_same_bytes(self, golden, tmp_path, kind):
        first, second = (export(golden / "release_v2", tmp_path / name, kind) for name in ("a", "b"))
        assert first == second

    def test_rows_are_read_in_batches(self, golden, tmp_path, kind, monkeypatch):
        export(golden / "release_v2", tmp_path / "whole", kind)
        for module in (rows, graph):
            monkeypatch.setattr(module, "BATCH_ROWS", 7)
        monkeypatch.setattr(documents, "BULK_BYTES", 5_000)
        export(golden / "release_v2", tmp_path / "parts", kind)
        whole, parts = (READERS[kind](tmp_path / name / "products") for name in ("whole", "parts"))
        assert whole[:2] == parts[:2]
        np.testing.assert_array_equal(np.array(whole[2]), np.array(parts[2]))

    def test_one_shard_is_in_memory_at_a_time(self, golden, tmp_path, kind, monkeypatch):
        loaded = []

        def load(*arguments):
            assert [shard() for shard in loaded] == [None] * len(loaded)
            found = load_rows(*arguments)
            loaded.append(weakref.ref(found))
            return found

        monkeypatch.setattr(release, "load_rows", load)
        export(golden / "release_v2", tmp_path / "out", kind)
        assert len(loaded) == 5

    @pytest.mark.parametrize("damage", ["flip", "cut"])
    def test_a_damaged_object_is_refused_and_nothing_is_left(self, golden, tmp_path, kind, damage):
        live = Path(shutil.copytree(golden / "release_v2", tmp_path / "live"))
        manifest = json.loads((live / max(live.glob("v/*/manifest.*.json"))).read_bytes())
        shards = [shard for item in manifest["collections"] for shard in item["shards"]]
        entries = [shard[name] for shard in shards for name in ("index", "ids", "texts")]
        entries += [shard["dead"]["rows"] for shard in shards if shard["dead"]] + manifest["encoder"]["objects"]
        assert len(entries) == 20
        for entry in entries:
            path = live / entry["key"]
            original = path.read_bytes()
            middle = len(original) // 2
            changed = original[:middle] + bytes([original[middle] ^ 1]) + original[middle + 1 :]
            path.write_bytes(changed if damage == "flip" else original[:-1])
            with pytest.raises(IntegrityError, match=r"it was changed") as caught:
                export(live, tmp_path / "out", kind, encoder=True)
            assert entry["key"] in str(caught.value)
            assert sorted(item.name for item in tmp_path.iterdir()) == ["live"]
            path.write_bytes(original)


class TestFolder:
    def test_export_json_has_the_hash_of_every_file(self, golden, tmp_path):
        summary = export(golden / "release_v2", tmp_path / "out", "parquet", encoder=True)
        document = json.loads((tmp_path / "out" / "export.json").read_bytes())
        assert (document["run_id"], document["sequence"], document["kind"]) == ("2026-11-21-e51497bbacd7", 2, "parquet")
        assert document["encoder"] == hash_file(golden / "encoder_v1" / "encoder.json")
        assert document["collections"][0] == {
            "name": "products",
            "rows": 200,
            "shards": 3,
            "dimension": 32,
            "metric": "inner_product",
            "storage": "flat",
            "vectors": "as embedded",
            "m": 8,
            "ef_search": 32,
        }
        files = {path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.name != "export.json"}
        assert {tmp_path / "out" / file["path"] for file in document["files"]} == files
        for file in document["files"]:
            path = tmp_path / "out" / file["path"]
            assert (path.stat().st_size, hash_file(path)) == (file["bytes"], file["sha256"])
        assert summary.bytes == sum(path.stat().st_size for path in files)

    def test_the_encoder_goes_along_and_works(self, golden, tmp_path):
        export(golden / "release_v1", tmp_path / "out", "npy", collections=("queries",), encoder=True)
        encoder = open_encoder(tmp_path / "out" / "encoder", threads=1)
        assert encoder.fingerprint == hash_file(golden / "encoder_v1" / "encoder.json")

    def test_it_has_no_name_before_all_is_written(self, golden, tmp_path, monkeypatch):
        target = tmp_path / "new" / "out"

        def stop(shard, folder, options):
            assert not target.exists()
            assert not list(tmp_path.rglob("export.json"))
            (folder / "half").touch()
            if shard.number == 1:
                raise KeyboardInterrupt

        monkeypatch.setattr(release, "FORMATS", {"npy": stop})
        with pytest.raises(KeyboardInterrupt):
            export(golden / "release_v1", target, "npy")
        assert list(tmp_path.rglob("*")) == [tmp_path / "new"]

    def test_one_with_content_is_refused_and_an_empty_one_is_taken(self, golden, tmp_path):
        (tmp_path / "out").mkdir()
        export(golden / "release_v1", tmp_path / "out", "npy")
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(ConfigError, match="out: expected a new or empty folder, found one with content"):
            export(golden / "release_v1", tmp_path / "out", "npy")
        (tmp_path / "file").touch()
        with pytest.raises(ConfigError, match="file: expected a new or empty folder"):
            export(golden / "release_v1", tmp_path / "file", "npy")
        assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "file"])

    def test_one_that_is_filled_meanwhile_is_not_replaced(self, golden, tmp_path, monkeypatch):
        def fill(shard, folder, options):
            (tmp_path / "out").mkdir(exist_ok=True)
            (tmp_path / "out" / "mine").touch()

        monkeypatch.setattr(release, "FORMATS", {"npy": fill})
        with pytest.raises(StoreError, match="out: Directory not empty"):
            export(golden / "release_v1", tmp_path / "out", "npy")
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]

    def test_a_full_disk_is_a_storage_error(self, golden, tmp_path, monkeypatch):
        def fail(shard, folder, options):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(release, "FORMATS", {"npy": fail})
        with pytest.raises(StoreError, match="No space left on device; check the folder, its rights and the disk"):
            export(golden / "release_v1", tmp_path / "out", "npy")


def test_a_bucket_is_exported_through_the_cache(bucket, golden, tmp_path):
    live, store = golden / "release_v2", open_store(f"{bucket}/shop")
    for file in sorted(path for path in live.rglob("*") if path.is_file()):
        store.put_file(file.relative_to(live).as_posix(), file)
    options = ExportOptions(format="npy", encoder=True)
    found = export_release(f"{bucket}/shop", tmp_path / "s3", options, progress=False, cache=tmp_path / "cache")
    assert found == export(live, tmp_path / "folder", "npy", encoder=True)
    assert len([path for path in (tmp_path / "cache").rglob("*") if path.is_file()]) == 20


class TestParquet:
    def test_pyarrow_reads_row_groups_of_bounded_size_with_lists_of_fixed_size(self, golden, tmp_path, monkeypatch):
        monkeypatch.setattr(rows, "BATCH_ROWS", 50)
        export(golden / "release_v2", tmp_path / "out", "parquet")
        files = [pq.ParquetFile(path) for path in sorted((tmp_path / "out" / "products").iterdir())]
        assert len(files) == 3
        groups = [[file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] for file in files]
        assert sum(sum(group) for group in groups) == 200
        assert all(all(count == 50 for count in group[:-1]) and group[-1] <= 50 for group in groups)
        assert len(groups[0]) > 1
        schema = files[0].schema_arrow
        assert [str(field.type) for field in schema] == ["string", "string", "fixed_size_list<element: float>[32]"]
        assert [field.nullable for field in schema] == [False, True, False]

    def test_texts_are_null_where_the_release_carries_none(self, make_shop, products, encoder_directory, tmp_path):
        config = make_shop(products(50), texts=False)
        build_release(config, RUN_DATE, encoder_directory=encoder_directory, story={}, progress=False)
        export(config.shop.release, tmp_path / "out", "parquet")
        assert read_parquet(tmp_path / "out" / "products")[1] == [None] * 50
        export(config.shop.release, tmp_path / "json", "opensearch")
        sources = read_lines(tmp_path / "json" / "products", [ACTION, SOURCE])[1::2]
        assert all(set(source) == {"id", "vector"} for source in sources)


class TestDocuments:
    def test_numbers_come_back_the_same(self, golden, tmp_path):
        export(golden / "release_v2", tmp_path / "npy", "npy")
        export(golden / "release_v2", tmp_path / "vespa", "vespa")
        vectors = np.array(read_vespa(tmp_path / "vespa" / "products")[2]).astype(np.float32)
        np.testing.assert_array_equal(vectors, np.load(tmp_path / "npy" / "products" / "vectors.npy"))

    def test_the_namespace_is_an_option(self, golden, tmp_path):
        export(golden / "release_v1", tmp_path / "out", "vespa", namespace="my.shop-1")
        first = read_lines(tmp_path / "out" / "queries", VESPA)[0]
        assert first["put"] == f"id:my.shop-1:queries::{first['fields']['id']}"
        for wrong in ("", "a:b", "a b", "x" * 101):
            with pytest.raises(ConfigError, match="namespace"):
                ExportOptions(format="vespa", namespace=wrong)

    def test_files_for_bulk_are_of_bounded_size(self, golden, tmp_path, monkeypatch):
        monkeypatch.setattr(documents, "BULK_BYTES", 5_000)
        export(golden / "release_v1", tmp_path / "out", "opensearch")
        sizes = [path.stat().st_size for path in (tmp_path / "out" / "products").iterdir()]
        assert len(sizes) > 10
        assert max(sizes) <= 5_000

    @pytest.mark.parametrize("character", ["\ufdd0", "\ufddf", "\U0001fffe", "\U0010ffff", "\x01", "\x0b"])
    def test_vespa_gets_no_character_that_it_refuses(self, tmp_path, character):
        write_vespa(one_row("a", f"b{character}c"), tmp_path, "shop")
        assert read_lines_of_one(tmp_path)["fields"]["text"] == "b c"
        with pytest.raises(ContractError, match=r"products: id .* has a character that Vespa takes in no id"):
            write_vespa(one_row(f"a{character}", "b"), tmp_path, "shop")

    @pytest.mark.parametrize("character", ["\t", "\x7f", "\x80", "\ufdcf", "\ufde0", "\ufffd", "\uffff", "\U0001fffd"])
    def test_vespa_gets_every_other_character(self, tmp_path, character):
        write_vespa(one_row(f"a{character}", f"b{character}"), tmp_path, "shop")
        document = read_lines_of_one(tmp_path)
        assert document["put"] == f"id:shop:products::a{character}"
        assert document["fields"]["text"] == f"b{character}"


class TestHnswlib:
    def test_the_file_is_laid_out_as_hnswlib_says(self, tmp_path):
        """Three rows in two dimensions with m = 2, worked by hand from saveIndex in hnswalg.h."""
        index = faiss.IndexHNSWFlat(2, 2, faiss.METRIC_INNER_PRODUCT)
        vectors = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
        index.add(vectors)
        levels = faiss.vector_to_array(index.hnsw.levels) - 1
        write_hnswlib(shard_rows(index, ["a", "b", "c"], dead=[1]), tmp_path)
        data = (tmp_path / "index-00000.hnsw").read_bytes()
        # Per row: count and mark (4), 2 m links (16), 2 numbers (8), label (8).
        head = struct.unpack_from("<6Q", data)
        assert head == (0, 3, 3, 36, 28, 20)
        assert struct.unpack_from("<iI", data, 48) == (levels.max(), index.hnsw.entry_point)
        assert struct.unpack_from("<3QdQ", data, 56) == (2, 4, 2, pytest.approx(1 / np.log(2)), 40)
        rows = [struct.unpack_from("<HBB4I2fQ", data, 96 + 36 * row) for row in range(3)]
        # Dead rows are marked; labels are lines of ids.txt, and past its two lines for the dead.
        assert [(row[1], row[2], row[-1]) for row in rows] == [(0, 0, 0), (1, 0, 2), (0, 0, 1)]
        assert (tmp_path / "ids.txt").read_text() == "a\nc\n"
        np.testing.assert_array_equal(np.array([row[7:9] for row in rows], dtype=np.float32), vectors)
        # With three rows and four places, each is linked to both others.
        assert [sorted(row[3 : 3 + row[0]]) for row in rows] == [[1, 2], [0, 2], [0, 1]]
        place = 96 + 3 * 36
        for level in levels:
            # A list of a higher level is a count and m links, 12 bytes.
            assert struct.unpack_from("<I", data, place) == (12 * level,)
            place += 4 + 12 * level
        assert place == len(data)

    @pytest.mark.parametrize("dead", [0, 300])
    @pytest.mark.parametrize("storage", ["flat", "sqfp16", "sq8"])
    def test_it_finds_what_exact_search_and_faiss_find(self, tmp_path, storage, dead):
        draw = np.random.default_rng(7)
        centres = draw.normal(size=(40, 24))
        vectors = centres[draw.integers(40, size=3_000)] + 0.4 * draw.normal(size=(3_000, 24))
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        options = IndexConfig(m=16, ef_construction=100, ef_search=100, storage=storage, threads=1)
        index = build_index(vectors, options)
        gone = np.sort(draw.choice(3_000, dead, replace=False))
        alive = np.setdiff1d(np.arange(3_000), gone)
        write_hnswlib(shard_rows(index, [f"P{row}" for row in range(3_000)], dead=gone, storage=storage), tmp_path)
        queries = vectors[draw.choice(3_000, 100, replace=False)] + 0.1 * draw.normal(size=(100, 24))
        queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
        labels, scores = search_files(tmp_path, 24, queries, k=10, ef=100)
        ids = np.array(read_ids(tmp_path))
        assert ids.tolist() == [f"P{row}" for row in alive]
        stored = index.reconstruct_n(0, 3_000)[alive]
        exact = np.argsort(-(queries @ stored.T), axis=1, kind="stable")[:, :10]
        recall = np.mean([len(set(found) & set(best)) / 10 for found, best in zip(labels, exact, strict=True)])
        assert recall >= 0.99
        np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", queries, stored[labels]), atol=1e-5)
        selector = select_rows(gone.astype(np.uint32), 3_000) if dead else None
        _, theirs = search_shard(index, queries, 10, 100, selector)
        same = np.mean([set(alive[found]) == set(best) for found, best in zip(labels, theirs, strict=True)])
        assert same >= 0.9

    def test_all_shards_together_answer_like_the_reader(self, golden, encoder_directory, tmp_path):
        export(golden / "release_v2", tmp_path / "out", "hnswlib")
        queries = ["red baby bottle", "steel cup", "green hose", "kids water bottle"]
        vectors = open_encoder(encoder_directory, threads=1).encode_queries(queries)
        # No shard is asked for more than the delta has.
        labels, scores = search_files(tmp_path / "out" / "products", 32, vectors, k=5, ef=200)
        ids = read_ids(tmp_path / "out" / "products")
        index = open_index(str(golden / "release_v2"))
        for line, query in enumerate(queries):
            hits = index.search(query, k=5)
            assert scores[line] == pytest.approx([hit.score for hit in hits], abs=1e-5)
            best = {hit.id for hit in hits if hit.score > hits[-1].score + 1e-5}
            assert best <= {ids[label] for label in labels[line]}

    def test_it_takes_more_rows_later(self, golden, tmp_path):
        hnswlib = pytest.importorskip("hnswlib", reason=NO_HNSWLIB)
        export(golden / "release_v1", tmp_path / "out", "hnswlib")
        index = hnswlib.Index(space="ip", dim=32)
        index.load_index(str(tmp_path / "out" / "products" / "index-00000.hnsw"), max_elements=1_000)
        assert (index.M, index.ef_construction) == (8, 40)
        vectors = np.random.default_rng(1).normal(size=(500, 32)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        index.add_items(vectors, np.arange(5_000, 5_500), num_threads=1)
        index.set_ef(200)
        labels, _ = index.knn_query(vectors, k=1, num_threads=1)
        assert np.mean(labels[:, 0] == np.arange(5_000, 5_500)) >= 0.99

    def test_links_out_of_the_shard_are_refused(self, tmp_path):
        index = build_index(np.eye(8, dtype=np.float32), IndexConfig(m=4, ef_construction=10, threads=1))
        faiss.rev_swig_ptr(index.hnsw.neighbors.data(), 1)[0] = 8
        with pytest.raises(IntegrityError, match="has links to rows that it lacks"):
            write_hnswlib(shard_rows(index, list("abcdefgh")), tmp_path)


def shard_rows(index, ids, *, texts=None, dead=(), storage="flat"):
    """A shard that stands alone in its collection."""
    live = np.ones(len(ids), dtype=np.bool_)
    live[list(dead)] = False
    entry = CollectionEntry(
        name="products",
        rows=int(live.sum()),
        rows_in=int(live.sum()),
        duplicates=0,
        rejected={},
        dimension=index.d,
        metric="inner_product",
        storage=storage,
        m=index.hnsw.nb_neighbors(1),
        ef_construction=index.hnsw.efConstruction,
        ef_search=16,
        shards=(),
    )
    lines = [Lines("".join(f"{line}\n" for line in column).encode(), "test") for column in (ids, texts or ids)]
    return ShardRows(
        collection=entry,
        number=0,
        loaded=LoadedShard(index=index, ids=lines[0], texts=lines[1]),
        live=live,
        first=0,
        first_dead=0,
        advance=lambda _: None,
    )


def one_row(name, text):
    index = build_index(np.eye(1, 32, dtype=np.float32), IndexConfig(m=4, ef_construction=10, threads=1))
    return shard_rows(index, [name], texts=[text])


def read_lines_of_one(folder):
    (document,) = read_lines(folder, VESPA)
    return document


class TestCommand:
    def run(self, *words):
        return CliRunner().invoke(indexer, ["export", *(str(word) for word in words)])

    def test_it_prints_what_it_wrote(self, golden, tmp_path):
        result = self.run(golden / "release_v2", tmp_path / "out", "--format", "npy", "--collection", "products")
        assert result.exit_code == 0, result.output
        lines = result.stdout.splitlines()
        assert lines[0] == f"export  {tmp_path / 'out'}  npy  run 2026-11-21-e51497bbacd7  log entry 2"
        assert re.split(" {2,}", lines[2].strip()) == [
            *("products", "200", "3", "32", "inner_product", "flat", "as embedded", "8", "32")
        ]
        assert (tmp_path / "out" / "products" / "vectors.npy").exists()

    def test_json_is_export_json(self, golden, tmp_path):
        result = self.run(golden / "release_v1", tmp_path / "out", "--format", "parquet", "--encoder", "--json")
        assert json.loads(result.stdout) == json.loads((tmp_path / "out" / "export.json").read_bytes())

    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            (["{live}", "{new}", "--format", "csv"], 2, "expected one of parquet, npy, vespa, opensearch, hnswlib"),
            (["{live}", "{new}", "--format", "npy", "--collection", "brands"], 2, "expected one of products, queries"),
            (["{live}", "{new}", "--format", "vespa", "--namespace", "a:b"], 2, "namespace 'a:b': expected letters"),
            (["{live}", "{live}", "--format", "npy"], 2, "expected a new or empty folder"),
            (["{new}", "{new}", "--format", "npy"], 75, "no release is published here"),
            (["ftp://x", "{new}", "--format", "npy"], 2, "expected a folder or s3://bucket/prefix"),
            (["{live}", "/dev/null/x", "--format", "npy"], 75, "check the folder, its rights and the disk"),
            (["{live}", "{new}"], 2, "--format"),
        ],
    )
    def test_a_mistake_ends_in_one_sentence_and_its_exit_code(self, golden, tmp_path, words, code, message):
        result = self.run(*(word.format(live=golden / "release_v1", new=tmp_path / "new") for word in words))
        assert result.exit_code == code, result.output
        assert message in result.stderr
        assert "Traceback" not in result.output
        assert list(tmp_path.iterdir()) == []
