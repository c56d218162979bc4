"""Hard negatives: cosines against scikit-learn and disjoint labels up and down the tree."""

import json

import numpy as np
import pyarrow.dataset as ds
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from indexer.config_file import load_config
from indexer.contracts import schemas
from indexer.encoder import open_encoder
from indexer.errors import EncoderError
from indexer.runs import StepFolder
from jobs import hard_negatives, npmi_pairs, purchase_gram, taxonomy_labels
from jobs.look_alikes import nearest_pairs, search_blocks, write_vectors
from spark import negatives
from spark.taxonomy import tree_frame
from spark.tree import Node, grow_tree

pytestmark = pytest.mark.jvm

QUERIES = [
    "fire stick",
    "fire striker",
    "fire stick remote",
    "wine glass",
    "picture wine glass",
    "a",
    "été",
    "fire fire",
]


def analyse(query):
    padded = f" {query} "
    return [f"w:{word}" for word in query.split(" ")] + [f"t:{padded[i : i + 3]}" for i in range(len(padded) - 2)]


@pytest.mark.parametrize("max_token_queries", [100, 2])
def test_similarities_agree_with_scikit_learn(session, max_token_queries):
    queries = session.createDataFrame([(query,) for query in QUERIES], "query string")
    weights = negatives.token_weights(negatives.query_tokens(queries), max_token_queries=max_token_queries)
    pairs = negatives.similar_queries(weights, min_similarity=0.2).collect()
    vectors = TfidfVectorizer(analyzer=analyse, max_df=max_token_queries).fit_transform(QUERIES)
    cosines = (vectors @ vectors.T).toarray()
    expected = {
        tuple(sorted((QUERIES[i], QUERIES[j]))): cosines[i, j]
        for i, j in zip(*np.nonzero(np.triu(cosines >= 0.2, 1)), strict=True)
    }
    assert {(row.query_a, row.query_b): row.similarity for row in pairs} == pytest.approx(expected)
    assert len(expected) >= 2


def test_work_is_known_before_it_is_done(session):
    tokens = negatives.query_tokens(session.createDataFrame([("ab",), ("ab c",), ("ab d",)], "query string"))
    frequencies = negatives.token_frequencies(tokens)
    counts = {row.token: row.token_queries for row in frequencies.collect()}
    assert (counts["w:ab"], counts["t: ab"], counts["t:ab "], counts["w:c"]) == (3, 3, 3, 1)
    # Three tokens in three queries each form three pairs; t:"b c" and the like form none.
    assert negatives.join_size(frequencies, max_token_queries=3).collect()[0].token_pairs == 9
    assert negatives.join_size(frequencies, max_token_queries=2).collect()[0].token_pairs == 0


NODES = [Node("home", None, "h"), Node("pans", "home", "p"), Node("lids", "home", "l"), Node("toys", None, "t")]
LABELS = {"pan": ["pans"], "lid": ["lids"], "all": ["home"], "toy": ["toys"], "mix": ["lids", "toys"]}


def test_labels_must_be_disjoint_up_and_down_the_tree(session):
    tree = tree_frame(session, grow_tree(NODES, max_depth=9, shown="tree"), separator=">")
    labels = session.createDataFrame(list(LABELS.items()), "query string, labels array<string>")
    lineages = negatives.label_lineages(labels, tree)
    names = sorted(LABELS)
    pairs = session.createDataFrame(
        [(a, b, 0.5) for a in names for b in names if a < b] + [("pan", "unlabelled", 0.9)],
        "query_a string, query_b string, similarity double",
    )
    similar = session.createDataFrame([("lid", "toy"), ("all", "pan")], "query_a string, query_b string")
    judged = negatives.judge_negatives(pairs, lineages, similar, source="lexical", max_per_query=10)
    found = {(row.query_a, row.query_b): row.reason for row in judged.collect()}
    assert found == {
        ("all", "lid"): "related_nodes",  # a node and one above it
        ("all", "mix"): "related_nodes",
        ("all", "pan"): "related_nodes",
        ("all", "toy"): None,
        ("lid", "mix"): "related_nodes",
        ("lid", "pan"): None,  # siblings
        ("lid", "toy"): "in_query_pairs",
        ("mix", "pan"): None,
        ("mix", "toy"): "related_nodes",
        ("pan", "toy"): None,
    }


def test_the_most_similar_are_kept_per_query(session):
    tree = tree_frame(session, grow_tree([Node(n, None, n) for n in "abcd"], max_depth=9, shown="tree"), separator=">")
    labels = session.createDataFrame([(n, [n]) for n in "abcd"], "query string, labels array<string>")
    rows = [("a", "b", 0.9), ("a", "c", 0.8), ("b", "c", 0.85), ("c", "d", 0.4), ("b", "d", 0.3)]
    pairs = session.createDataFrame(rows, "query_a string, query_b string, similarity double")
    none = session.createDataFrame([], "query_a string, query_b string")
    judged = negatives.judge_negatives(
        pairs, negatives.label_lineages(labels, tree), none, source="lexical", max_per_query=1
    )
    kept = {(row.query_a, row.query_b, row.source) for row in judged.collect() if row.reason is None}
    assert kept == {("a", "b", "lexical"), ("b", "c", "lexical"), ("c", "d", "lexical")}


@pytest.mark.parametrize(("rows", "blocks", "count"), [(7, 3, 4), (60, 4, 5), (2_300, 3, 11), (3, 2, 50)])
def test_the_nearest_of_all_blocks_are_those_of_one_product(rows, blocks, count):
    draw = np.random.default_rng(rows)
    vectors = draw.normal(size=(rows, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = np.array([f"q{at}" for at in range(rows)], dtype=object)
    parts = np.array_split(np.arange(rows), blocks)
    found, cosines = search_blocks(vectors, ((names[part], vectors[part]) for part in parts), count=count)
    expected = np.argsort(-(vectors @ vectors.T), axis=1)[:, :count]
    assert (found == names[expected]).all()
    assert np.allclose(cosines, np.take_along_axis(vectors @ vectors.T, expected, 1), atol=1e-6)
    assert (found[:, 0] == names).all()


def test_look_alikes_of_an_encoder_are_its_exact_neighbours(session, encoder_directory, tmp_path):
    texts = [
        "steel bottle",
        "steel sipper",
        "desk lamp",
        "desk",
        "red shirt",
        "red dress",
        "school bag",
        "hose",
        "中国",
    ]
    queries = session.createDataFrame([(text,) for text in texts], "query string")
    encoded = open_encoder(encoder_directory).encode(texts, kind="query")
    known = [text for text, empty in zip(texts, encoded.empty, strict=True) if not empty]
    vectors = encoded.vectors[~encoded.empty]
    cosines = vectors @ vectors.T - 3 * np.eye(len(known))
    expected = {
        tuple(sorted((known[at], known[to]))): cosines[at, to]
        for at, row in enumerate(cosines)
        for to in np.argsort(-row)[:2]
    }
    for blocks in (1, 3):
        write_vectors(queries, encoder_directory.resolve(), tmp_path / f"v{blocks}", blocks=blocks)
        found = nearest_pairs(session, tmp_path / f"v{blocks}", blocks=blocks, neighbours=2).collect()
        assert {(row.query_a, row.query_b): row.similarity for row in found} == pytest.approx(expected, abs=1e-5)


def test_an_encoder_adds_look_alikes_that_share_no_word(session, encoder_directory, tmp_path):
    queries = ["steel bottle", "desk lamp", "red shirt", "school bag", "hose"]
    (tmp_path / "purchases.csv").write_text(
        "query,product_id,purchases\n" + "".join(f"{query},p{at},30\n" for at, query in enumerate(queries))
    )
    (tmp_path / "catalogue.csv").write_text(
        "product_id,title,category_path\n" + "".join(f"p{at},{query},{query}\n" for at, query in enumerate(queries))
    )
    (tmp_path / "shop.toml").write_text(
        '[shop]\nwork = "work"\n[purchases]\npath = "purchases.csv"\n[catalogue]\npath = "catalogue.csv"\n'
        "[negatives]\nmin_similarity = 0.0\n[gates]\ntables_with_rows = []\n"
    )

    def load(*options):
        return load_config(str(tmp_path / "shop.toml"), options=options, environment={})

    for job in (purchase_gram, npmi_pairs, taxonomy_labels, hard_negatives):
        before = job.run(session, load(), "2026-11-20")
    config = load(f"negatives.encoder={encoder_directory}", "negatives.encoder_neighbours=4")
    commit = hard_negatives.run(session, config, "2026-11-20")
    assert commit.fingerprint != before.fingerprint
    assert hard_negatives.run(session, config, "2026-11-20") == commit
    folder = StepFolder(config.shop.work, "hard_negatives", "2026-11-20").table_folder("QUERY_NEGATIVES")
    rows = ds.dataset(folder, format="parquet").to_table().to_pylist()
    assert sorted(path.name for path in folder.parent.iterdir() if path.is_dir()) == ["QUERY_NEGATIVES", "REJECTS"]
    assert {row["source"] for row in rows} >= {"encoder"}
    pairs = [(row["query_a"], row["query_b"]) for row in rows]
    assert len(pairs) == len(set(pairs)) == commit.counts["tables"][schemas.QUERY_NEGATIVES.name]
    figures = commit.counts["figures"]
    assert figures["cosines"] == 25
    assert (
        sum(commit.counts["filters"].get(name, 0) for name in ("related_nodes", "beyond_max_per_query")) + len(rows)
        == figures["lexical_look_alikes"] + figures["encoder_look_alikes"]
    )
    assert json.dumps(commit.counts)
    with pytest.raises(EncoderError, match="cannot be read"):
        hard_negatives.run(session, load(f"negatives.encoder={tmp_path}"), "2026-11-20")
