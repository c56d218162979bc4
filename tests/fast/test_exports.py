"""Exports, each read again by a tool that is not ours."""

import errno
import json
import os
import re
import shutil
import weakref
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from indexer.build.release import build_release
from indexer.cli.group import indexer
from indexer.encoder import open_encoder
from indexer.errors import ConfigError, ContractError, IntegrityError, StoreError
from indexer.export import documents, graph, release, rows
from indexer.export.documents import write_vespa
from indexer.export.release import FORMATS, ExportOptions, export_release
from indexer.export.rows import load_rows
from indexer.hnsw import build_index
from indexer.index_config import IndexConfig
from indexer.store import hash_file, open_store

RUN_DATE = "2026-11-20"
NO_HNSWLIB = "hnswlib is not installed; pip compiles it: pip install hnswlib"
HOSTILE = (
    'a"b',
    "a\\b",
    "a/b/..c",
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
    @pytest.fixture
    def one_row(self, make_shard_rows):
        index = build_index(np.eye(1, 32, dtype=np.float32), IndexConfig(m=4, ef_construction=10, threads=1))
        return lambda name, text: make_shard_rows(index, [name], texts=[text])

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
    def test_vespa_gets_no_character_that_it_refuses(self, one_row, tmp_path, character):
        write_vespa(one_row("a", f"b{character}c"), tmp_path, "shop")
        (document,) = read_lines(tmp_path, VESPA)
        assert document["fields"]["text"] == "b c"
        with pytest.raises(ContractError, match=r"products: id .* has a character that Vespa takes in no id"):
            write_vespa(one_row(f"a{character}", "b"), tmp_path, "shop")

    @pytest.mark.parametrize("character", ["\t", "\x7f", "\x80", "\ufdcf", "\ufde0", "\ufffd", "\uffff", "\U0001fffd"])
    def test_vespa_gets_every_other_character(self, one_row, tmp_path, character):
        write_vespa(one_row(f"a{character}", f"b{character}"), tmp_path, "shop")
        (document,) = read_lines(tmp_path, VESPA)
        assert document["put"] == f"id:shop:products::a{character}"
        assert document["fields"]["text"] == f"b{character}"


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
