"""Published taxonomies, products and query classes through the job; every figure can be counted in the files."""

import csv
import gzip
import json
import os
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from indexer.config_file import load_config
from indexer.contracts import schemas
from indexer.errors import ContractError
from indexer.runs import StepFolder
from jobs import purchase_gram, taxonomy_labels
from spark.tree import Node, grow_tree, path_nodes, path_text

pytestmark = pytest.mark.jvm
DATA = Path(os.environ.get("SHOP_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
DATE = "2026-11-20"
BESTBUY, SHOPIFY, WANDS = (DATA / name for name in ("bestbuy", "shopify_taxonomy", "wands_queries"))

if not all(folder.exists() for folder in (BESTBUY, SHOPIFY, WANDS)):
    pytest.skip("bestbuy, shopify_taxonomy or wands_queries is not here; set SHOP_TEST_DATA", allow_module_level=True)


@pytest.fixture(scope="module")
def label(session, tmp_path_factory):
    """Run the job in a folder that has the tables given, by section; return its commit and a reader of its tables."""
    folder = tmp_path_factory.mktemp("taxonomies")
    (folder / "purchases.csv").write_text("query,product_id,purchases\nsalon chair,p0,30\nturquoise pillows,p1,20\n")
    options = [f"shop.work={folder / 'work'}", f"purchases.path={folder / 'purchases.csv'}"]
    purchase_gram.run(session, load_config(options=options, environment={}), DATE)

    def go(*settings, **records):
        for section, rows in records.items():
            (folder / f"{section}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            settings = (f"{section}.path={folder / section}.jsonl", *settings)
        config = load_config(options=[*options, *settings], environment={})
        commit = taxonomy_labels.run(session, config, DATE)

        def read(table):
            return ds.dataset(StepFolder(config.shop.work, commit.step, DATE).table_folder(table.name)).to_table()

        return commit, read

    return go


@pytest.fixture(scope="module")
def bestbuy():
    return json.loads(gzip.decompress((BESTBUY / "categories.json.gz").read_bytes()))


@pytest.fixture(scope="module")
def bestbuy_products():
    products = json.loads(gzip.decompress((BESTBUY / "products_typesense.json.gz").read_bytes()))
    return [
        {"product_id": f"p{row}", "title": product["name"], "category_path": product["categories"]}
        for row, product in enumerate(products)
    ]


@pytest.fixture(scope="module")
def shopify():
    """Full path -> id."""
    lines = [line for line in (SHOPIFY / "categories.txt").read_text().splitlines() if line and line[0] != "#"]
    return {path: node_id.strip() for node_id, path in (line.split(" : ", 1) for line in lines)}


def rejects(commit):
    return {(row["table"], row["reason"]): row["count"] for row in commit.rejects}


def test_a_noisy_tree_of_parents_places_products_by_path_and_leaf(label, bestbuy, bestbuy_products):
    parents = [[None, *(node["id"] for node in category["path"])][-2] for category in bestbuy]
    tree = [
        {"node_id": category["id"], "parent_id": parent, "name": category["name"]}
        for category, parent in zip(bestbuy, parents, strict=True)
    ]
    limits = ("catalogue.max_reject_share=0.04", "taxonomy.max_reject_share=0.1")
    commit, read = label(*limits, "nodes.leaf_names=true", taxonomy=tree, catalogue=bestbuy_products)
    # 363 parents are not in the file; with the nodes below these, 376 nodes hang on nothing. One name is null.
    assert commit.counts["inputs"]["TAXONOMY"].items() >= {"rows_in": 4_584, "valid": 4_207, "rejected": 377}.items()
    assert rejects(commit) == {
        ("TAXONOMY", "name_missing"): 1,
        ("TAXONOMY", "parent_unknown"): 376,
        ("PRODUCT_NODES", "node_unknown"): 115,
    }
    assert (
        commit.counts["figures"].items()
        >= {
            "nodes_with_the_path_of_another": 4,
            "products": 3_291,
            "products_without_category": 0,
            "products_placed": 2_968 + 208,
            "products_unplaced": 115,
            "product_miss_rate": 0.0349,
            "matched_by_path": 2_968,
            "matched_by_leaf": 208,
        }.items()
    )
    assert sum(row["parent_id"] is None for row in read(schemas.TAXONOMY).to_pylist()) == 43


def test_a_noisy_tree_of_full_paths_names_the_missing_parents(bestbuy):
    rows = [(node["id"], path_text([step["name"] or "" for step in node["path"]], ">")) for node in bestbuy]
    nodes = path_nodes(rows, separator=">", max_depth=32, shown="tree")
    tree = grow_tree(nodes, max_depth=32, shown="tree")
    assert (len(rows), len(nodes), len(tree.nodes)) == (4_584, 4_584 + 134, 4_584 + 134)


def test_several_parents_of_real_nodes(bestbuy):
    edges = [Node(below["id"], node["id"], below["name"]) for node in bestbuy for below in node["subCategories"]]
    named = [edge for edge in edges if edge.name]
    below = {edge.node_id for edge in named}
    rows = [
        *named,
        *(Node(node["id"], None, node["name"]) for node in bestbuy if node["id"] not in below and node["name"]),
    ]
    with pytest.raises(ContractError, match=r"has two parents, .*taxonomy.two_parents"):
        grow_tree(rows, max_depth=32, shown="tree")
    tree = grow_tree(rows, max_depth=32, shown="tree", two_parents="first")
    assert (len(rows), len(tree.nodes), len(tree.second_parents), len(tree.orphans)) == (7_265, 6_683, 582, 0)


def test_the_published_file_of_a_taxonomy_and_a_classifier_that_names_leaves(label, shopify):
    products = [
        {"product_id": f"p{row}", "title": "x", "node_ids": [node_id]} for row, node_id in enumerate(shopify.values())
    ]
    commit, read = label(
        f"taxonomy.path={SHOPIFY / 'categories.txt'}",
        "taxonomy.format=lines",
        f"query_classes.path={WANDS / 'query.csv'}",
        "query_classes.format=tsv",
        'query_classes.columns={node_id="query_class"}',
        "query_classes.max_reject_share=0.8",
        "nodes.leaf_names=true",
        catalogue=products,
    )
    assert (
        commit.counts["inputs"]["TAXONOMY_PATHS"].items() >= {"rows_in": 10_595, "valid": 10_595, "rejected": 0}.items()
    )
    assert {row["node_id"]: row["parent_id"] for row in read(schemas.TAXONOMY).to_pylist()} == {
        node_id: shopify.get(path.rpartition(" > ")[0]) for path, node_id in shopify.items()
    }
    assert commit.counts["figures"].items() >= {"matched_by_id": 10_595, "product_miss_rate": 0.0}.items()
    # Wayfair's classes: 6 queries have none, 123 name a leaf that Shopify's tree has once.
    assert rejects(commit) == {("QUERY_CLASSES", "node_id_missing"): 6, ("QUERY_CLASSES", "node_unknown"): 351}
    assert commit.counts["figures"]["classified_queries"] == 123


def test_a_crosswalk_translates_one_taxonomy_into_another(label, shopify):
    lines = (SHOPIFY / "shopify_2025-08_to_google_2021-09-21.txt").read_text().splitlines()
    sides = {mark: [line[2:] for line in lines if line.startswith(mark)] for mark in "→⇒"}
    google = {path: f"g{number}" for number, path in enumerate(sorted(set(sides["⇒"])))}
    crosswalk = [{"from_node": a, "to_node": b} for a, b in zip(sides["→"], sides["⇒"], strict=True)]
    paths, ids = list(shopify)[:5_000], list(shopify.items())[5_000:]
    # Half of the products and of the crosswalk name a node by its path, half by its id.
    crosswalk = [
        row if row["from_node"] in paths else row | {"from_node": shopify[row["from_node"]]} for row in crosswalk
    ]
    products = [
        *({"product_id": f"p{row}", "title": "x", "category_path": path} for row, path in enumerate(paths)),
        *({"product_id": node_id, "title": "x", "node_ids": [node_id]} for _, node_id in ids),
    ]
    tree = [{"node_id": node_id, "category_path": path} for path, node_id in google.items()]
    commit, read = label(
        'taxonomy.columns={category_path="category_path"}',
        "catalogue.max_reject_share=0.006",
        taxonomy=tree,
        crosswalk=[*crosswalk, crosswalk[0]],
        catalogue=products,
    )
    assert commit.counts["inputs"]["CROSSWALK"].items() >= {"rows_in": 10_536, "valid": 10_536, "rejected": 0}.items()
    assert commit.counts["filters"]["repeated_crosswalk"] == 1
    assert (
        commit.counts["figures"].items()
        >= {
            "implied_nodes": 1,
            "matched_by_crosswalk": 10_535,
            "matched_by_path": 0,
            "products_unplaced": 60,
        }.items()
    )
    assert rejects(commit) == {("PRODUCT_NODES", "node_unknown"): 60}
    wanted = dict(zip(sides["→"], sides["⇒"], strict=True))
    names = {f"p{row}": path for row, path in enumerate(paths)} | {node_id: path for path, node_id in ids}
    assert {row["product_id"]: row["node_id"] for row in read(schemas.PRODUCT_NODES).to_pylist()} == {
        product_id: google[wanted[path]] for product_id, path in names.items() if path in wanted
    }


def test_a_classifiers_own_classes_beside_purchases(label):
    with (WANDS / "query.csv").open(newline="") as file:
        classes = {row["query"]: row["query_class"] for row in csv.DictReader(file, delimiter="\t")}
    tree = [{"node_id": name, "parent_id": None, "name": name} for name in sorted({*classes.values()} - {""})]
    catalogue = [
        {"product_id": "p0", "title": "x", "node_ids": ["Salon Chairs"]},
        {"product_id": "p1", "title": "x", "node_ids": ["Accent Pillows"]},
    ]
    settings = [f"query_classes.path={WANDS / 'query.csv'}", "query_classes.format=tsv", "nodes.merge=mix"]
    settings += ['query_classes.columns={node_id="query_class"}', "query_classes.max_reject_share=0.02"]
    commit, read = label(
        *settings, taxonomy=[*tree, {"node_id": "Salon Chairs", "name": "Salon Chairs"}], catalogue=catalogue
    )
    assert commit.counts["inputs"]["QUERY_CLASSES"].items() >= {"rows_in": 480, "valid": 474, "rejected": 6}.items()
    assert commit.counts["figures"]["classified_queries"] == 474
    assert commit.counts["filters"].items() >= {"overruled_nodes": 0, "shared_nodes": 1}.items()
    nodes = read(schemas.QUERY_NODES).to_pylist()
    assert len(nodes) == 475
    found = {(row["query"], row["node_id"]): (row["share"], row["confidence"]) for row in nodes}
    # 30 purchases are worth 30 / 35 beside a class without a score, which is certain; 20 are worth 20 / 25.
    assert found["salon chair", "Massage Chairs"] == (0.5, 0.5)
    assert found["salon chair", "Salon Chairs"] == (0.5, pytest.approx(15 / 35))
    assert found["turquoise pillows", "Accent Pillows"] == (1.0, 0.9)
    assert found["dinosaur", classes["dinosaur"]] == (1.0, 1.0)
