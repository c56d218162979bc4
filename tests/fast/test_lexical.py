"""BM25 against values worked by hand."""

from math import log

import numpy as np
import pytest

from indexer.distill.judgements import Judgements, LabelledPairs
from indexer.distill.lexical import score_by_bm25


def judge(queries, products):
    rows = [(query, product) for query in range(len(queries)) for product in range(len(products))]
    return Judgements(
        queries=queries,
        product_ids=[str(number) for number in range(len(products))],
        products=products,
        pairs=LabelledPairs(
            query=np.array([query for query, _ in rows]),
            product=np.array([product for _, product in rows]),
            grade=np.zeros(len(rows), dtype=np.int64),
            weight=np.ones(len(rows), dtype=np.float32),
        ),
    )


def test_worked_scores():
    # Three products of 2, 4 and 3 words, mean 3. K1 (1 - B + B length / mean) is 0.9, 1.5 and 1.2.
    # "mug" stands in two products: log(1 + 1.5 / 2.5) = log 1.6; "red" in one: log(1 + 2.5 / 1.5) = log(8 / 3).
    found = score_by_bm25(judge(["Red mug", "mug mug", "sofa"], ["steel mug", "mug, mug for tea", "red tea pot"]))
    once, twice = log(1.6) * 2.2 / 1.9, log(1.6) * 2 * 2.2 / 3.5
    red = log(8 / 3)
    assert found.reshape(3, 3) == pytest.approx(np.array([[once, twice, red], [2 * once, 2 * twice, 0], [0, 0, 0]]))
