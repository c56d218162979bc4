"""Recall against plain loops, and gates that refuse what they should."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.build.gates import judge_encoder, judge_recall, judge_rows, require_gates
from indexer.build.recall import Probe, ProbeQueries, Recall, measure_recall, merge_probes, probe_shard
from indexer.build.verify import check_shard_files, check_vectors
from indexer.config import GatesConfig, IndexConfig
from indexer.encoder import EncoderDescription
from indexer.errors import GateError, IntegrityError
from indexer.hnsw import build_index, write_index
from indexer.shard_file import write_lines

OPTIONS = IndexConfig(m=8, ef_construction=40, ef_search=64)


def make_vectors(rows: int, dimension: int = 16, seed: int = 1) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class GivenRows:
    """An index that answers with given rows; scores are exact unless told otherwise."""

    def __init__(self, vectors: np.ndarray, rows: np.ndarray) -> None:
        self.vectors = vectors
        self.rows = rows

    def search(self, queries: np.ndarray, k: int, params: object) -> tuple[np.ndarray, np.ndarray]:
        rows = self.rows[:, :k]
        return np.take_along_axis(queries @ self.vectors.T, np.maximum(rows, 0), axis=1), rows


def ask(vectors: np.ndarray, answers: np.ndarray, queries: np.ndarray, shard: str = "") -> Probe:
    """Probe rows by an index that gives these answers whatever efSearch is; rows are named by their number."""
    asked = ProbeQueries(vectors=queries, texts=("",) * len(queries), sampled=len(queries))
    return probe_shard(GivenRows(vectors, answers), vectors, asked, 0, name=lambda row: (f"{shard}{row}", None))


def test_recall_is_the_share_of_true_neighbours():
    vectors, queries = make_vectors(500), make_vectors(20, seed=2)
    true = np.argsort(-(queries @ vectors.T), axis=1)
    answers = true[:, :100].copy()
    answers[:, 7:10] = true[:, 300:303]  # three of the first ten are wrong
    answers[:10, 50:100] = -1  # and half of the queries found only fifty
    found = measure_recall(ask(vectors, answers, queries), 64)
    assert found.at_10 == pytest.approx(0.7)
    assert found.at_100 == pytest.approx((0.97 + 0.47) / 2)


def test_a_tie_is_as_good_as_the_neighbour_it_ties_with():
    vectors = np.repeat(make_vectors(20), 20, axis=0)
    queries = make_vectors(5, seed=2)
    true = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")
    other_copies = true[:, 10:20]  # the best product has twenty copies
    answers = np.concatenate([other_copies, true[:, :10], true[:, 20:100]], axis=1)
    assert measure_recall(ask(vectors, answers, queries), 64) == Recall(1.0, 1.0)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 300), shards=st.integers(1, 4), seed=st.integers(0, 99))
def test_merged_shards_of_exact_answers_have_full_recall(rows: int, shards: int, seed: int):
    queries = make_vectors(7, seed=1000)
    probes = []
    for number in range(shards):
        vectors = make_vectors(rows + number, seed=seed + number)
        answers = np.argsort(-(queries @ vectors.T), axis=1)[:, :100]
        probes.append(ask(vectors, answers, queries))
    merged = merge_probes(probes)
    assert measure_recall(merged, 64) == Recall(1.0, 1.0)
    scores = np.concatenate([queries @ make_vectors(rows + n, seed=seed + n).T for n in range(shards)], axis=1)
    expected = -np.sort(-scores, axis=1)[:, :100]
    assert np.allclose(merged.exact[:, : expected.shape[1]], expected, atol=1e-6)
    assert np.isneginf(merged.exact[:, expected.shape[1] :]).all()


def test_a_shard_that_overstates_its_scores_costs_recall_when_merged():
    queries = make_vectors(4, seed=9)
    good, bad = make_vectors(200, seed=1), make_vectors(200, seed=2)
    probes = []
    for vectors in (good, bad):
        answers = np.argsort(-(queries @ vectors.T), axis=1)[:, :100]
        probes.append(ask(vectors, answers, queries))
    louder = {
        kind: {rung: hits._replace(reported=hits.reported + 10) for rung, hits in getattr(probes[1], kind).items()}
        for kind in ("narrow", "wide")
    }
    probes[1] = replace(probes[1], **louder)
    assert measure_recall(merge_probes(probes), 64).at_10 < 0.8


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1.1, 1e30])
def test_a_single_bad_vector_is_refused_by_its_id(value: float):
    vectors = make_vectors(50)
    vectors[17] *= np.float32(value)
    with pytest.raises(GateError, match=r"gate max_norm_error, shard x: .* at id 'P17' \(1 such rows\)") as caught:
        check_vectors(vectors, [f"P{n}" for n in range(50)], max_norm_error=1e-3, place="shard x")
    assert caught.value.exit_code == 4


def test_good_vectors_pass_with_their_largest_error():
    vectors = make_vectors(50)
    vectors[3] *= np.float32(1.0005)
    error = check_vectors(vectors, [""] * 50, max_norm_error=1e-3, place="x")
    assert error == pytest.approx(5e-4, rel=1e-2)


@pytest.fixture
def shard(tmp_path: Path) -> dict[str, Any]:
    vectors = make_vectors(120)
    ids = [f"P{n:03d}" for n in range(120)]
    files = {"index": tmp_path / "s.faiss", "ids": tmp_path / "s.ids", "texts": tmp_path / "s.texts"}
    write_index(build_index(vectors, OPTIONS), files["index"])
    write_lines(files["ids"], ids)
    write_lines(files["texts"], ids)
    return {"files": files, "ids": ids, "texts": ids, "vectors": vectors, "options": OPTIONS}


def test_a_good_shard_is_read_back(shard: dict[str, Any]):
    assert check_shard_files(**shard).ntotal == 120


def test_shuffled_ids_are_found(shard: dict[str, Any]):
    write_lines(shard["files"]["ids"], shard["ids"][::-1])
    with pytest.raises(IntegrityError, match="the ids read back are not those written"):
        check_shard_files(**shard)


def test_repeated_ids_are_found(shard: dict[str, Any]):
    shard["ids"] = [*shard["ids"][:5], shard["ids"][4], *shard["ids"][6:]]
    write_lines(shard["files"]["ids"], shard["ids"])
    with pytest.raises(IntegrityError, match="1 ids stand twice"):
        check_shard_files(**shard)


def test_texts_that_are_not_those_written_are_found(shard: dict[str, Any]):
    write_lines(shard["files"]["texts"], [""] * 120)
    with pytest.raises(IntegrityError, match="the texts read back are not those written"):
        check_shard_files(**shard)


def test_texts_of_another_length_are_found(shard: dict[str, Any]):
    write_lines(shard["files"]["texts"], shard["ids"][1:])
    with pytest.raises(IntegrityError, match="expected 120 lines, found 119"):
        check_shard_files(**shard)


def test_vectors_at_other_positions_are_found(shard: dict[str, Any]):
    write_index(build_index(shard["vectors"][::-1].copy(), OPTIONS), shard["files"]["index"])
    with pytest.raises(IntegrityError, match="row 0 has another vector than was added"):
        check_shard_files(**shard)


def test_gates_name_themselves_with_expected_and_found():
    gates = GatesConfig(min_recall_10=0.95, min_recall_100=0.9)
    good = judge_recall("products", [Recall(0.97, 0.95), Recall(0.99, 0.96)], Recall(0.98, 0.95), gates)
    require_gates(good)
    bad = judge_recall("products", [Recall(0.97, 0.95), Recall(0.2, 0.96)], Recall(0.98, 0.95), gates)
    with pytest.raises(
        GateError, match=r"products worst shard recall@10: expected at least 0\.95, found 0\.2000; noth"
    ):
        require_gates(bad)


def test_lost_rows_are_a_gate():
    require_gates([judge_rows("products", 10, 7, 2, 1)])
    with pytest.raises(GateError, match=r"products rows lost: expected 0, found 1\.0000"):
        require_gates([judge_rows("products", 10, 7, 1, 1)])


@pytest.mark.parametrize(
    ("precision", "cosine", "passes"), [("fp32", 0.9989, False), ("int8", 0.98, True), ("int8", 0.9, False)]
)
def test_an_export_that_lost_its_student_is_a_gate(precision: str, cosine: float, passes: bool):
    encoder = EncoderDescription(
        name="x", precision=precision, dimension=1, query_tokens=3, product_tokens=3, text_fields=("title",),
        text_separator=" ", files={}, self_test=(), parity={"mean_cosine": cosine},
    )  # fmt: skip
    assert [gate.passed for gate in judge_encoder(encoder, GatesConfig())] == [passes]
