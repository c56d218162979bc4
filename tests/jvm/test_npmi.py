"""NPMI in four readings: values worked by hand, two independent oracles, bounds, filters."""

import math

import numpy as np
import pytest
from scipy import sparse

from spark.gram import join_size, query_gram
from spark.npmi import judge_pairs, npmi_scores

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
    return {(row.query_a, row.query_b): row for row in frame.collect()}


def score(frame, variant):
    return collect(npmi_scores(query_gram(frame), frame, variant=variant))


@pytest.mark.parametrize("variant", VARIANTS)
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
    rows = collect(query_gram(purchases(FIRST)))
    # q0 and q1 share p0 (40, 20) and p1 (20, 20): overlap 800 + 400, support 20 + 20.
    found = [(row.overlap, row.support, row.shared_products) for _, row in sorted(rows.items())]
    assert found == [(1200, 40, 2), (400, 20, 1), (400, 20, 1)]
    assert rows["q0", "q1"].gram == pytest.approx(40 / 60 * 20 / 40 + 20 / 60 * 20 / 40)


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


@pytest.mark.parametrize(
    ("p_a", "p_b", "ceiling"), [(0.01, 0.01, 0.7384), (1e-4, 1e-4, 0.86), (1e-6, 1e-6, 0.9045), (1e-2, 1e-6, 0.3333)]
)
def test_walk_ceiling_of_rare_queries(purchases, p_a, p_b, ceiling):
    total = 10**8
    a, b = round(p_a * total), round(p_b * total)
    rows = score(purchases([[a, 0], [b, 0], [0, total - a - b]]), "walk")
    assert rows["q0", "q1"].ceiling == pytest.approx(ceiling, abs=1e-4)
    # The two share all they buy with nobody else, so the ceiling is reached.
    assert rows["q0", "q1"].npmi == pytest.approx(rows["q0", "q1"].ceiling, abs=1e-9)


def test_literal_of_a_rare_pair(purchases):
    # Two queries of 100 in 1e8 purchases, one product in ten shared: G = 0.01 and NPMI = 5.
    matrix = np.zeros((3, 20), dtype=np.int64)
    matrix[0, :10] = 10
    matrix[1, 9:19] = 10
    matrix[2, 19] = 10**8 - 200
    row = score(purchases(matrix), "literal")["q0", "q1"]
    assert row.joint == pytest.approx(0.01)
    assert row.npmi == pytest.approx(5.0, abs=1e-9)


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
@pytest.mark.parametrize("seed", [1, 2])
def test_random_matrices_agree_with_plain_loops(purchases, variant, seed):
    matrix = random_matrix(seed)
    rows = score(purchases(matrix), variant)
    assert {pair: row.npmi for pair, row in rows.items()} == pytest.approx(loop_scores(matrix, variant), abs=1e-12)


def test_gram_and_bounds_agree_with_scipy(purchases):
    matrix = random_matrix(5, queries=40, products=25)
    counts = sparse.csr_matrix(matrix.astype(np.float64))
    frame = purchases(matrix)
    total, n_i, n_k = matrix.sum(), matrix.sum(1), matrix.sum(0)
    overlap = (counts @ counts.T).toarray()
    shares = sparse.diags(1 / n_i) @ counts
    gram = (shares @ shares.T).toarray()
    joint = (counts @ sparse.diags(1 / n_k) @ counts.T / total).toarray()
    rows = collect(query_gram(frame))
    names = {f"q{i}": i for i in range(len(matrix))}
    assert len(rows) == np.count_nonzero(np.triu(overlap, 1))
    for (a, b), row in rows.items():
        i, j = names[a], names[b]
        assert a < b
        assert row.overlap == overlap[i, j]
        assert row.gram == pytest.approx(gram[i, j], rel=1e-12)
        assert row.joint == pytest.approx(joint[i, j], rel=1e-12)
        assert row.support == np.minimum(matrix[i], matrix[j]).sum()
        assert row.shared_products == np.count_nonzero(matrix[i] * matrix[j])
    degrees = np.count_nonzero(matrix, axis=0)
    assert tuple(join_size(frame).collect()[0]) == ((degrees * (degrees - 1) // 2).sum(), degrees.max())
    for row in npmi_scores(query_gram(frame), frame, variant="walk").collect():
        assert -1 <= row.npmi <= row.ceiling + 1e-12
        assert row.joint <= min(row.p_a, row.p_b)


def test_nothing_depends_on_row_order_or_names_of_products(session, purchases):
    matrix = random_matrix(7)
    frame = purchases(matrix)
    shuffled = [(r.query, f"renamed {r.product_id[::-1]}", r.purchases) for r in reversed(frame.collect())]
    other = session.createDataFrame(shuffled, frame.schema)
    one, two = score(frame, "walk"), score(other, "walk")
    assert one.keys() == two.keys()
    for pair, row in one.items():
        assert tuple(row)[2:] == pytest.approx(tuple(two[pair])[2:], rel=1e-12)


def test_a_wrong_sign_is_no_matter_of_rounding_for_literal(purchases):
    # Three equal shares multiply and add up to a little more or less than 1/3, never to an infinite score.
    matrix = np.full((2, 3), 7)
    assert 0 < score(purchases(matrix), "literal")["q0", "q1"].npmi < math.inf


SCORES = [
    # query_a, query_b, npmi, support, shared_products
    ("a", "b", 0.9, 50, 3),
    ("a", "c", 0.8, 50, 3),
    ("a", "d", 0.8, 50, 3),
    ("b", "c", 0.5, 50, 3),
    ("b", "d", 0.7, 19, 3),
    ("c", "d", 0.6, 20, 1),
]


@pytest.fixture
def scores(session):
    return session.createDataFrame(
        SCORES, "query_a string, query_b string, npmi double, support bigint, shared_products bigint"
    )


def test_every_filter_is_counted_and_the_threshold_is_strict(scores):
    judged = judge_pairs(scores, tau=0.5, min_support=20, min_shared_products=2, top_k=1)
    found = {(row.query_a, row.query_b): row.reason for row in judged.collect()}
    assert found == {
        ("a", "b"): None,  # best of a and of b
        ("a", "c"): None,  # best of c
        ("a", "d"): None,  # best of d
        ("b", "c"): "not_above_tau",  # 0.5 is not above 0.5
        ("b", "d"): "below_min_support",
        ("c", "d"): "below_min_shared_products",
    }


def test_a_pair_beyond_the_best_of_both_queries_goes(scores):
    limits = {"tau": 0.0, "min_support": 1, "min_shared_products": 1}
    kept = {(r.query_a, r.query_b) for r in judge_pairs(scores, **limits, top_k=1).where("reason IS NULL").collect()}
    # b-c, b-d and c-d are nobody's best: a comes before them.
    assert kept == {("a", "b"), ("a", "c"), ("a", "d")}
    assert judge_pairs(scores, **limits, top_k=3).where("reason IS NULL").count() == len(SCORES)


def test_equal_scores_are_ordered_by_text(session):
    rows = [("m", partner, 0.7, 20, 1) for partner in ("z", "y", "x")]
    rows += [(partner, "zz", 0.9, 20, 1) for partner in ("x", "y", "z")]
    frame = session.createDataFrame(
        rows, "query_a string, query_b string, npmi double, support bigint, shared_products bigint"
    )
    judged = judge_pairs(frame, tau=0.5, min_support=1, min_shared_products=1, top_k=1)
    kept = judged.where("reason IS NULL").collect()
    # m's best of three equal partners is x; x, y and z each prefer zz.
    assert {(r.query_a, r.query_b) for r in kept} == {("m", "x"), ("x", "zz"), ("y", "zz"), ("z", "zz")}
