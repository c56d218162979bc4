"""The generated shop: its answers follow from its data, by an oracle that shares no code with the jobs."""

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import combinations
from math import log

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from indexer.cli.demo import demo
from indexer.cli.group import indexer
from indexer.config_file import load_config
from indexer.contracts import schemas
from indexer.contracts.inputs import open_input
from indexer.demo.shop import SHOPS, DemoConfig, write_demo_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    return folder, write_demo_shop(folder), load_config(str(folder / "shop.toml"), environment={})


def walk_npmi(folder, minimum):
    """NPMI by the walk joint, in plain loops."""
    counts = defaultdict(int)
    for row in pq.read_table(folder / "purchases.parquet").to_pylist():
        if row["purchases"] > 0 and row["query"].strip():
            counts[row["query"], row["product_id"]] += row["purchases"]
    counts = {pair: count for pair, count in counts.items() if count >= minimum}
    total = sum(counts.values())
    of_query, of_product = defaultdict(int), defaultdict(dict)
    for (query, product), count in counts.items():
        of_query[query] += count
        of_product[product][query] = count
    joint = defaultdict(float)
    for queries in of_product.values():
        for a, count_a in queries.items():
            for b, count_b in queries.items():
                if a < b:
                    joint[a, b] += count_a * count_b / sum(queries.values()) / total
    return {(a, b): log(p / (of_query[a] / total * of_query[b] / total)) / -log(p) for (a, b), p in joint.items()}


def test_planted_synonyms_lie_above_tau_and_look_alikes_below(shop):
    folder, answers, config = shop
    npmi = walk_npmi(folder, config.purchases.min_purchases)
    assert len(answers.synonyms) >= 35
    assert min(npmi[pair] for pair in answers.synonyms) > config.npmi.tau
    assert all(npmi.get(pair, -1.0) <= 0 for pair in answers.look_alikes)
    assert all(not set(a.split()) & set(b.split()) for a, b in answers.synonyms)
    assert all(set(a.split()) & set(b.split()) for a, b in answers.look_alikes)


def test_planted_dirt_is_found_by_the_reader(shop):
    _, answers, config = shop
    for table, source in ((schemas.CATALOGUE, config.catalogue), (schemas.RAW_PURCHASES, config.purchases)):
        reader = open_input(table, source)
        rows = sum(batch.num_rows for batch in reader)
        assert {reason: reject.count for reason, reject in reader.counts.rejects.items()} == answers.rejects[table.name]
        if table is schemas.CATALOGUE:
            assert rows == answers.products


def test_labels_name_products_of_the_catalogue_and_have_every_grade(shop):
    _, _, config = shop
    products = {
        row["product_id"] for batch in open_input(schemas.CATALOGUE, config.catalogue) for row in batch.to_pylist()
    }
    labels = [row for batch in open_input(schemas.LABELS, config.labels) for row in batch.to_pylist()]
    assert {row["product_id"] for row in labels} <= products
    assert {row["label"] for row in labels} == {"high", "low", "irrelevant"}
    assert len({(row["query"], row["product_id"]) for row in labels}) == len(labels)


def test_same_seed_same_shop(tmp_path, shop):
    folder, answers, _ = shop
    assert write_demo_shop(tmp_path) == answers
    names = ("catalogue.jsonl.gz", "taxonomy.csv", "labels.tsv", "shop.toml")
    assert all((tmp_path / name).read_bytes() == (folder / name).read_bytes() for name in names)
    other = write_demo_shop(tmp_path / "other", DemoConfig(seed=8))
    assert other.products == answers.products
    assert (tmp_path / "other" / "labels.tsv").read_bytes() != (folder / "labels.tsv").read_bytes()


def test_the_large_shop_has_fifty_thousand_labels_of_which_a_tenth_is_noise(tmp_path):
    answers = write_demo_shop(tmp_path, replace(SHOPS["large"], purchases=200_000))
    config = load_config(str(tmp_path / "shop.toml"), environment={})
    leaf, grades = {}, Counter()
    for batch in open_input(schemas.CATALOGUE, config.catalogue):
        leaf |= {row["product_id"]: row["product_type"] for row in batch.to_pylist()}
    labels = [row for batch in open_input(schemas.LABELS, config.labels) for row in batch.to_pylist()]
    assert 50_000 < len(labels) < 55_000
    assert len({(row["query"], row["product_id"]) for row in labels}) == len(labels)
    # Nearly all queries have five products of their own kind among ten, which makes its leaf the commonest.
    of_query = defaultdict(Counter)
    for row in labels:
        of_query[row["query"]][leaf[row["product_id"]]] += 1
    for row in labels:
        (own, _), *_ = of_query[row["query"]].most_common(1)
        grades[leaf[row["product_id"]] == own, row["label"]] += 1
    # A tenth says a grade drawn among three: two in three of these are wrong.
    assert grades[False, "irrelevant"] / sum(grades[False, label] for label in ("high", "low", "irrelevant")) == (
        pytest.approx(1 - 0.1 * 2 / 3, abs=0.01)
    )
    assert grades[True, "irrelevant"] / len(labels) == pytest.approx(0.1 / 3 / 2, abs=0.005)
    assert len(set(leaf.values())) == 13 * 42
    names = ("children's couch", "children's sofa", "kids couch", "kids sofa")
    assert set(combinations(names, 2)) <= set(answers.synonyms)


def test_every_size_can_be_asked_for():
    (size,) = [option for option in demo.params if option.name == "size"]
    assert list(size.type.choices) == list(SHOPS)


def test_labels_are_as_noisy_as_the_command_says(tmp_path):
    labels = {}
    for noise in ("0", "0.6"):
        folder = tmp_path / noise
        words = ["demo", "--folder", str(folder), "--shop-only", "--label-noise", noise]
        assert CliRunner().invoke(indexer, words).exit_code == 0
        labels[noise] = [line.split("\t") for line in (folder / "labels.tsv").read_text().splitlines()[1:]]
    changed = 0
    for (query, product, grade), noisy in zip(labels["0"], labels["0.6"], strict=True):
        assert [query, product] == noisy[:2]
        changed += grade != noisy[2]
    # Of three grades a drawn one is another in two cases of three: 0.4, with a deviation of 0.015 on so many labels.
    assert len(labels["0"]) > 1_000
    assert changed / len(labels["0"]) == pytest.approx(0.4, abs=0.06)
