"""Teachers: who has which opinion, tables of scores from file to training, and what is refused on the way."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from indexer.config import Config
from indexer.distill.data import read_training_data
from indexer.distill.mining import veto_pairs
from indexer.distill.models import find_scored, train_models
from indexer.distill.score_tables import read_scores
from indexer.distill.teachers import TableTeacher, VectorTeacher, collect_opinions, mean_opinion
from indexer.distill.teaching import open_teachers
from indexer.distill.training_run import TrainingRun, open_teacher
from indexer.distill_config import DistillConfig
from indexer.errors import ConfigError, ContractError
from indexer.input_config import CatalogueConfig, LabelsConfig

pytestmark = pytest.mark.train

PAIRS = np.array([[0, 1], [0, 2], [1, 2]])
VECTORS = VectorTeacher(torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]))
"""Cosines 0.6, 0 and 0.8 of PAIRS."""
TABLE = TableTeacher(np.array([[0, 2], [0, 1], [0, 2]]), np.array([0.2, 0.9, 0.4], dtype=np.float32))


def test_opinions_of_a_table_and_of_vectors_by_hand():
    opinions = collect_opinions([VECTORS, TABLE], PAIRS)
    np.testing.assert_allclose(opinions, [[0.6, 0.0, 0.8], [0.9, 0.3, np.nan]], atol=1e-6)
    np.testing.assert_allclose(mean_opinion([VECTORS, TABLE], PAIRS), [0.75, 0.15, 0.8], atol=1e-6)
    assert np.isnan(mean_opinion([TABLE], PAIRS[2:])).all()
    assert collect_opinions([VECTORS, TABLE], PAIRS[:0]).shape == (2, 0)
    assert TABLE.pairs.tolist() == [[0, 1], [0, 2]]


def test_a_teacher_without_an_opinion_has_no_veto():
    assert veto_pairs([TABLE], PAIRS, theta=0.29).tolist() == [True, True, False]
    assert veto_pairs([VECTORS, TABLE], PAIRS, theta=0.7).tolist() == [True, False, True]


@given(st.dictionaries(st.tuples(st.integers(0, 5), st.integers(0, 5)), st.floats(-1, 1, width=32), max_size=12))
def test_a_table_equals_a_dictionary(scores):
    rows = np.array(list(scores), dtype=np.int64).reshape(-1, 2)
    table = TableTeacher(rows, np.array(list(scores.values()), dtype=np.float32))
    asked = np.array([(a, b) for a in range(8) for b in range(8)])
    expected = [scores.get((a, b), np.nan) for a, b in asked.tolist()]
    np.testing.assert_array_equal(table.score_pairs(asked), np.array(expected, dtype=np.float32))


@pytest.fixture
def shop(tmp_path):
    """Twelve queries with a good and a bad product each, and four products without labels, two of one text."""
    queries = [f"q{number:02d}" for number in range(12)]
    products = {f"{kind}{query}": f"{kind} {query}" for query in queries for kind in ("good", "bad")}
    products |= {"new1": "new one", "new2": "new two", "twin": "new two", "same": "good q00"}
    lines = [json.dumps({"product_id": key, "title": title}) for key, title in products.items()]
    (tmp_path / "catalogue.jsonl").write_text("\n".join(lines))
    rows = [f"{query}\t{kind}{query}\t{label}" for query in queries for kind, label in (("good", "E"), ("bad", "I"))]
    (tmp_path / "labels.tsv").write_text("\n".join(["query\tproduct_id\tlabel", *rows]))
    return Config(
        catalogue=CatalogueConfig(path=str(tmp_path / "catalogue.jsonl"), text_fields=("title",)),
        labels=LabelsConfig(path=str(tmp_path / "labels.tsv")),
        distill=DistillConfig(
            teachers=(f"scores:{tmp_path / 'scores.csv'}",), validation_share=0.3, test_share=0.3, unlabelled_products=0
        ),
    )


def write_scores(shop, rows, header="query,product_id,score"):
    path = shop.distill.teachers[0].removeprefix("scores:")
    with open(path, "w") as file:
        file.write("\n".join([header, *rows]) + "\n")
    return path


def test_a_table_of_scores_becomes_a_teacher(shop):
    rows = ["Q00 ,goodq00,0.9", "q00,new1,0.4", "q00,twin,0.25", "q00,new2,0.35", "other,same,-0.5"]
    path = write_scores(shop, [*rows, *(f"q{number:02d},gone,0.1" for number in range(3))])
    data = read_training_data(shop, "2026-03-01")
    ((name, table),) = data.tables.items()
    assert name == f"scores:{path}"
    queries = {text: place for place, text in enumerate(data.queries)}
    products = {text: len(queries) + place for place, text in enumerate([*data.products, *data.unlabelled])}
    assert data.unlabelled == ["new one", "new two"]
    asked = [("q00", "good q00"), ("q00", "new one"), ("q00", "new two"), ("other", "good q00"), ("q01", "new one")]
    found = table.score_pairs(np.array([(queries[query], products[text]) for query, text in asked]))
    # Both products of the text "new two" speak for it.
    np.testing.assert_allclose(found, [0.9, 0.4, 0.3, -0.5, np.nan], atol=1e-6)
    counts = data.counts["scores_1"]
    assert (counts["rows_in"], counts["rows_out"], counts["rejected"]) == (8, 5, 3)
    reasons = [(row["reason"], row["count"]) for row in data.rejects if row["table"] == "TEACHER_SCORES"]
    assert reasons == [("product_unknown", 3)]


def test_scored_pairs_of_held_out_queries_are_never_trained_on(shop, tmp_path):
    write_scores(shop, [f"q{number:02d},new1,0.5" for number in range(12)] + ["other,new2,0.1"])
    data = read_training_data(shop, "2026-03-01")
    run = TrainingRun(config=shop.distill, data=data, folder=tmp_path, progress=False)
    teachers = open_teachers(run, {})
    assert list(teachers) == list(shop.distill.teachers)
    scored = find_scored(run, teachers, None)
    held_out = {data.queries[row] for part in (data.validation, data.test) for row in part.query}
    assert held_out
    assert {data.queries[row] for row in scored[:, 0]} == {*(f"q{n:02d}" for n in range(12)), "other"} - held_out
    assert np.isfinite(next(iter(teachers.values())).score_pairs(scored)).all()


def test_a_table_that_knows_no_labelled_pair_cannot_teach_alone(shop, tmp_path, tiny_model):
    write_scores(shop, ["other,new2,0.1", "q00,new1,0.5"])
    changes = {"student_layers": (0, 2), "product_tokens": 32, "gamma": 1.0, "alpha_cosent": 0.0}
    alone = replace(shop.distill, student=str(tiny_model), **changes)
    data = read_training_data(replace(shop, distill=alone), "2026-03-01")
    with pytest.raises(ConfigError, match=r"none has a score for any of the \d+ training pairs"):
        train_models(alone, data, tmp_path / "run", progress=False)


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "tsv"])
def test_scores_in_other_formats(tmp_path, kind):
    path, rows = tmp_path / f"scores.{kind}", [{"query": "a", "product_id": "p1", "score": 0.25}]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "jsonl":
        path.write_text(json.dumps(rows[0]))
    else:
        path.write_text("query\tproduct_id\tscore\na\tp1\t0.25\n")
    table = read_scores(str(path))
    assert (table.queries, table.product_ids, table.score.tolist()) == (["a"], ["p1"], [0.25])


def test_scores_that_are_no_cosines_are_counted_or_refused(shop):
    good = [f"q{number % 12:02d},goodq{number // 12:02d},0.5" for number in range(144)] * 9
    path = write_scores(shop, [*good, "q00,new1,nan", "q00,new2,1.5", "q01,new1,"])
    counts = read_scores(path).counts
    assert {reason: entry.count for reason, entry in counts.rejects.items()} == {
        "score_type": 1,
        "score_range": 1,
        "score_missing": 1,
    }
    assert counts.rows_in == counts.rows_out + counts.rejected == 1299
    write_scores(shop, [*good[:100], "q00,new1,7"])
    with pytest.raises(ContractError, match="score_range"):
        read_scores(path)


def test_not_a_number_in_parquet_is_rejected(tmp_path):
    rows = {"query": ["a"] * 400, "product_id": ["p"] * 400, "score": [0.5] * 398 + [float("nan"), float("inf")]}
    pq.write_table(pa.table(rows), tmp_path / "scores.parquet")
    counts = read_scores(str(tmp_path / "scores.parquet")).counts
    assert {reason: entry.count for reason, entry in counts.rejects.items()} == {"score_range": 2}


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (["q00,goodq00,E"], "query,product_id,label", "needs the column 'score'.*rename it in the file"),
        ([], "query,product_id,score", "0 rows; expected at least one"),
        (["q00,gone1,0.5", "q01,gone2,0.5", "q00,goodq00,1"], "query,product_id,score", "2 of 3 scores name products"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_sentence(shop, rows, header, message):
    write_scores(shop, rows, header)
    with pytest.raises(ContractError, match=message):
        read_training_data(shop, "2026-03-01")


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(ContractError, match=r"none\.csv: no such file or folder; correct \[distill\.teachers\]"):
        read_scores(str(tmp_path / "none.csv"))


@pytest.mark.parametrize("names", [(), ("",), ("a", "b", "a")])
def test_teachers_without_a_name_or_twice_are_refused(names):
    with pytest.raises(ConfigError, match="teachers: expected"):
        DistillConfig(teachers=names)


def test_an_alignment_needs_an_encoder_among_the_teachers():
    with pytest.raises(ConfigError, match="alpha_teacher: expected an encoder among the teachers"):
        DistillConfig(teachers=("cross:a", "scores:b.csv"), alpha_teacher=1.0)


def test_teacher_and_student_may_have_tokenisers_of_their_own(data, config, tiny_model, tmp_path):
    """A teacher's vectors come from its own ids, whatever ids the student has for the same words."""
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    words = json.loads((other / "tokenizer.json").read_text())
    size = len(words["model"]["vocab"])
    marks = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    turned = {word: number if word in marks else size + 4 - number for word, number in words["model"]["vocab"].items()}
    words["model"]["vocab"] = turned
    (other / "tokenizer.json").write_text(json.dumps(words))
    settings = replace(
        config.distill,
        teachers=(str(other),),
        student=str(tiny_model),
        student_layers=(0, 2),
        epochs=1,
        recovery_epochs=0,
    )
    own, foreign = (open_teacher(settings, name) for name in (str(tiny_model), str(other)))
    assert own.tokenise_queries(["redcup"]) != foreign.tokenise_queries(["redcup"])
    models = train_models(settings, data, tmp_path / "run", progress=False)
    taught, queries = models.encoders["teacher"], len(data.queries)
    expected = (taught.encode_queries(data.queries[:1]) * taught.encode_products(data.products[3:4])).sum()
    found = models.teachers[str(other)].score_pairs(np.array([[0, queries + 3]]))
    assert found[0] == pytest.approx(expected, abs=1e-5)
    assert np.isfinite(models.results["student"].history[-1]["loss_soft"])
