"""The pruned product of query rows against dense numpy: nothing is lost, whatever the blocks, order or names."""

import math
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.errors import ContractError
from indexer.job_config import NpmiConfig
from spark import sparse_product
from spark.block_pairs import deal_pairs
from spark.block_rows import read_block
from spark.forecast import forecast_product
from spark.npmi_blocks import npmi_ceilings, npmi_scores, score_blocks
from spark.pair_plan import read_blocks
from spark.purchase_matrix import measure_matrix, name_most_shared, read_matrix

VARIANTS = ("walk", "offdiag", "gramnorm", "literal")


def describe_rows(matrix, variant):
    """Return weight per product, factor and marginal per query as the table of the readings has them, by dense sums."""
    total, n_i, n_k = matrix.sum(), matrix.sum(1), matrix.sum(0)
    shares = matrix / n_i[:, None]
    met = (matrix * (n_k - matrix) / n_k).sum(1)
    squares = (shares.sum(0) ** 2).sum()
    return {
        "walk": (1 / (n_k * total), np.ones(len(n_i)), n_i / total),
        "offdiag": (1 / (n_k * (met.sum() or 1)), np.ones(len(n_i)), met / (met.sum() or 1)),
        "gramnorm": (np.full(len(n_k), 1 / squares), 1 / n_i, (shares * shares.sum(0)).sum(1) / squares),
        "literal": (np.ones(len(n_k)), 1 / n_i, n_i / total),
    }[variant]


def make_tables(matrix, variant, *, blocks=1, seed=0, names=None, codes=None):
    """Return the rows of each block, in a random order and with random codes for the products."""
    rng = np.random.default_rng(seed)
    weights, factors, marginals = describe_rows(matrix, variant)
    codes = rng.choice(2**62, matrix.shape[1], replace=False) - 2**61 if codes is None else codes
    shared = (matrix > 0).sum(0) > 1
    rows = []
    for i in rng.permutation(len(matrix)):
        columns = rng.permutation(np.flatnonzero((matrix[i] > 0) & shared))
        if len(columns):
            rows.append(
                {
                    "query": names[i] if names else f"q{i}",
                    "marginal": marginals[i],
                    "factor": factors[i],
                    "codes": codes[columns].tolist(),
                    "counts": matrix[i, columns].tolist(),
                    "weights": weights[columns].tolist(),
                }
            )
    schema = pa.schema(
        [
            ("query", pa.string()),
            ("marginal", pa.float64()),
            ("factor", pa.float64()),
            ("codes", pa.list_(pa.int64())),
            ("counts", pa.list_(pa.int64())),
            ("weights", pa.list_(pa.float64())),
        ]
    )
    return [pa.Table.from_pylist(rows[start::blocks], schema=schema) for start in range(blocks)]


def score(tables, config):
    """Score every pair of blocks as the Spark tasks do; return the pairs by name and the summed tallies."""
    pairs, tally = {}, Counter()
    for low, left in enumerate(tables):
        for right in [None, *tables[low + 1 :]]:
            if right is not None and not (left.num_rows and right.num_rows):
                continue
            if right is None and not left.num_rows:
                continue
            one = read_block(left)
            for batch in score_blocks(one, one if right is None else read_block(right), config):
                for row in batch.to_pylist():
                    if row["tally"] is not None:
                        tally[row["tally"]] += row["count"]
                        continue
                    assert (row["query_a"], row["query_b"]) not in pairs
                    pairs[row["query_a"], row["query_b"]] = row
    return pairs, tally


def expect(matrix, variant, tau, *, min_support=0, min_shared=1):
    """Return NPMI of every wanted pair by dense matrices, nothing shared with the code under test."""
    weights, factors, marginals = describe_rows(matrix, variant)
    scaled = matrix * factors[:, None]
    joint = (scaled * weights) @ scaled.T
    wanted = {}
    for i in range(len(matrix)):
        for j in range(i + 1, len(matrix)):
            both = np.minimum(matrix[i], matrix[j])
            if not both.any() or both.sum() < min_support or np.count_nonzero(both) < min_shared:
                continue
            if variant == "literal" and joint[i, j] >= 1 - 1e-12:
                npmi = math.inf
            else:
                npmi = math.log(joint[i, j] / marginals[i] / marginals[j]) / -math.log(joint[i, j])
            if npmi > tau:
                a, b = sorted((f"q{i}", f"q{j}"))
                wanted[a, b] = npmi
    return wanted


@st.composite
def matrices(draw):
    """Draw count matrices with hubs: some products are bought after most queries."""
    queries, products = draw(st.integers(2, 14)), draw(st.integers(1, 10))
    seed, hubs = draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, 2))
    rng = np.random.default_rng(seed)
    chance = np.full(products, draw(st.sampled_from([0.1, 0.3, 0.6])))
    chance[:hubs] = 0.95
    matrix = np.ceil(rng.pareto(1.0, (queries, products)) * 20).clip(1, 10**6).astype(np.int64)
    matrix *= rng.random((queries, products)) < chance
    matrix[matrix.sum(1) == 0, 0] = 7
    return matrix[:, matrix.sum(0) > 0]


def clear(expected, tau):
    """Leave out pairs that lie on the threshold within rounding."""
    return {pair: npmi for pair, npmi in expected.items() if abs(npmi - tau) > 1e-9}


def assert_close(found, expected, *, within):
    """Compare scores; the literal form divides by log G, and what G lacks to 1 has lost digits where it is little."""
    assert found.keys() == expected.keys()
    for pair, npmi in expected.items():
        assert found[pair] == pytest.approx(npmi, abs=within if math.isinf(npmi) else within + 1e-14 * npmi**2), pair


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=40, deadline=None)
@given(matrix=matrices(), tau=st.sampled_from([-0.5, 0.0, 0.2, 0.3, 0.5, 0.7]), blocks=st.integers(1, 4))
def test_no_wanted_pair_is_lost_whatever_the_blocks(variant, matrix, tau, blocks):
    config = NpmiConfig(variant=variant, tau=tau, min_support=0, top_k=10**6, force_literal=True)
    pairs, tally = score(make_tables(matrix, variant, blocks=blocks, seed=blocks), config)
    expected = expect(matrix, variant, tau)
    found = {pair: row["npmi"] for pair, row in pairs.items()}
    assert clear(found, tau).keys() == clear(expected, tau).keys()
    assert_close(clear(found, tau), clear(expected, tau), within=1e-9)
    assert tally["candidates"] == len(found) + tally["not_above_tau"]
    assert tally["beyond_top_k"] == 0


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=15, deadline=None)
@given(matrix=matrices(), blocks=st.integers(2, 4))
def test_blocks_order_and_names_of_products_change_no_bit(variant, matrix, blocks):
    config = NpmiConfig(variant=variant, tau=0.03, min_support=0, top_k=10**6, force_literal=True)
    codes = np.arange(matrix.shape[1]) * 1000 - 5
    whole, _ = score(make_tables(matrix, variant, seed=1, codes=codes), config)
    split, _ = score(make_tables(matrix, variant, blocks=blocks, seed=2, codes=codes), config)
    assert whole == split
    renamed, _ = score(make_tables(matrix, variant, seed=3, codes=-codes), config)
    scores = [{pair: row["npmi"] for pair, row in found.items()} for found in (whole, renamed)]
    assert_close(*scores, within=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=15, deadline=None)
@given(matrix=matrices(), seed=st.integers(0, 2**32 - 1))
def test_names_of_queries_and_their_order_in_a_pair_change_no_score(variant, matrix, seed):
    config = NpmiConfig(variant=variant, tau=0.03, min_support=0, top_k=10**6, force_literal=True)
    given_names = [f"q{i}" for i in range(len(matrix))]
    other_names = np.random.default_rng(seed).permutation(given_names).tolist()
    codes = np.arange(matrix.shape[1]) * 1000 - 5
    plain, _ = score(make_tables(matrix, variant, seed=1, codes=codes), config)
    halves = make_tables(matrix, variant, blocks=2, seed=1, codes=codes, names=other_names)
    turned, _ = score(halves[::-1], config)
    renamed = dict(zip(given_names, other_names, strict=True))
    figures = ("npmi", "joint", "support", "shared_products")
    expected = {
        tuple(sorted((renamed[a], renamed[b]))): [row[name] for name in figures] for (a, b), row in plain.items()
    }
    assert {pair: [row[name] for name in figures] for pair, row in turned.items()} == expected


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=15, deadline=None)
@given(matrix=matrices())
def test_bounds_of_every_variant(variant, matrix):
    """Without a threshold that matters the code, which clips, finds what the definition, which does not, keeps."""
    config = NpmiConfig(variant=variant, tau=-0.95, min_support=0, top_k=10**6, force_literal=True)
    pairs, _ = score(make_tables(matrix, variant), config)
    found, expected = {pair: row["npmi"] for pair, row in pairs.items()}, expect(matrix, variant, -0.95)
    assert_close(clear(found, -0.95), clear(expected, -0.95), within=1e-9)
    highest = math.inf if variant == "literal" else 1 + 1e-12
    assert all(-1 < npmi <= highest for npmi in expected.values())


def test_npmi_is_defined_where_a_logarithm_is_not():
    joint, marginal = np.array([0.0, 1.0]), np.array([0.5, 1.0])
    assert npmi_scores(joint, marginal, marginal, "walk").tolist() == [-1.0, 1.0]
    assert npmi_scores(joint, marginal, marginal, "literal").tolist() == [-1.0, math.inf]


@settings(max_examples=30, deadline=None)
@given(matrix=matrices())
def test_bounds_and_figures(matrix):
    pairs, _ = score(make_tables(matrix, "walk"), NpmiConfig(tau=-0.9, min_support=0, top_k=10**6))
    marginal = matrix.sum(1) / matrix.sum()
    for (a, b), row in pairs.items():
        i, j = int(a[1:]), int(b[1:])
        assert -1 <= row["npmi"] <= row["ceiling"] + 1e-12
        assert row["joint"] <= min(row["p_a"], row["p_b"]) * (1 + 1e-12)
        assert (row["p_a"], row["p_b"]) == pytest.approx((marginal[i], marginal[j]))
        assert row["support"] == np.minimum(matrix[i], matrix[j]).sum()
        assert row["shared_products"] == np.count_nonzero(matrix[i] * matrix[j])


@settings(max_examples=30, deadline=None)
@given(matrix=matrices(), top_k=st.integers(1, 3), blocks=st.integers(1, 3))
def test_the_best_partners_of_every_query_stay(matrix, top_k, blocks):
    limits = {"variant": "walk", "tau": 0.03, "min_support": 5, "min_shared_products": 1}
    everything, _ = score(make_tables(matrix, "walk"), NpmiConfig(**limits, top_k=10**6))
    best, tally = score(make_tables(matrix, "walk", blocks=blocks), NpmiConfig(**limits, top_k=top_k))
    assert len(best) + tally["beyond_top_k"] == len(everything)
    for query in {name for pair in everything for name in pair}:
        scores = sorted((row["npmi"] for pair, row in everything.items() if query in pair), reverse=True)
        limit = scores[:top_k][-1]
        assert all(pair in best for pair, row in everything.items() if query in pair and row["npmi"] >= limit)


def test_every_filter_counts_the_pairs_that_fall_to_it_first():
    # q0 and q1 share 25 purchases of one product, q2 and q3 share 30 of two, q4 and q5 share 5.
    matrix = np.array(
        [[25, 0, 0, 0], [25, 0, 0, 0], [0, 15, 15, 0], [0, 15, 15, 0], [0, 0, 0, 5], [0, 0, 0, 5]], dtype=np.int64
    )
    tables = make_tables(matrix, "walk")
    pairs, tally = score(tables, NpmiConfig(tau=0.0, min_support=20, min_shared_products=2, top_k=1))
    assert list(pairs) == [("q2", "q3")]
    assert tally == {
        "multiply_adds": tally["multiply_adds"],
        "candidates": 3,
        "not_above_tau": 0,
        "below_min_support": 1,
        "below_min_shared_products": 1,
        "beyond_top_k": 0,
    }


def test_small_batches_and_buffers_give_the_same(monkeypatch):
    rng = np.random.default_rng(3)
    matrix = (rng.integers(1, 90, (60, 30)) * (rng.random((60, 30)) < 0.3)).astype(np.int64)
    matrix[matrix.sum(1) == 0, 0] = 7
    config = NpmiConfig(tau=0.05, min_support=0, top_k=3)
    whole, tally = score(make_tables(matrix, "walk", blocks=2), config)
    monkeypatch.setattr(sparse_product, "BATCH", 7)
    monkeypatch.setattr("spark.block_rows.BUFFER", 5)
    monkeypatch.setattr("spark.block_rows.BATCH_ROWS", 4)
    cut, counted = score(make_tables(matrix, "walk", blocks=2), config)
    # A full buffer may let pairs go on before it knows better ones; none is lost.
    assert whole.items() <= cut.items()
    assert counted["candidates"] == tally["candidates"] == len(cut) + counted["not_above_tau"] + counted["beyond_top_k"]


def test_pruning_forms_few_of_the_pairs_of_a_hub():
    # Every query buys the hub and one product of its own pair: the hub alone would form 780 pairs.
    queries = 40
    matrix = np.zeros((queries, 1 + queries // 2), dtype=np.int64)
    matrix[:, 0] = 20
    matrix[np.arange(queries), 1 + np.arange(queries) // 2] = 400
    pairs, tally = score(make_tables(matrix, "walk"), NpmiConfig(tau=0.5, min_support=20))
    assert len(pairs) == queries // 2
    assert tally["multiply_adds"] < queries * (queries - 1) / 2 / 5


@pytest.mark.parametrize(
    ("p_a", "p_b", "ceiling"), [(0.01, 0.01, 0.7384), (1e-4, 1e-4, 0.86), (1e-6, 1e-6, 0.9045), (1e-2, 1e-6, 0.3333)]
)
def test_walk_ceilings_of_rare_queries(p_a, p_b, ceiling):
    found = npmi_ceilings(np.array([p_a]), np.array([p_b]), "walk")
    assert found == pytest.approx([ceiling], abs=1e-4)
    # Two queries that share all they buy with nobody else reach it.
    assert npmi_scores(np.array([p_a * p_b / (p_a + p_b)]), np.array([p_a]), np.array([p_b]), "walk") == pytest.approx(
        found
    )


def test_scaled_rows_reach_one_exactly_at_the_threshold():
    # Dot products of the scaled rows of the 3 x 3 example and of [[20, 0], [30, 0], [0, 50]], worked with 60 digits.
    first = np.array([[40, 20, 0], [20, 20, 0], [0, 20, 80]], dtype=np.int64)
    second = np.array([[20, 0], [30, 0], [0, 50]], dtype=np.int64)
    for matrix, tau, pair, dot in (
        (first, 0.2, (0, 1), 1.042815),
        (first, 0.2, (0, 2), 0.161983),
        (first, 0.3, (0, 1), 0.870730),
        (first, 0.3, (1, 2), 0.195934),
        (second, 0.30, (0, 1), 1.044876),
        (second, 0.33, (0, 1), 0.995095),
    ):
        weights, _, marginals = describe_rows(matrix, "walk")
        x = matrix * np.sqrt(weights) * marginals[:, None] ** (-1 / (1 + tau))
        assert x[pair[0]] @ x[pair[1]] == pytest.approx(dot, abs=1e-6)
        pairs, _ = score(make_tables(matrix, "walk"), NpmiConfig(tau=tau, min_support=0))
        assert (tuple(f"q{i}" for i in pair) in pairs) == (dot > 1)


def test_literal_of_a_rare_pair_is_five_and_of_rounding_no_infinity():
    # Two queries of 100 in 1e8 purchases, one product in ten shared: G = 0.01 and NPMI = 5.
    matrix = np.zeros((3, 20), dtype=np.int64)
    matrix[0, :10], matrix[1, 9:19], matrix[2, 19] = 10, 10, 10**8 - 200
    config = NpmiConfig(variant="literal", tau=0.0, min_support=0, force_literal=True)
    pairs, _ = score(make_tables(matrix, "literal"), config)
    assert pairs["q0", "q1"]["npmi"] == pytest.approx(5.0, abs=1e-9)
    # Three equal shares multiply and add up to a little more or less than 1/3, never to an infinite score.
    equal, _ = score(make_tables(np.full((2, 3), 7), "literal"), config)
    assert 0 < equal["q0", "q1"]["npmi"] < math.inf


def test_rows_after_many_far_heavier_ones_are_cut_as_exactly():
    # 100,000 pairs of tail rows with products of 1e14, then two rows whose product is 1.05, each in two halves.
    tails = 100_000
    starts = np.concatenate([np.arange(2 * tails + 1), [2 * tails + 2, 2 * tails + 4]])
    places = np.concatenate([np.arange(2 * tails) // 2, [tails, tails + 1, tails, tails + 1]])
    counts = sparse_product.count_matrix(starts, places, np.ones(len(places), dtype=np.int64), tails + 2)
    scales = np.concatenate([np.full(2 * tails, 1e7), np.full(2, math.sqrt(1.05 / 2))])
    rows = sparse_product.Rows(counts=counts, scales=scales)
    found = list(sparse_product.find_candidates(rows, None, np.ones(tails + 2)))
    pairs = set(
        zip(
            *(np.concatenate([getattr(part, side) for part in found]).tolist() for side in ("left", "right")),
            strict=True,
        )
    )
    assert len(pairs) == tails + 1
    assert (2 * tails + 1, 2 * tails) in pairs


def write_purchases(folder, matrix, *, files, seed):
    """Write the matrix as PURCHASES in a random order, in several files."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    rows = rng.permutation(np.argwhere(matrix))
    for number, part in enumerate(np.array_split(rows, files)):
        columns = {
            "query": pa.array([f"q{i}" for i in part[:, 0]], pa.string()),
            "product_id": pa.array([f"p{k}" for k in part[:, 1]], pa.string()),
            "purchases": pa.array(matrix[part[:, 0], part[:, 1]], pa.int64()),
        }
        pq.write_table(pa.table(columns), folder / f"part-{number}.parquet", row_group_size=3)


def score_folder(folder, config, *, blocks=1):
    """Score every pair of blocks of the purchases in a folder, as the Spark tasks do that read it."""
    batches = []
    for lot in deal_pairs(blocks, tasks=2):
        cut = read_blocks(folder, config.variant, blocks=blocks, wanted={number for pair in lot for number in pair})
        batches += [batch for low, high in lot for batch in score_blocks(cut[low], cut[high], config)]
    rows = [row for batch in batches for row in batch.to_pylist() if row["tally"] is None]
    assert len({(row["query_a"], row["query_b"]) for row in rows}) == len(rows)
    return {(row["query_a"], row["query_b"]): row for row in rows}


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=25, deadline=None)
@given(matrix=matrices(), tau=st.sampled_from([-0.5, 0.0, 0.3, 0.5]), blocks=st.integers(1, 4))
def test_purchases_in_files_give_the_same_pairs(variant, matrix, tau, blocks):
    config = NpmiConfig(variant=variant, tau=tau, min_support=0, top_k=10**6, force_literal=True)
    with tempfile.TemporaryDirectory() as folder:
        write_purchases(Path(folder) / "one", matrix, files=1, seed=1)
        write_purchases(Path(folder) / "many", matrix, files=blocks, seed=2)
        whole = score_folder(Path(folder) / "one", config)
        assert score_folder(Path(folder) / "many", config, blocks=blocks) == whole
    expected = expect(matrix, variant, tau)
    found = {pair: row["npmi"] for pair, row in whole.items()}
    assert_close(clear(found, tau), clear(expected, tau), within=1e-9)


def test_margins_of_purchases_in_files_by_hand(tmp_path):
    write_purchases(tmp_path / "p", np.array([[40, 20, 0], [20, 20, 0], [0, 20, 80]]), files=2, seed=0)
    matrix = read_matrix(tmp_path / "p")
    margins = measure_matrix(matrix)
    assert (matrix.queries.to_pylist(), matrix.products.to_pylist()) == (["q0", "q1", "q2"], ["p0", "p1", "p2"])
    assert (margins.product.tolist(), margins.bought.tolist()) == ([60, 60, 80], [60, 40, 100])
    assert margins.shared.tolist() == [2, 3, 1]
    # q0 meets others at p0 in 40 * 20 / 60 of its purchases, at p1 in 20 * 40 / 60.
    assert margins.met_others == pytest.approx([80 / 3, 80 / 3, 40 / 3])
    # T = (2/3 + 1/2, 1/3 + 1/2 + 1/5, 4/5)
    assert margins.shares == pytest.approx([101 / 90, 11 / 10, 127 / 150])
    totals = margins.totals
    assert (totals.entries, totals.shared_pairs, totals.purchases) == (5, 4, 200)
    forecast = forecast_product(totals, [("p1", 3)], block_entries=10, cores=2, rows=6)
    # Two tasks for three pairs of two blocks of three entries.
    assert (forecast.blocks, forecast.tasks, forecast.sent_entries, forecast.task_bytes) == (2, 2, 0, 1500)
    # A task reads the products of one query, too, before it leaves them out.
    assert forecast_product(totals, [("p1", 3)], block_entries=10, cores=2, rows=100).task_bytes == 10_000
    assert (totals.met_others, totals.share_squares) == pytest.approx((200 / 3, 49 / 36 + 961 / 900 + 16 / 25))
    assert name_most_shared(matrix, margins, number=2) == [("p1", 3), ("p0", 2)]


def test_purchases_in_files_that_cannot_be_used(tmp_path):
    write_purchases(tmp_path / "none", np.zeros((1, 1), dtype=np.int64), files=1, seed=0)
    assert score_folder(tmp_path / "none", NpmiConfig()) == {}
    write_purchases(tmp_path / "huge", np.full((2, 2), 2**62), files=1, seed=0)
    with pytest.raises(OverflowError, match="ARITHMETIC_OVERFLOW"):
        read_matrix(tmp_path / "huge")
    (tmp_path / "huge" / "part-0.parquet").write_bytes(b"PAR1")
    with pytest.raises(ContractError, match="cannot be read"):
        read_matrix(tmp_path / "huge")


@pytest.mark.parametrize(("blocks", "tasks", "heaviest"), [(1, 2, 1), (2, 2, 2), (3, 2, 5), (6, 16, 3)])
def test_pairs_of_blocks_are_dealt_evenly(blocks, tasks, heaviest):
    lots = deal_pairs(blocks, tasks=tasks)
    assert sorted(pair for lot in lots for pair in lot) == [(i, j) for i in range(blocks) for j in range(i, blocks)]
    assert len(lots) <= tasks
    # A block with itself is one unit of work, two blocks are two.
    assert max(sum(1 if i == j else 2 for i, j in lot) for lot in lots) == heaviest
