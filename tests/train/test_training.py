"""The training loop: one step against a plain loop, resume, early stopping, what stands in an epoch."""

from collections import Counter
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch

from indexer.distill.augmentation import sample_pairs
from indexer.distill.batches import LABEL_OF_GRADE, PairSource, label_source, plan_epoch, query_source
from indexer.distill.checkpoints import CheckpointFolder, Position
from indexer.distill.objective import START, kd_boost_objective, recovery_objective
from indexer.distill.teachers import VectorTeacher
from indexer.distill.trainer import Trainer, schedule_rate, score_pairs, should_stop, tokenise_data
from indexer.errors import GateError, IntegrityError

pytestmark = pytest.mark.train


class KilledError(Exception):
    """Stands for the process's end."""


class KilledTrainer(Trainer):
    """Stops for good before its nth step."""

    steps_left = 0

    def run_step(self, step):
        if self.steps_left == 0:
            raise KilledError
        self.steps_left -= 1
        return super().run_step(step)


def make_trainer(kind, encoder, data, config, folder, *, gamma=0.0, teachers=()):
    objective = kd_boost_objective(config.distill, gamma=gamma)
    return kind(
        encoder, data, objective, config.distill, name="model", folder=folder, teachers=teachers, progress=False
    )


def teacher_vectors(open_tiny, data):
    teacher = open_tiny()
    return teacher.embed_frozen(tokenise_data(teacher, data))


def weights_of(encoder):
    return {name: tensor.clone() for name, tensor in encoder.transformer.state_dict().items()}


def plain_loss(encoder, texts, step, vectors, config):
    """Equation 7 with means, pair by pair, each side of each pair encoded on its own."""
    low, high, gamma = config.distill.theta_low, config.distill.theta_high, config.distill.gamma
    hard, soft = {name: [] for name in step}, {name: [] for name in step}
    for name, pairs in step.items():
        for at in range(len(pairs)):
            left, right = int(pairs.left[at]), int(pairs.right[at])
            score = (encoder.embed([texts[left]]) * encoder.embed([texts[right]])).sum()
            soft[name].append(((vectors[left] * vectors[right]).sum() - score) ** 2)
            zero = torch.zeros(())
            if name == "similar":
                hard[name].append(torch.minimum(score - low, zero) ** 2)
            elif name == "dissimilar" or pairs.label[at] == 0:
                hard[name].append(torch.maximum(score, zero) ** 2)
            elif pairs.label[at] == 1:
                hard[name].append(torch.minimum(score - low, zero) ** 2 + torch.maximum(score - high, zero) ** 2)
            else:
                hard[name].append((score - 1) ** 2)
    query_pairs = soft["similar"] + soft["dissimilar"]
    soft_loss = sum(soft["labels"]) / len(soft["labels"]) + sum(query_pairs) / len(query_pairs)
    return gamma * soft_loss + (1 - gamma) * sum(sum(items) / len(items) for items in hard.values())


def test_gradient_of_one_step_equals_a_plain_loop(open_tiny, data, config, tmp_path):
    vectors = teacher_vectors(open_tiny, data)
    step = {
        "labels": label_source(data).take(np.arange(12)),
        "similar": query_source(data.similar).take(np.arange(3)),
        "dissimilar": query_source(data.dissimilar),
    }
    fast, plain = open_tiny((0, 2)), open_tiny((0, 2))
    calm = replace(config, distill=replace(config.distill, max_grad_norm=1e9))
    trainer = make_trainer(Trainer, fast, data, calm, tmp_path, gamma=0.9, teachers=(VectorTeacher(vectors),))
    fast.transformer.eval()
    plain.transformer.eval()
    found = trainer.run_step(step)["loss"]
    loss = plain_loss(plain, trainer.texts, step, vectors, config)
    loss.backward()
    assert found == pytest.approx(loss.item(), abs=1e-6)
    sides = [
        torch.cat([p.grad.flatten() for p in encoder.transformer.parameters() if p.grad is not None])
        for encoder in (fast, plain)
    ]
    assert torch.nn.functional.cosine_similarity(*sides, dim=0).item() >= 0.9999
    assert sides[0].norm().item() == pytest.approx(sides[1].norm().item(), rel=1e-4)


def test_bf16_gradient_points_the_same_way(open_tiny, data, config, tmp_path):
    sides = []
    for bf16 in (False, True):
        encoder = open_tiny((0, 2))
        trainer = make_trainer(Trainer, encoder, data, config, tmp_path)
        trainer.bf16 = bf16
        encoder.transformer.eval()
        trainer.run_step({"labels": label_source(data)})
        grads = [p.grad.flatten() for p in encoder.transformer.parameters() if p.grad is not None]
        assert {grad.dtype for grad in grads} == {torch.float32}
        sides.append(torch.cat(grads))
    assert not torch.equal(*sides)
    assert torch.nn.functional.cosine_similarity(*sides, dim=0).item() > 0.999


def test_each_unique_text_is_encoded_once_per_step(open_tiny, data, monkeypatch):
    encoder, seen = open_tiny(), []
    embed = encoder.embed
    monkeypatch.setattr(encoder, "embed", lambda texts, **options: (seen.extend(texts), embed(texts, **options))[1])
    step = {"labels": label_source(data), "similar": query_source(data.similar)}
    _, _, scores = score_pairs(encoder, tokenise_data(encoder, data), step)
    rows = {int(row) for pairs in step.values() for row in (*pairs.left, *pairs.right)}
    assert len(seen) == len(rows)
    assert [len(scores[name]) for name in step] == [len(pairs) for pairs in step.values()]


@pytest.mark.parametrize("killed_at", [1, 3, 7, 14])
def test_resumed_run_has_the_weights_of_an_unbroken_one(open_tiny, data, config, tmp_path, killed_at):
    unbroken = open_tiny((0, 2))
    expected = make_trainer(Trainer, unbroken, data, config, tmp_path / "unbroken").run()
    victim = make_trainer(KilledTrainer, open_tiny((0, 2)), data, config, tmp_path / "broken")
    victim.steps_left = killed_at
    with pytest.raises(KilledError):
        victim.run()
    torch.manual_seed(99)
    second = open_tiny((0, 2))
    found = make_trainer(Trainer, second, data, config, tmp_path / "broken").run()
    for name, tensor in weights_of(unbroken).items():
        assert torch.equal(tensor, weights_of(second)[name]), name

    def without_time(history):
        return [{name: value for name, value in row.items() if name != "seconds"} for row in history]

    assert without_time(found.history) == without_time(expected.history)


def test_finished_run_is_not_trained_again(open_tiny, data, config, tmp_path):
    first, again = open_tiny((0,)), open_tiny((0,))
    make_trainer(Trainer, first, data, config, tmp_path).run()
    assert (tmp_path / "model.state.pt").stat().st_size < 10_000
    idle = make_trainer(KilledTrainer, again, data, config, tmp_path)
    idle.run()
    assert all(torch.equal(tensor, weights_of(again)[name]) for name, tensor in weights_of(first).items())


def test_training_learns_and_keeps_the_best_epoch(open_tiny, data, config, tmp_path):
    result = make_trainer(Trainer, open_tiny(), data, config, tmp_path).run()
    by_epoch = {row["epoch"]: row for row in result.history}
    assert by_epoch[3]["loss_labels"] < by_epoch[1]["loss_labels"]
    figures = ("auc", "query_auc", "ndcg_10")
    late = {epoch: sum(row[name] for name in figures) / 3 for epoch, row in by_epoch.items() if epoch >= 2}
    assert result.best_score == pytest.approx(max(late.values()), abs=1e-6)
    assert late[result.best_epoch] == pytest.approx(result.best_score, abs=1e-6)
    assert "loss_dissimilar" not in by_epoch[1]
    assert by_epoch[2]["mined_pairs"] > 0


def test_early_stopping_ends_the_run_with_the_best_weights(open_tiny, data, config, tmp_path, monkeypatch):
    aucs = iter([0.5, 0.6, 0.9, 0.8, 0.7, 0.95])
    encoder = open_tiny((0,))
    seen = []

    def fake_measure(name, scores, pairs, product_ids):
        seen.append(weights_of(encoder))
        row = real(name, scores, pairs, product_ids)
        return replace(row, auc=next(aucs))

    from indexer.distill import trainer as module

    real = module.measure_scores
    monkeypatch.setattr(module, "measure_scores", fake_measure)
    patient = replace(config, distill=replace(config.distill, epochs=9, patience=2, select_by=("auc",)))
    result = make_trainer(Trainer, encoder, data, patient, tmp_path).run()
    assert ([row["epoch"] for row in result.history], result.best_epoch, result.best_score) == ([0, 1, 2, 3, 4], 2, 0.9)
    assert all(torch.equal(tensor, weights_of(encoder)[name]) for name, tensor in seen[2].items())


@pytest.mark.parametrize(
    ("epoch", "best", "stops"), [(0, 1, False), (3, 3, False), (4, 3, False), (5, 3, True), (9, 9, True)]
)
def test_when_training_stops(config, epoch, best, stops):
    assert should_stop(epoch, best, replace(config.distill, epochs=9, patience=2)) is stops


def test_loss_that_is_no_number_stops_the_run(open_tiny, data, config, tmp_path):
    encoder = open_tiny((0,))
    trainer = make_trainer(Trainer, encoder, data, config, tmp_path)
    with torch.no_grad():
        encoder.transformer.embeddings.word_embeddings.weight.fill_(float("nan"))
    with pytest.raises(GateError, match="loss is nan in epoch 1"):
        trainer.run_step({"labels": label_source(data)})


def test_schedule_rises_then_falls():
    rates = [schedule_rate(done, total=10, warmup=2) for done in range(10)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])
    assert schedule_rate(0, total=3, warmup=0) == 1.0


def count_pairs(plan, source):
    pairs = (zip(step[source].left.tolist(), step[source].right.tolist(), strict=True) for step in plan)
    return Counter(chain.from_iterable(pairs))


def test_an_epoch_holds_every_label_once_and_query_pairs_by_share(data):
    sources = {"labels": label_source(data), "similar": query_source(data.similar)}
    plan = plan_epoch(sources, shares={"labels": 1, "similar": 0.5}, batch_size=16, seed=3, epoch=1)
    labels = count_pairs(plan, "labels")
    assert labels == Counter(zip(sources["labels"].left.tolist(), sources["labels"].right.tolist(), strict=True))
    assert max(len(step["labels"]) for step in plan) <= 16
    similar = count_pairs(plan, "similar")
    assert similar.total() == round(0.5 * labels.total())
    assert max(similar.values()) - min(similar.values()) <= 1


def test_order_depends_on_seed_and_epoch_alone(data):
    def first_rows(seed, epoch):
        plan = plan_epoch({"labels": label_source(data)}, shares={}, batch_size=16, seed=seed, epoch=epoch)
        return plan[0]["labels"].right.tolist()

    assert first_rows(3, 1) == first_rows(3, 1)
    assert first_rows(3, 1) != first_rows(3, 2)
    assert first_rows(3, 1) != first_rows(4, 1)


def test_a_source_without_pairs_takes_no_place(data):
    empty = PairSource(left=np.empty(0, dtype=np.int64), right=np.empty(0, dtype=np.int64))
    plan = plan_epoch(
        {"labels": label_source(data), "similar": empty}, shares={"similar": 0.5}, batch_size=64, seed=1, epoch=1
    )
    assert {len(step["similar"]) for step in plan} == {0}


def test_recovery_brings_a_cut_encoder_back_and_ends_with_its_last_epoch(open_tiny, data, config, tmp_path):
    whole, cut = open_tiny(), open_tiny((0, 2))
    targets = whole.embed_frozen(tokenise_data(whole, data))
    # Layers drawn at random do next to nothing, so that a cut alone changes too little.
    torch.manual_seed(3)
    with torch.no_grad():
        for weights in cut.transformer.parameters():
            weights.add_(0.05 * torch.randn_like(weights))
    before = (cut.embed_frozen(tokenise_data(cut, data)) * targets).sum(-1).mean()
    settings = replace(config.distill, epochs=4, patience=1)
    trainer = Trainer(
        cut,
        data,
        recovery_objective(),
        settings,
        name="recovered",
        folder=tmp_path,
        targets={START: targets},
        progress=False,
    )
    result = trainer.run()
    after = (cut.embed_frozen(tokenise_data(cut, data)) * targets).sum(-1).mean()
    losses = [row["loss_start"] for row in result.history[1:]]
    assert result.best_epoch == 4
    assert losses[-1] < losses[0]
    assert after > before + 0.1
    # Texts of held-out queries stay unseen, those of products are all there.
    held_out = set(range(len(data.queries))) - set(data.open_queries.tolist())
    assert held_out
    assert set(trainer.text_rows.tolist()) == set(range(len(trainer.texts))) - held_out


def test_scored_pairs_learn_the_teachers_score_alone(open_tiny, data, config, tmp_path):
    vectors = teacher_vectors(open_tiny, data)
    products = np.arange(len(data.queries), len(data.queries) + len(data.products))
    scored = sample_pairs(vectors, data.open_queries, products, seed=1)
    objective = kd_boost_objective(replace(config.distill, scored_share=0.5), gamma=0.9)
    encoder = open_tiny((0, 2))
    trainer = Trainer(
        encoder,
        data,
        objective,
        config.distill,
        name="model",
        folder=tmp_path,
        teachers=(VectorTeacher(vectors),),
        scored=scored,
        progress=False,
    )
    encoder.transformer.eval()
    step = {"scored": query_source(scored)}
    student = encoder.embed_frozen(trainer.texts)
    left, right = scored.T
    errors = ((vectors[left] * vectors[right]).sum(-1) - (student[left] * student[right]).sum(-1)) ** 2
    parts = trainer.run_step(step)
    assert parts["loss_soft"] == pytest.approx(errors.mean().item(), abs=1e-6)
    assert parts["loss"] == pytest.approx(0.9 * errors.mean().item(), abs=1e-6)


def test_scored_pairs_come_from_the_top_from_below_and_at_random():
    # Products lie on a circle in order of their angle to the only query.
    angles = torch.linspace(0.001, 3, 400)
    vectors = torch.cat([torch.tensor([[1.0, 0.0]]), torch.stack([angles.cos(), angles.sin()], 1)])
    pairs = sample_pairs(vectors, np.array([0]), np.arange(1, 401), seed=7)
    ranks = pairs[:, 1] - 1
    assert set(pairs[:, 0]) == {0}
    # The five at random may meet one another or the rest.
    assert 20 <= len(pairs) <= 25
    assert 10 <= (ranks < 20).sum() <= 15
    assert 10 <= ((ranks >= 20) & (ranks < 200)).sum() <= 15
    assert np.array_equal(pairs, sample_pairs(vectors, np.array([0]), np.arange(1, 401), seed=7))
    few = sample_pairs(vectors, np.array([0]), np.arange(1, 4), seed=7)
    assert few.tolist() == [[0, 1], [0, 2], [0, 3]]


@pytest.mark.parametrize(("gamma", "targets"), [(0.0, ["start"]), (0.9, ["teacher", "start"])])
def test_only_a_taught_model_is_aligned_with_a_teacher(config, gamma, targets):
    settings = replace(config.distill, alpha_teacher=1.0, alpha_start=0.1, scored_share=2.0)
    objective = kd_boost_objective(settings, gamma=gamma)
    assert list(objective.alignments) == targets
    assert ("scored" in objective.terms) == (gamma > 0)


def test_grades_become_labels():
    assert LABEL_OF_GRADE[[3, 2, 1, 0]].tolist() == [2, 1, 0, 0]


def test_damaged_checkpoint_is_named(tmp_path):
    folder = CheckpointFolder(tmp_path, "teacher")
    assert folder.load_state() is None
    folder.save_state(Position(epoch=2), {"weights": {"a": torch.ones(2)}})
    position, tensors = folder.load_state()
    assert (position.epoch, tensors["weights"]["a"].tolist()) == (2, [1.0, 1.0])
    state = tmp_path / "teacher.state.pt"
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(IntegrityError, match=r"teacher\.state\.pt: cannot be read"):
        folder.load_state()
