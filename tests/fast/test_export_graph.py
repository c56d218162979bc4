"""hnswlib's files of a FAISS graph: their bytes by hand, and what hnswlib finds in them."""

import struct

import faiss
import numpy as np
import pytest

from indexer.encoder import open_encoder
from indexer.errors import IntegrityError
from indexer.export.graph import write_hnswlib
from indexer.export.release import ExportOptions, export_release
from indexer.hnsw import build_index
from indexer.index_config import IndexConfig
from indexer.reader import open_index
from indexer.shard_search import search_shard, select_rows

NO_HNSWLIB = "hnswlib is not installed; pip compiles it: pip install hnswlib"


@pytest.fixture(scope="module")
def hnswlib():
    return pytest.importorskip("hnswlib", reason=NO_HNSWLIB)


@pytest.fixture
def exported(golden, tmp_path):
    """The products of two nights."""
    export_release(str(golden / "release_v2"), tmp_path / "out", ExportOptions(format="hnswlib"), progress=False)
    return tmp_path / "out" / "products"


def read_ids(folder):
    return (folder / "ids.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")


def search_files(hnswlib, folder, dimension, queries, k, ef):
    """Search all files of hnswlib as docs/exports.md does; return labels and scores, (queries, k)."""
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


def test_the_file_is_laid_out_as_hnswlib_says(make_shard_rows, tmp_path):
    """Three rows in two dimensions with m = 2, worked by hand from saveIndex in hnswalg.h."""
    index = faiss.IndexHNSWFlat(2, 2, faiss.METRIC_INNER_PRODUCT)
    vectors = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    index.add(vectors)
    levels = faiss.vector_to_array(index.hnsw.levels) - 1
    write_hnswlib(make_shard_rows(index, ["a", "b", "c"], dead=[1]), tmp_path)
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
    # On the three levels above, where only the first two rows are, a list is a count and m links: each has the other.
    assert levels.tolist() == [3, 3, 0]
    above = [struct.unpack_from("<10I", data, 204 + 40 * row) for row in (0, 1)]
    assert above == [(36, *[1, 1, 0] * 3), (36, *[1, 0, 0] * 3)]
    assert data[284:] == bytes(4)


@pytest.mark.parametrize("dead", [0, 300])
@pytest.mark.parametrize("storage", ["flat", "sqfp16", "sq8"])
def test_it_finds_what_exact_search_and_faiss_find(hnswlib, make_shard_rows, tmp_path, storage, dead):
    draw = np.random.default_rng(7)
    centres = draw.normal(size=(40, 24))
    vectors = centres[draw.integers(40, size=3_000)] + 0.4 * draw.normal(size=(3_000, 24))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    options = IndexConfig(m=16, ef_construction=100, ef_search=100, storage=storage, threads=1)
    index = build_index(vectors, options)
    gone = np.sort(draw.choice(3_000, dead, replace=False))
    alive = np.setdiff1d(np.arange(3_000), gone)
    write_hnswlib(make_shard_rows(index, [f"P{row}" for row in range(3_000)], dead=gone, storage=storage), tmp_path)
    queries = vectors[draw.choice(3_000, 100, replace=False)] + 0.1 * draw.normal(size=(100, 24))
    queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
    labels, scores = search_files(hnswlib, tmp_path, 24, queries, k=10, ef=100)
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


def test_all_shards_together_answer_like_the_reader(hnswlib, exported, golden, encoder_directory):
    queries = ["red baby bottle", "steel cup", "green hose", "kids water bottle"]
    vectors = open_encoder(encoder_directory, threads=1).encode_queries(queries)
    # No shard is asked for more than the delta has.
    labels, scores = search_files(hnswlib, exported, 32, vectors, k=5, ef=200)
    ids = read_ids(exported)
    index = open_index(str(golden / "release_v2"))
    for line, query in enumerate(queries):
        hits = index.search(query, k=5)
        assert scores[line] == pytest.approx([hit.score for hit in hits], abs=1e-5)
        best = {hit.id for hit in hits if hit.score > hits[-1].score + 1e-5}
        assert best <= {ids[label] for label in labels[line]}


def test_it_takes_more_rows_later(hnswlib, exported):
    index = hnswlib.Index(space="ip", dim=32)
    index.load_index(str(exported / "index-00000.hnsw"), max_elements=1_000)
    assert (index.M, index.ef_construction) == (8, 40)
    vectors = np.random.default_rng(1).normal(size=(500, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index.add_items(vectors, np.arange(5_000, 5_500), num_threads=1)
    index.set_ef(200)
    labels, _ = index.knn_query(vectors, k=1, num_threads=1)
    assert np.mean(labels[:, 0] == np.arange(5_000, 5_500)) >= 0.99


def test_links_out_of_the_shard_are_refused(make_shard_rows, tmp_path):
    index = build_index(np.eye(8, dtype=np.float32), IndexConfig(m=4, ef_construction=10, threads=1))
    faiss.rev_swig_ptr(index.hnsw.neighbors.data(), 1)[0] = 8
    with pytest.raises(IntegrityError, match="has links to rows that it lacks"):
        write_hnswlib(make_shard_rows(index, list("abcdefgh")), tmp_path)
