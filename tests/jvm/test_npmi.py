"""NPMI in four readings: values worked by hand, two independent oracles, bounds, filters."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F
from scipy import sparse

from indexer.job_config import NpmiConfig
from spark.block_pairs import count_blocks
from spark.forecast import describe_forecast, forecast_product, name_heaviest
from spark.gram import coded_products, counted_entries, gram_rows, query_gram
from spark.npmi import judge_partners, query_rows, score_pairs
from spark.pair_plan import plan_pairs

pytestmark = pytest.mark.jvm

VARIANTS = ("walk", "offdiag", "gramnorm", "literal")
FIRST = [[40, 20, 0], [20, 20, 0], [0, 20, 80]]
SECOND = [[20, 0], [30, 0], [0, 50]]
ORACLE = {
    # variant: marginals, then per pair the joint and the NPMI
    "literal": ((0.3, 0.2, 0.5), {(0, 1): (0.5, 3.058894), (0, 2): (0.066667, -0.299452), (1, 2): (0.1, 0.0)}),
    "walk": ((0.3, 0.2, 0.5), {(0, 1): (0.1, 0.221849), (0, 2): (0.033333, -0.442220), (1, 2): (0.033333, -0.323008)}),
    "offdiag": ((0.4, 0.4, 0.2), {(0, 1): (0.3, 0.522112), (0, 2): (0.1, 0.096910), (1, 2): (0.1, 0.096910)}),
    "gramnorm": (
        (0.365677, 0.358436, 0.275887),
        {(0, 1): (0.162925, 0.119896), (0, 2): (0.021723, -0.401006), (1, 2): (0.032585, -0.324230)},
    ),
}
PMI = {
    "literal": (2.120264, -0.810930, 0.0),
    "walk": (0.510826, -1.504077, -1.098612),
    "offdiag": (0.628609, 0.223144, 0.223144),
    "gramnorm": (0.217547, -1.535597, -1.110131),
}


def collect(frame):
    return {tuple(row)[:2]: row for row in frame.collect()}


def score(frame, variant, *, tau=-1.0, blocks=1):
    """Return every pair of queries that share a product; above -1 is every score."""
    config = NpmiConfig(variant=variant, tau=tau, min_support=0, top_k=10**6, force_literal=True)
    with coded_products(frame, shares=variant == "gramnorm") as (coded, products, totals):
        rows = query_rows(counted_entries(coded, products), totals, variant=variant)
        return collect(score_pairs(rows, config, blocks=blocks).where("tally IS NULL"))


def gram(frame, *, blocks=1, top_k=0):
    with coded_products(frame) as (coded, products, totals):
        return collect(query_gram(gram_rows(counted_entries(coded, products), totals), blocks=blocks, top_k=top_k))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.line(59)
def test_three_by_three_oracle(purchases, variant):
    rows = score(purchases(FIRST), variant)
    marginals, pairs = ORACLE[variant]
    assert len(rows) == 3
    for ((i, j), (joint, npmi)), pmi in zip(pairs.items(), PMI[variant], strict=True):
        row = rows[f"q{i}", f"q{j}"]
        assert row.joint == pytest.approx(joint, abs=1e-6)
        assert row.npmi == pytest.approx(npmi, abs=1e-6)
        assert (row.p_a, row.p_b) == pytest.approx((marginals[i], marginals[j]), abs=1e-6)
        assert math.log(row.joint / (row.p_a * row.p_b)) == pytest.approx(pmi, abs=1e-5)


def test_walk_ceilings_of_the_oracle(purchases):
    rows = score(purchases(FIRST), "walk")
    expected = {("q0", "q1"): 0.326916, ("q0", "q2"): 0.133301, ("q1", "q2"): 0.183295}
    assert {pair: row.ceiling for pair, row in rows.items()} == pytest.approx(expected, abs=1e-6)


def test_gram_of_the_oracle_by_hand(purchases):
    rows = gram(purchases(FIRST))
    # q0 and q1 share p0 (40, 20) and p1 (20, 20): overlap 800 + 400.
    assert [(row.overlap, row.shared_products) for _, row in sorted(rows.items())] == [(1200, 2), (400, 1), (400, 1)]
    assert rows["q0", "q1"].gram == pytest.approx(40 / 60 * 20 / 40 + 20 / 60 * 20 / 40)


@pytest.mark.line(59)
def test_second_matrix_reaches_its_ceiling_and_literal_is_infinite(purchases):
    frame = purchases(SECOND)
    walk = score(frame, "walk")["q0", "q1"]
    assert walk.joint == pytest.approx(0.12)
    assert walk.npmi == pytest.approx(0.326916, abs=1e-6)
    assert walk.ceiling == pytest.approx(walk.npmi)
    literal = score(frame, "literal")["q0", "q1"]
    assert literal.npmi == math.inf
    assert literal.ceiling is None
    # Without the pairs of a query with itself, an exclusive pair scores 1 in the off-diagonal reading.
    offdiag = score(frame, "offdiag")["q0", "q1"]
    assert (offdiag.npmi, offdiag.ceiling) == (pytest.approx(1.0), 1.0)


def loop_scores(matrix, variant):
    """Score by plain loops over the definition, nothing shared with the code under test."""
    queries, products = matrix.shape
    total, n_i, n_k = matrix.sum(), matrix.sum(1), matrix.sum(0)
    joint = np.zeros((queries, queries))
    for i in range(queries):
        for j in range(queries):
            for k in range(products):
                if matrix[i, k] and matrix[j, k]:
                    if variant in ("walk", "offdiag"):
                        joint[i, j] += matrix[i, k] * matrix[j, k] / (n_k[k] * total)
                    else:
                        joint[i, j] += matrix[i, k] / n_i[i] * matrix[j, k] / n_i[j]
    marginal = n_i / total
    if variant == "offdiag":
        np.fill_diagonal(joint, 0)
    if variant in ("offdiag", "gramnorm"):
        joint /= joint.sum()
        marginal = joint.sum(1)
    scores = {}
    for i in range(queries):
        for j in range(i + 1, queries):
            if joint[i, j] > 0:
                pmi = math.log(joint[i, j] / (marginal[i] * marginal[j]))
                whole = variant == "literal" and joint[i, j] >= 1 - 1e-12
                scores[f"q{i}", f"q{j}"] = math.inf if whole else pmi / -math.log(joint[i, j])
    return scores


def random_matrix(seed, queries=9, products=7):
    rng = np.random.default_rng(seed)
    matrix = rng.integers(1, 500, (queries, products)) * (rng.random((queries, products)) < 0.35)
    matrix[0] = 0
    matrix[0, 0] = matrix[1, 0] = 7  # at least one pair
    matrix = matrix[matrix.sum(1) > 0]
    return matrix[:, matrix.sum(0) > 0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_random_matrices_agree_with_plain_loops(purchases, variant):
    matrix = random_matrix(1)
    rows = score(purchases(matrix), variant, blocks=3)
    assert {pair: row.npmi for pair, row in rows.items()} == pytest.approx(loop_scores(matrix, variant), abs=1e-12)


def test_gram_agrees_with_scipy(purchases):
    matrix = random_matrix(5, queries=40, products=25)
    counts = sparse.csr_matrix(matrix.astype(np.float64))
    frame = purchases(matrix)
    total, n_i, n_k = matrix.sum(), matrix.sum(1), matrix.sum(0)
    overlap = (counts @ counts.T).toarray()
    shares = sparse.diags(1 / n_i) @ counts
    shared = (shares @ shares.T).toarray()
    joint = (counts @ sparse.diags(1 / n_k) @ counts.T / total).toarray()
    rows = gram(frame, blocks=2)
    assert len(rows) == np.count_nonzero(np.triu(overlap, 1))
    for (a, b), row in rows.items():
        i, j = int(a[1:]), int(b[1:])
        assert a < b
        assert row.overlap == overlap[i, j]
        assert row.gram == pytest.approx(shared[i, j], rel=1e-12)
        assert row.joint == pytest.approx(joint[i, j], rel=1e-12)
        assert row.shared_products == np.count_nonzero(matrix[i] * matrix[j])


def test_best_partners_by_joint_are_those_of_the_whole_gram(purchases):
    frame = purchases(random_matrix(5, queries=20, products=9))
    best, whole = gram(frame, blocks=2, top_k=2), gram(frame)
    wanted = set()
    for query in {name for pair in whole for name in pair}:
        partners = [
            (-round(row.joint, 12), *(set(pair) - {query}), pair) for pair, row in whole.items() if query in pair
        ]
        wanted |= {pair for *_, pair in sorted(partners)[:2]}
    assert best.keys() == wanted


def test_the_strongest_partners_are_told_apart_however_rare_they_are(purchases):
    # In 1e15 purchases the joints are 1e-14 (q0 and q1) to 2.5e-13; q0 goes with q2, the others have better ones.
    matrix = np.zeros((6, 5), dtype=np.int64)
    for query, product, count in ((0, 0, 20), (0, 1, 20), (1, 0, 20), (1, 2, 500), (2, 1, 40), (2, 3, 500)):
        matrix[query, product] = count
    matrix[3, 2], matrix[4, 3], matrix[5, 4] = 500, 500, 10**15
    assert gram(purchases(matrix), top_k=1).keys() == {("q0", "q2"), ("q1", "q3"), ("q2", "q4")}


def test_counts_beyond_53_bits_stay_exact_and_beyond_64_are_refused(purchases):
    large = 2**30 + 1
    assert gram(purchases([[large], [large]]))["q0", "q1"].overlap == large * large
    with pytest.raises(Exception, match="ARITHMETIC_OVERFLOW"):
        gram(purchases([[2**40], [2**40]]))


def test_pruned_pairs_are_the_pairs_above_tau(purchases):
    matrix = random_matrix(11, queries=60, products=30)
    found = score(purchases(matrix), "walk", tau=0.1, blocks=3)
    wanted = {tuple(sorted(pair)): npmi for pair, npmi in loop_scores(matrix, "walk").items() if npmi > 0.1}
    assert wanted
    assert {pair: row.npmi for pair, row in found.items()} == pytest.approx(wanted, abs=1e-12)


def test_nothing_depends_on_row_order_or_names_of_products(session, purchases):
    frame = purchases(random_matrix(7))
    shuffled = [(r.query, f"renamed {r.product_id[::-1]}", r.purchases) for r in reversed(frame.collect())]
    one, two = score(frame, "walk"), score(session.createDataFrame(shuffled, frame.schema), "walk")
    assert one.keys() == two.keys()
    for pair, row in one.items():
        assert tuple(row)[2:-2] == pytest.approx(tuple(two[pair])[2:-2], rel=1e-12)


def test_two_ids_with_one_code_take_another_seed(purchases, monkeypatch):
    seeds = []

    def coarse(column, seed):
        seeds.append(seed)
        return F.length(column).cast("bigint") if len(seeds) == 1 else F.xxhash64(column, seed)

    monkeypatch.setattr("spark.gram.hash_id", coarse)
    rows = gram(purchases(FIRST))
    assert len(seeds) == 4  # a code and a check, twice
    assert [row.overlap for _, row in sorted(rows.items())] == [1200, 400, 400]


@pytest.mark.parametrize(
    ("entries", "block_entries", "cores", "blocks"),
    [(0, 10, 1, 1), (100, 1000, 1, 1), (100, 1000, 2, 2), (100, 1000, 16, 6), (1000, 10, 2, 100)],
)
def test_blocks_fit_the_memory_and_give_every_core_a_task(entries, block_entries, cores, blocks):
    assert count_blocks(entries, block_entries=block_entries, cores=cores) == blocks
    assert blocks * (blocks + 1) // 2 >= cores


def test_forecast_names_the_cost_before_it_arises(session, purchases):
    frame = purchases([[5, 5, 0], [5, 0, 5], [5, 0, 5], [0, 9, 0]])
    with coded_products(frame) as (coded, products, totals):
        forecast = forecast_product(totals, name_heaviest(coded, products), block_entries=2, cores=2)
    # p0 after three queries, p1 and p2 after two each: 3 + 1 + 1 pairs.
    assert (forecast.entries, forecast.shared_pairs) == (7, 5)
    assert (forecast.blocks, forecast.tasks, forecast.sent_entries) == (4, 10, 28)
    assert forecast.heaviest == (("p0", 3), ("p1", 2), ("p2", 2))
    assert "at most 5 multiply-adds" in describe_forecast(forecast)


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_ways_to_the_pairs_agree(session, tmp_path, variant):
    rng = np.random.default_rng(4)
    matrix = rng.integers(1, 90, (30, 12)) * (rng.random((30, 12)) < 0.3)
    i, k = np.nonzero(matrix)
    queries, products = ([f"{letter}{number}" for number in numbers] for letter, numbers in (("q", i), ("p", k)))
    columns = {"query": queries, "product_id": products, "purchases": matrix[i, k]}
    pq.write_table(pa.table(columns), tmp_path / "part-0.parquet")
    limits = NpmiConfig(variant=variant, tau=0.0, min_support=5, top_k=3, force_literal=True)
    found = []
    for block_entries in (len(i), len(i) // 2):
        with plan_pairs(session, tmp_path, limits, rows=len(i), block_entries=block_entries) as plan:
            assert bool(plan.forecast.sent_entries) == (block_entries < len(i))
            kept = judge_partners(plan.score(), top_k=limits.top_k).where("reason IS NULL").drop("reason")
            found.append({tuple(row)[:2]: [value or 0 for value in row[2:]] for row in kept.collect()})
    assert found[0].keys() == found[1].keys()
    assert all(found[0][pair] == pytest.approx(found[1][pair], rel=1e-12) for pair in found[0])
    assert len(found[0]) > 20


def test_equal_scores_are_ordered_by_text(session):
    pairs = [("m", partner, 0.7) for partner in ("z", "y", "x")] + [(partner, "zz", 0.9) for partner in ("x", "y", "z")]
    columns = "query_a string, query_b string, npmi double, ceiling double, joint double, p_a double, p_b double"
    columns += ", support bigint, shared_products bigint, tally string, count bigint"
    rows = [(*pair, 1.0, 0.1, 0.2, 0.3, 20, 1, None, None) for pair in pairs]
    rows.append((*[None] * 9, "candidates", 6))
    judged = judge_partners(session.createDataFrame(rows, columns), top_k=1)
    reasons = {(r.query_a, r.query_b): r.reason for r in judged.collect()}
    # m's best of three equal partners is x; x, y and z each prefer zz.
    assert {pair for pair, reason in reasons.items() if reason is None} == {
        ("m", "x"),
        ("x", "zz"),
        ("y", "zz"),
        ("z", "zz"),
    }
    assert reasons["m", "y"] == reasons["m", "z"] == "beyond_top_k"
