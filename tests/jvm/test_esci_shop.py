"""Real products and queries through the jobs; figures hold against scipy and against the stated sizes of the set."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pytest
import scipy.sparse as sp

from indexer.config_file import load_config
from indexer.contracts import schemas
from indexer.contracts.inputs import open_input
from indexer.runs import StepFolder
from indexer.text import decode_entities, normalise_query
from jobs import calibrate_npmi, curated_queries, hard_negatives, npmi_pairs, purchase_gram, taxonomy_labels
from jobs.command import describe_commit, format_commit

pytestmark = pytest.mark.jvm
ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SHOP_TEST_DATA", ROOT.parent / "shared" / "data")) / "esci_shop"
RUN_DATE = "2026-11-20"

if not DATA.exists():
    pytest.skip("the esci_shop data set is not here; set SHOP_TEST_DATA to its parent", allow_module_level=True)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    inputs = {"purchases": "query_exact_products.tsv", "catalogue": "catalogue.jsonl.gz", "labels": "labels.tsv"}
    options = [f"{section}.path={DATA / name}" for section, name in inputs.items()]
    options.append(f"shop.work={tmp_path_factory.mktemp('esci')}")
    return load_config(str(ROOT / "docs" / "examples" / "esci.toml"), options=options, environment={})


@pytest.fixture(scope="module")
def commits(session, config):
    steps = (purchase_gram, npmi_pairs, taxonomy_labels, hard_negatives, curated_queries, calibrate_npmi)
    return {step.STEP: step.run(session, config, RUN_DATE) for step in steps}


def read(config, table):
    folder = StepFolder(config.shop.work, table.written_by, RUN_DATE).table_folder(table.name)
    return ds.dataset(folder, format="parquet").to_table().to_pandas()


def test_every_product_and_label_is_accepted(config):
    for table, source, rows in ((schemas.CATALOGUE, config.catalogue, 6_764), (schemas.LABELS, config.labels, 4_135)):
        reader = open_input(table, source)
        assert sum(batch.num_rows for batch in reader) == rows
        assert not reader.counts.rejects


def test_purchases_are_counted_twenty_each(commits, config):
    counts = commits["purchase_gram"].counts
    assert counts["inputs"]["RAW_PURCHASES"].items() >= {"rows_in": 34_097, "valid": 34_097, "rejected": 0}.items()
    assert counts["inputs"]["RAW_PURCHASES"]["entities_decoded"] == 1
    assert counts["figures"]["purchases"] == 34_097 * 20
    assert read(config, schemas.PURCHASES)["purchases"].sum() == 34_097 * 20


def test_query_pairs_equal_those_of_scipy(commits, config):
    raw = pd.read_csv(DATA / "query_exact_products.tsv", sep="\t", quoting=3, dtype=str, keep_default_na=False)
    queries = raw["query"].map(decode_entities).map(normalise_query).astype("category")
    products = raw["product_id"].astype("category")
    counts = sp.csr_matrix((np.full(len(raw), 20.0), (queries.cat.codes, products.cat.codes)))
    total, of_product = counts.sum(), np.asarray(counts.sum(0)).ravel()
    chance = np.asarray(counts.sum(1)).ravel() / total
    joint = (counts @ sp.diags(1 / of_product) @ counts.T / total).tocoo()
    upper = joint.row < joint.col
    row, column, both = joint.row[upper], joint.col[upper], joint.data[upper]
    npmi = np.log(both / (chance[row] * chance[column])) / -np.log(both)
    names = queries.cat.categories
    wanted = {
        tuple(sorted((names[a], names[b]))): score
        for a, b, score in zip(row, column, npmi, strict=True)
        if score > config.npmi.tau
    }
    found = read(config, schemas.QUERY_PAIRS)
    assert dict(zip(zip(found.query_a, found.query_b, strict=True), found.npmi, strict=True)) == pytest.approx(
        wanted, abs=1e-12
    )
    assert len(found) == 5_402


def test_category_paths_become_the_tree(commits, config):
    counts = commits["taxonomy_labels"].counts
    assert counts["figures"]["products_without_category"] == 252
    tree = read(config, schemas.TAXONOMY)
    leaves = read(config, schemas.PRODUCT_NODES)["node_id"]
    # The set has 1,292 distinct paths; one of them is empty.
    assert leaves.nunique() == 1_291
    assert set(leaves) <= set(tree["node_id"])
    assert set(tree["parent_id"].dropna()) <= set(tree["node_id"])


def test_negatives_are_never_similar_pairs(commits, config):
    pairs, negatives = read(config, schemas.QUERY_PAIRS), read(config, schemas.QUERY_NEGATIVES)
    similar = set(zip(pairs.query_a, pairs.query_b, strict=True))
    dissimilar = set(zip(negatives.query_a, negatives.query_b, strict=True))
    assert len(dissimilar) == len(negatives) > 0
    assert not similar & dissimilar


def test_nodes_agree_more_often_than_by_chance_in_every_decile(commits, config):
    figures, deciles = commits["calibrate_npmi"].counts["figures"], read(config, schemas.NPMI_CALIBRATION)
    printed = format_commit(describe_commit(commits["calibrate_npmi"], built=True))
    assert deciles["pairs"].sum() == 6_867
    assert deciles["sampled"].tolist() == [500] * 10
    assert (deciles["agreement"] > 0.95).all()
    assert figures["chance_agreement"] < 0.2
    assert figures["calibrated_tau"] == config.npmi.calibration_tau
    assert len(figures["samples"]) == 20
    assert all(pair["query_a"] in printed and pair["query_b"] in printed for pair in figures["samples"])


def test_curated_queries_account_for_every_query(commits, config):
    counts, queries = commits["curated_queries"].counts, read(config, schemas.CURATED_QUERIES)
    variants = read(config, schemas.QUERY_VARIANTS)
    bought = read(config, schemas.PURCHASES)
    assert len(queries) + len(variants) == bought["query"].nunique()
    assert set(variants["query_id"]) <= set(queries["query_id"])
    assert queries["weight"].sum() == counts["figures"]["purchases"] == counts["figures"]["purchases_covered"]
    assert counts["figures"]["nodes_covered"] == counts["figures"]["nodes"]
