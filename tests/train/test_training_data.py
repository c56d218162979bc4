"""From tables to arrays: joins, splits, leaks, counts; every row is accounted for."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.config import Config, ShopConfig
from indexer.contracts.schemas import PURCHASES, QUERY_NEGATIVES, QUERY_NODES, QUERY_PAIRS, TAXONOMY
from indexer.distill.data import read_training_data
from indexer.distill.judgements import Vote, read_judgements, read_measured, settle_votes
from indexer.distill.purchases import read_traffic
from indexer.distill.query_pairs import choose_labels, index_node_sets, read_node_sets, sample_queries
from indexer.distill.splits import TEST, TRAIN, VALIDATION, split_queries
from indexer.distill_config import BermConfig, DistillConfig
from indexer.errors import ContractError, GateError
from indexer.input_config import CatalogueConfig, LabelsConfig, PurchasesConfig
from indexer.job_config import NodesConfig
from indexer.runs import StepCommit, StepFolder

pytestmark = pytest.mark.train

DATE = "2026-03-01"
PAIR = {"npmi": 0.8, "joint": 0.1, "p_a": 0.2, "p_b": 0.2, "support": 20, "shared_products": 1}


def write_tsv(path, header, rows):
    path.write_text("\n".join("\t".join(row) for row in [header, *rows]) + "\n", encoding="utf-8")


def write_table(work, table, rows):
    """Commit a table as its step would, in two parts."""
    step = StepFolder(work, table.written_by, DATE)
    commit = step.newest()
    attempt = commit.attempt if commit else step.new_attempt()
    folder = step.attempt_folder(attempt) / table.name
    folder.mkdir(parents=True)
    for part, some in enumerate((rows[::2], rows[1::2])):
        columns = {name: [row.get(name) for row in some] for name in table.schema.names}
        pq.write_table(pa.table(columns, schema=table.schema), folder / f"part-{part}.parquet")
    if commit is None:
        step.commit(StepCommit(step=table.written_by, run_date=DATE, attempt=attempt, fingerprint=table.name), 1)


@pytest.fixture
def shop(tmp_path):
    """Forty labelled queries q00 to q39 with one exact and one irrelevant product each."""
    queries = [f"q{number:02d}" for number in range(40)]
    write_tsv(
        tmp_path / "catalogue.tsv",
        ("product_id", "title", "brand"),
        [(f"{kind}{query}", f"{kind} {query}", "Acme") for query in queries for kind in ("good", "bad")],
    )
    write_tsv(
        tmp_path / "labels.tsv",
        ("query", "product_id", "label"),
        [row for query in queries for row in ((query, f"good{query}", "E"), (query, f"bad{query}", "I"))],
    )
    return Config(
        shop=ShopConfig(work=str(tmp_path / "work")),
        catalogue=CatalogueConfig(path=str(tmp_path / "catalogue.tsv"), text_fields=("title", "brand")),
        labels=LabelsConfig(path=str(tmp_path / "labels.tsv"), max_reject_share=0.5),
        distill=DistillConfig(validation_share=0.2, test_share=0.2),
    )


def relabel(shop, rows):
    write_tsv(Path(shop.labels.path), ("query", "product_id", "label", "weight"), rows)


def test_labels_join_product_texts(shop):
    found = read_judgements(shop.catalogue, shop.labels)
    texts = {
        (found.queries[q], found.products[p], int(g))
        for q, p, g in zip(found.pairs.query, found.pairs.product, found.pairs.grade, strict=True)
    }
    assert ("q07", "good q07 | Acme", 3) in texts
    assert ("q07", "bad q07 | Acme", 0) in texts
    assert len(texts) == 80


@pytest.mark.line(68)
def test_every_label_row_is_accounted_for(shop):
    relabel(
        shop,
        [
            ("Q00 ", "goodq00", "E", "1"),
            ("q00", "goodq00", "E", "3"),
            ("q01", "goodq01", "S", "1"),
            ("q01", "goodq01", "I", "1"),
            ("q02", "nowhere", "E", "1"),
            ("q03", "goodq03", "wonderful", "1"),
            ("\u200b", "goodq04", "E", "1"),
            ("q05", "goodq05", "C", ""),
        ],
    )
    found = read_judgements(shop.catalogue, shop.labels)
    counts = found.counts
    assert counts["labels"]["rows_in"] == 8
    assert counts["labels"]["rows_out"] == 5
    assert counts["labels"]["rejected"] == 3
    reasons = {row["reason"]: row["count"] for row in found.rejects}
    assert reasons == {"label_unknown": 1, "query_empty": 1, "product_unknown": 1}
    assert (counts["labels_merged"], counts["labels_conflicting"]) == (2, 1)
    assert counts["labels"]["rows_out"] == counts["pairs"] + counts["labels_merged"]
    grades = {found.queries[q]: int(g) for q, g in zip(found.pairs.query, found.pairs.grade, strict=True)}
    # A tie between S and I goes to the lower grade.
    assert grades == {"q00": 3, "q01": 0, "q05": 1}
    assert found.pairs.weight.tolist() == [2.0, 1.0, 1.0]


@pytest.mark.parametrize(("unknown", "refused"), [(4, False), (5, True), (9, True)])
def test_labels_of_another_catalogue_are_refused_and_those_of_gone_products_are_not(shop, unknown, refused):
    known = [(f"q{number:02d}", f"goodq{number:02d}", "E", "1") for number in range(0 if unknown == 9 else 4)]
    relabel(shop, known + [("q00", f"gone{number}", "E", "1") for number in range(unknown)])
    labels = replace(shop.labels, max_reject_share=0.0)
    if refused:
        with pytest.raises(ContractError, match=f"{unknown} of .* labels name products that are not in .*gone0"):
            read_judgements(shop.catalogue, labels)
    else:
        found = read_judgements(shop.catalogue, labels)
        assert [(row["reason"], row["count"]) for row in found.rejects] == [("product_unknown", 4)]
        assert found.counts["labels"] == {"rows_in": 8, "rows_out": 4, "rejected": 4}


def test_the_catalogues_own_rejects_are_kept(shop, tmp_path):
    rows = [("goodq00", "good", "Acme"), ("", "nameless", "Acme"), ("goodq01", "good", "Acme")]
    write_tsv(tmp_path / "catalogue.tsv", ("product_id", "title", "brand"), rows)
    relabel(shop, [("q00", "goodq00", "E", "1"), ("q01", "goodq01", "E", "1")])
    found = read_judgements(replace(shop.catalogue, max_reject_share=0.5), shop.labels)
    assert [(row["table"], row["count"]) for row in found.rejects] == [("CATALOGUE", 1)]
    assert found.counts["catalogue"] == {"rows_in": 3, "rows_out": 2, "rejected": 1}


def rewrite_catalogue(shop, rows):
    write_tsv(Path(shop.catalogue.path), ("product_id", "title", "brand", "updated_at"), rows)
    relabel(shop, [("q00", "goodq00", "E", "1"), ("q01", "goodq01", "I", "1")])


def test_the_newest_row_of_a_product_counts_by_time_and_not_by_spelling(shop):
    rows = [
        ("goodq00", "old", "Acme", "2026-01-01T10:00:00+02:00"),
        ("goodq00", "new", "Acme", "2026-01-01T09:00:00Z"),
        ("goodq00", "older", "Acme", "no time at all"),
        ("goodq01", "one", "Acme", ""),
    ]
    for order in (1, -1):
        rewrite_catalogue(shop, rows[::order])
        assert read_judgements(shop.catalogue, shop.labels).products == ["new | Acme", "one | Acme"]


def test_a_product_that_contradicts_itself_has_no_text_as_it_has_no_place_in_the_index(shop):
    rows = [("goodq00", "mug", "Acme", ""), ("goodq00", "cup", "Acme", ""), ("goodq01", "one", "Acme", "")]
    rewrite_catalogue(shop, [*rows, ("goodq01", "one", "Acme", "")])
    found = read_judgements(shop.catalogue, shop.labels)
    assert found.product_ids == ["goodq01"]
    assert {(row["table"], row["reason"]): row["count"] for row in found.rejects} == {
        ("LABELS", "product_unknown"): 1,
        ("CATALOGUE", "duplicate_id"): 2,
    }
    assert found.counts["catalogue"] == {"rows_in": 4, "rows_out": 2, "rejected": 2}


@pytest.mark.line(72)
def test_each_query_stands_in_one_part(shop):
    data = read_training_data(shop, DATE)
    parts = [set(part.query.tolist()) for part in (data.train, data.validation, data.test)]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 40
    assert all(parts)
    assert sum(len(part) for part in (data.train, data.validation, data.test)) == 80


def test_a_query_keeps_its_part_whatever_comes_beside_it():
    names = [f"query {number}" for number in range(2_000)]
    split = DistillConfig(validation_share=0.1, test_start=0.0, test_share=0.2, split_seed=13)
    parts = split_queries(names, split)
    np.testing.assert_array_equal(split_queries(names[500:], split), parts[500:])
    assert [round(float((parts == part).mean()), 1) for part in (TRAIN, VALIDATION, TEST)] == [0.7, 0.1, 0.2]
    assert (split_queries(names, replace(split, split_seed=14)) != parts).any()
    # Fixed for good: a test query of tonight must not be trained on tomorrow.
    assert split_queries(["baby sipper", "desk lamp"], split).tolist() == [TRAIN, TEST]


def test_starts_of_the_test_part_make_folds():
    names = [f"query {number}" for number in range(1_000)]
    split = DistillConfig(validation_share=0.1, test_share=0.2, split_seed=3)
    folds = [split_queries(names, replace(split, test_start=fold / 5)) for fold in range(5)]
    # Every query is tested once; the queries that validate a fold are tested in the next one.
    assert (sum((parts == TEST).astype(int) for parts in folds) == 1).all()
    for parts, after in zip(folds, folds[1:] + folds[:1], strict=True):
        assert set(after[parts == VALIDATION]) == {TEST}
        assert 60 < (parts == VALIDATION).sum() < 140


@pytest.mark.parametrize("label", ["E", "I"])
@pytest.mark.line(71)
def test_one_class_is_refused(shop, label):
    relabel(shop, [(f"q{number:02d}", f"goodq{number:02d}", label, "1") for number in range(40)])
    with pytest.raises(GateError, match="training part: expected both relevant"):
        read_training_data(shop, DATE)


def test_pairs_of_held_out_queries_are_dropped_and_counted(shop, tmp_path):
    plain = read_training_data(shop, DATE)
    train, test = (sorted({plain.queries[row] for row in part.query}) for part in (plain.train, plain.test))
    similar = [(train[0], train[1]), (train[0], "unseen"), (train[2], test[0])]
    dissimilar = [(train[3], train[4]), (train[0], train[1]), (test[1], "unseen")]
    work = shop.shop.work
    write_table(work, QUERY_PAIRS, [{"query_a": a, "query_b": b, **PAIR} for a, b in map(sorted, similar)])
    negatives = [
        {"query_a": a, "query_b": b, "similarity": 0.4, "source": "lexical"} for a, b in map(sorted, dissimilar)
    ]
    write_table(work, QUERY_NEGATIVES, negatives)
    nodes = [
        (train[0], "n1", 0.95),
        (test[0], "n1", 1.0),
        ("mined", "n2", 0.6),
        ("mined", "n3", 0.4),
        ("vague", "n1", 0.4),
    ]
    rows = [{"query": q, "node_id": n, "share": s, "confidence": s} for q, n, s in nodes]
    write_table(work, QUERY_NODES, rows)
    tree = {"n1": "root", "n2": "n1", "n3": "n1", "root": None}
    write_table(work, TAXONOMY, [{"node_id": node, "parent_id": above, "name": node} for node, above in tree.items()])
    free = [f"bought {number:02d}" for number in range(50)]
    bought = [(query, product, 9) for query in (train[0], test[0], *free) for product in ("p1", "p2")]
    write_table(work, PURCHASES, [{"query": q, "product_id": p, "purchases": n} for q, p, n in bought])
    data = read_training_data(replace(shop, purchases=PurchasesConfig(path="purchases.tsv")), DATE)

    def named(pairs):
        return {tuple(sorted((data.queries[a], data.queries[b]))) for a, b in pairs}

    assert named(data.similar) == {(train[0], train[1]), tuple(sorted((train[0], "unseen")))}
    assert named(data.dissimilar) == {(train[3], train[4])}
    kept = ("similar_pairs", "similar_held_out", "dissimilar_pairs", "dissimilar_held_out", "dissimilar_also_similar")
    assert [data.counts[name] for name in kept] == [2, 1, 1, 1, 1]
    assert {data.queries[row] for row in data.mining_queries} == {train[0], "mined"}
    mined, unseen = (data.queries.index(query) for query in ("mined", "unseen"))
    assert (data.query_nodes.labels[mined] >= 0).sum() == 2
    assert (data.query_nodes.lineages[mined] >= 0).sum() == 4
    assert (data.query_nodes.labels[unseen] == -1).all()
    assert [data.queries[row] for row in data.free_queries] == free
    texts = data.texts
    assert [texts[row] for row in data.label_free_rows] == [*free, *data.products, *data.unlabelled]
    # Where few are free, the labelled ones that are open are too many to leave out.
    fewer = replace(shop, purchases=PurchasesConfig(path="p"), distill=replace(shop.distill, unlabelled_queries=9))
    data = read_training_data(fewer, DATE)
    assert len(data.free_queries) == 9
    assert set(data.label_free_rows[: len(data.open_queries)]) == set(data.open_queries)


def test_a_shop_with_purchases_needs_its_tables(shop):
    with pytest.raises(ContractError, match="QUERY_PAIRS of 2026-03-01: not there; run the step npmi_pairs"):
        read_training_data(replace(shop, purchases=PurchasesConfig(path="purchases.tsv")), DATE)


def test_label_sets_are_the_smallest_that_hold_the_mass(tmp_path):
    shares = {"sure": [0.92, 0.05], "two": [0.6, 0.3, 0.1], "vague": [0.4, 0.35, 0.25]}
    rows = [
        {"query": query, "node_id": f"n{place}", "share": share, "confidence": share}
        for query, values in shares.items()
        for place, share in enumerate(values)
    ]
    write_table(tmp_path, QUERY_NODES, rows)
    sets = read_node_sets(tmp_path, DATE, NodesConfig(label_mass=0.9, min_top_share=0.5), wanted=shares)
    assert sets == {"sure": {"n0"}, "two": {"n0", "n1"}}
    assert read_node_sets(tmp_path, DATE, NodesConfig(), wanted=["two"]) == {"two": {"n0", "n1"}}
    nodes = index_node_sets(sets, ["two", "sure", "other"], {"n1": "root"})
    assert nodes.labels.tolist() == [[0, 1], [0, -1], [-1, -1]]
    assert nodes.lineages.tolist() == [[0, 1, 2], [0, -1, -1], [-1, -1, -1]]
    assert index_node_sets({}, ["a"], {}).labels.tolist() == [[-1]]


def test_shares_that_differ_only_by_the_order_of_addition_are_a_tie():
    third = 1 / 3
    shares = [("c", third + 1e-14), ("a", third), ("b", third - 1e-14)]
    assert choose_labels(shares, NodesConfig(label_mass=0.6, min_top_share=0.3)) == {"a", "b"}
    tenths = [(f"n{number}", 0.1) for number in range(10)]
    assert len(choose_labels(tenths, NodesConfig(label_mass=1.0, min_top_share=0.1))) == 10
    assert len(choose_labels(tenths, NodesConfig(label_mass=0.8, min_top_share=0.1))) == 8
    assert choose_labels(tenths, NodesConfig(label_mass=0.0, min_top_share=0.1)) == frozenset()


def test_the_sample_of_queries_is_that_of_a_full_sort(tmp_path):
    rows = [
        {"query": f"q{number % 150}", "node_id": f"n{number // 150}", "share": 0.5 + 0.1 * (number % 3 - 1)}
        for number in range(300)
    ]
    write_table(tmp_path, QUERY_NODES, [{**row, "confidence": 0.5} for row in rows])

    def digest(query):
        return hashlib.blake2b(query.encode(), digest_size=8, key=b"mined 7").digest()

    allowed = {row["query"] for row in rows if row["share"] >= 0.5}
    assert len(allowed) == 100
    for limit in (1, 20, 99, 100, 1_000):
        found = sample_queries(tmp_path, DATE, NodesConfig(), limit=limit, seed=7)
        assert found == sorted(sorted(allowed, key=digest)[:limit])
    # A sample is no more and no less likely to be held out by the split of the same seed.
    split = DistillConfig(validation_share=0.1, test_share=0.2, split_seed=7)
    sampled = sample_queries(tmp_path, DATE, NodesConfig(), limit=40, seed=7)
    assert set(split_queries(sampled, split)) == {TRAIN, VALIDATION, TEST}
    other = sample_queries(tmp_path, DATE, NodesConfig(), limit=20, seed=8)
    assert other != sample_queries(tmp_path, DATE, NodesConfig(), limit=20, seed=7)


def test_purchases_of_open_queries_are_read_where_berm_is_a_teacher(shop):
    plain = read_training_data(shop, DATE)
    train, test = (plain.queries[part.query[0]] for part in (plain.train, plain.test))
    work = shop.shop.work
    for table in (QUERY_PAIRS, QUERY_NEGATIVES, QUERY_NODES, TAXONOMY):
        write_table(work, table, [])
    bought = [(train, f"good{train}", 30), (train, "goodq01", 20), (train, "nowhere", 40), (train, "badq02", 20)]
    rows = [{"query": q, "product_id": p, "purchases": n} for q, p, n in [*bought, (test, "goodq01", 9), ("x", "y", 9)]]
    write_table(work, PURCHASES, rows)
    with_berm = replace(shop.distill, teachers=(*shop.distill.teachers, "berm"))
    config = replace(shop, distill=with_berm, purchases=PurchasesConfig(path="purchases.tsv"))
    data = read_training_data(config, DATE)
    texts = [*data.queries, *data.products, *data.unlabelled]
    assert [(texts[q], texts[p], n) for q, p, n in data.bought.tolist()] == [
        (train, f"good {train} | Acme", 30),
        (train, "bad q02 | Acme", 20),
        (train, "good q01 | Acme", 20),
    ]
    assert (data.counts["bought_pairs"], data.counts["bought_unknown"]) == (3, 2)
    # Only the most bought of each query, the smaller id on a tie; "nowhere" has a place and no text, "y" no place.
    near = read_training_data(replace(config, berm=BermConfig(neighbours=3)), DATE)
    assert [(texts[p], n) for _, p, n in near.bought.tolist()] == [(f"good {train} | Acme", 30), ("bad q02 | Acme", 20)]
    assert len(read_training_data(replace(config, distill=shop.distill), DATE).bought) == 0


def test_traffic_is_summed_by_query(tmp_path):
    bought = [("mug", "p1", 30), ("cup", "p1", 5), ("mug", "p2", 20), ("hat", "p3", 2)]
    write_table(tmp_path, PURCHASES, [{"query": q, "product_id": p, "purchases": n} for q, p, n in bought])
    found = read_traffic(tmp_path, DATE, ["cup", "sofa", "mug"])
    assert (found.own.tolist(), sorted(found.shop)) == ([5, 0, 50], [2, 5, 50])


@pytest.mark.parametrize(
    ("votes", "settled"),
    [
        ([(3, 1, "audit"), (0, 1, "llm"), (0, 1, "llm")], (3, 1.0, "audit")),
        ([(3, 1, "llm"), (0, 2, "llm")], (0, 1.5, "llm")),
        ([(2, 1, "b"), (2, 1, "a"), (1, 1.5, "c")], (2, 3.5 / 3, "a")),
        ([(2, 1, "a"), (2, 3, "b"), (0, 4, "")], (0, 8 / 3, "")),
        # .1 + .2 + .3 and .3 + .2 + .1 are two numbers where each sum is rounded; once rounded they are .6.
        ([(3, 0.1, ""), (3, 0.2, ""), (3, 0.3, ""), (0, 0.6, "")], (0, 0.3, "")),
    ],
)
@pytest.mark.line(70)
def test_labels_of_one_pair_settle_on_a_grade_and_its_source(votes, settled):
    for order in (1, -1):
        assert settle_votes([Vote(*vote) for vote in votes][::order], ("llm",)) == settled


def test_labels_of_training_sources_train_and_never_measure(shop):
    plain = read_training_data(shop, DATE)
    rows = [
        (query, f"{kind}{query}", label, "audit")
        for query in plain.queries
        for kind, label in (("good", "E"), ("bad", "I"))
    ]
    extra = [(query, "goodq05", "I", "llm") for query in plain.queries if query != "q05"]
    disputed = ("q05", "goodq05", "I", "llm")
    write_tsv(Path(shop.labels.path), ("query", "product_id", "label", "source"), [*rows, *extra, disputed])
    data = read_training_data(shop, DATE)
    assert data.counts["label_sources"] == {"audit": 80, "llm": 39}
    held_out = len(plain.queries) - data.counts["train_queries"]
    taught = sum(plain.queries[row] != "q05" for row in np.unique(data.train.query))
    assert len(data.train) == len(plain.train) + taught
    assert data.counts["unmeasured_pairs"] == 39 - taught <= held_out
    assert [data.sources[number] for number in np.unique(data.validation.source)] == ["audit"]
    for part in ("validation", "test"):
        np.testing.assert_array_equal(getattr(data, part).product, getattr(plain, part).product)
    # With no training source all of them measure.
    everything = read_training_data(replace(shop, labels=replace(shop.labels, training_sources=())), DATE)
    assert everything.counts["unmeasured_pairs"] == 0
    assert len(read_measured(shop.catalogue, shop.labels).pairs) == 80
    write_tsv(Path(shop.labels.path), ("query", "product_id", "label", "source"), extra)
    with pytest.raises(ContractError, match=r"labels\.tsv: all 39 labels come from sources that train and never"):
        read_measured(shop.catalogue, shop.labels)
