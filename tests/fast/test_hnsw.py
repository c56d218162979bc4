"""Graphs made on codes: the vectors are found as if it had been made on them, and the bytes repeat."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from indexer import hnsw
from indexer.build.duplicates import UniqueRows
from indexer.build.release import build_release
from indexer.build.shard import fingerprint_shard
from indexer.config import Config
from indexer.hnsw import CODED_ROWS, build_index, encode_vectors, find_directions, write_index
from indexer.index_config import GatesConfig, IndexConfig
from indexer.index_file import IndexShape, read_index

ROWS, DIMENSION, CODES = CODED_ROWS + 50, 32, 16
CODED = IndexConfig(m=16, ef_construction=60, ef_search=64, graph_dimensions=CODES)
PLAIN = replace(CODED, graph_dimensions=0)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Unit vectors whose directions matter less and less, as those of texts do; the last 50 are to be searched."""
    generator = np.random.default_rng(5)
    rotation, _ = np.linalg.qr(generator.standard_normal((DIMENSION, DIMENSION)))
    found = (generator.standard_normal((ROWS + 50, DIMENSION)) * 0.85 ** np.arange(DIMENSION)) @ rotation
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def measure_recall(index: object, vectors: np.ndarray) -> float:
    base, queries = vectors[:ROWS], vectors[ROWS:]
    exact = np.argsort(-(queries @ base.T), axis=1)[:, :10]
    _, rows = index.search(queries, 10)  # type: ignore[attr-defined]
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, exact, strict=True)]))


def test_codes_are_the_best_projection_in_whole_numbers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hnsw, "CODED_ROWS", 2)
    # Second moments diag(4, 1, 0.25) * 2 / 6: the first two axes lead; the largest number, 2, becomes 127.
    vectors = np.array([[2, 0, 0], [0, 1, 0], [0, 0, 0.5], [-2, 0, 0], [0, -1, 0], [0, 0, -0.5]], dtype=np.float32)
    directions = find_directions(vectors, replace(CODED, graph_dimensions=2))
    assert directions is not None
    codes = encode_vectors(vectors, directions)
    assert np.abs(codes).tolist() == [[127, 0], [0, 64], [0, 0], [127, 0], [0, 64], [0, 0]]
    assert (codes[:3] == -codes[3:]).all()
    assert not encode_vectors(np.zeros((4, 3), dtype=np.float32), directions).any()
    # One axis keeps 4 of 5.25, too little of the vectors.
    assert find_directions(vectors, replace(CODED, graph_dimensions=1)) is None


@pytest.mark.parametrize("storage", ["flat", "sqfp16", "sq8"])
def test_a_graph_made_on_codes_finds_what_one_made_on_vectors_finds(tmp_path: Path, vectors: np.ndarray, storage: str):
    path = tmp_path / "index"
    write_index(build_index(vectors[:ROWS], replace(CODED, storage=storage)), path)
    index = read_index(path, IndexShape(rows=ROWS, dimension=DIMENSION, m=CODED.m, storage=storage))
    plain = build_index(vectors[:ROWS], replace(PLAIN, storage=storage))
    assert measure_recall(index, vectors) >= measure_recall(plain, vectors) - 0.02
    assert np.array_equal(index.reconstruct(7), plain.reconstruct(7))
    levels = [faiss.vector_to_array(found.hnsw.levels).tolist() for found in (index, plain)]
    assert levels[0] == levels[1]
    links = [faiss.vector_to_array(found.hnsw.neighbors) for found in (index, plain)]
    assert not np.array_equal(*links)


def test_the_same_vectors_give_the_same_bytes_on_any_number_of_threads(tmp_path: Path, vectors: np.ndarray):
    found = []
    for threads in (1, 2, 2):
        faiss.omp_set_num_threads(threads)
        write_index(build_index(vectors[:ROWS], CODED), tmp_path / "index")
        found.append((tmp_path / "index").read_bytes())
    faiss.omp_set_num_threads(1)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("rows", [3, 20_000])
def test_a_full_disk_is_noticed_to_the_last_byte(rows: int):
    # FAISS collects 4 KiB before it writes, and a file of less until it is closed.
    index = faiss.IndexFlatIP(4)
    index.add(np.ones((rows, 4), dtype=np.float32))
    with pytest.raises(OSError, match="No space left on device"):
        write_index(index, Path("/dev/full"))


def test_vectors_of_all_directions_alike_are_not_coded():
    drawn = np.random.default_rng(6).standard_normal((CODED_ROWS, DIMENSION), dtype=np.float32)
    assert find_directions(drawn, CODED) is None
    assert find_directions(drawn * 0.85 ** np.arange(DIMENSION, dtype=np.float32), CODED) is not None


@pytest.mark.parametrize(
    ("rows", "dimensions"), [(CODED_ROWS - 1, CODES), (ROWS, 0), (ROWS, DIMENSION)], ids=["few rows", "off", "as many"]
)
def test_codes_are_left_where_they_save_nothing(vectors: np.ndarray, rows: int, dimensions: int):
    options = replace(CODED, graph_dimensions=dimensions, ef_construction=16)
    found = build_index(vectors[:rows], options)
    plain = build_index(vectors[:rows], replace(options, graph_dimensions=0))
    assert np.array_equal(*(faiss.vector_to_array(index.hnsw.neighbors) for index in (found, plain)))


@pytest.mark.parametrize("useless", [False, True])
def test_a_shard_that_codes_serve_badly_is_made_again_on_its_vectors(
    make_shop: Any, products: Any, encoder_directory: Path, monkeypatch: pytest.MonkeyPatch, useless: bool
):
    monkeypatch.setattr(hnsw, "CODED_ROWS", 100)
    if useless:
        monkeypatch.setattr(
            hnsw, "encode_vectors", lambda vectors, found: np.eye(len(vectors), found.shape[1], dtype=np.float32)
        )
    config = make_shop(products(600), graph_dimensions=16)
    build_release(config, "2026-11-20", encoder_directory=encoder_directory, story={}, progress=False)
    (found,) = Path(config.shop.release).rglob("*.faiss")
    index = read_index(found, IndexShape(rows=600, dimension=32, m=8, storage="flat"))
    plain = build_index(index.reconstruct_n(0, 600), replace(config.index, graph_dimensions=0))
    links = [faiss.vector_to_array(made.hnsw.neighbors) for made in (index, plain)]
    assert np.array_equal(*links) == useless


def test_what_a_shard_must_reach_is_part_of_its_fingerprint():
    config = Config(index=IndexConfig(target_recall_10=0.9))
    made = [
        fingerprint_shard(UniqueRows(), "encoder", found, ())
        for found in (
            config,
            replace(config, gates=GatesConfig(min_recall_10=0.5)),
            replace(config, gates=GatesConfig(min_recall_10=0.99)),
        )
    ]
    assert made[0] != made[2]
    # Below the target the gate asks for nothing more.
    assert made[1] == fingerprint_shard(
        UniqueRows(), "encoder", replace(config, gates=GatesConfig(min_recall_10=0.4)), ()
    )
