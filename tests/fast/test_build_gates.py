"""Recall against plain loops, and gates that refuse what they should."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.build.answers import Hub, OwnTitles
from indexer.build.canaries import write_canaries
from indexer.build.drift import Canary, Drift, IdChurn
from indexer.build.gates import (
    judge_collection,
    judge_drift,
    judge_encoder,
    judge_golden,
    judge_hubs,
    judge_kept_vectors,
    judge_own_titles,
    judge_recall,
    judge_rows,
    judge_size,
    judge_vectors,
    require_gates,
)
from indexer.build.golden import GoldenFindings, GoldenQuery
from indexer.build.recall import Probe, ProbeQueries, Recall, measure_recall, merge_probes, probe_shard
from indexer.build.verify import check_shard_files, check_vectors
from indexer.canaries import parse_canaries
from indexer.encoder import EncoderDescription
from indexer.errors import GateError, IntegrityError
from indexer.hnsw import build_index, write_index
from indexer.index_config import GatesConfig, IndexConfig
from indexer.manifest import GateResult
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


GATES = GatesConfig()
CHANGED = [Canary(query="mug", live=[("A", None), ("B", None)], new=[("A", None)])]
"""Half of the live hits stay."""


def gate(name: str, expected: str, found: float, passed: bool = True) -> GateResult:
    return GateResult(name=name, expected=expected, found=found, passed=passed)


def describe(precision: str, parity: dict[str, Any]) -> EncoderDescription:
    return EncoderDescription(
        name="x", precision=precision, dimension=1, query_tokens=3, product_tokens=3, text_fields=("title",),
        text_separator=" ", files={}, self_test=(), parity=parity,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("precision", "parity", "expected"),
    [
        ("fp32", {"mean_cosine": 0.9989}, [gate("encoder parity fp32", "at least 0.999", 0.9989, False)]),
        ("fp32", {"mean_cosine": 0.999}, [gate("encoder parity fp32", "at least 0.999", 0.999)]),
        ("int8", {"mean_cosine": 0.97}, [gate("encoder parity int8", "at least 0.97", 0.97)]),
        ("int8", {"mean_cosine": 0.9}, [gate("encoder parity int8", "at least 0.97", 0.9, False)]),
        ("int8", {"mean_cosine": 1}, [gate("encoder parity int8", "at least 0.97", 1.0)]),
        ("int8", {"mean_cosine": "0.9"}, []),
        ("int8", {}, []),
    ],
)
def test_an_export_that_lost_its_student_is_a_gate(precision: str, parity: dict[str, Any], expected: list[GateResult]):
    assert judge_encoder(describe(precision, parity), GATES) == expected


def test_recall_is_judged_over_all_shards_and_in_the_worst():
    gates = GatesConfig(min_recall_10=0.95, min_recall_100=0.9)
    shards = [Recall(0.95, 0.9), Recall(0.94, 0.91), Recall(0.96, 0.89)]
    # Six digits are kept, and judged is what was measured, not what is shown.
    assert judge_recall("products", shards, Recall(0.9499999, 0.91234567), gates) == [
        gate("products recall@10", "at least 0.95", 0.95, False),
        gate("products recall@100", "at least 0.9", 0.912346),
        gate("products worst shard recall@10", "at least 0.95", 0.94, False),
        gate("products worst shard recall@100", "at least 0.9", 0.89, False),
    ]


@pytest.mark.parametrize(("rejected", "lost"), [(1, 0), (0, 1), (2, -1)])
def test_rows_are_lost_or_counted_twice(rejected: int, lost: int):
    assert judge_rows("products", 10, 7, 2, rejected) == gate("products rows lost", "0", lost, passed=lost == 0)


LOST, GAINED = "products share lost since an earlier night", "products share gained since an earlier night"


@pytest.mark.parametrize(
    ("rows", "live_rows", "expected"),
    [
        (700, 1_000, [gate(LOST, "at most 0.3", 0.3), gate(GAINED, "at most 1.0", 0.0)]),
        (699, 1_000, [gate(LOST, "at most 0.3", 0.301, False), gate(GAINED, "at most 1.0", 0.0)]),
        (2_000, 1_000, [gate(LOST, "at most 0.3", 0.0), gate(GAINED, "at most 1.0", 1.0)]),
        (2_001, 1_000, [gate(LOST, "at most 0.3", 0.0), gate(GAINED, "at most 1.0", 1.001, False)]),
        (1_500, 1_100, [gate(LOST, "at most 0.3", 0.0), gate(GAINED, "at most 1.0", 0.363636)]),
        (900, 1_100, [gate(LOST, "at most 0.3", 0.181818), gate(GAINED, "at most 1.0", 0.0)]),
        (99_900, 999, [gate(LOST, "at most 0.3", 0.0)]),
    ],
)
def test_a_collection_that_shrank_or_grew(rows: int, live_rows: int, expected: list[GateResult]):
    assert judge_size("products", rows, live_rows, GATES) == expected


@pytest.mark.parametrize(("error", "shown"), [(1e-3, 1e-3), (1.0000001e-3, 1e-3), (1.234567891234e-3, 1.234568e-3)])
def test_the_length_of_vectors(error: float, shown: float):
    assert judge_vectors("products", error, GATES) == gate(
        "products norm error", "at most 0.001", shown, passed=error == 1e-3
    )


@pytest.mark.parametrize(
    ("cosines", "expected"),
    [
        ([], []),
        ([1.0, 0.96], [gate("products cosine of kept vectors", "at least 0.98", 0.98)]),
        ([1.0, 0.9], [gate("products cosine of kept vectors", "at least 0.98", 0.95, False)]),
    ],
)
def test_vectors_that_were_kept(cosines: list[float], expected: list[GateResult]):
    assert judge_kept_vectors("products", cosines, GATES) == expected


@pytest.mark.parametrize(
    ("asked", "found", "expected"),
    [
        (49, 0, []),
        (50, 25, [gate("products found by their own text", "at least 0.5", 0.5)]),
        (50, 24, [gate("products found by their own text", "at least 0.5", 0.48, False)]),
    ],
)
def test_rows_that_their_own_text_does_not_find(asked: int, found: int, expected: list[GateResult]):
    assert judge_own_titles("products", OwnTitles(asked=asked, found=found), GATES) == expected


HUBS = "products share of queries with one row among the first 10"


@pytest.mark.parametrize(
    ("hub", "rows", "expected"),
    [
        (None, 2_000, []),
        (Hub("P1", 200, 0.5), 1_999, []),
        (Hub("P1", 199, 0.5), 2_000, []),
        (Hub("P1", 200, 0.1), 2_000, [gate(HUBS, "at most 0.1", 0.1)]),
        (Hub("P1", 200, 0.105), 2_000, [gate(HUBS, "at most 0.1, exceeded by 'P1'", 0.105, False)]),
    ],
)
def test_a_row_that_is_everywhere(hub: Hub | None, rows: int, expected: list[GateResult]):
    assert judge_hubs("products", hub, rows, GATES) == expected


MUG, CUP = GoldenQuery("red mug", "P1", 10), GoldenQuery("cup", "P2", 3)


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        (GoldenFindings(asked=2), gate("golden queries", "at least 1.0", 1.0)),
        (GoldenFindings(asked=2, absent=[MUG]), gate("golden queries", "at least 1.0", 1.0)),
        (
            GoldenFindings(asked=4, missed=[MUG]),
            gate("golden queries", "at least 1.0 (1 not within rank, such as 'P1' for 'red mug')", 0.75, False),
        ),
        (
            GoldenFindings(asked=0, absent=[CUP, MUG]),
            gate("golden queries", "at least 1.0 (2 not in the catalogue, such as 'P2')", 0.0, False),
        ),
        (
            GoldenFindings(asked=2, missed=[CUP, MUG], absent=[MUG]),
            gate(
                "golden queries",
                "at least 1.0 (2 not within rank, such as 'P2' for 'cup'; 1 not in the catalogue, such as 'P1')",
                0.0,
                False,
            ),
        ),
    ],
)
def test_golden_queries_that_found_too_little(findings: GoldenFindings, expected: GateResult):
    assert judge_golden(findings, GATES) == expected


EXCHANGED = "products share of ids exchanged"
SAME = "products canary overlap@10 with a release by the same encoder"
OTHER = "products canary overlap@10 with a release by another encoder"


@pytest.mark.parametrize(
    ("live_rows", "rows", "gone", "canaries", "same_encoder", "expected"),
    [
        (99, 100, 99, 20, True, []),
        (100, 99, 99, 20, True, []),
        (100, 100, 30, 19, True, [gate(EXCHANGED, "at most 0.3", 0.3)]),
        (100, 100, 31, 19, True, [gate(EXCHANGED, "at most 0.3", 0.31, False)]),
        (100, 100, 0, 20, True, [gate(EXCHANGED, "at most 0.3", 0.0), gate(SAME, "at least 0.6", 0.5, False)]),
        (100, 100, 0, 20, False, [gate(EXCHANGED, "at most 0.3", 0.0), gate(OTHER, "at least 0.1", 0.5)]),
    ],
)
def test_ids_and_answers_that_changed(
    live_rows: int, rows: int, gone: int, canaries: int, same_encoder: bool, expected: list[GateResult]
):
    churn = IdChurn(live=100, gone=gone, new=100)
    drift = Drift(live_rows=live_rows, churn=churn, same_encoder=same_encoder, canaries=CHANGED * canaries)
    assert judge_drift("products", drift, rows, GatesConfig(min_overlap=0.6)) == expected


def finished(**changes: Any) -> Any:
    """Return what the gates read of a collection in which every gate has something to judge."""
    plain = {
        "name": "products",
        "rows": 2_000,
        "duplicates": 2,
        "rejected": {"text_empty": 1, "text_long": 3},
        "plan": SimpleNamespace(intake=SimpleNamespace(rows_in=2_007)),
        "tally": SimpleNamespace(norm_error=2e-4, kept_cosines=[0.99]),
        "shard_recall": {0: Recall(0.97, 0.93), 3: Recall(0.96, 0.94)},
        "recall": Recall(0.98, 0.95),
        "hub": Hub("P1", 200, 0.05),
        "unmeasured": set(),
        "own_titles": OwnTitles(asked=200, found=180),
        "drift": Drift(live_rows=1_000, churn=IdChurn(live=100, gone=10, new=20), same_encoder=True),
        "golden": GoldenFindings(asked=2),
    }
    return SimpleNamespace(**(plain | changes))


def test_a_collection_is_judged_by_every_gate():
    every = {
        "products rows lost": ("0", 1.0, False),
        LOST: ("at most 0.3", 0.0, True),
        GAINED: ("at most 1.0", 1.0, True),
        "products norm error": ("at most 0.001", 0.0002, True),
        "products cosine of kept vectors": ("at least 0.98", 0.99, True),
        "products recall@10": ("at least 0.95", 0.98, True),
        "products recall@100": ("at least 0.9", 0.95, True),
        "products worst shard recall@10": ("at least 0.95", 0.96, True),
        "products worst shard recall@100": ("at least 0.9", 0.93, True),
        HUBS: ("at most 0.1", 0.05, True),
        "products found by their own text": ("at least 0.5", 0.9, True),
        EXCHANGED: ("at most 0.3", 0.1, True),
        "golden queries": ("at least 1.0", 1.0, True),
    }
    assert judge_collection(finished(), 1_000, GATES) == [gate(name, *rest) for name, rest in every.items()]
    # A first night has nothing to compare with, and of a shard that was kept nobody knows what it would answer.
    first = finished(unmeasured={"v/a/0.faiss"}, drift=None, golden=None)
    compared = {LOST, GAINED, HUBS, EXCHANGED, "golden queries"}
    assert [found.name for found in judge_collection(first, 0, GATES)] == [n for n in every if n not in compared]
    hidden = judge_collection(finished(unmeasured={"v/a/4.faiss"}, own_titles=None), 1_000, GATES)
    assert set(every) - {found.name for found in hidden} == {HUBS, "products found by their own text"}


def test_all_gates_that_refused_are_named():
    results = [gate("a", "0", 1.0, False), gate("b", "at most 2", 1.0), gate("c", "at least 0.5", 0.12344, False)]
    with pytest.raises(GateError) as caught:
        require_gates(results)
    assert str(caught.value) == (
        "gate a: expected 0, found 1.0000; c: expected at least 0.5, found 0.1234; "
        "nothing was published, the live release is untouched"
    )


def test_only_queries_whose_answer_is_complete_are_canaries(tmp_path: Path):
    """A consumer may search a shard further than the builder did, and would find more than an incomplete answer."""
    vectors, queries = make_vectors(40), make_vectors(12, seed=2)
    best = np.argsort(-(queries @ vectors.T), axis=1)
    missed = best.copy()
    # Queries 0, 3, 6 and 9 get their eleventh row in place of the third.
    missed[::3, 2:10] = best[::3, 3:11]
    texts = tuple(f"query {place}" for place in range(12))

    def item(answers: np.ndarray, name: str) -> Any:
        probe = ask(vectors, answers, queries)
        asked = ProbeQueries(vectors=queries, texts=texts, sampled=len(queries))
        return SimpleNamespace(name=name, probe=probe, queries=asked, ef_search=64, shard_curves={0: {}})

    nothing = best.copy()
    nothing[:, 2:10] = best[:, 3:11]
    path = write_canaries(tmp_path / "canaries.json", [item(missed, "products"), item(nothing, "queries")])
    (found,) = parse_canaries(path.read_bytes(), "c")
    assert (found.collection, [canary.query for canary in found.queries]) == (
        "products",
        [f"query {place}" for place in (1, 2, 4, 5, 7, 8, 10, 11)],
    )
    for canary in found.queries:
        place = texts.index(canary.query)
        assert canary.ids == tuple(map(str, best[place, :10]))


def test_a_better_row_that_was_missed_is_not_hidden_by_those_that_tie_for_the_last_place(tmp_path: Path):
    vectors, queries = make_vectors(30), make_vectors(1, seed=2)
    order = np.argsort(-(queries @ vectors.T), axis=1)
    # Rows 9, 10 and 11 of the order are one vector: an answer without the third row has as good a last hit.
    vectors[order[0, 10:12]] = vectors[order[0, 9]]
    best = order
    missed = np.concatenate([best[:, :2], best[:, 3:11], best[:, 11:], best[:, 2:3]], axis=1)
    asked = ProbeQueries(vectors=queries, texts=("query",), sampled=1)
    for answers, written in ((missed, 0), (best, 1)):
        item: Any = SimpleNamespace(
            name="products", probe=ask(vectors, answers, queries), queries=asked, ef_search=64, shard_curves={0: {}}
        )
        assert measure_recall(item.probe, 64).at_10 == 1.0
        path = write_canaries(tmp_path / f"{written}.json", [item])
        assert len(parse_canaries(path.read_bytes(), "c")) == written
