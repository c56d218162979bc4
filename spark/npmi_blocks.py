"""The pairs of two blocks of queries scored by NPMI, in numpy: the work of one Spark task."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from indexer.contracts.schemas import QUERY_PAIRS
from indexer.job_config import NpmiConfig
from spark.block_rows import Block, Pairs, best_pairs, write_pairs
from spark.sparse_product import (
    Candidates,
    Doubles,
    Figures,
    Integers,
    Rows,
    align_columns,
    column_values,
    count_matrix,
    find_all,
    find_candidates,
    find_columns,
    measure_pairs,
)

ONE = 1 - 1e-12
"""A literal Gram value from here on counts as 1, where equation 2 divides by zero; rounding must not flip its sign."""
REASONS = ("not_above_tau", "below_min_support", "below_min_shared_products")
SCORED_SCHEMA = pa.schema(
    [pa.field(field.name, field.type) for field in QUERY_PAIRS.schema]
    + [pa.field("tally", pa.string()), pa.field("count", pa.int64())]
)
"""QUERY_PAIRS, or a `tally` and its `count` where the rest is null."""


def score_blocks(one: Block, other: Block, config: NpmiConfig) -> Iterator[pa.RecordBatch]:
    """Yield the pairs of two blocks, or of one with itself, that pass all filters, then what the others fell to.

    `beyond_top_k` counts pairs that are beyond the best of both their queries within these blocks already.
    """
    tally, kept = dict.fromkeys(("multiply_adds", "candidates", *REASONS), 0), 0
    passed = _pass_filters(one, other, config, tally)
    for pairs in best_pairs(passed, one, other, score="npmi", top_k=config.top_k):
        kept += len(pairs)
        yield from write_pairs(pairs, one, other, SCORED_SCHEMA)
    tally["beyond_top_k"] = tally["candidates"] - sum(tally[reason] for reason in REASONS) - kept
    yield _write_tally(tally)


def npmi_scores(joint: Doubles, p_a: Doubles, p_b: Doubles, variant: str) -> Doubles:
    """Return NPMI; within [-1, 1] for a distribution, -1 for a joint of 0, infinite where `literal` divides by zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        # The marginals are added up first: which of the two comes first depends on the blocks.
        score = (np.log(joint) - (np.log(p_a) + np.log(p_b))) / -np.log(joint)
    certain, highest = (ONE, np.inf) if variant == "literal" else (1.0, 1.0)
    defined: Doubles = np.select([joint <= 0, joint >= certain], [-1.0, highest], score)
    return defined if variant == "literal" else np.clip(defined, -1, 1)


def npmi_ceilings(p_a: Doubles, p_b: Doubles, variant: str) -> Doubles | None:
    """Return the largest NPMI that two different queries with these marginals can reach; None where unbounded.

    walk: P(a,b) <= p_a p_b / (p_a + p_b), reached where two queries share all their products with each other alone.
    """
    if variant == "literal":
        return None
    if variant != "walk":
        return np.ones(len(p_a))
    both = np.log(p_a + p_b)
    # Two queries that hold all purchases between them: the ratio of logarithms is 0 / log 4 or above, and exact.
    ceilings: Doubles = np.clip(both / (np.log(p_a) + np.log(p_b) - both), 0, 1)
    return ceilings


def _pass_filters(one: Block, other: Block, config: NpmiConfig, tally: dict[str, int]) -> Iterator[Pairs]:
    for pairs in _measure(one, other, config, tally):
        alive = np.ones(len(pairs), dtype=bool)
        for reason, passed in (
            ("not_above_tau", pairs.figures["npmi"] > config.tau),
            ("below_min_support", pairs.figures["support"] >= config.min_support),
            ("below_min_shared_products", pairs.figures["shared_products"] >= config.min_shared_products),
        ):
            tally[reason] += int(np.count_nonzero(alive & ~passed))
            alive &= passed
        yield pairs.take(alive)


def _measure(one: Block, other: Block, config: NpmiConfig, tally: dict[str, int]) -> Iterator[Pairs]:
    """Yield every pair above tau, and few others, with its figures."""
    columns = align_columns(one.codes, other.codes)
    places = find_columns(one.codes, columns)
    weights = column_values(places, one.weights, len(columns))
    left = _make_rows(one, places, len(columns), config.tau)
    right = None if one is other else _make_rows(other, find_columns(other.codes, columns), len(columns), config.tau)
    # Below 0 the threshold says so little that forming every pair is as quick.
    find = find_candidates(left, right, weights) if config.tau >= 0 else find_all(left, right)
    for found in find:
        tally["multiply_adds"] += found.multiply_adds
        tally["candidates"] += len(found.left)
        yield _score(one, other, found, measure_pairs(left, right or left, found, weights), config.variant)


def _make_rows(block: Block, places: Integers, width: int, tau: float) -> Rows:
    """Scale rows so that NPMI >= tau exactly where the product of two reaches 1."""
    scales = block.factors * block.marginals ** (-1 / (1 + tau)) if tau >= 0 else block.factors
    return Rows(counts=count_matrix(block.starts, places, block.counts, width), scales=scales)


def _score(one: Block, other: Block, found: Candidates, figures: Figures, variant: str) -> Pairs:
    p_a, p_b = one.marginals[found.left], other.marginals[found.right]
    joint = figures.joint * (one.factors[found.left] * other.factors[found.right])
    ceiling = npmi_ceilings(p_a, p_b, variant)
    scored = {
        "npmi": npmi_scores(joint, p_a, p_b, variant),
        **({} if ceiling is None else {"ceiling": ceiling}),
        "joint": joint,
        "p_a": p_a,
        "p_b": p_b,
        "support": figures.support,
        "shared_products": figures.shared,
    }
    return Pairs(found.left, found.right, scored)


def _write_tally(tally: dict[str, int]) -> pa.RecordBatch:
    columns = {name: pa.nulls(len(tally), SCORED_SCHEMA.field(name).type) for name in SCORED_SCHEMA.names}
    columns |= {"tally": pa.array(list(tally)), "count": pa.array(list(tally.values()), pa.int64())}
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=SCORED_SCHEMA)
