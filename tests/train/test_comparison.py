"""A comparison on a tiny shop: resumed after a kill, each part trained once, figures by an independent computation."""

import csv
import json
import random
import shutil
from collections import Counter
from dataclasses import replace
from html import escape

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from indexer.cli.group import indexer
from indexer.config_file import load_config
from indexer.contracts.schemas import PURCHASES, QUERY_NEGATIVES, QUERY_NODES, QUERY_PAIRS, TAXONOMY
from indexer.distill.bootstrap import Interval
from indexer.distill.comparison import Comparison, shorten_names
from indexer.distill.comparison_cells import (
    LOSS_SETTINGS,
    PACE_SETTINGS,
    STUDENT_SETTINGS,
    TAUGHT_SETTINGS,
    identify_recovery,
    part_keys,
    teacher_folder,
)
from indexer.distill.comparison_plan import fold_config, read_variants
from indexer.distill.comparison_report import render_comparison
from indexer.distill.comparison_scores import ModelScores, read_scores, write_scores
from indexer.distill.comparison_table import ComparedModel, SeedRun, _draw_rates, join_folds, tabulate_models
from indexer.distill.data import read_training_data
from indexer.distill.judgements import Judgements, LabelledPairs, read_judgements
from indexer.distill.models import train_models
from indexer.distill.query_probes import Answers
from indexer.distill.slices import length_slices
from indexer.distill.trainer import Trainer
from indexer.errors import IntegrityError
from indexer.runs import StepCommit, StepFolder

pytestmark = pytest.mark.train

DATE = "2026-03-01"
NOUNS = ("cup", "hat", "bag", "pen")


@pytest.fixture(scope="module")
def shop(tmp_path_factory, tiny_model):
    """Sixteen queries, forty products, half of all pairs labelled; the path of its configuration."""
    folder, draw = tmp_path_factory.mktemp("shop"), random.Random(3)
    products = {f"p{number:02d}": f"{draw.choice(('red', 'big'))}{NOUNS[number % 4]}" for number in range(40)}
    lines = [json.dumps({"product_id": key, "title": title}) for key, title in products.items()]
    (folder / "catalogue.jsonl").write_text("\n".join(lines))
    queries = [f"{first}{noun}" for first in ("red", "blue", "old", "soft") for noun in NOUNS]
    rows = [
        f"{query}\t{key}\t{draw.choice('ES' if title[-3:] == query[-3:] else 'SCI')}"
        for query in queries
        for key, title in products.items()
        if draw.random() < 0.5
    ]
    (folder / "labels.tsv").write_text("\n".join(["query\tproduct_id\tlabel", *rows]))
    settings = {
        "epochs": 2,
        "switch_epoch": 1,
        "recovery_epochs": 1,
        "batch_size": 32,
        "learning_rate": 1e-3,
        "validation_share": 0.25,
        "query_tokens": 8,
        "product_tokens": 16,
        "threads": 1,
        "checkpoint_steps": 2,
        "teachers": [str(tiny_model)],
        "student": str(tiny_model),
        "student_layers": [0, 2],
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    tables = '[catalogue]\npath = "catalogue.jsonl"\n[labels]\npath = "labels.tsv"\n[distill]\n'
    (folder / "shop.toml").write_text(tables + "\n".join(lines))
    return folder / "shop.toml"


def compare(shop, out, methods=("direct", "kd-boost", "hiss"), seeds=1):
    variants = read_variants(str(shop), options=(), methods=methods, sweeps=(), seeds=seeds)
    return Comparison(variants, DATE, folds=2, out=out)


def count_trainings(patch):
    """Count from now on how many times each model is trained."""
    trained, run = Counter(), Trainer.run

    def count(trainer):
        trained[trainer.name] += trainer.checkpoints.load_state() is None
        return run(trainer)

    patch.setattr(Trainer, "run", count)
    return trained


@pytest.fixture(scope="module")
def unbroken(shop, tmp_path_factory):
    """A comparison that was never stopped, and how many times each model was trained."""
    with pytest.MonkeyPatch.context() as patch:
        trained = count_trainings(patch)
        comparison = compare(shop, tmp_path_factory.mktemp("out"))
        comparison.train(progress=False)
    return comparison, trained


def test_what_methods_share_is_trained_once_in_a_fold_and_seed(unbroken):
    comparison, trained = unbroken
    assert trained == {"teacher": 2, "recovered": 2, "student": 6}
    assert not list(comparison.out.rglob("checkpoints"))


def without_seconds(rows):
    return [replace(row, figures={k: v for k, v in row.figures.items() if k != "seconds"}) for row in rows]


@pytest.mark.parametrize("killed_at", [9, 40])
def test_a_killed_comparison_goes_on_and_ends_with_the_same_table(shop, unbroken, tmp_path, monkeypatch, killed_at):
    steps, run_step = [0], Trainer.run_step

    def die(trainer, step):
        steps[0] += 1
        if steps[0] == killed_at:
            raise KeyboardInterrupt
        return run_step(trainer, step)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_step", die)
        with pytest.raises(KeyboardInterrupt):
            compare(shop, tmp_path).train(progress=False)
        compare(shop, tmp_path).train(progress=False)
    again = compare(shop, tmp_path)
    assert without_seconds(again.tabulate(baseline="direct")) == without_seconds(
        unbroken[0].tabulate(baseline="direct")
    )
    monkeypatch.setattr(Trainer, "run", lambda trainer: pytest.fail("nothing is left to train"))
    again.train(progress=False)


def read_labels(shop):
    with (shop.parent / "labels.tsv").open() as file:
        return {(row["query"], row["product_id"]): row["label"] for row in csv.DictReader(file, delimiter="\t")}


def test_figures_equal_an_independent_computation(shop, unbroken, tmp_path):
    comparison, _ = unbroken
    labels = read_labels(shop)
    config = load_config(str(shop), environment={})
    known = read_judgements(config.catalogue, config.labels)
    found, relevant, by_fold = [], [], []
    for folder in comparison.cells:
        if folder.cell.variant != "kd-boost":
            continue
        # The same training outside of the comparison.
        data = read_training_data(folder.cell.config, DATE)
        models = train_models(folder.cell.config.distill, data, tmp_path / str(folder.cell.fold), progress=False)
        pairs = [
            (data.queries[q], data.product_ids[p]) for q, p in zip(data.test.query, data.test.product, strict=True)
        ]
        texts = dict(zip(data.product_ids, data.products, strict=True))
        queries = models.student.encode_queries([query for query, _ in pairs])
        products = models.student.encode_products([texts[product] for _, product in pairs])
        scores = (queries * products).sum(1)
        assert read_scores(folder.folder).scores == pytest.approx(scores, abs=1e-5)
        truth = [labels[pair] in "ES" for pair in pairs]
        found.extend(scores)
        relevant.extend(truth)
        by_fold.append(roc_auc_score(truth, scores))
    assert len(found) == len(labels) == len(known.pairs)
    (row,) = [row for row in comparison.tabulate(baseline="direct") if (row.name, row.part) == ("kd-boost", "all")]
    assert row.figures["auc"] == pytest.approx(roc_auc_score(relevant, found), abs=1e-5)
    assert row.figures["fold_auc"] == pytest.approx(np.mean(by_fold), abs=1e-5)
    assert row.deviations["auc"] is None
    assert row.differences["auc"].difference == pytest.approx(
        row.figures["auc"] - figure(comparison, "direct", "auc"), abs=1e-6
    )
    # No purchases, no query to query.
    assert (row.figures["qq_answered"], row.figures["exact_es_100"]) == (None, 1.0)


def test_a_table_of_one_fold_has_its_queries_alone(shop, unbroken, monkeypatch):
    monkeypatch.setattr(Trainer, "run", lambda trainer: pytest.fail("all folds are trained"))
    variants = [*unbroken[0].variants.values()]
    comparison = Comparison(variants, DATE, folds=2, out=unbroken[0].out, tested=1)
    comparison.train(progress=False)
    rows = {row.name: row for row in comparison.tabulate(baseline="direct") if row.part == "all"}
    judgements, found = read_judgements(comparison.config.catalogue, comparison.config.labels), {}
    for folder in comparison.cells:
        scores = read_scores(folder.folder)
        grades = {
            (query, product): grade
            for query, product, grade in zip(
                judgements.pairs.query, judgements.pairs.product, judgements.pairs.grade, strict=True
            )
        }
        truth = [grades[pair] >= 2 for pair in zip(scores.query, scores.product, strict=True)]
        found[folder.cell.variant] = roc_auc_score(truth, scores.scores)
    assert {row.pairs for row in rows.values()} == {len(truth)} != {len(judgements.pairs)}
    assert {name: rows[name].figures["auc"] for name in found} == pytest.approx(found, abs=1e-6)
    assert rows["zero-shot student"].figures["auc"] is not None


def figure(comparison, name, wanted):
    rows = comparison.tabulate(baseline="direct")
    return next(row.figures[wanted] for row in rows if (row.name, row.part) == (name, "all"))


def test_another_rule_makes_everything_anew(shop, unbroken, monkeypatch):
    before = unbroken[0].cells
    monkeypatch.setattr("indexer.distill.comparison_cells.RULES", 3)
    after = compare(shop, unbroken[0].out).cells
    assert all(folder.finished for folder in before)
    assert not any(folder.finished for folder in after)
    for old, new in zip(before, after, strict=True):
        assert not set(old.parts.values()) & set(new.parts.values())


def test_both_readings_of_a_cross_encoder_are_taught_by_one(shop, tiny_model, tmp_path, monkeypatch):
    options = [f'distill.teachers=["cross:{tiny_model}"]', "distill.epochs=1", "distill.switch_epoch=1"]
    methods = ("cross-margin", "cross-logits")
    variants = read_variants(str(shop), options=options, methods=methods, sweeps=(), seeds=1)
    comparison = Comparison(variants, DATE, folds=2, out=tmp_path)
    trained = count_trainings(monkeypatch)
    comparison.train(progress=False)
    assert trained == {"cross": 2, "recovered": 2, "student": 4}
    rows = {row.name: row for row in comparison.tabulate(baseline="cross-margin") if row.part == "all"}
    assert rows["cross-logits"].differences["auc"].difference != 0
    histories = {
        folder.cell.variant: read_scores(folder.folder).document["training"]["history"] for folder in comparison.cells
    }
    assert histories["cross-logits"][0]["factor_margin"] == 10
    assert histories["cross-logits"][1]["factor_margin"] != 10
    assert "factor_margin" not in histories["cross-margin"][1]


def test_of_two_names_for_the_same_settings_one_is_trained(shop, unbroken, monkeypatch):
    monkeypatch.setattr(Trainer, "run", lambda trainer: pytest.fail("this is kd-boost"))
    same = ["kd-boost:gamma=[0.9]"]
    variants = read_variants(str(shop), options=(), methods=["kd-boost"], sweeps=same, seeds=1)
    comparison = Comparison(variants, DATE, folds=2, out=unbroken[0].out)
    comparison.train(progress=False)
    rows = comparison.tabulate(baseline="kd-boost")
    swept = next(row for row in rows if row.name == "kd-boost gamma=0.9")
    assert set(swept.differences.values()) == {Interval(difference=0.0, low=0.0, high=0.0)}


def test_rows_stand_in_order_and_the_teacher_once(unbroken):
    rows = [row for row in unbroken[0].tabulate(baseline="kd-boost") if row.part == "all"]
    names = ["random", "BM25", "zero-shot student", "zero-shot model", "teacher model", "direct", "kd-boost", "hiss"]
    assert [row.name for row in rows] == names
    assert [bool(row.differences) for row in rows] == [name != "kd-boost" for name in names]


def test_a_shared_teacher_is_named_after_the_first_method_that_asked_it(shop, unbroken, tmp_path):
    """The teacher of `default` learns otherwise than that of `direct`, which asks none, and of `kd-boost`."""
    out = shutil.copytree(unbroken[0].out, tmp_path / "out")
    comparison = compare(shop, out, methods=("direct", "kd-boost", "default"))
    done = {(folder.cell.variant, folder.cell.fold): folder for folder in comparison.cells}
    for fold in (0, 1):
        taught, other = done["kd-boost", fold], done["default", fold]
        assert done["direct", fold].measured("teacher") == taught.measured("teacher") != other.measured("teacher")
        scores = read_scores(taught.folder)
        write_scores(other.folder, scores, scores.document)
        write_scores(other.measured("teacher"), scores, {})

    def teachers(comparison):
        rows = comparison.tabulate(baseline="direct")
        return [row.name for row in rows if row.part == "all" and row.name.startswith("teacher")]

    assert teachers(comparison) == ["teacher model of kd-boost", "teacher model of default"]
    assert teachers(compare(shop, out, methods=("direct",))) == []


@pytest.mark.parametrize(
    ("role", "unread"),
    [
        ("teacher", (*TAUGHT_SETTINGS, *STUDENT_SETTINGS)),
        ("cross", (*TAUGHT_SETTINGS, *STUDENT_SETTINGS)),
        ("recovered", (*TAUGHT_SETTINGS, *LOSS_SETTINGS, *PACE_SETTINGS)),
    ],
)
def test_a_shared_training_depends_on_nothing_that_its_key_leaves_out(shop, tiny_model, tmp_path, role, unread):
    values = {
        **{"method": "listwise", "gamma": 0.4, "scored_share": 1.0, "alpha_teacher": 0.5, "alpha_margin": 0.5},
        **{"alpha_listwise": 0.5, "alpha_cosent": 0.5, "listwise_temperature": 0.3, "student": str(tiny_model)},
        **{
            "student_layers": (1,),
            "recovery_epochs": 2,
            "alpha_start": 0.5,
            "teacher_alpha_start": 0.5,
            "start_share": 0.5,
            "select_within": 0.5,
            "alpha_labels": 0.5,
            "epochs": 1,
        },
        **{"alpha_similar": 0.5, "alpha_dissimilar": 0.5, "label_loss": "thresholds", "theta_low": 0.5},
        **{"theta_high": 0.9, "switch_epoch": 2, "patience": 1, "select_by": ("auc",), "similar_share": 1.0},
        **{"dissimilar_share": 1.0, "mining_neighbours": 5, "mining_low": 0.1, "mining_high": 0.8},
        **{"mining_per_query": 1, "mining_kept_share": 0.5, "cross_scale": "probability", "margin_factor": 2.0},
        **{"source_weights": {"": 0.5}, "source_shares": {"": 0.5}, "student_kind": "static"},
        **{"batch_size": 16, "learning_rate": 1e-2, "threads": 1, "checkpoint_steps": 3, "every_days": 2},
        **{"recovery_batch_size": 8, "recovery_learning_rate": 1e-4},
        **{"table_learning_rate": 1e-3, "ngram_bins": 64, "ngram_dimension": 32},
    }
    config = fold_config(load_config(str(shop), environment={}), fold=0, folds=2, seed=13)
    if role == "cross":
        teachers = (str(tiny_model), f"cross:{tiny_model}")
        config = replace(config, distill=replace(config.distill, teachers=teachers))
    other = replace(config, distill=replace(config.distill, **{name: values[name] for name in unread}))
    keys, weights = [], []
    for number, each in enumerate((config, other)):
        folder = tmp_path / str(number)
        train_models(each.distill, read_training_data(each, DATE), folder, progress=False)
        recovery = identify_recovery(each.distill, read_training_data(each, DATE))
        keys.append({**part_keys(each, DATE), "recovered": recovery}[role])
        weights.append(load_file(folder / f"{role}.best.safetensors"))
    assert keys[0] == keys[1]
    assert all(np.array_equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_the_command_prints_and_writes_the_table(shop, unbroken):
    out = unbroken[0].out
    words = ["compare", "--config", str(shop), "--run-date", DATE, "--out", str(out), "--folds", "2", "--seeds", "1"]
    shown = CliRunner().invoke(indexer, [*words, "--methods", "direct,kd-boost,hiss"])
    assert shown.exit_code == 0, shown.output
    assert "6 trainings: 3 methods, 2 folds, up to 1 seeds; 0 left to do" in shown.stderr
    assert "differences from direct" in shown.stdout
    document = json.loads(CliRunner().invoke(indexer, [*words, "--methods", "direct,kd-boost,hiss", "--json"]).stdout)
    assert json.loads((out / "table.json").read_text())["rows"] == document
    page = (out / "report.html").read_text()
    for row in document:
        assert escape(row["name"]) in page
    assert page.count("<svg") == 4
    facts = json.loads((out / "table.json").read_text())["facts"]
    # Of the forty products each has a label.
    assert len({product for _, product in read_labels(shop)}) == 40
    assert facts["products searched"] == 40
    assert "<h2>Search among 40 products</h2>" in page
    wrong = CliRunner().invoke(indexer, [*words, "--methods", "direct,kd-boost,hiss", "--baseline", "teacher none"])
    assert wrong.exit_code == 2
    assert "--baseline teacher none: expected one of random, BM25" in wrong.stderr


def test_a_baseline_that_is_no_row_is_refused_before_any_training(shop, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "run", lambda trainer: pytest.fail("trained for a table that cannot be drawn up"))
    words = ["compare", "--config", str(shop), "--run-date", DATE, "--out", str(tmp_path), "--folds", "2"]
    wrong = CliRunner().invoke(indexer, [*words, "--methods", "direct", "--baseline", "kd-bost"])
    assert wrong.exit_code == 2
    assert "--baseline kd-bost: expected one of random, BM25, zero-shot student, zero-shot model, direct" in (
        wrong.stderr
    )


def test_a_sweep_is_drawn_and_two_seeds_have_a_deviation(shop, tiny_model, tmp_path):
    two = f'kd-boost:teachers=[["{tiny_model}", "cross:{tiny_model}"]]'
    options = ["distill.epochs=1", "distill.recovery_epochs=1"]
    sweeps = ["kd-boost:gamma=[0, 1]", two]
    variants = read_variants(str(shop), options=options, methods=(), sweeps=sweeps, seeds=1, sweep_seeds=2)
    comparison = Comparison(variants, DATE, folds=2, out=tmp_path)
    comparison.train(progress=False)
    rows = {row.name: row for row in comparison.tabulate(baseline="kd-boost gamma=0") if row.part == "all"}
    assert list(rows)[4:7] == ["teacher model", "teacher cross:model", f"teachers of {variants[-1].name}"]
    row = rows["kd-boost gamma=1"]
    assert (row.seeds, row.swept) == (2, ("kd-boost gamma", 1.0))
    assert row.deviations["auc"] > 0
    page = render_comparison(list(rows.values()), facts={"baseline": "<b>", "products searched": 1234}, settings={})
    # Four plots of differences, and a curve per figure that the shop has.
    assert page.count("<svg") == 4 + 4
    assert "from <b>" not in page
    assert "Search among 1,234 products" in page
    # A teacher that does not know every pair, as a table of scores may, has no figures.
    place = comparison.cells[-1].folder / teacher_folder((f"cross:{tiny_model}",))
    known = read_scores(place)
    write_scores(place, replace(known, scores=np.append(known.scores[1:], np.float32(np.nan))), {})
    left = [row.name for row in comparison.tabulate(baseline="kd-boost gamma=0") if row.part == "all"]
    assert left == [name for name in rows if name != "teacher cross:model"]


def test_a_slice_without_a_judged_pair_has_no_row():
    """Queries whose labels all come from training sources have words, too."""
    pairs = LabelledPairs(
        query=np.array([0, 0]), product=np.array([0, 1]), grade=np.array([3, 0]), weight=np.ones(2, dtype=np.float32)
    )
    texts = ["mug", "red mug"]
    judgements = Judgements(queries=texts, product_ids=["a", "b"], products=texts, pairs=pairs)
    model = ComparedModel(name="m", runs=[SeedRun(scores=np.array([0.9, 0.1]), typo_scores=np.full(2, np.nan))])
    rows = tabulate_models([model], judgements, np.array([0, -1]), length_slices(texts), baseline="m", seed=1)
    assert [(row.part, row.queries, row.figures["auc"]) for row in rows] == [("all", 1, 1.0), ("1 word", 1, 1.0)]


def test_another_index_or_another_start_is_measured_anew_and_trainings_are_shared(shop, tiny_model, tmp_path):
    changed = shutil.copytree(tiny_model, tmp_path / "changed" / "model")
    (changed / "README.md").write_text("another model")
    plain, index, start = (
        Comparison(
            read_variants(str(shop), options=options, methods=["direct"], sweeps=(), seeds=1),
            DATE,
            folds=2,
            out=tmp_path,
        )
        for options in ((), ["index.ef_search=64"], [f'distill.teachers=["{changed}"]'])
    )
    (one, other) = plain.cells[0], index.cells[0]
    assert one.folder != other.folder
    assert one.parts == other.parts
    assert one.measured("teacher") != other.measured("teacher")
    folders = [each._untrained() for each in (plain, index, start)]
    assert len({found["zero-shot model"][0] for found in folders}) == 3
    assert len({found["zero-shot student"][0] for found in folders}) == 2


def write_table(work, table, rows):
    """Commit a table as its step would."""
    step = StepFolder(work, table.written_by, DATE)
    commit = step.newest()
    attempt = commit.attempt if commit else step.new_attempt()
    folder = step.attempt_folder(attempt) / table.name
    folder.mkdir(parents=True)
    columns = {name: [row.get(name) for row in rows] for name in table.schema.names}
    pq.write_table(pa.table(columns, schema=table.schema), folder / "part-0.parquet")
    if commit is None:
        step.commit(StepCommit(step=table.written_by, run_date=DATE, attempt=attempt, fingerprint=table.name), 1)


def test_queries_of_a_shop_with_purchases_are_answered_by_queries(shop, tmp_path, monkeypatch):
    queries = [f"{letter}{second} {noun}" for letter in "abcdefghij" for second in "xyz" for noun in NOUNS]
    pair = {"npmi": 0.8, "joint": 0.1, "p_a": 0.2, "p_b": 0.2, "support": 20, "shared_products": 1}
    similar = [{**pair, "query_a": a, "query_b": b} for a, b in zip(queries, queries[4:], strict=False)]
    work = tmp_path / "work"
    write_table(work, QUERY_PAIRS, similar)
    write_table(work, QUERY_NEGATIVES, [])
    write_table(work, TAXONOMY, [])
    write_table(
        work,
        QUERY_NODES,
        # Half of the letters have a node of their own: other letters are no answer to them.
        [
            {"query": query, "node_id": query[-3:] if query < "f" else query[0], "share": 1.0, "confidence": 0.8}
            for query in queries
        ],
    )
    bought = [*queries, "redcup", "bluecup", "bluecup"]
    write_table(
        work, PURCHASES, [{"query": q, "product_id": f"p{n:02d}", "purchases": 20} for n, q in enumerate(bought)]
    )
    options = [f"shop.work={work}", "purchases.path=purchases.tsv", "distill.epochs=1", "distill.recovery_epochs=1"]
    variants = read_variants(str(shop), options=options, methods=["kd-boost"], sweeps=(), seeds=1)
    comparison = Comparison(variants, DATE, folds=2, out=tmp_path / "out")
    trained = count_trainings(monkeypatch)
    comparison.train(progress=False)
    # The recovery learns from queries without labels, which are the same in both folds.
    assert trained == {"teacher": 2, "recovered": 1, "student": 2}
    rows = comparison.tabulate(baseline="kd-boost")
    whole, tail = (next(row for row in rows if (row.name, row.part) == ("kd-boost", part)) for part in ("all", "tail"))
    # All but two of the shop's queries were bought equally often, and most judged ones never.
    assert tail.queries == whole.queries - 2
    found = [read_scores(folder.folder).answers for folder in comparison.cells]
    assert all(0 < one.answered.sum() <= len(one.queries) < len(queries) / 3 for one in found)
    irrelevant, answered = (sum(getattr(one, name).sum() for one in found) for name in ("irrelevant", "answered"))
    assert 0 < irrelevant <= answered
    assert whole.figures["qq_irrelevant"] == pytest.approx(irrelevant / answered)
    teacher = next(row for row in rows if (row.name, row.part) == ("teacher model", "all"))
    difference = teacher.differences["qq_irrelevant"]
    assert difference.difference == pytest.approx(teacher.figures["qq_irrelevant"] - irrelevant / answered)
    assert difference.low <= difference.difference <= difference.high
    # Nobody asks the floors.
    floor = next(row for row in rows if (row.name, row.part) == ("random", "all"))
    assert floor.differences["qq_irrelevant"] is None


def test_a_draw_takes_a_query_with_its_answers_in_all_folds_the_same_for_all_models():
    every = np.ones(4, dtype=np.bool_)
    answers = Answers(
        queries=np.array(["a", "b", "a", "b"]), answered=every, irrelevant=np.array([1, 0, 1, 0]) > 0, unseen=~every
    )
    run = SeedRun(scores=np.zeros(1), typo_scores=np.zeros(1), answers=answers)
    drawn = _draw_rates([ComparedModel(name=name, runs=[run]) for name in "xy"], seed=3)
    rates = drawn["x"]["qq_irrelevant"]
    # Two queries of two: `a` twice, each once, `b` twice. Answers by themselves would give quarters.
    assert set(rates) == {0.0, 0.5, 1.0}
    np.testing.assert_array_equal(rates, drawn["y"]["qq_irrelevant"])
    assert np.isnan(drawn["x"]["qq_irrelevant_unseen"]).all()


def test_a_fold_counts_in_retrieval_by_its_queries_that_have_such_a_product(unbroken):
    judgements = read_judgements(unbroken[0].config.catalogue, unbroken[0].config.labels)
    # Queries 0 and 1 have an E, 2 an S, 3 none; the folds are 0 and 1 to 3.
    pairs = LabelledPairs(
        query=np.array([0, 1, 2, 3]),
        product=np.array([0, 0, 0, 0]),
        grade=np.array([3, 3, 2, 0]),
        weight=np.ones(4, np.float32),
    )
    figures = [
        {"exact_e_10": 1.0, "index_es_10": 1.0, "index_recall_10": 1.0},
        dict.fromkeys(("exact_e_10", "index_es_10", "index_recall_10"), 0.0),
    ]
    folds = [
        ModelScores(
            query=pairs.query[rows],
            product=pairs.product[rows],
            scores=np.zeros(len(rows), np.float32),
            typo_scores=np.zeros(len(rows), np.float32),
            retrieval=found,
        )
        for rows, found in zip(([0], [1, 2, 3]), figures, strict=True)
    ]
    joined = join_folds(folds, replace(judgements, pairs=pairs)).retrieval
    assert joined == pytest.approx({"exact_e_10": 1 / 2, "index_es_10": 1 / 3, "index_recall_10": 1 / 4})


def test_names_are_as_short_as_they_are_distinct():
    assert shorten_names(["student", "a/model", "b/other", "cross:c/model", "cross:d/model", "scores:x.parquet"]) == {
        "student": "student",
        "a/model": "model",
        "b/other": "other",
        "cross:c/model": "cross:c/model",
        "cross:d/model": "cross:d/model",
        "scores:x.parquet": "scores:x.parquet",
    }
    assert shorten_names(["a/model", "b/model", "a/model"]) == {"a/model": "a/model", "b/model": "b/model"}
    assert shorten_names(["student", "a/student"]) == {"student": "student", "a/student": "a/student"}


def test_folds_that_do_not_fit_the_labels_are_refused(unbroken, tmp_path):
    comparison, _ = unbroken
    found = read_scores(comparison.cells[0].folder)
    config = comparison.config
    judgements = read_judgements(config.catalogue, config.labels)
    with pytest.raises(IntegrityError, match="each of"):
        join_folds([found], judgements)
    write_scores(tmp_path, found, {})
    (tmp_path / "scores.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(IntegrityError, match="delete the folder"):
        read_scores(tmp_path)
    assert read_scores(tmp_path / "none") is None
