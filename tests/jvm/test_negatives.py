"""Hard negatives: cosines against scikit-learn and disjoint labels up and down the tree."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

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
    judged = negatives.judge_negatives(pairs, lineages, similar, max_per_query=10)
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
    judged = negatives.judge_negatives(pairs, negatives.label_lineages(labels, tree), none, max_per_query=1)
    kept = {(row.query_a, row.query_b, row.source) for row in judged.collect() if row.reason is None}
    assert kept == {("a", "b", "lexical"), ("b", "c", "lexical"), ("c", "d", "lexical")}
