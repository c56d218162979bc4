"""The cross-encoder: what it reads, that it learns, and what it tells a student."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from indexer.distill.attributes import mark_text, read_marked_texts
from indexer.distill.batches import PairSource, label_source
from indexer.distill.cross_encoder import CrossEncoder
from indexer.distill.cross_teacher import CrossTeacher, cross_objective
from indexer.distill.encoders import TokenRows, count_positions, make_static
from indexer.distill.models import find_scored, train_models
from indexer.distill.scoring import score_frozen, tokenise_data
from indexer.distill.teaching import train_cross
from indexer.distill.trainer import Trainer
from indexer.distill.training_run import TrainingRun, open_cross, open_teacher
from indexer.distill_config import DistillConfig
from indexer.errors import ConfigError, IntegrityError
from indexer.input_config import CatalogueConfig

pytestmark = pytest.mark.train


@pytest.fixture
def cross(open_tiny):
    encoder = open_tiny()
    torch.manual_seed(4)
    return CrossEncoder(encoder)


def test_attributes_are_marked_and_those_that_lack_are_left_out(tmp_path):
    product = {"title": "Steel  sipper", "product_type": None, "brand": " Acme ", "color": "red"}
    assert mark_text(product) == "[SEPt] Steel sipper [SEPb] Acme"
    rows = [
        {"product_id": "1", "title": "cup", "product_type": "mug", "brand": "B"},
        {"product_id": "2", "title": "cup", "product_type": "mug", "brand": "A"},
        {"product_id": "3", "title": "hat"},
    ]
    (tmp_path / "catalogue.jsonl").write_text("\n".join(map(json.dumps, rows)))
    catalogue = CatalogueConfig(path=str(tmp_path / "catalogue.jsonl"), text_fields=("title",))
    assert read_marked_texts(catalogue, {"cup"}) == {"cup": "[SEPt] cup [SEPp] mug [SEPb] A"}


def test_a_pair_is_read_as_one_sequence(cross, monkeypatch):
    seen, ids = [], []
    monkeypatch.setattr(
        cross.transformer,
        "forward",
        lambda inputs: (seen.append(inputs), torch.zeros(len(inputs["attention_mask"])))[1],
    )
    monkeypatch.setattr(TokenRows, "look_up", lambda rows, padded: ids.append(padded) or {})
    queries, products = cross.tokenise_queries(["redcup"]), cross.tokenise_products(["[SEPt] bighat [SEPb] oldpen"])
    cross.score(queries, products)
    tokens = [cross._tokenizer.id_to_token(token) for token in ids[0][0].tolist()]
    assert tokens == ["[CLS]", "redcup", "[SEP]", "[SEPt]", "bighat", "[SEPb]", "oldpen", "[SEP]"]
    assert seen[0]["token_type_ids"][0].tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert [len(cross.tokenise_queries([" ".join(["redcup"] * 30)])[0]), len(products[0])] == [8, 4]


def test_company_does_not_change_a_score(cross, data, monkeypatch):
    texts = tokenise_data(cross, data)
    pairs = label_source(data)
    whole = score_frozen(cross, texts, pairs)
    monkeypatch.setattr("indexer.distill.chunks.MAX_CHUNK_TOKENS", 40)
    np.testing.assert_allclose(score_frozen(cross, texts, pairs), whole, atol=1e-5)
    alone = [
        cross.score_frozen([texts[a]], [texts[b]])[0] for a, b in zip(pairs.left[:4], pairs.right[:4], strict=True)
    ]
    np.testing.assert_allclose(alone, whole[:4], atol=1e-5)
    assert cross.score_frozen([], []).shape == (0,)


def test_it_learns_soft_human_labels(cross, data, config, tmp_path):
    settings = replace(config.distill, epochs=4)
    trainer = Trainer(cross, data, cross_objective(), settings, name="cross", folder=tmp_path, progress=False)
    cross.transformer.eval()
    pairs = label_source(data).take(np.arange(9))
    logits = torch.from_numpy(score_frozen(cross, trainer.texts, pairs)).double()
    targets = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)[torch.from_numpy(pairs.label)]
    chances = torch.sigmoid(logits)
    plain = -(targets * chances.log() + (1 - targets) * (1 - chances).log()).mean().item()
    assert trainer.run_step({"labels": pairs})["loss"] == pytest.approx(plain, abs=1e-5)
    result = trainer.run()
    losses = [row["loss_labels"] for row in result.history[1:]]
    assert losses[-1] < losses[0]
    assert result.best_epoch >= 1


def run_of(config, data, folder, **changes):
    return TrainingRun(config=replace(config.distill, **changes), data=data, folder=folder, progress=False)


def test_scores_are_kept_by_pair_and_lie_on_the_scale_of_cosines(data, config, tiny_model, tmp_path, monkeypatch):
    run = run_of(config, data, tmp_path, epochs=1, switch_epoch=0)
    teacher = train_cross(run, f"cross:{tiny_model}", role="cross")
    queries = len(data.queries)
    asked = np.array([[0, queries], [0, 1], [3, queries + 5]])
    found = teacher.score_pairs(asked)
    assert np.isnan(found).tolist() == [False, True, False]
    every = np.array([[query, queries + product] for query in range(queries) for product in range(30)])
    scores, logits = teacher.score_pairs(every), teacher.find_logits(every)
    order = np.argsort(logits)
    assert (np.diff(scores[order]) >= 0).all()
    assert scores.min() >= 0
    assert scores.max() <= 1
    monkeypatch.setattr(CrossEncoder, "score_frozen", lambda *_, **__: pytest.fail("scored again"))
    again = train_cross(run, f"cross:{tiny_model}", role="cross")
    np.testing.assert_array_equal(again.score_pairs(every), scores)


def test_the_curve_leads_to_the_targets_of_the_labels(data, config, cross, tmp_path):
    texts = tokenise_data(cross, data)
    teacher = CrossTeacher(cross, texts, queries=len(data.queries), path=tmp_path / "scores.npz")
    pairs = data.validation
    ideal = np.array([0.05, 0.05, 0.4, 0.9])[pairs.grade]
    teacher.find_logits = lambda *_, **__: np.log(ideal / (1 - ideal)).astype(np.float32)
    teacher.calibrate(pairs, config.distill)
    np.testing.assert_allclose(teacher.curve.predict([0.0, 0.05, 0.4, 0.9, 1.0]), [0, 0, 0.775, 1, 1], atol=1e-6)
    # Half of the labels are of no weight and wrong.
    wrong = np.arange(len(pairs)) % 2 == 0
    grade, weight = np.where(wrong, 3 - pairs.grade, pairs.grade), np.where(wrong, 0, 1).astype(np.float32)
    teacher.calibrate(replace(pairs, grade=grade, weight=weight), config.distill)
    known = np.unique(ideal[~wrong])
    targets = {0.05: 0, 0.4: 0.775, 0.9: 1}
    np.testing.assert_allclose(teacher.curve.predict(known), [targets[float(p)] for p in known], atol=1e-6)


def test_a_cross_encoder_alone_teaches_by_margins(data, config, tiny_model, tmp_path):
    settings = replace(
        config.distill,
        teachers=(f"cross:{tiny_model}",),
        student=str(tiny_model),
        student_layers=(0, 2),
        cross_scale="probability",
        epochs=2,
        switch_epoch=1,
        recovery_epochs=0,
        gamma=0.0,
        alpha_labels=0.0,
        alpha_similar=0.0,
        alpha_dissimilar=0.0,
        alpha_margin=1.0,
        scored_share=0.5,
    )
    with pytest.raises(ConfigError, match=r"distill\.ablations: method default has no loss without a teacher"):
        train_models(replace(settings, ablations=True), data, tmp_path, progress=False)
    models = train_models(settings, data, tmp_path, progress=False)
    assert list(models.results) == ["cross", "student"]
    assert (models.encoders, list(models.teachers)) == ({}, list(settings.teachers))
    losses = [row["loss_margin"] for row in models.results["student"].history[1:]]
    assert losses[-1] < losses[0]
    run = TrainingRun(config=settings, data=data, folder=tmp_path, progress=False)
    scored = find_scored(run, models.teachers, None)
    assert np.isfinite(models.teachers[settings.teachers[0]].score_pairs(scored)).all()


def test_a_teacher_gives_what_its_scale_says(cross, data, tmp_path):
    """Its logits as they are, or their sigmoid; both from one file."""
    texts, queries = tokenise_data(cross, data), len(data.queries)
    pairs = np.array([[0, queries + 1], [0, 1], [2, queries]])
    settings = {"queries": queries, "path": tmp_path / "scores.npz"}
    logits = CrossTeacher(cross, texts, scale="logit", **settings).score_pairs(pairs)
    alone = [
        cross.score_frozen([texts[0]], [texts[queries + 1]])[0],
        cross.score_frozen([texts[2]], [texts[queries]])[0],
    ]
    np.testing.assert_allclose(logits, [alone[0], np.nan, alone[1]], atol=1e-5)
    chances = CrossTeacher(cross, texts, scale="probability", **settings).score_pairs(pairs)
    np.testing.assert_allclose(chances, 1 / (1 + np.exp(-logits)), atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"gamma": 0.9},
        {"alpha_listwise": 0.1},
        {"alpha_margin": 0.0},
        {"teachers": ("all-MiniLM-L6-v2", "cross:all-MiniLM-L6-v2")},
    ],
)
def test_logits_are_learnt_by_margins_alone(changes):
    settings = {"teachers": ("cross:all-MiniLM-L6-v2",), "gamma": 0.0, "alpha_margin": 1.0, "cross_scale": "logit"}
    assert DistillConfig(**settings).cross_scale == "logit"
    with pytest.raises(ConfigError, match=r"cross_scale: logits are no cosines.* found alpha_margin"):
        DistillConfig(**{**settings, **changes})


def test_the_head_is_drawn_by_the_seed(config, tiny_model):
    first, second, other = (
        open_cross(replace(config.distill, seed=seed), str(tiny_model)).transformer.state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert not torch.equal(first["inner.weight"], other["inner.weight"])


def test_texts_longer_than_a_model_has_places_are_refused_before_the_training(config, tiny_model):
    name, distill = str(tiny_model), config.distill
    assert open_teacher(replace(distill, product_tokens=64), name).product_tokens == 64
    with pytest.raises(
        ConfigError, match=r"has places for 64 tokens, but the larger of distill\.query_tokens and .*is 65;"
    ):
        open_teacher(replace(distill, product_tokens=65), name)
    assert open_cross(replace(distill, query_tokens=8, product_tokens=53), name).product_tokens == 53
    with pytest.raises(
        ConfigError, match=r"64 tokens, but distill\.query_tokens and product_tokens with 3 more is 65;"
    ):
        open_cross(replace(distill, query_tokens=8, product_tokens=54), name)


def test_a_pair_as_long_as_may_be_is_scored(config, tiny_model):
    cross = open_cross(replace(config.distill, query_tokens=8, product_tokens=53), str(tiny_model))
    left, right = cross.tokenise_queries(["redcup " * 90]), cross.tokenise_products(["bluehat " * 90])
    assert np.isfinite(cross.score_frozen(left, right)).all()


@pytest.mark.parametrize(("kind", "places"), [("bert", 64), ("mpnet", 62), ("xlm-roberta", 62), ("roberta", 62)])
def test_some_models_count_places_from_behind_their_padding(open_tiny, kind, places):
    encoder = open_tiny()
    encoder.transformer.config = SimpleNamespace(max_position_embeddings=64, pad_token_id=1, model_type=kind)
    assert count_positions(encoder) == places


def test_a_table_of_vectors_is_no_cross_encoder(config, open_tiny, tmp_path):
    tiny = open_tiny()
    static = make_static(tiny.tokenizer, torch.zeros(tiny.tokenizer.get_vocab_size(), 8))
    static.save(str(tmp_path / "static"), create_model_card=False)
    with pytest.raises(ConfigError, match="a table of token vectors reads no two texts together"):
        open_cross(config.distill, str(tmp_path / "static"))
    assert count_positions(open_teacher(config.distill, str(tmp_path / "static"))) is None


def test_damaged_scores_are_named(cross, tmp_path):
    np.savez(tmp_path / "scores.npz", keys=np.arange(9), logits=np.zeros(9, dtype=np.float32))
    data = (tmp_path / "scores.npz").read_bytes()
    (tmp_path / "scores.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(IntegrityError, match=r"scores\.npz: cannot be read: .*; delete the file to score again"):
        CrossTeacher(cross, [], queries=0, path=tmp_path / "scores.npz")


def test_pairs_of_a_source_keep_their_order(cross, data):
    texts = tokenise_data(cross, data)
    right = np.array([len(data.queries) + 3, len(data.queries)])
    one, two = (
        score_frozen(cross, texts, PairSource(left=np.array([1, 0])[o], right=right[o])) for o in ([0, 1], [1, 0])
    )
    np.testing.assert_allclose(one, two[::-1], atol=1e-6)
