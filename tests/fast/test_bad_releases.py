"""Bad manifests, logs and shards (tests/bad_inputs): a consumer refuses with 6 and goes on with what it serves."""

import hashlib
import json
import shutil
import struct

import faiss
import numpy as np
import pytest
from click.testing import CliRunner

from indexer.cli.group import indexer
from indexer.errors import IntegrityError
from indexer.log import log_key
from indexer.reader import open_index
from tests.bad_inputs.lines import line

RUN = "2026-11-20-49d9754a9949"


class Live:
    """A copy of the golden release, to be spoilt in ways that keep all hashes right."""

    def __init__(self, folder):
        self.folder = folder
        self.manifest = next(folder.glob("v/*/manifest.*.json"))

    def rewrite_manifest(self, data):
        """Give the manifest other bytes, and the log entry their size and hash, as somebody with the bucket would."""
        self.manifest.write_bytes(data)
        entry = json.loads((self.folder / log_key(1)).read_bytes())
        entry["manifest"] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (self.folder / log_key(1)).write_text(json.dumps(entry))

    def change_manifest(self, change):
        """Change the manifest's document."""
        document = json.loads(self.manifest.read_bytes())
        change(document)
        self.rewrite_manifest(json.dumps(document).encode())

    def change_shard(self, change, kind="index"):
        """Change the bytes of a file of the first shard of products, and what the manifest says of them."""
        entry = json.loads(self.manifest.read_bytes())["collections"][0]["shards"][0][kind]
        path = self.folder / entry["key"]
        data = change(path.read_bytes())
        path.write_bytes(data)
        known = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        self.change_manifest(lambda document: document["collections"][0]["shards"][0][kind].update(known))


@pytest.fixture
def live(golden, tmp_path):
    return Live(shutil.copytree(golden / "release_v1", tmp_path / "live"))


@pytest.fixture
def assert_refused(live):
    """Return a function that spoils the live release and shows that nobody serves it; the old one goes on."""

    def check(spoil, message):
        serving = open_index(str(live.folder))
        before = serving.search("red mug", k=3)
        spoil(live)
        with pytest.raises(IntegrityError, match=message):
            open_index(str(live.folder))
        result = CliRunner().invoke(indexer, ["query", str(live.folder), "red mug"])
        assert (result.exit_code, result.stdout) == (6, "")
        assert len(result.stderr.strip().splitlines()) == 1
        assert serving.search("red mug", k=3) == before

    return check


def set_object(name, value):
    def change(document):
        document["collections"][0]["shards"][0]["index"][name] = value

    return lambda live: live.change_manifest(change)


def change(act):
    return lambda live: live.change_manifest(act)


def repeat_shard(document):
    shards = document["collections"][0]["shards"]
    shards[1] = shards[0]


def drop_shard(document):
    del document["collections"][0]["shards"][0]


def insert(text):
    """Put text behind the first brace of the manifest."""
    return lambda live: live.rewrite_manifest(b"{" + text + live.manifest.read_bytes()[1:])


KEYS = ("../../other", "/etc/passwd", "v//x", "v/%2e%2e/x", "v\\x", "v/a\0b", "s3://other/v/x", "log/1", "v/../log/1")
NOWHERE = {"below a file": f"v/{RUN}/encoder/572edc979cf8/encoder.json/x", "a folder": f"v/{RUN}/encoder"}
HASHES = (None, "", "ab", "A" * 64, "d41d8cd98f00b204e9800998ecf8427e")
SIZES = (-1, 2**64, 1.5, float("nan"))

MANIFESTS = [
    *(line(81, set_object("key", key), "expected a plain key below v/", case=repr(key)) for key in KEYS),
    line(81, set_object("key", "v/" + "x" * 300), "expected a plain key below v/", case="300 characters"),
    *(line(81, set_object("key", key), f"{key}: the live release names", case=name) for name, key in NOWHERE.items()),
    *(line(82, set_object("sha256", value), "SHA-256 in 64 lower-case", case=repr(value)) for value in HASHES),
    *(line(83, set_object("bytes", value), "whole number|NaN is no JSON", case=repr(value)) for value in SIZES),
    line(84, insert(b'"format": 2, '), "twice|duplicate", case="a key twice"),
    line(84, insert(b'"x": NaN, '), "NaN is no JSON number", case="NaN"),
    line(84, insert(b'"x": ' + b"[" * 10_000 + b"]" * 10_000 + b", "), "strict JSON|nested|unknown field", case="deep"),
    line(84, lambda live: live.rewrite_manifest(live.manifest.read_bytes() + b"x"), "strict JSON", case="trailing"),
    line(84, lambda live: live.rewrite_manifest(b" " * (17 << 20)), "expected at most", case="17 MB"),
    line(85, change(lambda document: document.update(format=99)), "found 99; upgrade it"),
    line(86, change(repeat_shard), "each once, found"),
    line(86, change(drop_shard), "shards numbered", case="missing"),
    line(87, change(lambda document: document["collections"][0].update(rows=201)), "the sum over its shards"),
    line(87, change(lambda document: document["collections"][0].update(rows_in=7)), "rows_in", case="rows in"),
    line(89, lambda live: live.manifest.unlink(), "names this manifest, but it is not there"),
]


@pytest.mark.parametrize(("spoil", "message"), MANIFESTS)
def test_a_manifest_that_is_wrong_is_refused(assert_refused, spoil, message):
    assert_refused(spoil, message)


def append_entry(live, sequence, kind="rollback"):
    entry = json.loads((live.folder / log_key(1)).read_bytes())
    entry |= {"sequence": sequence, "parent": sequence - 1, "kind": kind}
    (live.folder / log_key(sequence)).write_text(json.dumps(entry))


LOGS = [
    line(88, [3], [], "log entry 2 is missing", case="gap"),
    line(88, [2], [2], "log ends at 1, but 2 was served already", case="older than served"),
]


@pytest.mark.parametrize(("appended", "lost", "message"), LOGS)
def test_a_log_that_is_not_whole_is_refused(live, appended, lost, message):
    index = open_index(str(live.folder))
    for sequence in appended:
        append_entry(live, sequence)
    if lost:
        assert index.refresh()
    before = index.release.sequence
    for sequence in lost:
        (live.folder / log_key(sequence)).unlink()
    with pytest.raises(IntegrityError, match=message) as caught:
        index.refresh()
    assert (caught.value.exit_code, index.release.sequence) == (6, before)
    assert index.search("red mug", k=1)


PUBLIC_KEY = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
-----END PUBLIC KEY-----
"""


@pytest.mark.parametrize("key", [line(90, PUBLIC_KEY)])
def test_a_release_without_its_signature_is_refused(live, tmp_path, key):
    (tmp_path / "key.pem").write_text(key)
    with pytest.raises(IntegrityError, match="signature"):
        open_index(str(live.folder), public_key=tmp_path / "key.pem")


def flip(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGES = [
    line(93, flip, case="flipped"),
    line(93, lambda data: data[:-2], case="cut"),
    line(93, lambda data: data + b"\0" * 64, case="lengthened"),
    line(93, lambda data: b"", case="empty"),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_refused_by_its_hash(assert_refused, monkeypatch, damage):
    def spoil(live):
        path = next(live.folder.glob("v/*/products-00000.*.faiss"))
        path.write_bytes(damage(path.read_bytes()))
        monkeypatch.setattr("indexer.loaded_release.open_shard", lambda *_, **__: pytest.fail("parsed before verified"))

    assert_refused(spoil, "it was changed")


def serialise(index):
    return faiss.serialize_index(index).tobytes()


def rebuild(make):
    """Replace the index of a shard by one that `make` makes of its vectors."""

    def change_bytes(data):
        whole = faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8))
        old = faiss.downcast_index(whole)
        vectors = old.reconstruct_n(0, old.ntotal)
        return serialise(make(vectors, old.hnsw.nb_neighbors(1)))

    return lambda live: live.change_shard(change_bytes)


def hnsw(dimensions, m, vectors, metric=faiss.METRIC_INNER_PRODUCT):
    index = faiss.IndexHNSWFlat(dimensions, m, metric)
    index.add(np.ascontiguousarray(vectors))
    return index


def make_factory(description):
    def make(vectors, m):
        index = faiss.index_factory(vectors.shape[1], description, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.add(vectors)
        return index

    return make


def with_ids(vectors, m):
    index = faiss.IndexIDMap2(faiss.IndexHNSWFlat(vectors.shape[1], m, faiss.METRIC_INNER_PRODUCT))
    index.add_with_ids(vectors, np.arange(len(vectors)))
    return index


def claim_terabytes(data):
    """Let the header of the level probabilities claim 2^40 of them."""
    start = 4 + struct.calcsize("<iqqqBi")
    return data[:start] + struct.pack("<Q", 2**40) + data[start + 8 :]


INDEXES = [
    line(
        94, rebuild(lambda v, m: hnsw(v.shape[1] // 2, m, v[:, : v.shape[1] // 2])), "dimension: exp", case="dimension"
    ),
    line(94, rebuild(lambda v, m: hnsw(v.shape[1], m, v, faiss.METRIC_L2)), "metric", case="metric"),
    line(94, rebuild(lambda v, m: hnsw(v.shape[1], m, v[:-1])), "rows: expected", case="count"),
    line(94, rebuild(lambda v, m: hnsw(v.shape[1], m + 1, v)), "neighbours per level", case="m"),
    line(94, rebuild(make_factory("HNSW8_SQ8")), "type: expected", case="type"),
    line(96, rebuild(make_factory("IVF4,Flat")), "the index was not opened", case="inverted file"),
    line(96, rebuild(make_factory("PCA8,HNSW4")), "the index was not opened", case="pre-transform"),
    line(96, rebuild(with_ids), "the index was not opened", case="id map"),
    line(97, lambda live: live.change_shard(claim_terabytes), "expected 8796093022208 bytes"),
    line(
        95, lambda live: live.change_shard(lambda data: data + b"X\n", "ids"), "lines, found|expected", case="one more"
    ),
    line(
        95, lambda live: live.change_shard(lambda data: data[data.index(b"\n") + 1 :], "ids"), "lines", case="one less"
    ),
]


@pytest.mark.parametrize(("spoil", "message"), INDEXES)
def test_a_shard_with_the_right_hash_and_another_shape_is_refused(assert_refused, spoil, message):
    assert_refused(spoil, message)
