"""The whole step on a tiny model: what it writes, that it resumes, that it repeats nothing."""

import json
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from sentence_transformers import SentenceTransformer

from indexer.cli.group import indexer
from indexer.config import Config, ShopConfig
from indexer.distill import step as step_module
from indexer.distill.card import render_card
from indexer.distill.evaluate import evaluate_encoder
from indexer.distill.export import ExportSettings, export_encoder
from indexer.distill.step import find_report, run_distill
from indexer.distill.trainer import TrainingResult
from indexer.distill.training_report import render_training
from indexer.distill_config import BermConfig, DistillConfig
from indexer.encoder import open_encoder
from indexer.errors import EncoderError, GateError
from indexer.index_config import GatesConfig
from indexer.input_config import CatalogueConfig, LabelsConfig, PurchasesConfig
from indexer.methods import METHODS
from indexer.runs import StepCommit, StepFolder

pytestmark = pytest.mark.train

DATE = "2026-03-01"
NOUNS = ("cup", "hat", "bag", "pen")
ROLES = ("teacher", "recovered", "student", "quantised", "direct")
ROWS = [
    "random",
    "BM25",
    "zero-shot teacher",
    "zero-shot student",
    "teacher",
    "student direct",
    "student default",
    "student default int8",
]


@pytest.fixture(scope="module")
def shop_files(tmp_path_factory):
    """Sixteen queries, forty products, every pair labelled by whether the noun is the same."""
    folder, draw = tmp_path_factory.mktemp("shop"), random.Random(3)
    products = {f"p{number:02d}": f"{draw.choice(('red', 'big'))}{NOUNS[number % 4]}" for number in range(40)}
    lines = [json.dumps({"product_id": key, "title": title}) for key, title in products.items()]
    (folder / "catalogue.jsonl").write_text("\n".join(lines))
    queries = [f"{first}{noun}" for first in ("red", "blue", "old", "soft") for noun in NOUNS]
    rows = [
        f"{query}\t{key}\t{'E' if title[-3:] == query[-3:] else 'I'}"
        for query in queries
        for key, title in products.items()
        if draw.random() < 0.5
    ]
    (folder / "labels.tsv").write_text("\n".join(["query\tproduct_id\tlabel", *rows]))
    return folder


@pytest.fixture
def shop(shop_files, tiny_model, tmp_path):
    return Config(
        shop=ShopConfig(name="tiny", work=str(tmp_path / "work")),
        catalogue=CatalogueConfig(path=str(shop_files / "catalogue.jsonl")),
        labels=LabelsConfig(path=str(shop_files / "labels.tsv")),
        gates=GatesConfig(min_parity_int8=0.9),
        distill=DistillConfig(
            teachers=(str(tiny_model),),
            student=str(tiny_model),
            student_layers=(0, 2),
            epochs=2,
            switch_epoch=1,
            batch_size=32,
            learning_rate=1e-3,
            validation_share=0.25,
            test_share=0.25,
            query_tokens=8,
            product_tokens=16,
            threads=1,
            ablations=True,
            qat_epochs=1,
        ),
    )


def card_of(config, *roles):
    """The card after trainings of four epochs, of which the last two paid the dissimilar pairs."""
    names = ("train_pairs", "train_queries", "validation_pairs", "validation_queries", "test_pairs", "test_queries")
    counts = dict.fromkeys((*names, "similar_pairs", "dissimilar_pairs"), 0)
    history = [{"epoch": epoch, **({"loss_dissimilar": 0.1} if epoch >= 3 else {})} for epoch in range(5)]
    result = TrainingResult(history=history, best_epoch=4, best_score=0.9)
    return render_card("shop-student", DATE, config, counts, dict.fromkeys(roles, result), [])


def distill_of(method, **changes):
    return Config(distill=DistillConfig(method=method, **{**METHODS[method], **changes}))


@pytest.mark.parametrize(
    ("method", "loss"),
    [
        ("kd-boost", "KD-Boost equation 7, gamma 0.9, labels by bands, theta 0.7 to 0.85, alphas 1.0 / 1.0 / 1.0;"),
        ("cross-margin", ": margin-MSE x 1.0;"),
        ("cross-logits", ": margin-MSE x 1.0, logits met by a learned factor of the cosines;"),
        ("dssm", ": labels by thresholds, alphas 1.0 / 0.0 / 0.0, no teacher asked;"),
        ("direct", ": KD-Boost equation 5, labels by bands, theta 0.7 to 0.85, alphas 1.0 / 1.0 / 1.0,"),
        ("augmented", "margin-MSE x 1.0, unlabelled pairs per labelled one 5.0;"),
    ],
)
def test_the_card_names_the_losses_that_count(method, loss):
    assert loss in card_of(distill_of(method))


MINILM = "all-MiniLM-L6-v2"
CROSSED = f"cross:{MINILM}"
BY_5 = ", the encoders among them trained with KD-Boost equation 5"


@pytest.mark.parametrize(
    ("method", "changes", "roles", "told"),
    [
        ("kd-boost", {}, ["teacher"], f"{BY_5}, with 6 from epoch 3"),
        ("kd-boost", {}, [], BY_5),
        ("kd-boost", {"alpha_dissimilar": 0.0}, ["teacher"], BY_5),
        ("kd-boost", {"teachers": (MINILM, CROSSED)}, ["cross"], BY_5),
        ("cross-margin", {}, ["cross"], ""),
    ],
)
def test_the_card_tells_how_teachers_were_trained_and_that_the_weights_derive_from_them(method, changes, roles, told):
    config = distill_of(method, **changes)
    names = ", ".join(f"`{name}`" for name in config.distill.teachers)
    card = card_of(config, *roles, "student")
    assert f"- **Teachers**: {names}{told}; frozen while they teach.\n" in card
    assert (
        f"The weights derive from `{MINILM}` and, through what they teach, from {names}; their licences hold for this "
        "model too (all-MiniLM-L6-v2: Apache-2.0)."
    ) in card


def test_the_card_of_a_method_that_asks_no_teacher_names_none():
    card = card_of(distill_of("direct", teachers=("somebody/else",)), "student")
    assert "eachers" not in card
    assert "somebody/else" not in card
    assert "KD-Boost equation 5, with 6 from epoch 3, labels by bands" in card
    assert f"The weights derive from `{MINILM}`; its licence holds for this model too (all-MiniLM-L6-v2" in card


def test_the_card_tells_what_was_learnt_without_labels_where_it_was():
    config = distill_of("kd-boost")
    card = card_of(config, "recovered", "teacher", "student", "quantised")
    apart = "on texts without labels, 4 epochs.\n"
    assert f"- **Recovery**: before it was taught, brought back to the whole of `{MINILM}` {apart}" in card
    assert f"- **int8**: a copy that computes in int8, brought back to the student {apart}" in card
    plain = card_of(config, "teacher", "student")
    assert "**Recovery**" not in plain
    assert "**int8**" not in plain


@pytest.mark.parametrize(
    ("settings", "window"),
    [
        ({}, "no purchases."),
        ({"path": "sales.parquet"}, "purchases of all days up to it."),
        ({"path": "sales.parquet", "lookback_days": 90}, "purchases of the 90 days that end with it."),
        (
            {"path": "sales.parquet", "lookback_days": 90, "half_life_days": 30},
            "purchases of the 90 days that end with it, half-life 30 days.",
        ),
    ],
)
def test_the_card_has_the_window_of_the_data(settings, window):
    assert f"\nRun date 2026-03-01; {window}\n" in card_of(Config(purchases=PurchasesConfig(**settings)))


def test_the_step_leaves_everything_a_release_needs(shop, shop_files):
    commit = run_distill(shop, DATE, progress=False)
    folder = StepFolder(shop.shop.work, "distill", DATE).attempt_folder(commit.attempt)
    assert [row["name"] for row in commit.counts["evaluation"]] == ROWS
    assert json.loads(json.dumps(commit.counts, allow_nan=False)) == commit.counts
    for role in ("teacher", "student", "direct"):
        assert [row["epoch"] for row in commit.counts[f"{role}_history"]] == [0, 1, 2]
    opened = open_encoder(folder / "encoder-fp32", threads=1)
    student = SentenceTransformer(str(folder / "student"), device="cpu")
    np.testing.assert_allclose(opened.encode_products(["redcup"]), student.encode(["redcup"]), atol=1e-5)
    assert len(SentenceTransformer(str(folder / "teacher"))[0].auto_model.encoder.layer) == 3
    assert open_encoder(folder / "encoder-int8", threads=1).description.precision == "int8"
    card = (folder / "student" / "README.md").read_text()
    for text in (
        "gamma 0.9",
        "Licence",
        "| student default |",
        "best mean of auc, query_auc, ndcg_10",
        f"| training labels | {commit.counts['train_pairs']} |",
    ):
        assert text in card
    assert not list((folder.parent / "checkpoints").glob("*"))
    for role in ROLES:
        lines = (folder / f"{role}.metrics.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == commit.counts[f"{role}_history"]
    page = find_report(shop, commit)
    assert page == folder / "report.html"
    text = page.read_text()
    for row in commit.counts["evaluation"]:
        assert f"<tr><td>{row['name']}</td>" in text
    for role in ROLES:
        assert f"<h2>{role} <span" in text
    # Each plot is of one figure of one training.
    for figure in ("loss_labels", "auc"):
        drawn = [role for role in ROLES if figure in commit.counts[f"{role}_history"][-1]]
        assert text.count(f"<figcaption>{figure}</figcaption>") == len(drawn) > 1

    again = run_distill(shop, DATE, progress=False)
    assert again.attempt == commit.attempt

    found = evaluate_encoder(
        folder / "encoder-fp32",
        shop.catalogue,
        shop.labels,
        with_slices=True,
        with_retrieval=True,
        progress=False,
    )
    names = ["random", "BM25", "zero-shot all-MiniLM-L6-v2", "encoder-fp32"]
    assert [row.name for row in found.rows] == names
    assert found.rows[-1].pairs == commit.counts["pairs"]
    apart = evaluate_encoder(
        folder / "encoder-fp32", shop.catalogue, shop.labels, held_out=shop.distill, progress=False
    )
    assert apart.rows[-1].pairs == commit.counts["test_pairs"] != commit.counts["validation_pairs"]
    # Every query of this shop is one word, so that this slice is the whole.
    one_word = [row for row in found.slices if row.part == "1 word"]
    assert [replace(row, part="all") for row in one_word] == found.rows
    misspelled = [row for row in found.slices if row.part == "misspelled"]
    assert 0 < misspelled[-1].pairs < found.rows[-1].pairs
    assert len(one_word) + len(misspelled) == len(found.slices)
    # A search of all 40 products to a depth of 100 finds every one.
    assert {row["exact_es_100"] for row in found.retrieval} == {row["index_es_100"] for row in found.retrieval} == {1.0}


def test_the_page_of_a_training_shows_what_it_is_given_and_escapes_it():
    nasty, shown = "<b>\u202e", "&lt;b&gt;\\u202e"
    history = [
        {"epoch": 0, "auc": 0.5, "seconds": 1.0},
        {"epoch": 1, f"loss_labels:{nasty}": 0.5, "auc": 0.75, "seconds": 2.0},
        {"epoch": 2, f"loss_labels:{nasty}": 0.25, "auc": None, "seconds": 2.0},
    ]
    config = Config(shop=ShopConfig(name=nasty), distill=DistillConfig(epochs=3), berm=BermConfig(width=64))
    page = render_training(
        nasty,
        DATE,
        config,
        {"train_pairs": 1234, "scores_1": {"rows": 7}},
        {"student": TrainingResult(history=history, best_epoch=1, best_score=0.75)},
        [],
        {"int8": {"mean_cosine": 0.99}},
    )
    assert "<b>\u202e" not in page
    assert "\u202e" not in page
    assert f"<title>{shown}</title>" in page
    for text in (
        '<h2>student <span class="quiet">2 epochs, kept 1</span></h2>',
        f"<figcaption>loss_labels:{shown}</figcaption>",
        '<th>train_pairs</th><td class="n">1,234</td>',
        "<th>scores_1</th><td>rows 7</td>",
        '<th>distill.epochs</th><td class="n">3</td>',
        '<th>berm.width</th><td class="n">64</td>',
        "<th>int8</th><td>mean_cosine 0.9900</td>",
        "Run date 2026-03-01; no purchases.",
    ):
        assert text in page
    assert page.count("<svg") == 3
    assert "distill.gamma" not in page
    assert "<script" not in page


def test_the_command_names_its_report(tmp_path, monkeypatch):
    commit = StepCommit(step="distill", run_date=DATE, attempt="abc", fingerprint="f", counts={"pairs": 3})
    monkeypatch.setattr(step_module, "run_distill", lambda *_, **__: commit)
    settings = ["--set", f"shop.work={tmp_path}", "--run-date", DATE]
    assert CliRunner().invoke(indexer, ["distill", *settings]).stdout.endswith("\n  report  -\n")
    page = StepFolder(tmp_path, "distill", DATE).attempt_folder("abc") / "report.html"
    page.parent.mkdir(parents=True)
    page.write_text("")
    assert CliRunner().invoke(indexer, ["distill", *settings]).stdout.endswith(f"\n  report  {page}\n")
    document = json.loads(CliRunner().invoke(indexer, ["distill", *settings, "--json"]).stdout)
    assert document == {"pairs": 3, "report": str(page)}


def test_an_interrupted_step_goes_on_where_it_stopped(shop, monkeypatch):
    whole = run_distill(shop, DATE, progress=False)
    other = replace(shop, shop=replace(shop.shop, work=shop.shop.work + "-2"))

    def fail(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(step_module, "export_encoder", fail)
        with pytest.raises(KeyboardInterrupt):
            run_distill(other, DATE, progress=False)
    folder = StepFolder(other.shop.work, "distill", DATE)
    assert folder.newest() is None
    assert not list(folder.folder.glob("attempt=*"))

    with monkeypatch.context() as patch:
        patch.setattr("indexer.distill.trainer.Trainer.run_step", fail)
        resumed = run_distill(other, DATE, progress=False)
    assert resumed.counts["evaluation"] == whole.counts["evaluation"]
    assert resumed.fingerprint == whole.fingerprint
    # Of trainings that were finished before, too.
    attempt = folder.attempt_folder(resumed.attempt)
    assert sorted(path.name for path in attempt.glob("*.metrics.jsonl")) == sorted(f"{r}.metrics.jsonl" for r in ROLES)
    assert (attempt / "report.html").exists()


def identify(config, run_date):
    return step_module.identify_step(step_module.identify_training(config, run_date), config.gates)


def test_a_change_of_settings_or_labels_is_another_step(shop, tmp_path):
    prints = {identify(shop, DATE)}
    prints.add(identify(replace(shop, distill=replace(shop.distill, gamma=0.5)), DATE))
    changed = tmp_path / "labels.tsv"
    with open(shop.labels.path) as labels:
        changed.write_text(labels.read() + "\nredcup\tp01\tE")
    prints.add(identify(replace(shop, labels=LabelsConfig(path=str(changed))), DATE))
    assert len(prints) == 3


def test_what_decides_no_weight_is_not_another_training(shop, shop_files, tmp_path):
    step, training = identify(shop, DATE), step_module.identify_training(shop, DATE)
    moved = tmp_path / "elsewhere"
    shutil.copytree(shop_files, moved)
    shutil.copytree(shop.distill.teachers[0], moved / "model")
    same = replace(
        shop,
        catalogue=replace(shop.catalogue, path=str(moved / "catalogue.jsonl")),
        labels=replace(shop.labels, path=str(moved / "labels.tsv")),
        gates=replace(shop.gates, min_recall_10=0.5, min_recall_100=0.5, max_norm_error=0.1),
        distill=replace(shop.distill, teachers=(str(moved / "model"),), threads=2, checkpoint_steps=7, every_days=7),
    )
    assert identify(same, DATE) == step
    # The gates of the export are checked anew, on weights that are there already.
    strict = replace(shop, gates=replace(shop.gates, min_parity_int8=0.95))
    assert identify(strict, DATE) != step
    assert step_module.identify_training(strict, DATE) == training


def test_a_lower_gate_takes_the_training_that_a_higher_one_refused(shop, monkeypatch):
    poor = {"mean_cosine": 0.95, "min_cosine": 0.9}
    monkeypatch.setattr("indexer.distill.export.measure_parity", lambda *_: poor)
    with pytest.raises(GateError, match="min_parity_fp32"):
        run_distill(shop, DATE, progress=False)
    assert StepFolder(shop.shop.work, "distill", DATE).newest() is None
    monkeypatch.setattr("indexer.distill.trainer.Trainer.run_step", lambda *_: pytest.fail("trained again"))
    lower = replace(shop, gates=replace(shop.gates, min_parity_fp32=0.9))
    assert run_distill(lower, DATE, progress=False).counts["parity"] == {"fp32": poor, "int8": poor}


def test_an_exported_encoder_is_measured_on_the_texts_it_was_trained_on(shop, open_tiny, tmp_path):
    catalogue = tmp_path / "catalogue.jsonl"
    with open(shop.catalogue.path) as lines:
        rows = [json.loads(line) for line in lines]
    catalogue.write_text("\n".join(json.dumps({**row, "brand": "softhat"}) for row in rows))
    settings = ExportSettings(name="tiny", text_fields=("title",), text_separator="", min_parity=0.9)
    export_encoder(open_tiny(), tmp_path / "encoder", precision="fp32", settings=settings, sample=["redcup"])
    plain = evaluate_encoder(tmp_path / "encoder", shop.catalogue, shop.labels, progress=False)
    branded = replace(shop.catalogue, path=str(catalogue), text_fields=("title", "brand"))
    assert evaluate_encoder(tmp_path / "encoder", branded, shop.labels, progress=False) == plain
    open_tiny().save(tmp_path / "model")
    folder = [
        evaluate_encoder(tmp_path / "model", each, shop.labels, progress=False) for each in (branded, shop.catalogue)
    ]
    assert folder[0].rows[-1].auc != folder[1].rows[-1].auc


def test_evaluating_a_missing_folder_is_a_clear_error(shop, tmp_path):
    with pytest.raises(EncoderError, match="no such folder"):
        evaluate_encoder(tmp_path / "nothing", shop.catalogue, shop.labels)
