"""What is measured of a release's answers: hand-made hits, and plain loops beside the code."""

import random
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.build import drift
from indexer.build.answers import Hub, OwnTitles, count_own_titles, find_hub
from indexer.build.catalogue import Row, sample_rows, shard_of
from indexer.build.drift import Canary, Drift, IdChurn, IdSample
from indexer.build.gates import judge_drift, judge_golden, judge_hubs, judge_own_titles, judge_size
from indexer.build.golden import GoldenFindings, GoldenQuery, find_golden, read_golden
from indexer.build.probe_file import read_probe, write_probe
from indexer.build.recall import (
    LADDER,
    Hits,
    Probe,
    ProbeQueries,
    Recall,
    choose_ef_search,
    estimate_interval,
    find_rung,
    list_rungs,
    merge_probes,
    probe_shard,
)
from indexer.errors import ContractError, IntegrityError
from indexer.hnsw import build_index
from indexer.index_config import GatesConfig, IndexConfig


def make_vectors(rows: int, seed: int, dimension: int = 8) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def ask(queries: np.ndarray, *, owners: int = 0, golden: int = 0) -> ProbeQueries:
    texts = tuple(f"q{number}" for number in range(len(queries)))
    sampled = len(queries) - owners - golden
    return ProbeQueries(
        vectors=queries, texts=texts, sampled=sampled, owners=tuple(f"o{number}" for number in range(owners))
    )


def probe_real(rows: int, seed: int, asked: ProbeQueries, label: str, ef_search: int = 0) -> Probe:
    vectors = make_vectors(rows, seed)
    index = build_index(vectors, IndexConfig(m=8, ef_construction=40))
    return probe_shard(index, vectors, asked, ef_search, name=lambda row: (f"{label}{row}", f"text {row}"))


def made_of(places: list[list[int]], names: list[str]) -> Probe:
    """Return a probe with given hits at efSearch 16."""
    found = np.array(places, dtype=np.int64)
    scores = np.zeros(found.shape, dtype=np.float32)
    hits = Hits(scores, scores, found)
    return Probe(
        sampled=len(places),
        exact=scores,
        narrow={16: hits},
        wide={100: hits},
        seconds={16: np.zeros(1, dtype=np.float32)},
        names=tuple((name, name.lower()) for name in names),
    )


def test_a_ladder_ends_where_a_search_looks_at_every_row():
    assert list_rungs(0, 10**6) == LADDER
    assert list_rungs(0, 5) == (16,)
    assert list_rungs(0, 33) == (16, 24, 32, 48)
    assert list_rungs(100, 10**6) == (16, 24, 32, 48, 64, 96, 100, 128, 192, 256, 384, 512)
    assert list_rungs(2_000, 10**6)[-1] == 2_000


@pytest.mark.parametrize(("ef_search", "rung"), [(1, 16), (16, 16), (31, 24), (32, 32), (10**6, 64)])
def test_a_value_between_rungs_is_read_at_the_lower_one(ef_search: int, rung: int):
    assert find_rung((64, 16, 24, 32), ef_search) == rung


def test_the_smallest_value_is_chosen_that_all_curves_reach():
    merged = {16: Recall(0.9, 0.99), 32: Recall(0.985, 0.99), 64: Recall(0.99, 0.99), 128: Recall(1, 1)}
    worst = {16: Recall(0.8, 0.9), 32: Recall(0.9, 0.94), 64: Recall(0.985, 0.949), 128: Recall(0.99, 0.96)}
    tiny = {16: Recall(1, 1)}
    targets = Recall(0.98, 0.95)
    assert choose_ef_search([merged], targets) == 32
    assert choose_ef_search([merged, worst, tiny], targets) == 128
    assert choose_ef_search([merged, worst], Recall(0.999, 0.95)) == 128
    assert choose_ef_search([tiny], targets) == 16


def test_the_interval_is_that_of_wilson():
    # Newcombe 1998, table I: 81 of 263 is 0.2553 to 0.3662, 0 of 20 is 0 to 0.1611.
    assert estimate_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert estimate_interval(0.0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert estimate_interval(1.0, 20) == pytest.approx((0.8389, 1), abs=5e-5)


def test_merged_hits_are_those_of_a_consumer():
    queries = make_vectors(6, seed=50)
    asked = ask(queries, owners=1, golden=2)
    probes = [probe_real(300, 1, asked, "a"), probe_real(40, 2, asked, "b"), probe_real(5, 3, asked, "c")]
    merged = merge_probes([merge_probes(probes[:2]), probes[2]])
    every = np.concatenate([make_vectors(300, 1), make_vectors(40, 2), make_vectors(5, 3)])
    names = [*(f"a{n}" for n in range(300)), *(f"b{n}" for n in range(40)), *(f"c{n}" for n in range(5))]
    best = np.argsort(-(queries @ every.T), axis=1)
    for query in range(6):
        # An efSearch beyond the rows finds all there is.
        assert [name for name, _ in merged.list_names(512, query)] == [names[row] for row in best[query, :10]]
    for golden in (4, 5):
        found = [name for name, _ in merged.list_names(512, golden, wide=True)]
        assert found == [names[row] for row in best[golden, :100]]
    # Of other queries the names of wide hits are not kept.
    assert merged.list_names(512, 0, wide=True) == []
    assert len(merged.names) <= 6 * 10 * len(merged.rungs) + 2 * 100 * len(merged.wide)
    assert {rung: len(times) for rung, times in merged.seconds.items()} == dict.fromkeys(merged.rungs, 3)


def test_a_probe_comes_back_from_its_file(tmp_path: Path):
    asked = ask(make_vectors(4, seed=50), golden=1)
    probe = probe_real(60, 1, asked, "é")
    write_probe(tmp_path / "p.npz", probe)
    again = read_probe(tmp_path / "p.npz")
    assert (again.sampled, again.names, again.rungs) == (probe.sampled, probe.names, probe.rungs)
    assert np.array_equal(again.exact, probe.exact)
    for kind in ("narrow", "wide"):
        for rung, hits in getattr(probe, kind).items():
            assert all(map(np.array_equal, getattr(again, kind)[rung], hits))
    assert all(np.array_equal(again.seconds[rung], probe.seconds[rung]) for rung in probe.rungs)


@pytest.mark.parametrize("data", [b"", b"junk", b"PK\x03\x04 cut"])
def test_a_file_that_is_no_probe_is_refused(tmp_path: Path, data: bytes):
    (tmp_path / "p.npz").write_bytes(data)
    with pytest.raises(IntegrityError, match=r"p\.npz: no probe of this program"):
        read_probe(tmp_path / "p.npz")


def test_a_probe_of_the_format_before_is_refused(tmp_path: Path):
    with (tmp_path / "p.npz").open("wb") as file:
        np.save(file, np.zeros((3, 4, 100), dtype=np.float32))
    with pytest.raises(IntegrityError, match="no probe of this program"):
        read_probe(tmp_path / "p.npz")


def test_a_probe_that_unpacks_to_more_than_one_can_have_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = ask(make_vectors(4, seed=50), golden=1)
    write_probe(tmp_path / "p.npz", probe_real(60, 1, asked, "a"))
    with ZipFile(tmp_path / "p.npz") as packed:
        unpacked = sum(len(packed.read(name)) for name in packed.namelist())
    monkeypatch.setattr("indexer.build.probe_file.MAX_UNPACKED_BYTES", unpacked)
    assert read_probe(tmp_path / "p.npz").sampled == 3
    monkeypatch.setattr("indexer.build.probe_file.MAX_UNPACKED_BYTES", unpacked - 1)
    loaded: list[object] = []
    monkeypatch.setattr("indexer.build.probe_file.np.load", lambda *_, **__: loaded.append(1))
    with pytest.raises(IntegrityError) as caught:
        read_probe(tmp_path / "p.npz")
    assert str(caught.value) == (
        f"{tmp_path}/p.npz: no probe of this program: {unpacked} bytes unpacked, expected at most {unpacked - 1}; "
        "build with --reuse none"
    )
    assert loaded == []


def test_an_array_that_claims_more_than_memory_holds_is_refused(tmp_path: Path):
    write_probe(tmp_path / "p.npz", probe_real(60, 1, ask(make_vectors(4, seed=50), golden=1), "a"))
    with ZipFile(tmp_path / "p.npz") as packed:
        members = {name: packed.read(name) for name in packed.namelist()}
    members["sampled.npy"] = members["sampled.npy"].replace(b"(), }" + b" " * 14, b"(%d,), }" % 2**42)
    with ZipFile(tmp_path / "p.npz", "w") as packed:
        for name, data in members.items():
            packed.writestr(name, data)
    with pytest.raises(IntegrityError, match=r"p\.npz: no probe of this program: "):
        read_probe(tmp_path / "p.npz")


def test_the_hub_is_the_row_in_the_most_lists():
    probe = made_of([[0, 1], [2, 1], [1, 3], [3, -1]], ["A", "B", "C", "D"])
    assert find_hub(probe, 16) == Hub("B", 4, 0.75)
    assert find_hub(made_of([[-1, -1]], []), 16) is None


@pytest.mark.parametrize(
    ("rows", "queries", "share", "passes"),
    [
        (2_000, 200, 0.11, [False]),
        (2_000, 200, 0.1, [True]),
        (1_999, 200, 0.9, []),
        (2_000, 199, 0.9, []),
    ],
)
def test_hubs_are_judged_where_a_share_means_something(rows: int, queries: int, share: float, passes: list[bool]):
    found = judge_hubs("products", Hub("P1", queries, share), rows, GatesConfig(max_hub_share=0.1))
    assert [gate.passed for gate in found] == passes
    assert all("'P1'" in gate.expected for gate in found if not gate.passed)


def test_rows_are_found_by_their_own_text_or_one_that_reads_the_same():
    queries = ProbeQueries(
        vectors=np.zeros((5, 1), dtype=np.float32),
        texts=("x", "mug", "red mug", "cup", "lamp"),
        sampled=1,
        owners=("M", "R", "C", "L"),
    )
    places = [[-1, -1], [0, 1], [1, 2], [0, 1], [0, 1]]
    probe = made_of(places, ["M", "N", "Red Mug"])
    base = 7
    assert count_own_titles(probe, queries, 16, base=base, measured=range(base)) == OwnTitles(asked=4, found=2)
    others = set(range(base)) - {shard_of("C", base)}
    asked = sum(shard_of(owner, base) in others for owner in queries.owners)
    assert count_own_titles(probe, queries, 16, base=base, measured=others).asked == asked
    assert judge_own_titles("products", OwnTitles(49, 0), GatesConfig()) == []
    assert [gate.passed for gate in judge_own_titles("products", OwnTitles(50, 24), GatesConfig())] == [False]


def test_shrinkage_and_growth_are_shares_of_the_live_rows():
    gates = GatesConfig(max_shrink=0.3, max_growth=1.0)
    assert [gate.passed for gate in judge_size("products", 700, 1_000, gates)] == [True, True]
    assert [(gate.found, gate.passed) for gate in judge_size("products", 2_100, 1_000, gates)] == [
        (0, True),
        (1.1, False),
    ]
    # A young shop may grow as it likes.
    assert [gate.found for gate in judge_size("products", 9_990, 999, gates)] == [0]


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)), st.integers(1, 10))
def test_churn_counts_ids_of_both_sides(live: set[int], new: set[int], limit: int):
    sides = []
    for ids in (live, new):
        sample = IdSample()
        sample.add(f"P{number}" for number in ids)
        sides.append(sample)
    churn = sides[0].compare(sides[1])
    assert churn == IdChurn(live=len(live), gone=len(live - new), new=len(new - live))


def test_a_sample_of_ids_is_the_same_ids_on_both_sides(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(drift, "SAMPLED_IDS", 500)
    live, new = IdSample(), IdSample()
    for start in range(0, 20_000, 1_000):
        live.add(f"P{number}" for number in range(start, start + 1_000))
    new.add(f"P{number}" for number in range(4_000, 24_000))
    churn = live.compare(new)
    assert 500 < churn.live <= 1_000
    # A fifth is gone and a fifth is new; five standard errors of a sample of 500.
    assert churn.exchanged == pytest.approx(0.2, abs=5 * (0.2 * 0.8 / 500) ** 0.5)
    assert IdChurn(live=10, gone=4, new=0).exchanged == IdChurn(live=10, gone=0, new=40).exchanged == 0


def as_names(*ids: str) -> list[tuple[str, str | None]]:
    return [(name, None) for name in ids]


def test_overlap_is_the_share_of_live_hits_that_stay():
    halves = Canary(query="a", live=as_names("A", "B", "C", "D"), new=as_names("D", "E", "A", "F"))
    assert halves.overlap == 0.5
    assert Canary(query="a", live=[], new=as_names("A")).overlap == 1
    canaries = [halves] * 11 + [Canary(query="b", live=as_names("A"), new=as_names("B"))] * 10
    found = Drift(live_rows=100, churn=IdChurn(live=100, gone=0, new=0), same_encoder=True, canaries=canaries)
    gates = GatesConfig(min_overlap=0.6, min_overlap_new_encoder=0.4)
    assert [gate.passed for gate in judge_drift("products", found, 100, gates)] == [True, False]
    other = Drift(live_rows=100, churn=found.churn, same_encoder=False, canaries=canaries)
    assert [gate.passed for gate in judge_drift("products", other, 100, gates)] == [True, True]
    assert judge_drift("products", found, 99, gates) == []


def test_live_hits_of_several_shards_are_the_best_of_all():
    hits = drift._LiveHits(1)
    hits.add(np.array([[0.9, 0.5]], dtype=np.float32), np.array([[4, 7]]), lambda row: (f"a{row}", None))
    hits.add(np.array([[0.7, 0.5, -np.inf]], dtype=np.float32), np.array([[1, 2, -1]]), lambda row: (f"b{row}", None))
    assert [name for name, _ in hits.list_names(0)] == ["a4", "b1", "a7", "b2"]


GOLDEN = [
    GoldenQuery("mug", "A", 1),
    GoldenQuery("mug", "B", 1),
    GoldenQuery("cup", "Z", 10),
    # A query that was not asked, since it means nothing to the encoder, finds nothing.
    GoldenQuery("?", "B", 10),
]


def test_golden_products_must_be_within_their_rank():
    probe = made_of([[0, 1]], ["A", "B"])
    found = find_golden(GOLDEN, probe, {"mug": 0}, ef_search=16, known={"A", "B"})
    assert (found.asked, found.missed, found.absent) == (3, [GOLDEN[1], GOLDEN[3]], [GOLDEN[2]])
    gate = judge_golden(found, GatesConfig())
    assert (gate.passed, gate.found) == (False, pytest.approx(1 / 3, abs=1e-6))
    assert "2 not within rank, such as 'B' for 'mug'; 1 not in the catalogue, such as 'Z'" in gate.expected
    assert judge_golden(found, GatesConfig(min_golden=0.3)).passed
    assert not judge_golden(GoldenFindings(asked=0, absent=GOLDEN), GatesConfig(min_golden=0.3)).passed


@pytest.mark.parametrize("name", ["golden.tsv", "golden.csv", "golden.jsonl"])
def test_golden_queries_are_read_by_their_contract(tmp_path: Path, name: str):
    mark = {"tsv": "\t", "csv": ","}.get(name.rpartition(".")[2])
    rows = [("query", "product_id", "within"), ("Red  MUG", "A", "3"), ("cup", "B", "")]
    text = (
        "".join(mark.join(row) + "\n" for row in rows)
        if mark
        else ('{"query": "Red  MUG", "product_id": "A", "within": 3}\n{"query": "cup", "product_id": "B"}\n')
    )
    (tmp_path / name).write_text(text)
    assert read_golden(str(tmp_path / name)) == [GoldenQuery("red mug", "A", 3), GoldenQuery("cup", "B", 10)]
    assert read_golden("") == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mug,A,0", "1 of 2 rows rejected .within_range 1, such as '0'"),
        ("mug,A,101", "1 of 2 rows rejected .within_range 1, such as '101'"),
        ("mug,A,first", "1 of 2 rows rejected .within_type 1, such as 'first'"),
        ("mug,,3", "1 of 2 rows rejected .product_id_missing 1"),
        (",A,3", "1 of 2 rows rejected .query_missing 1"),
    ],
)
def test_a_bad_golden_line_is_refused(tmp_path: Path, line: str, message: str):
    (tmp_path / "golden.csv").write_text(f"query,product_id,within\ncup,B,\n{line}\n")
    with pytest.raises(ContractError, match=message) as caught:
        read_golden(str(tmp_path / "golden.csv"))
    assert caught.value.exit_code == 3


def test_a_missing_golden_file_names_its_setting(tmp_path: Path):
    with pytest.raises(ContractError, match=r"no such file or folder; correct \[gates.golden\]"):
        read_golden(str(tmp_path / "golden.csv"))


def test_sampled_rows_do_not_depend_on_the_order_of_rows():
    rows = [Row(f"P{number}", "t", f"title {number // 2}") for number in range(40)] + [Row("E", "t", "")]
    orders = [sample_rows(random.Random(seed).sample(rows, len(rows)), 10) for seed in range(3)]
    assert orders[0] == orders[1] == orders[2]
    displays = [row.display for row in orders[0]]
    assert len(set(displays)) == len(displays)
    assert "" not in displays
    # Of two rows of one title the one with the smaller id is taken.
    assert all(int(row.id[1:]) % 2 == 0 for row in orders[0])
