"""The main job on the generated shop, held against the shop's known answers."""

import json
import re

import pyarrow.dataset as ds
import pytest

from indexer.config_file import load_config
from indexer.contracts import schemas
from indexer.demo.vocabulary import COLORS, KINDS, TYPOS
from indexer.job_config import NpmiConfig
from indexer.reader import open_index
from indexer.runs import StepFolder

pytestmark = pytest.mark.e2e
RUN_DATE = "2026-01-07"


@pytest.fixture(scope="module")
def config(demo):
    return load_config(str(demo.folder / "shop.toml"), environment={})


@pytest.fixture(scope="module")
def answers(demo):
    return json.loads((demo.folder / "answers.json").read_text())


@pytest.fixture(scope="module")
def index(config):
    return open_index(config.shop.release)


def rows(config, table):
    folder = StepFolder(config.shop.work, table.written_by, RUN_DATE).table_folder(table.name)
    return ds.dataset(folder, format="parquet").to_table().to_pylist()


def pairs(config, table):
    return {(row["query_a"], row["query_b"]) for row in rows(config, table)}


def test_planted_synonyms_are_found_and_look_alikes_are_not(config, answers):
    similar = pairs(config, schemas.QUERY_PAIRS)
    assert {tuple(pair) for pair in answers["synonyms"]} <= similar
    assert not {tuple(pair) for pair in answers["look_alikes"]} & similar


@pytest.mark.parametrize("tau", [None, NpmiConfig().tau], ids=["the demo's tau", "the default tau"])
def test_query_pairs_have_the_precision_and_recall_that_the_shop_allows(config, answers, tau):
    wanted = {}
    for kind in KINDS:
        for name in kind.names:
            texts = [name, TYPOS.get(name, name), *(f"{color} {name}" for color in COLORS)]
            wanted |= dict.fromkeys(texts, kind.leaf)
    found = {
        (row["query_a"], row["query_b"])
        for row in rows(config, schemas.QUERY_PAIRS)
        if tau is None or row["npmi"] > tau
    }
    planted = {tuple(pair) for pair in answers["synonyms"]}
    assert sum(wanted[a] == wanted[b] for a, b in found) >= 0.95 * len(found)
    assert len(planted & found) >= 0.9 * len(planted)


def test_planted_look_alikes_are_negatives_and_no_negative_is_a_synonym(config, answers):
    negatives = pairs(config, schemas.QUERY_NEGATIVES)
    assert {tuple(pair) for pair in answers["look_alikes"]} <= negatives
    assert not negatives & pairs(config, schemas.QUERY_PAIRS)


def test_planted_dirt_is_counted(config, answers):
    found = {
        (row["table"], row["reason"]): row["count"]
        for step in ("purchase_gram", "taxonomy_labels")
        for row in StepFolder(config.shop.work, step, RUN_DATE).newest().rejects
    }
    planted = {
        (table, reason): count for table, reasons in answers["rejects"].items() for reason, count in reasons.items()
    }
    assert planted.items() <= found.items()


def test_a_synonym_query_finds_products_that_are_called_otherwise(index):
    hits = index.search("couch", k=10)
    assert len(hits) == 10
    assert sum(bool(re.search("sofa|couch", hit.text)) for hit in hits) >= 9
    assert any("sofa" in hit.text for hit in hits)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_a_look_alike_query_finds_the_right_kind(index):
    for query, right, wrong in (("dog food", "dog food|kibble", "dog bed"), ("phone case", "case|cover", "charger")):
        titles = [hit.text for hit in index.search(query, k=10)]
        assert sum(bool(re.search(right, title)) for title in titles) >= 9
        assert not any(wrong in title for title in titles)


def test_reformulation_finds_the_synonym(index):
    assert "sofa" in index.reformulate("couch", k=3)
    assert "flashlight" in index.reformulate("torch", k=3)


def test_the_release_holds_every_good_product(demo, answers):
    shards = (demo.folder / "release").glob("v/*/products-*.ids")
    ids = [line for shard in shards for line in shard.read_text().splitlines()]
    assert len(ids) == len(set(ids)) == answers["products"]


def test_the_student_is_better_than_its_untrained_self(config):
    counts = StepFolder(config.shop.work, "distill", RUN_DATE).newest().counts
    table = {row["name"]: row for row in counts["evaluation"]}
    assert table["student default"]["auc"] > table["zero-shot student"]["auc"] > table["random"]["auc"]


def test_the_output_tells_the_story(demo):
    searches = demo.output.partition("indexer query")[2]
    assert re.search(r"0\.\d{3}  P\d{6}  .*(sofa|couch)", searches)
    assert re.search(r"reformulations: .*sofa", searches)
    assert re.search(r"student default +all +\d", demo.output)
    report = re.search(r"report\s+(\S+report\S*\.html)", demo.output)
    assert report, demo.output[-2000:]
    html = (demo.folder.parent / report.group(1)).read_text()
    for word in ("npmi_pairs", "recall", "student default", "<svg"):
        assert word in html


def test_run_json_holds_the_summary(demo):
    summary = json.loads((demo.folder / "work" / "nightly" / f"run_date={RUN_DATE}" / "run.json").read_text())
    assert (summary["status"], summary["exit_code"]) == ("done", 0)
    assert len(summary["steps"]) == 6
