"""Deciles of query pairs, their agreement with the taxonomy, and the tau that follows, worked out by hand."""

from dataclasses import asdict

import pytest

from jobs.calibration_page import render_page
from spark.calibration import (
    Decile,
    apart_nodes,
    count_agreement,
    count_cells,
    find_tau,
    measure_deciles,
    part_pairs,
    place_pairs,
    sample_pairs,
    shuffle_pairs,
    split_deciles,
)
from spark.negatives import relate_pairs

pytestmark = pytest.mark.jvm


def test_deciles_hold_a_tenth_each_and_start_where_the_one_before_ends():
    deciles = split_deciles({2_000 + 10 * n: (3, 0.2 + n / 1_000) for n in range(1, 21)}, above=0.2)
    assert [(row.decile, row.pairs) for row in deciles] == [(number, 6) for number in range(1, 11)]
    assert [row.npmi_above for row in deciles] == [0.2] + [row.npmi_up_to for row in deciles[:-1]]
    assert (deciles[0].npmi_up_to, deciles[0].mean_npmi, deciles[-1].npmi_up_to) == (0.202, 0.2015, 0.22)


def test_pairs_of_one_cell_stay_together():
    deciles = split_deciles({3_000: (1, 0.3), 5_000: (8, 0.5), 9_000: (1, 0.9)}, above=0.0)
    assert [(row.decile, row.npmi_above, row.npmi_up_to, row.pairs) for row in deciles] == [
        (1, 0.0, 0.3, 1),
        (2, 0.3, 0.5, 8),
        (10, 0.5, 0.9, 1),
    ]


def measure(*agreeing, labelled=10):
    """Rows of three deciles with 60, 30 and 10 pairs."""
    deciles = [
        Decile(decile=n, npmi_above=n / 10, npmi_up_to=(n + 1) / 10, pairs=pairs, mean_npmi=n / 10 + 0.05)
        for n, pairs in enumerate((60, 30, 10), 1)
    ]
    counts = {
        n: {"sampled": 10, "labelled": labelled if found is not None else 0, "agreeing": found or 0}
        for n, found in enumerate(agreeing, 1)
    }
    return measure_deciles(deciles, counts, counts)


def test_agreement_above_weighs_each_decile_by_its_pairs():
    rows = measure(5, 9, 10)
    assert [row.agreement for row in rows] == [0.5, 0.9, 1.0]
    # (30 * .9 + 10 * 1) / 40 = .925 and (60 * .5 + 37) / 100 = .67
    assert [row.agreement_above for row in rows] == [0.67, 0.925, 1.0]


@pytest.mark.parametrize(
    ("agreeing", "target", "tau"),
    [
        ((5, 9, 10), 0.95, 0.3),
        ((5, 9, 10), 0.9, 0.2),
        ((5, 9, 10), 0.5, 0.1),
        ((5, 9, 9), 0.95, None),
        ((10, 9, 10), 0.96, 0.1),  # the pairs between .2 and .3 fall short, all pairs above .1 do not
        ((5, None, 10), 0.95, 0.2),  # a decile without labels neither helps nor harms
        ((None, None, None), 0.5, None),
    ],
)
def test_tau_is_the_lowest_whose_pairs_above_reach_the_target(agreeing, target, tau):
    assert find_tau(measure(*agreeing), target=target) == tau


def test_a_page_shows_queries_as_text():
    evil = "<script>alert(1)</script>"
    figures = {
        "verdict": evil,
        "chance_agreement": None,
        "target_agreement": 0.95,
        "deciles": [asdict(row) for row in measure(5, 9, 10)],
        "samples": [{"query_a": evil, "query_b": 'a & "b"', "npmi": 0.5, "decile": 1, "related": None}],
    }
    page = render_page(figures, run_date="2026-11-20", shop=evil)
    assert "<script" not in page
    assert "<td>&lt;script&gt;alert(1)&lt;/script&gt;</td><td>a &amp; &quot;b&quot;</td>" in page


def test_pairs_fall_into_the_cell_that_ends_at_or_above_them(session):
    scores = [(0.2, 2_000), (0.2 + 1e-12, 2_000), (0.20001, 2_001), (0.2001, 2_001), (-0.5, -5_000), (1.0, 10_000)]
    pairs = session.createDataFrame([(score,) for score, _ in scores], "npmi double")
    found = {row.cell: row.pairs for row in count_cells(pairs).collect()}
    assert found == {2_000: 2, 2_001: 2, -5_000: 1, 10_000: 1}


def test_agreement_of_a_sample_does_not_depend_on_the_order_of_rows(session):
    # Query q<n> has node n mod 3, "none" has no confident node; 0 lies above 1, and 2 is apart.
    above = {0: ["0"], 1: ["0", "1"], 2: ["2"]}
    rows = [(f"q{n}", [str(n % 3)], above[n % 3]) for n in range(8)]
    lineages = session.createDataFrame(rows, "query string, labels array<string>, lineage array<string>")
    low = [("q0", "q1", 0.21), ("q0", "q2", 0.22), ("q1", "q2", 0.23), ("none", "q3", 0.24)]
    high = [("q0", "q3", 0.71), ("q1", "q3", 0.72), ("q1", "q4", 0.73), ("q2", "q5", 0.74), ("q4", "q5", 0.75)]
    deciles = [
        Decile(decile=1, npmi_above=0.2, npmi_up_to=0.24, pairs=4, mean_npmi=0.225),
        Decile(decile=5, npmi_above=0.24, npmi_up_to=0.75, pairs=5, mean_npmi=0.73),
    ]

    def sample(pairs, size):
        frame = session.createDataFrame(pairs, "query_a string, query_b string, npmi double")
        return sample_pairs(place_pairs(frame, deciles), size=size)

    related = relate_pairs(sample(low + high, 500), lineages, how="left")
    found = {
        row.decile: (row.sampled, row.labelled, row.agreeing) for row in count_agreement(related, "decile").collect()
    }
    assert found == {1: (4, 3, 1), 5: (5, 5, 4)}
    first, again = (sorted(map(tuple, sample(pairs, 2).collect())) for pairs in (low + high, (low + high)[::-1]))
    assert first == again
    assert [row[3] for row in first].count(1) == [row[3] for row in first].count(5) == 2
    partners = {(row.query_a, row.query_b) for row in shuffle_pairs(sample(low + high, 500)).collect()}
    assert 6 <= len(partners) <= 8
    assert all(one != other for one, other in partners)


def test_nodes_by_products_that_the_two_queries_do_not_share(session):
    # The two share s; "a" alone bought x (30, half in n1, half in n2) and y (10, n1), "b" alone z (5, n3).
    rows = [("a", "s", 90), ("a", "x", 30), ("a", "y", 10), ("b", "s", 90), ("b", "z", 5), ("c", "s", 1)]
    purchases = session.createDataFrame(rows, "query string, product_id string, purchases bigint")
    places = [("s", "n9", 1.0), ("x", "n1", 0.5), ("x", "n2", 0.5), ("y", "n1", 1.0), ("z", "n3", 1.0)]
    nodes = session.createDataFrame(places, "product_id string, node_id string, share double")
    sample = session.createDataFrame([("a", "b", 7), ("a", "c", 7)], "query_a string, query_b string, decile int")
    found = {(*row["query"], row["node_id"]): row["share"] for row in apart_nodes(sample, purchases, nodes).collect()}
    assert found == {
        ("a", "b", "a", "n1"): pytest.approx(25 / 40),
        ("a", "b", "a", "n2"): pytest.approx(15 / 40),
        ("a", "b", "b", "n3"): 1.0,
        ("a", "c", "a", "n1"): pytest.approx(25 / 40),
        ("a", "c", "a", "n2"): pytest.approx(15 / 40),
    }
    keys = [(tuple(row["query_a"]), tuple(row["query_b"])) for row in part_pairs(sample).collect()]
    assert keys[0] == (("a", "b", "a"), ("a", "b", "b"))
