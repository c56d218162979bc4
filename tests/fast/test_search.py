"""Search over shards with deltas and dead rows, with filters and through reformulations, against numpy."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer import shard_search
from indexer.build.release import build_release
from indexer.encoder import open_encoder
from indexer.errors import ConfigError, IntegrityError
from indexer.reader import SourcedHit, open_index

GOLDEN = Path(__file__).parents[1] / "golden"
RELEASE = GOLDEN / "release_v2"
"""Two base shards, a delta, and dead rows in both of the first."""
QUERIES = ["red mug", "school bag blue", "steel cup", "garden hose green", "kids running shoes"]
LIVE = sorted({f"P{number:03d}" for number in range(200)} - {"P007", "P008"} | {"P900", "P901"})
Answer = list[tuple[str, float]]


class Oracle:
    """All live rows of a collection, read from the files by numpy and FAISS alone."""

    def __init__(self, release: Path, collection: str = "products") -> None:
        manifest = json.loads(max(release.glob("v/*/manifest.*.json")).read_bytes())
        shards = next(item["shards"] for item in manifest["collections"] if item["name"] == collection)
        self.ids: list[str] = []
        vectors = []
        for shard in shards:
            index = faiss.read_index(str(release / shard["index"]["key"]))
            ids = (release / shard["ids"]["key"]).read_text().split("\n")[:-1]
            dead = np.fromfile(release / shard["dead"]["rows"]["key"], dtype="<u4") if shard["dead"] else []
            live = np.setdiff1d(np.arange(len(ids)), dead)
            self.ids += [ids[row] for row in live]
            vectors.append(index.reconstruct_n(0, index.ntotal)[live])
        self.vectors = np.concatenate(vectors)
        self.encoder = open_encoder(GOLDEN / "encoder_v1", threads=1)

    def score(self, query: str) -> dict[str, float]:
        scores = self.vectors @ self.encoder.encode_queries([query])[0]
        return dict(zip(self.ids, scores.tolist(), strict=True))

    def answer(self, query: str, k: int, among: set[str] | None = None, without: set[str] = frozenset()) -> Answer:
        scores = self.score(query)
        left = [name for name in self.ids if (among is None or name in among) and name not in without]
        return sorted(((name, scores[name]) for name in left), key=lambda hit: -hit[1])[:k]


ORACLE = Oracle(RELEASE)
INDEX = open_index(str(RELEASE), threads=2)


def assert_equal(hits: list[Any], expected: Answer, scores: dict[str, float]) -> None:
    """Equal scores may stand in any order."""
    assert [hit.score for hit in hits] == pytest.approx([score for _, score in expected], abs=1e-5)
    assert len({hit.id for hit in hits}) == len(hits)
    for hit in hits:
        assert hit.score == pytest.approx(scores[hit.id], abs=1e-5)


def test_the_oracle_has_what_the_reader_should_find():
    assert sorted(ORACLE.ids) == LIVE
    assert INDEX.release.shards["products"] == 3


@pytest.mark.parametrize("cost", [0, shard_search.PLACE_COST])
class TestFilters:
    @pytest.fixture(autouse=True)
    def way(self, cost: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shard_search, "PLACE_COST", cost)

    @settings(max_examples=60)
    @given(
        query=st.sampled_from(QUERIES),
        among=st.none() | st.sets(st.sampled_from([*LIVE, "P007", "P008", "unknown", ""])),
        without=st.sets(st.sampled_from([*LIVE, "P007", "unknown"])),
        k=st.integers(1, 250),
    )
    def test_the_best_that_are_left_come_back(
        self, cost: int, query: str, among: set[str] | None, without: set[str], k: int
    ):
        expected = ORACLE.answer(query, k, among, without)
        hits = INDEX.search(query, k=k, among=among, without=without)
        assert_equal(hits, expected, ORACLE.score(query))
        assert {hit.id for hit in hits} <= (set(LIVE) if among is None else among) - without
        prepared = INDEX.prepare_filter(among=among, without=without)
        assert INDEX.search(query, k=k, ids=prepared) == hits == INDEX.search(query, k=k, ids=prepared)

    def test_nothing_is_found_among_nothing(self, cost: int):
        assert INDEX.search("red mug", among=[]) == INDEX.search("red mug", among={"unknown"}) == []
        assert INDEX.search("red mug", among=["P007", "P008"]) == []

    def test_nothing_is_found_without_everything(self, cost: int):
        assert INDEX.search("red mug", without=LIVE) == []
        assert INDEX.source("red mug", without=LIVE) == []

    def test_an_empty_deny_list_leaves_all(self, cost: int):
        assert INDEX.search("red mug", k=1000, without=[]) == INDEX.search("red mug", k=1000)

    def test_a_batch_answers_like_single_searches(self, cost: int):
        some = INDEX.prepare_filter(among=LIVE[::3], without=LIVE[::2])
        together = INDEX.search_batch(QUERIES, k=20, ids=some)
        assert together == [INDEX.search(query, k=20, ids=some) for query in QUERIES]


def test_a_filter_of_the_other_collection_works_there_and_is_refused_elsewhere():
    queries = INDEX.search("red mug", "queries", k=3)
    denied = INDEX.prepare_filter(without=[queries[0].id], collection="queries")
    assert INDEX.search("red mug", "queries", k=2, ids=denied) == queries[1:]
    with pytest.raises(ConfigError, match="ids: expected a filter of products, found one of queries"):
        INDEX.search("red mug", ids=denied)


@pytest.mark.parametrize("wrong", ["P001", b"P001", ["P001", 7], [None]])
def test_filters_that_are_no_texts_are_refused(wrong: Any):
    with pytest.raises(ConfigError, match="among: expected a set or list of ids, each a text, found"):
        INDEX.search("red mug", among=wrong)
    with pytest.raises(ConfigError, match="without: expected"):
        INDEX.prepare_filter(without=wrong)


def test_two_filters_at_once_are_refused():
    with pytest.raises(ConfigError, match="expected a prepared filter or among and without, found both"):
        INDEX.search("red mug", among=["P001"], ids=INDEX.prepare_filter(without=["P002"]))
    with pytest.raises(ConfigError, match="collection 'titles'"):
        INDEX.prepare_filter(among=["P001"], collection="titles")


class TestThreads:
    @pytest.mark.parametrize("mapped", [False, True])
    @pytest.mark.parametrize("threads", [1, 2, 5, 0])
    def test_any_number_of_them_gives_the_same_answers(self, threads: int, mapped: bool):
        index = open_index(str(RELEASE), threads=threads, mapped=mapped)
        alone = open_index(str(RELEASE))
        some = {"among": LIVE[::2], "without": LIVE[::5]}
        for k in (1, 10, 300):
            assert index.search_batch(QUERIES, k=k) == alone.search_batch(QUERIES, k=k)
            assert index.search_batch(QUERIES, k=k, **some) == [alone.search(query, k=k, **some) for query in QUERIES]
        assert index.source("red mug") == alone.source("red mug")

    @pytest.mark.parametrize("threads", [1, 2])
    def test_each_searches_alone(self, threads: int, monkeypatch: pytest.MonkeyPatch):
        index, seen = open_index(str(RELEASE), threads=threads), []

        def look(*arguments: Any) -> Any:
            seen.append(faiss.omp_get_max_threads())
            return shard_search.search_shard(*arguments)

        monkeypatch.setattr("indexer.loaded_release.search_shard", look)
        faiss.omp_set_num_threads(3)
        index.search_batch(QUERIES)
        assert seen == [1] * 3 * threads

    def test_many_at_once_get_the_answers_of_one(self):
        expected = {query: INDEX.search(query, k=7, among=LIVE[::3]) for query in QUERIES}
        wrong: list[object] = []

        def search(number: int) -> None:
            for turn in range(30):
                query = QUERIES[(number + turn) % len(QUERIES)]
                if INDEX.search(query, k=7, among=LIVE[::3]) != expected[query]:
                    wrong.append(query)

        searchers = [threading.Thread(target=search, args=[number]) for number in range(6)]
        for searcher in searchers:
            searcher.start()
        for searcher in searchers:
            searcher.join()
        assert wrong == []


class TestSourcing:
    """KD-Boost appendix D; the merging is this project's reading."""

    @staticmethod
    def expect(query: str, k: int, count: int) -> dict[str, float]:
        """Each product's best score: cos(q, p), or cos(q, r) * cos(r, p) over the nearest curated queries r."""
        queries = Oracle(RELEASE, "queries")
        texts = {hit.id: str(hit.text) for hit in INDEX.search("mug", "queries", k=1000)}
        near = [(texts[name], score) for name, score in queries.answer(query, 1000) if texts[name] != query][:count]
        best = dict(ORACLE.answer(query, k))
        for text, weight in near:
            for name, score in ORACLE.answer(text, k):
                if weight > 0 and score > 0:
                    best[name] = max(best.get(name, -1.0), weight * score)
        return best

    @pytest.mark.parametrize("query", ["red mug", "kids cup of steel", "garden seeds"])
    @pytest.mark.parametrize("count", [1, 5])
    def test_scores_are_the_best_over_query_and_reformulations(self, query: str, count: int):
        k = 12
        hits = INDEX.source(query, k, reformulations=count)
        expected = self.expect(query, k, count)
        assert [hit.score for hit in hits] == pytest.approx(sorted(expected.values(), reverse=True)[:k], abs=1e-5)
        for hit in hits:
            assert hit.score == pytest.approx(expected[hit.id], abs=1e-5)

    def test_each_hit_names_the_query_that_it_was_found_through(self):
        hits = INDEX.source("POT mug", k=30, reformulations=5)
        others = INDEX.reformulate("pot mug", k=5)
        assert len({hit.id for hit in hits}) == 30
        assert {hit.through for hit in hits} > {"pot mug", "mug"}
        for hit in hits:
            assert hit.through in {"pot mug", *others}
            weight = 1.0 if hit.through == "pot mug" else cosine("pot mug", hit.through)
            assert hit.score == pytest.approx(weight * ORACLE.score(hit.through)[hit.id], abs=1e-5)

    def test_without_reformulations_it_is_a_search(self):
        hits = INDEX.search("red mug", k=8)
        sourced = [SourcedHit(hit.id, hit.text, hit.score, "red mug") for hit in hits]
        assert INDEX.source("red mug", 8, reformulations=0) == sourced

    def test_filters_hold_for_every_query(self):
        hits = INDEX.source("garden seeds", k=30, among=LIVE[:40], without=LIVE[:10])
        assert {hit.id for hit in hits} == set(LIVE[10:40])

    def test_a_query_without_a_word_has_no_hits(self):
        assert INDEX.source("!!!") == INDEX.reformulate("!!!") == []

    @pytest.mark.parametrize("count", [-1, 101])
    def test_a_wrong_number_is_named(self, count: int):
        with pytest.raises(ConfigError, match=f"reformulations: expected 0 to 100, found {count}"):
            INDEX.source("red mug", reformulations=count)


def cosine(one: str, other: str) -> float:
    a, b = ORACLE.encoder.encode_queries([one, other])
    return float(a @ b)


@pytest.mark.parametrize("storage", ["flat", "sqfp16", "sq8"])
def test_a_release_of_rounded_vectors_filters_and_sources_too(
    make_shop: Callable[..., Any], encoder_directory: Path, products: Callable[[int], Any], storage: str
):
    config = make_shop(products(90), queries=["red mug", "school bag", "steel bottle"], shards=2, storage=storage)
    build_release(config, "2026-11-20", encoder_directory=encoder_directory, story={}, progress=False)
    index = open_index(config.shop.release, mapped=True)
    everything = {hit.id: hit.score for hit in index.search("steel cup", k=90)}
    some = sorted(everything)[::4]
    hits = index.search("steel cup", k=90, among=some)
    assert {hit.id: hit.score for hit in hits} == pytest.approx({name: everything[name] for name in some}, abs=1e-5)
    assert {hit.through for hit in index.source("steel cup", k=90, reformulations=3)} > {"steel cup"}


def test_a_release_says_what_it_holds():
    files = [path for kind in ("faiss", "ids", "texts") for path in RELEASE.rglob(f"*.{kind}")]
    loaded, mapped = (open_index(str(RELEASE), mapped=mapped).release for mapped in (False, True))
    assert loaded.rows == mapped.rows == {"products": 200, "queries": 60}
    assert loaded.shards["products"] == 3
    assert loaded.mapped_bytes == 0
    assert loaded.loaded_bytes == mapped.mapped_bytes + mapped.loaded_bytes
    live = {entry["key"] for entry in live_objects()}
    assert mapped.mapped_bytes == sum(path.stat().st_size for path in files if str(path.relative_to(RELEASE)) in live)


def live_objects() -> list[dict[str, Any]]:
    manifest = json.loads(max(RELEASE.glob("v/*/manifest.*.json")).read_bytes())
    shards = [shard for item in manifest["collections"] for shard in item["shards"]]
    return [shard[kind] for shard in shards for kind in ("index", "ids", "texts")]


def test_a_mapped_index_is_checked_first(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise IntegrityError("checked")

    monkeypatch.setattr("indexer.index_file.check_index_file", refuse)
    monkeypatch.setattr(faiss, "read_index", lambda *_: pytest.fail("mapped a file that was not checked"))
    with pytest.raises(IntegrityError, match="checked"):
        open_index(str(RELEASE), mapped=True)
