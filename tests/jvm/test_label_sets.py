"""The labels of a query are drawn twice, by Spark for lexical negatives and in Python for mining: by one rule."""

from collections import defaultdict

import numpy as np
import pytest

from indexer.distill.query_pairs import choose_labels
from indexer.job_config import NodesConfig
from spark.taxonomy import query_labels

pytestmark = pytest.mark.jvm


@pytest.mark.parametrize(("label_mass", "min_top_share"), [(0.9, 0.5), (0.8, 0.1), (0.6, 0.3), (1.0, 0.2)])
def test_spark_and_python_draw_the_same_labels(session, label_mass: float, min_top_share: float):
    rng = np.random.default_rng(11)
    rows: list[tuple[str, str, float]] = []
    for number in range(200):
        nodes = [f"n{node}" for node in rng.permutation(12)[: rng.integers(1, 11)]]
        counts = rng.integers(1, 4, size=len(nodes)) if number % 2 else np.ones(len(nodes))
        rows += [(f"q{number}", node, float(count / counts.sum())) for node, count in zip(nodes, counts, strict=True)]
    frame = session.createDataFrame(rows, "query string, node_id string, share double")
    found = query_labels(frame, label_mass=label_mass, min_top_share=min_top_share).collect()
    shares = defaultdict(list)
    for query, node, share in rows:
        shares[query].append((node, share))
    config = NodesConfig(label_mass=label_mass, min_top_share=min_top_share)
    expected = {query: choose_labels(pairs, config) for query, pairs in shares.items()}
    assert {row["query"]: frozenset(row["labels"]) for row in found} == {q: s for q, s in expected.items() if s}
