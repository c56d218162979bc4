"""Scores of (query, product) pairs that another model gave: TEACHER_SCORES, read and checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.contracts.inputs import open_input
from indexer.contracts.rejects import InputCounts
from indexer.contracts.schemas import TEACHER_SCORES
from indexer.distill.teachers import TableTeacher
from indexer.errors import ContractError
from indexer.input_config import InputConfig
from indexer.text import normalise_query

MAX_UNKNOWN_SHARE = 0.5
"""Scores outlive products; where more than this share of them names none, they belong to another catalogue."""


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """Rows of a table; `query` and `product` are places in `queries` and `product_ids`."""

    queries: list[str]
    product_ids: list[str]
    query: NDArray[np.int64]
    product: NDArray[np.int64]
    score: NDArray[np.float32]
    counts: InputCounts

    def join(self, query_rows: Mapping[str, int], product_rows: Mapping[str, int]) -> TableTeacher:
        """Return the table by text rows; a row whose product is none of them is rejected and counted.

        Raises ContractError where most rows name unknown products.
        """
        queries = np.array([query_rows[query] for query in self.queries], dtype=np.int64)
        products = np.array([product_rows.get(name, -1) for name in self.product_ids], dtype=np.int64)
        pairs = np.stack([queries[self.query], products[self.product]], axis=1)
        lost = np.flatnonzero(pairs[:, 1] < 0)
        if len(lost):
            query, product_id = self.queries[self.query[lost[0]]], self.product_ids[self.product[lost[0]]]
            if len(lost) > MAX_UNKNOWN_SHARE * len(pairs):
                raise ContractError(
                    f"{TEACHER_SCORES.name} from {self.counts.path}: {len(lost)} of {len(pairs)} scores name products "
                    f"that are not in the catalogue, such as {product_id!r}; expected the same ids in both"
                )
            self.counts.rows_out -= len(lost)
            self.counts.reject("product_unknown", key=f"{query} / {product_id}", sample=product_id, count=len(lost))
        known = pairs[:, 1] >= 0
        return TableTeacher(pairs[known], self.score[known])


def read_scores(path: str) -> ScoreTable:
    """Stream a table of scores; a score that is no number from -1 to 1 is rejected and counted.

    Raises ContractError where there is no row, or too many are rejected.
    """
    source = InputConfig(path=path)
    reader = open_input(TEACHER_SCORES, source)
    queries: dict[str, int] = {}
    products: dict[str, int] = {}
    columns: list[list[Any]] = [[], [], []]
    for batch in reader:
        values = (batch[name].to_pylist() for name in ("query", "product_id", "score"))
        for query, product_id, score in zip(*values, strict=True):
            normal = normalise_query(query)
            if not normal:
                reader.counts.rows_out -= 1
                reader.counts.reject("query_empty", key=f"{query} / {product_id}", sample=query)
                continue
            row = (queries.setdefault(normal, len(queries)), products.setdefault(product_id, len(products)), score)
            for column, value in zip(columns, row, strict=True):
                column.append(value)
    reader.counts.check(source.max_reject_share)
    return ScoreTable(
        queries=list(queries),
        product_ids=list(products),
        query=np.array(columns[0], dtype=np.int64),
        product=np.array(columns[1], dtype=np.int64),
        score=np.array(columns[2], dtype=np.float32),
        counts=reader.counts,
    )
