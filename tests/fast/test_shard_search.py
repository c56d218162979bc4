"""Search of one shard among selected rows: by the graph and by scores, against exact search in numpy."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer import shard_search
from indexer.hnsw import build_index, write_index
from indexer.id_rows import IdRows, hash_ids
from indexer.index_config import IndexConfig
from indexer.index_file import IndexShape, read_index
from indexer.shard_file import Lines
from indexer.shard_search import is_scored, search_shard, select_only, select_rows

ROWS, DIMENSION, EF = 400, 16, 64


def make_vectors(rows: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, DIMENSION)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


VECTORS, QUERIES = make_vectors(ROWS, 1), make_vectors(7, 2)
INDEX = build_index(VECTORS, IndexConfig(m=16, ef_construction=80))
BY_GRAPH, BY_SCORES = 0, 10**6


def exact(query: np.ndarray, rows: np.ndarray, k: int) -> list[int]:
    scores = VECTORS[rows] @ query
    return [int(rows[at]) for at in np.argsort(-scores, kind="stable")[:k]]


@pytest.mark.parametrize("cost", [BY_GRAPH, BY_SCORES])
@settings(max_examples=60)
@given(rows=st.sets(st.integers(0, ROWS - 1)), k=st.integers(1, 60))
def test_the_best_selected_rows_come_back_and_k_of_them(cost: int, rows: set[int], k: int):
    selected = np.array(sorted(rows), dtype=np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_search, "PLACE_COST", cost)
        scores, found = search_shard(INDEX, QUERIES, k, EF, select_only(selected, ROWS))
    hits = min(k, len(selected))
    assert (found[:, hits:] == -1).all()
    for query, own_rows, own_scores in zip(QUERIES, found[:, :hits], scores[:, :hits], strict=True):
        assert own_rows.tolist() == exact(query, selected, k)
        assert own_scores == pytest.approx(VECTORS[own_rows] @ query, abs=1e-6)


@given(dead=st.sets(st.integers(0, ROWS - 1), max_size=ROWS - 1))
def test_all_rows_but_some_are_the_same_as_only_the_others(dead: set[int]):
    others = np.array(sorted(set(range(ROWS)) - dead), dtype=np.int64)
    left, only = select_rows(np.array(sorted(dead), dtype=np.int64), ROWS), select_only(others, ROWS)
    assert left.count == only.count == len(others)
    assert left.bits.tolist() == only.bits.tolist()
    assert left.rows.tolist() == only.rows.tolist() == others.tolist()


def test_rows_far_from_the_query_are_found_where_the_graph_gives_none(monkeypatch: pytest.MonkeyPatch):
    """The search ends among the many rows around the query and meets none of the five at the other end."""
    query = np.eye(DIMENSION, dtype=np.float32)[:1]
    vectors = make_vectors(2_000, 3) * 0.2 + query
    vectors[-5:] = make_vectors(5, 4) * 0.2 - query
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = build_index(vectors, IndexConfig(m=4, ef_construction=16))
    monkeypatch.setattr(shard_search, "PLACE_COST", BY_GRAPH)
    monkeypatch.setattr(shard_search, "ROOM", 0)
    far = select_only(np.arange(1_995, 2_000), 2_000)
    assert (shard_search._search_graph(index, query, 5, 5, far.selector)[1] == -1).any()
    _, rows = search_shard(index, query, 5, 5, far)
    assert sorted(rows[0].tolist()) == [1_995, 1_996, 1_997, 1_998, 1_999]


@pytest.mark.parametrize(
    # sqrt(16 * 2 * 128 * 1,000,000) = 64,000
    ("count", "scored"),
    [(1, True), (63_900, True), (64_100, False), (1_000_000, False)],
)
def test_scores_are_cheaper_up_to_the_root_of_rows_times_places(count: int, scored: bool):
    selection = select_rows(np.arange(1_000_000 - count), 1_000_000)
    assert is_scored(selection, 128) is scored


def test_scores_and_graph_give_a_row_the_same_score():
    everything = np.arange(ROWS)
    graph, _ = search_shard(INDEX, QUERIES, 20, EF)
    scored, _ = shard_search._score_rows(INDEX, QUERIES, 20, everything)
    assert (graph == scored).all()


def test_a_query_scores_the_same_alone_and_in_a_batch_of_any_blocks(monkeypatch: pytest.MonkeyPatch):
    rows = np.arange(0, ROWS, 3)
    together = shard_search._score_rows(INDEX, QUERIES, 10, rows)
    monkeypatch.setattr(shard_search, "SCORES", 1)
    monkeypatch.setattr(shard_search, "BLOCK_ROWS", 7)
    for line in range(len(QUERIES)):
        scores, found = shard_search._score_rows(INDEX, QUERIES[line : line + 1], 10, rows)
        assert (scores[0] == together[0][line]).all()
        assert (found[0] == together[1][line]).all()


def test_equal_scores_are_ordered_by_row():
    twins = np.tile(make_vectors(1, 5), (30, 1))
    index = build_index(twins, IndexConfig(m=4, ef_construction=16))
    _, rows = search_shard(index, twins[:1], 4, EF, select_only(np.array([3, 8, 9, 20, 29]), 30))
    assert rows[0].tolist() == [3, 8, 9, 20]


@pytest.mark.parametrize("storage", ["flat", "sqfp16", "sq8"])
def test_a_mapped_index_answers_as_a_loaded_one(tmp_path: Path, storage: str):
    write_index(build_index(VECTORS, IndexConfig(m=8, ef_construction=40, storage=storage)), tmp_path / "index")
    shape = IndexShape(rows=ROWS, dimension=DIMENSION, m=8, storage=storage)
    loaded, mapped = (read_index(tmp_path / "index", shape, mapped=mapped) for mapped in (False, True))
    for selection in (None, select_only(np.arange(0, ROWS, 2), ROWS)):
        answers = [search_shard(index, QUERIES, 10, EF, selection) for index in (loaded, mapped)]
        assert (answers[0][0] == answers[1][0]).all()
        assert (answers[0][1] == answers[1][1]).all()


@given(st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"])), max_size=40), st.data())
def test_rows_of_ids_are_all_rows_that_have_them_and_no_other(ids: list[str], data: st.DataObject):
    wanted = data.draw(st.sets(st.sampled_from([*ids, "unknown", "half \ud83d", "two\nlines"])))
    rows = IdRows(Lines("".join(f"{item}\n" for item in ids).encode(), "ids")).find(hash_ids(wanted))
    assert rows.tolist() == [row for row, item in enumerate(ids) if item in wanted]


def test_ids_whose_hashes_are_equal_are_told_apart(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("indexer.id_rows.hash", lambda _: 1, raising=False)
    monkeypatch.setattr("indexer.shard_file.hash", lambda _: 1, raising=False)
    rows = IdRows(Lines(b"a\nb\nc\nb\n", "ids"))
    assert rows.find(hash_ids(["b", "d"])).tolist() == [1, 3]


def test_lines_are_found_and_hashed_in_blocks_like_one_by_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("indexer.shard_file.PART_ROWS", 2)
    monkeypatch.setattr("indexer.shard_file.SCAN_BYTES", 3)
    lines = Lines(b"a\n\nccc\ndd\ne\n", "ids")
    assert [lines[row] for row in range(len(lines))] == list(lines) == ["a", "", "ccc", "dd", "e"]
    assert lines.hash_all().tolist() == [hash(line) for line in (b"a", b"", b"ccc", b"dd", b"e")]
