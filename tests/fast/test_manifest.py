"""Manifests come from storage that others can write: whatever is wrong is named, nothing else happens."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer import manifest as manifests
from indexer.errors import ManifestError
from indexer.manifest import parse_manifest, write_manifest
from indexer.strict_json import parse_record, write_document
from indexer.text import shorten

Document = dict[str, Any]


@pytest.fixture
def document(golden: Path) -> Document:
    return json.loads(newest_manifest(golden / "release_v3"))


def newest_manifest(release: Path) -> bytes:
    return max(release.glob("v/*/manifest.*.json")).read_bytes()


def test_the_golden_manifest_is_read_and_written_unchanged(golden: Path):
    data = newest_manifest(golden / "release_v3")
    manifest = parse_manifest(data, "m")
    assert write_manifest(manifest) == data
    products, queries = manifest.collections
    assert [(item.name, item.rows, len(item.shards)) for item in (products, queries)] == [
        ("products", 200, 3),
        ("queries", 60, 2),
    ]
    assert [(shard.rows, shard.live_rows, shard.delta) for shard in products.shards] == [
        (92, 89, False),
        (108, 104, False),
        (7, 7, True),
    ]
    assert (len(products.base), len(products.deltas)) == (2, 1)
    # Encoder, index, ids, texts and digests of each shard, two lists of dead rows, canaries, report.
    assert len(manifest.objects) == 3 + 5 * 4 + 2 + 1 + 1
    assert len(manifest.downloads) == 3 + 5 * 3 + 2 + 1


@pytest.mark.line(85)
def test_a_manifest_of_format_1_is_read(golden: Path):
    manifest = parse_manifest(newest_manifest(golden / "release_v1"), "m")
    assert [(item.name, item.rows, len(item.shards)) for item in manifest.collections] == [
        ("products", 200, 2),
        ("queries", 60, 2),
    ]
    shards = [shard for item in manifest.collections for shard in item.shards]
    assert {(shard.digests, shard.dead, shard.delta) for shard in shards} == {(None, None, False)}
    assert len(manifest.objects) == len(manifest.downloads) + 1 == 3 + 4 * 3 + 1


def test_a_manifest_of_format_2_is_read(golden: Path):
    manifest = parse_manifest(newest_manifest(golden / "release_v2"), "m")
    assert [shard.delta for shard in manifest.collections[0].shards] == [False, False, True]
    assert manifest.canaries is None
    assert len(manifest.objects) == len(manifest.downloads) + 5 + 1 == 3 + 5 * 4 + 2 + 1


def set_at(*path: str | int, value: object) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        place: Any = document
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return change


def repeat_shard(document: Document) -> None:
    shards = document["collections"][0]["shards"]
    shards[1] = shards[0]


def drop_shard(document: Document) -> None:
    del document["collections"][0]["shards"][0]


def move_delta(document: Document) -> None:
    """Put the delta between the base shards."""
    shards = document["collections"][0]["shards"]
    shards[1]["delta"], shards[2]["delta"] = True, False


def make_deltas(document: Document) -> None:
    for shard in document["collections"][0]["shards"]:
        shard["delta"] = True


SHARD = ("collections", 0, "shards", 0)
INDEX = (*SHARD, "index")
KEYS = [
    "../../other",
    "/etc/passwd",
    "v//x",
    "v/%2e%2e/x",
    "v\\x",
    "v/a\0b",
    "s3://b/v/x",
    "v/../log/1",
    "log/1",
    "v/./x",
    "v/" + "x" * 201,
    "v" + "/x" * 256,
]
CHANGES = [
    (set_at(*INDEX, "key", value=key), re.escape(f"index.key: expected a plain key below v/, found {shorten(key)}"))
    for key in KEYS
] + [
    (set_at(*INDEX, "sha256", value=value), "index.sha256: expected a SHA-256 in 64 lower-case hex digits")
    for value in ("", "ab", "A" * 64, "d41d8cd98f00b204e9800998ecf8427e", None, "g" * 64, "0" * 64 + "\n")
] + [
    (set_at(*INDEX, "bytes", value=value), "index.bytes: expected a whole number from 0")
    for value in (-1, 2**64, 1.5, "7", True, None)
] + [
    (set_at("format", value=4), "format: this program reads formats 1 to 3, found 4; upgrade it"),
    (set_at("format", value="1"), "format: expected a whole number"),
    (set_at("run_id", value="a/b"), "run_id: expected text of the form"),
    (set_at("run_date", value="20.11.2026"), "run_date"),
    (set_at("parent", value=-1), "parent: expected a whole number"),
    (set_at("created_at", value=""), "created_at: expected text"),
    (set_at("created_at", value="yesterday"), "created_at: expected an ISO 8601 time"),
    (set_at("created_at", value="2026-11-20T01:02:03"), "created_at: expected an ISO 8601 time with its zone"),
    (set_at("surprise", value=1), "unknown field 'surprise'"),
    (set_at("collections", value=[]), "collections: expected one or more"),
    (set_at("collections", 0, "name", value="Products!"), "name"),
    (set_at("collections", 1, "name", value="products"), "shards of products"),
    (set_at("collections", 0, "metric", value="l2"), "metric: expected one of inner_product"),
    (set_at("collections", 0, "storage", value="ivf"), "storage: expected one of flat, sqfp16, sq8, found 'ivf'$"),
    (set_at("collections", 0, "dimension", value=0), "dimension"),
    (set_at("collections", 0, "m", value=1), "m: expected a whole number from 2"),
    (set_at("collections", 0, "rows", value=201), "rows: expected the sum over its shards, 200, found 201"),
    (set_at("collections", 0, "rows_in", value=999),
        "rows_in: expected rows, duplicates and rejected together, 200, found 999$"),
    (set_at("collections", 0, "rejected", value={"text_empty": -1}), "rejected.text_empty: expected a whole number"),
    (set_at(*SHARD, "delta", value=True), r"m.collections\[0\].shards: expected base shards, then deltas, "
        r"found \[True, False, True\]$"),
    (move_delta, r"expected base shards, then deltas, found \[False, True, False\]$"),
    (make_deltas, r"expected base shards, then deltas, found \[True, True, True\]$"),
    (set_at(*SHARD, "delta", value=1), "delta: expected true or false"),
    (set_at(*SHARD, "digests", value="x"), "digests: expected an object"),
    (set_at(*SHARD, "dead", "count", value=0), "dead.count: expected a whole number from 1"),
    (set_at(*SHARD, "dead", "count", value=4), "dead.rows: expected 16 bytes, found 12"),
    (set_at(*SHARD, "dead", value=None), "rows: expected the sum over its shards, 203, found 200"),
    (set_at(*SHARD, "rows", value=3), "dead.count: expected less than 3, or a shard has no row, found 3$"),
    (set_at(*SHARD, "rows", value=2), "dead.count: expected less than 2, or a shard has no row, found 3$"),
    (set_at(*SHARD, "rows", value=0), "rows: expected a whole number from 1"),
    (set_at(*SHARD, "number", value=5),
        r"m.collections\[0\].shards: expected shards numbered 0, 1, 2 and so on, each once, found \[5, 1, 2\]$"),
    (set_at(*SHARD, "collection", value="queries"),
        r"m.collections\[0\].shards: expected shards of products, found 'queries'$"),
    (set_at(*SHARD, "collection", value="Products!"), r"shards\[0\].collection: expected text of the form"),
    (repeat_shard, "shards numbered 0, 1, 2 and so on, each once, found \\[0, 0, 2\\]"),
    (drop_shard, "shards numbered 0, 1, 2"),
    (set_at("encoder", "objects", value=[]),
        r"encoder.objects: expected the files encoder.json, encoder.onnx, tokenizer.json, found \[\]$"),
    (set_at("encoder", "fingerprint", value="0" * 64),
        f"encoder.fingerprint: expected the SHA-256 of encoder.json, found '{'0' * 64}'$"),
    (set_at("gates", 0, "passed", value="yes"), "passed: expected true or false"),
    (set_at("versions", value={"faiss": 1}), "versions.faiss: expected text"),
    (set_at("report", value=[]), "report: expected an object"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), CHANGES)
@pytest.mark.line(81, 82, 83, 85, 86, 87)
def test_every_broken_field_is_named(document: Document, change: Callable[[Document], None], message: str):
    change(document)
    with pytest.raises(ManifestError, match=message):
        parse_manifest(json.dumps(document).encode(), "m")


def test_every_field_is_needed(document: Document):
    for name in document:
        with pytest.raises(ManifestError, match=f"field '{name}' is missing"):
            parse_manifest(json.dumps({k: v for k, v in document.items() if k != name}).encode(), "m")


@pytest.mark.line(86)
def test_an_object_is_listed_once(document: Document):
    shard = document["collections"][0]["shards"][0]
    shard["ids"]["key"] = shard["index"]["key"]
    with pytest.raises(ManifestError) as caught:
        parse_manifest(json.dumps(document).encode(), "m")
    assert str(caught.value) == f"m: object {shard['index']['key']!r} is listed twice"


def test_a_key_of_as_many_characters_as_a_store_holds_is_read(document: Document):
    # 2 and 200, then 155 names of one character.
    key = "v/" + "x" * 200 + "/x" * 155
    assert len(key) == 512
    set_at(*INDEX, "key", value=key)(document)
    assert parse_manifest(json.dumps(document).encode(), "m").collections[0].shards[0].index.key == key


def test_names_are_not_compared_each_with_each():
    class Key(str):
        compared = 0
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            Key.compared += 1
            return super().__eq__(other)

    keys = [f"v/a/{number}" for number in range(500)]
    manifest: Any = SimpleNamespace(
        collections=[SimpleNamespace(name="products")],
        versions={},
        objects=[SimpleNamespace(key=Key(key)) for key in (*keys, keys[7], keys[3])],
    )
    with pytest.raises(ManifestError, match=r"^m: object 'v/a/3' is listed twice$"):
        manifests._check_names(manifest, "m")
    assert Key.compared < 10


def smallest(**changes: object) -> Document:
    """Return a collection in which every number is the least that is allowed."""
    objects = {name: {"key": f"v/a/{name}", "bytes": 0, "sha256": "0" * 64} for name in ("index", "ids", "dead")}
    dead = {"count": 3, "rows": {**objects.pop("dead"), "bytes": 12}}
    shard = {
        "collection": "products",
        "number": 0,
        "rows": 4,
        "fingerprint": "0" * 64,
        **objects,
        "texts": None,
        "digests": None,
        "dead": dead,
        "delta": False,
    }
    collection = {
        "name": "products",
        "rows": 1,
        "rows_in": 6,
        "duplicates": 2,
        "rejected": {"text_empty": 3},
        "dimension": 1,
        "metric": "inner_product",
        "storage": "flat",
        "m": 2,
        "ef_construction": 1,
        "ef_search": 1,
        "shards": [shard],
    }
    return collection | changes


def test_the_least_that_is_allowed_is_read(document: Document):
    (collection,) = parse_manifest(json.dumps(document | {"collections": [smallest()]}).encode(), "m").collections
    assert (collection.rows, collection.rows_in, collection.duplicates) == (1, 6, 2)
    assert (collection.dimension, collection.m, collection.ef_construction, collection.ef_search) == (1, 2, 1, 1)
    assert (collection.shards[0].rows, collection.shards[0].live_rows) == (4, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 0}, "rows: expected a whole number from 1 to 4611686018427387904, found 0"),
        ({"dimension": 0}, "dimension: expected a whole number from 1 to 4611686018427387904, found 0"),
        ({"m": 1}, "m: expected a whole number from 2 to 4611686018427387904, found 1"),
        ({"ef_construction": 0}, "ef_construction: expected a whole number from 1 to 4611686018427387904, found 0"),
        ({"ef_search": 0}, "ef_search: expected a whole number from 1 to 1048576, found 0"),
        ({"ef_search": 1_048_577}, "ef_search: expected a whole number from 1 to 1048576, found 1048577"),
        ({"duplicates": -1}, "duplicates: expected a whole number from 0 to 4611686018427387904, found -1"),
        ({"rows_in": 7}, "rows_in: expected rows, duplicates and rejected together, 6, found 7"),
        ({"rows_in": 5}, "rows_in: expected rows, duplicates and rejected together, 6, found 5"),
        ({"rows": 2}, "rows: expected the sum over its shards, 1, found 2"),
    ],
)
def test_less_than_that_is_not(document: Document, changes: dict[str, object], message: str):
    with pytest.raises(ManifestError) as caught:
        parse_manifest(json.dumps(document | {"collections": [smallest(**changes)]}).encode(), "m")
    assert str(caught.value) == f"m.collections[0].{message}"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'"text"',
        b'{"a": 1} x',
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 1}}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1e999}',
        b'{"a": "\xff"}',
        b"[" * 100_000,
        b'{"a": ' * 50_000,
        b'{"a": ' + b"9" * 5_000 + b"}",
        b'{"a": ' + b"9" * 309 + b"}",
        b'{"a": -' + b"9" * 309 + b"}",
        b'{"a": "\\ud800"}',
        b'{"a": ["\\udfff"]}',
        b'{"\\ud800": 1}',
        b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}",
        b'{"a": ' * 65 + b"1" + b"}" * 65,
        b" " * (17 << 20),
    ],
)
@pytest.mark.line(84)
def test_what_is_not_strict_json_is_refused(data: bytes):
    with pytest.raises(ManifestError, match=r"not strict JSON|expected an object|expected at most"):
        parse_record(data, "m", ManifestError)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b'{"a": ' + b"9" * 308 + b"}", "number"),
        ('{"a": "\ud7ff\ue000\U00010000"}'.encode(), "text"),
        (b'{"a": "\\ud800\\udc00"}', "text"),
        (b'{"a": ' + b"[" * 63 + b"]" * 63 + b"}", "values"),
        (b'{"a": ' * 64 + b'"1"' + b"}" * 64, "mapping"),
    ],
)
def test_what_is_just_strict_json_can_be_written_again(data: bytes, kind: str):
    written = write_document({"a": getattr(parse_record(data, "m", ManifestError), kind)("a")})
    assert json.loads(written) == ({"a": float("9" * 308)} if kind == "number" else json.loads(data))
    parse_record(written, "m", ManifestError)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=10)
    | st.sampled_from([10**308, 10**309, "\ud800"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


@given(st.data())
def test_any_damage_is_a_manifest_error_or_harmless(data: st.DataObject):
    golden = Path(__file__).parents[1] / "golden" / "release_v1"
    document = json.loads(next(golden.glob("v/*/manifest.*.json")).read_bytes())
    place: Any = document
    while isinstance(place, dict | list) and place:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if data.draw(st.booleans()) or not isinstance(place[key], dict | list) or not place[key]:
            place[key] = data.draw(JSON)
            break
        place = place[key]
    try:
        manifest = parse_manifest(json.dumps(document).encode("utf-8", "surrogatepass"), "m")
    except ManifestError:
        return
    assert parse_manifest(write_manifest(manifest), "m") == manifest


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_without_another_error(data: bytes):
    with pytest.raises(ManifestError):
        parse_manifest(data, "m")
