"""The training loop: one step against a plain loop, resume, early stopping, what stands in an epoch."""

from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from indexer.distill.augmentation import sample_pairs
from indexer.distill.batches import LABEL_OF_GRADE, PairSource, label_source, label_sources, plan_epoch, query_source
from indexer.distill.checkpoints import CheckpointFolder, Position
from indexer.distill.data import QueryTables, assemble_data
from indexer.distill.losses import HIGH, IRRELEVANT
from indexer.distill.objective import (
    START,
    TEACHER,
    LossTerm,
    Objective,
    combine_losses,
    recovery_objective,
    student_objective,
    teacher_objective,
)
from indexer.distill.schedule import measure_error, schedule_rate, should_stop
from indexer.distill.scoring import score_pairs, tokenise_data
from indexer.distill.teachers import VectorTeacher
from indexer.distill.trainer import Trainer, start_factors
from indexer.distill_config import DistillConfig
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
    objective = student_objective(replace(config.distill, gamma=gamma)) if gamma else teacher_objective(config.distill)
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


def test_sources_of_labels_have_means_and_shares_of_their_own(data, config):
    """RTSM: 0.9 of the soft mean over all pairs, 0.1 of the labels' mean and half of the other source's mean."""
    pairs = len(data.train)
    source = (np.arange(pairs) % 4 == 0).astype(np.int64)
    two = replace(data, sources=["audit", "llm"], train=replace(data.train, source=source))
    settings = replace(config.distill, source_weights={"llm": 0.5}, source_shares={"llm": 0.1})
    objective = student_objective(settings)
    sources = label_sources(two, objective.terms)
    assert {name: len(part) for name, part in sources.items()} == {
        "labels": int((source == 0).sum()),
        "labels:llm": int(source.sum()),
    }
    shares = {name: term.share for name, term in objective.terms.items()}
    plan = plan_epoch(sources, shares=shares, batch_size=16, seed=1, epoch=1)
    assert count_pairs(plan, "labels").total() == len(sources["labels"])
    assert count_pairs(plan, "labels:llm").total() == round(0.1 * pairs)
    assert len(plan) == -(-pairs // 16)
    every = replace(settings, source_shares={})
    natural = plan_epoch(sources, shares=dict.fromkeys(sources), batch_size=16, seed=1, epoch=1)
    assert set(student_objective(every).terms) == set(objective.terms)
    assert sum(count_pairs(natural, name).total() for name in sources) == pairs
    nothing = student_objective(replace(settings, source_shares={"llm": 0.0})).terms
    shares = {name: term.share for name, term in nothing.items()}
    without = plan_epoch(label_sources(two, nothing), shares=shares, batch_size=16, seed=1, epoch=1)
    assert count_pairs(without, "labels") == count_pairs(plan, "labels")
    assert count_pairs(without, "labels:llm").total() == 0
    low, high = np.full(2, IRRELEVANT), np.full(1, HIGH)
    step = {
        "labels": PairSource(left=np.zeros(2, int), right=np.ones(2, int), label=low),
        "labels:llm": PairSource(left=np.zeros(1, int), right=np.ones(1, int), label=high),
    }
    scores = {"labels": torch.tensor([0.2, 0.4]), "labels:llm": torch.tensor([0.7])}
    teacher = {"labels": torch.tensor([[0.1, 0.1]]), "labels:llm": torch.tensor([[0.9]])}
    loss, _ = combine_losses(scores, step, objective, teacher_scores=teacher)
    # Soft (.01 + .09 + .04) / 3, hard (.04 + .16) / 2 and .5 * .09.
    assert loss.item() == pytest.approx(0.9 * 0.14 / 3 + 0.1 * (0.1 + 0.045), abs=1e-6)
    assert set(label_sources(data, objective.terms)) == {"labels"}


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


def test_kept_weights_lie_between_the_trained_ones_and_the_start(open_tiny, data, config, tmp_path):
    one_epoch = replace(config.distill, epochs=1)
    start, kept = weights_of(open_tiny((0, 2))), {}
    for share in (0.0, 0.25, 1.0):
        encoder = open_tiny((0, 2))
        settings = replace(config, distill=replace(one_epoch, start_share=share))
        result = make_trainer(Trainer, encoder, data, settings, tmp_path / str(share)).run()
        assert result.best_epoch == 1
        kept[share] = weights_of(encoder)
    assert any(not torch.equal(kept[0.0][name], tensor) for name, tensor in start.items())
    for name, tensor in start.items():
        between = 0.75 * kept[0.0][name] + 0.25 * tensor if tensor.is_floating_point() else tensor
        torch.testing.assert_close(kept[0.25][name], between)
        assert torch.equal(kept[1.0][name], tensor)


def test_a_resumed_run_mixes_the_weights_it_started_from(open_tiny, data, config, tmp_path):
    settings = replace(config, distill=replace(config.distill, start_share=0.5))
    unbroken, second = open_tiny((0, 2)), open_tiny((0, 2))
    make_trainer(Trainer, unbroken, data, settings, tmp_path / "unbroken").run()
    victim = make_trainer(KilledTrainer, open_tiny((0, 2)), data, settings, tmp_path / "broken")
    victim.steps_left = 20
    with pytest.raises(KilledError):
        victim.run()
    make_trainer(Trainer, second, data, settings, tmp_path / "broken").run()
    assert all(torch.equal(tensor, weights_of(second)[name]) for name, tensor in weights_of(unbroken).items())


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


def test_a_later_epoch_within_the_error_of_the_best_is_kept(open_tiny, data, config, tmp_path, monkeypatch):
    from indexer.distill import trainer as module

    encoder, seen = open_tiny((0,)), []
    # By two standard errors of 0.01: after the best, 0.9, an epoch of 0.88 is as good, one of 0.87 is not.
    aucs = iter([0.5, 0.6, 0.9, 0.885, 0.881, 0.87, 0.879])
    real = module.measure_scores

    def fake_measure(name, scores, pairs, product_ids):
        seen.append(weights_of(encoder))
        return replace(real(name, scores, pairs, product_ids), auc=next(aucs))

    monkeypatch.setattr(module, "measure_scores", fake_measure)
    monkeypatch.setattr(module, "measure_error", lambda *_, **__: 0.01)
    changes = {"epochs": 9, "patience": 2, "select_by": ("auc",), "select_within": 2.0}
    settings = replace(config, distill=replace(config.distill, **changes))
    result = make_trainer(Trainer, encoder, data, settings, tmp_path).run()
    assert (len(result.history), result.best_epoch, result.best_score) == (7, 4, 0.9)
    assert all(torch.equal(tensor, weights_of(encoder)[name]) for name, tensor in seen[4].items())


def test_the_error_of_a_validation_score_is_that_of_a_bootstrap_by_query(data):
    rng = np.random.default_rng(2)
    scores, pairs = rng.random(len(data.validation)), data.validation
    queries, drawn = np.unique(pairs.query), []
    for _ in range(2_000):
        chosen = [np.flatnonzero(pairs.query == query) for query in rng.choice(queries, len(queries))]
        rows = np.concatenate(chosen)
        positive = pairs.grade[rows] >= 2
        drawn.append(roc_auc_score(positive, scores[rows]) if 0 < positive.sum() < len(rows) else np.nan)
    found = measure_error(scores, data, ("auc",), seed=1)
    assert found == pytest.approx(np.nanstd(drawn), rel=0.2)
    assert 0 < measure_error(scores, data, ("ndcg_5",), seed=1) != found
    # One label per query: no query has both classes, and the score is of the other figure alone.
    single = np.unique(pairs.query, return_index=True)[1]
    few = replace(data, validation=pairs.take(single))
    assert measure_error(scores[single], few, ("auc", "query_auc"), seed=1) == pytest.approx(
        measure_error(scores[single], few, ("auc",), seed=1)
    )


@pytest.mark.parametrize(
    ("epoch", "best", "stops"), [(0, 1, False), (3, 3, False), (4, 3, False), (5, 3, True), (9, 9, True)]
)
def test_when_training_stops(config, epoch, best, stops):
    assert should_stop(epoch, best, replace(config.distill, epochs=9, patience=2)) is stops


class DivergingTrainer(Trainer):
    """Meets weights that are no numbers before its nth step."""

    steps_left = 3

    def run_step(self, step):
        self.steps_left -= 1
        if self.steps_left < 0:
            with torch.no_grad():
                self.encoder.transformer.embeddings.word_embeddings.weight.fill_(float("nan"))
        return super().run_step(step)


def test_a_run_that_diverges_names_its_last_good_checkpoint(open_tiny, data, config, tmp_path):
    first = make_trainer(Trainer, open_tiny((0,)), data, config, tmp_path / "new")
    with torch.no_grad():
        first.encoder.transformer.embeddings.word_embeddings.weight.fill_(float("inf"))
    with pytest.raises(GateError, match=r"loss is nan in epoch 1, step 1; .* the last good checkpoint is none yet"):
        first.run_step({"labels": label_source(data)})
    trainer = make_trainer(DivergingTrainer, open_tiny((0,)), data, config, tmp_path)
    with pytest.raises(GateError, match=r"loss is nan in epoch 1, step 4; .*model\.state\.pt of epoch 1, step 2$"):
        trainer.run()
    again = open_tiny((0,))
    result = make_trainer(Trainer, again, data, config, tmp_path).run()
    assert len(result.history) == 4
    assert all(torch.isfinite(tensor).all() for tensor in weights_of(again).values())


def test_a_gradient_that_is_no_number_never_reaches_the_weights(open_tiny, data, config, tmp_path):
    encoder = open_tiny((0,))
    trainer = make_trainer(Trainer, encoder, data, config, tmp_path)
    before = weights_of(encoder)
    encoder.transformer.embeddings.word_embeddings.weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(GateError, match="gradient is nan in epoch 1, step 1"):
        trainer.run_step({"labels": label_source(data)})
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights_of(encoder).items())


def test_a_long_gradient_is_cut_to_the_greatest_norm_and_a_short_one_left(open_tiny, data, config, tmp_path):
    """3 and 4 have the norm 5: at most 1 they become 3/5 and 4/5, at most 10 they stay."""

    def give(gradient, values):
        found = torch.zeros_like(gradient)
        found.view(-1)[: len(values)] = torch.tensor(values)
        return found

    for most, expected in ((1.0, [0.6, 0.8]), (10.0, [3.0, 4.0])):
        encoder = open_tiny((0,))
        settings = replace(config, distill=replace(config.distill, max_grad_norm=most))
        trainer = make_trainer(Trainer, encoder, data, settings, tmp_path)
        table = encoder.transformer.embeddings.word_embeddings.weight
        for weights in encoder.transformer.parameters():
            weights.register_hook(lambda grad, values=[3.0, 4.0] if weights is table else []: give(grad, values))
        trainer.run_step({"labels": label_source(data)})
        assert table.grad.view(-1)[:2].tolist() == pytest.approx(expected, abs=1e-5)
        norms = [weights.grad.norm() for weights in encoder.transformer.parameters() if weights.grad is not None]
        assert torch.stack(norms).norm().item() == pytest.approx(min(most, 5.0), abs=1e-5)


def test_without_any_negative_query_pair_training_goes_on_without_the_term(open_tiny, data, config, tmp_path):
    none, nobody = np.empty((0, 2), dtype=np.int64), np.empty(0, dtype=np.int64)
    bare = replace(data, dissimilar=none, similar=none, mining_queries=nobody)
    result = make_trainer(Trainer, open_tiny((0,)), bare, config, tmp_path).run()
    assert {"loss_dissimilar", "loss_similar"}.isdisjoint(result.history[-1])
    assert result.history[-1]["mined_pairs"] == 0
    # Nothing waits for a term that never comes: the first epoch's weights may be kept.
    assert result.best_epoch >= 1


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


def test_grouped_steps_keep_the_pairs_of_a_query_together(data):
    labels = label_source(data)
    plan = plan_epoch({"labels": labels}, shares={}, batch_size=16, seed=3, epoch=1, grouped=True)
    steps = [step["labels"].left for step in plan]
    order = np.concatenate(steps)
    starts = np.flatnonzero(np.diff(order, prepend=-1))
    # Every query is one run of the whole order, so that a step's border cuts one query at most.
    assert len(starts) == len(np.unique(labels.left)) == len(np.unique(order[starts]))
    assert count_pairs(plan, "labels").total() == len(labels)
    assert order.tolist() != sorted(order.tolist())
    again = plan_epoch({"labels": labels}, shares={}, batch_size=16, seed=3, epoch=2, grouped=True)
    assert np.concatenate([step["labels"].left for step in again]).tolist() != order.tolist()


def plain_list_losses(scores, teacher, groups, labels, temperature):
    """Margin-MSE, listwise KL and CoSENT, query by query and pair by pair."""
    margins, divergences, orders = [], [], []
    for group in sorted(set(groups)):
        rows = [row for row, each in enumerate(groups) if each == group]
        ordered = [(i, j) for i in rows for j in rows if labels[i] > labels[j]]
        margins += [((teacher[i] - teacher[j]) - (scores[i] - scores[j])) ** 2 for i, j in ordered]
        target, own = (
            torch.softmax(torch.stack([side[i] for i in rows]) / temperature, 0) for side in (teacher, scores)
        )
        divergences.append((target * (target / own).log()).sum())
        orders.append(torch.log(1 + sum(torch.exp(20 * (scores[j] - scores[i])) for i, j in ordered)))
    return sum(margins) / len(margins), sum(divergences) / len(divergences), sum(orders) / len(orders)


def test_list_terms_of_one_step_equal_a_plain_loop(open_tiny, data, config, tmp_path):
    vectors = teacher_vectors(open_tiny, data)
    settings = replace(
        config.distill, gamma=0.0, alpha_labels=0.0, alpha_margin=2.0, alpha_listwise=3.0, alpha_cosent=0.5
    )
    encoder = open_tiny((0, 2))
    with torch.no_grad():
        for weights in encoder.transformer.parameters():
            weights.add_(0.05 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(2)))
    trainer = Trainer(
        encoder,
        data,
        student_objective(settings),
        settings,
        name="model",
        folder=tmp_path,
        teachers=(VectorTeacher(vectors),),
        progress=False,
    )
    encoder.transformer.eval()
    labels = label_source(data).take(np.arange(30)[::-1])
    student = encoder.embed_frozen(trainer.texts)
    scores, teacher = ((side[labels.left] * side[labels.right]).sum(-1) for side in (student, vectors))
    margin, listwise, cosent = plain_list_losses(
        scores, teacher, labels.left.tolist(), labels.label.tolist(), settings.listwise_temperature
    )
    parts = trainer.run_step({"labels": labels})
    assert parts["loss_margin"] == pytest.approx(margin.item(), abs=1e-6)
    assert parts["loss_listwise"] == pytest.approx(listwise.item(), abs=1e-5)
    assert parts["loss_cosent"] == pytest.approx(cosent.item(), abs=1e-4)
    assert parts["loss"] == pytest.approx((2 * margin + 3 * listwise + 0.5 * cosent).item(), abs=1e-4)


def test_scored_pairs_are_ordered_by_their_teacher_and_those_without_an_opinion_by_none():
    scores, steps = torch.tensor([0.9, 0.1, 0.5]), {"scored": query_source(np.array([[0, 5], [0, 6], [0, 7]]))}
    objective = Objective(
        terms={"scored": LossTerm()},
        lists={"margin": student_objective(DistillConfig(alpha_margin=1.0)).lists["margin"]},
    )
    opinions = torch.tensor([[0.2, 0.6, torch.nan], [0.4, torch.nan, torch.nan]])
    loss, parts = combine_losses({"scored": scores}, steps, objective, teacher_scores={"scored": opinions})
    # The teachers' means are 0.3 and 0.6, so the second is above the first: ((0.6 - 0.3) - (0.1 - 0.9))^2.
    assert loss.item() == pytest.approx(1.1**2)
    assert parts == {"margin": pytest.approx(1.1**2)}


def test_margins_of_logits_are_met_by_cosines_times_a_learned_factor():
    """The notes' example of Vo et al.: the factor of least squares is 3.6 / 0.78, whatever it starts from."""
    settings = DistillConfig(
        gamma=0.0, alpha_margin=1.0, alpha_labels=0.0, teachers=("cross:model",), cross_scale="logit"
    )
    objective = student_objective(settings)
    scores, logits = torch.tensor([0.8, 0.6, 0.1]), torch.tensor([[2.0, 0.0, -1.5]])
    rows = np.array([[0, 5], [0, 6], [0, 7]])
    step = {"labels": PairSource(left=rows[:, 0], right=rows[:, 1], label=np.array([2, 1, 0]))}

    def loss_of(factor):
        loss, _ = combine_losses(
            {"labels": scores}, step, objective, teacher_scores={"labels": logits}, factors={"margin": factor}
        )
        return loss

    # Margins of logits are 2, 3.5, 1.5 and of cosines .2, .7, .5: at 10 they are missed by 0, 3.5 and 3.5.
    assert loss_of(torch.tensor(10.0)).item() == pytest.approx(2 * 3.5**2 / 3, rel=1e-6)
    log_factor = start_factors(objective)["margin"]
    assert log_factor.exp().item() == pytest.approx(10)
    optimiser = torch.optim.Adam([log_factor], lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        loss_of(log_factor.exp()).backward()
        optimiser.step()
    assert log_factor.exp().item() == pytest.approx(3.6 / 0.78, rel=1e-3)


def test_a_learned_factor_resumes(open_tiny, data, config, tmp_path):
    settings = replace(
        config.distill, gamma=0.0, alpha_margin=1.0, teachers=("cross:model",), cross_scale="logit", epochs=2
    )
    logits = VectorTeacher(3 * teacher_vectors(open_tiny, data))

    def make(kind, folder):
        objective = student_objective(settings)
        return kind(
            open_tiny((0, 2)),
            data,
            objective,
            settings,
            name="model",
            folder=folder,
            teachers=(logits,),
            progress=False,
        )

    unbroken, victim = make(Trainer, tmp_path / "whole"), make(KilledTrainer, tmp_path / "broken")
    factors = [row["factor_margin"] for row in unbroken.run().history]
    assert factors[0] == 10
    assert 10 > factors[1] > factors[2]
    victim.steps_left = unbroken.steps_per_epoch + 2
    with pytest.raises(KilledError):
        victim.run()
    second = make(Trainer, tmp_path / "broken")
    assert [row["factor_margin"] for row in second.run().history] == factors
    assert torch.equal(second.log_factors["margin"], unbroken.log_factors["margin"])
    assert all(
        torch.equal(tensor, weights_of(second.encoder)[name]) for name, tensor in weights_of(unbroken.encoder).items()
    )


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
        targets={START: [targets]},
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


def test_recovery_is_not_disturbed_by_dropout(open_tiny, data, config, tmp_path):
    kept = []
    for chance in (0.0, 0.9):
        whole, cut = open_tiny(), open_tiny((0, 2))
        targets = whole.embed_frozen(tokenise_data(whole, data))
        for module in cut.transformer.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = chance
        objective, folder = recovery_objective(), tmp_path / str(chance)
        settings = {"name": "recovered", "folder": folder, "targets": {START: [targets]}, "progress": False}
        Trainer(cut, data, objective, replace(config.distill, epochs=1), **settings).run()
        kept.append(weights_of(cut))
    assert all(torch.equal(tensor, kept[1][name]) for name, tensor in kept[0].items())


def test_a_wider_teacher_is_met_through_a_matrix_that_resumes(open_tiny, data, config, tmp_path):
    """HISS with two teachers, one of another width; a broken run ends where an unbroken one does."""
    same = teacher_vectors(open_tiny, data)
    wide = torch.nn.functional.normalize(torch.cat([same, same.flip(1)[:, :16]], dim=1), dim=-1)
    settings = replace(config.distill, gamma=0.0, alpha_teacher=1.0, epochs=2)

    def make(kind, folder):
        return kind(
            open_tiny((0, 2)),
            data,
            student_objective(settings),
            settings,
            name="model",
            folder=folder,
            teachers=(VectorTeacher(same), VectorTeacher(wide)),
            targets={TEACHER: [same, wide]},
            progress=False,
        )

    unbroken, victim = make(Trainer, tmp_path / "whole"), make(KilledTrainer, tmp_path / "broken")
    matrix = unbroken.alignments[TEACHER].projections[1].weight
    assert matrix.shape == (48, 32)
    before = matrix.detach().clone()
    losses = [row["loss_teacher"] for row in unbroken.run().history[1:]]
    assert losses[-1] < losses[0]
    assert not torch.equal(matrix, before)
    victim.steps_left = 4
    with pytest.raises(KilledError):
        victim.run()
    second = make(Trainer, tmp_path / "broken")
    second.run()
    assert torch.equal(second.alignments[TEACHER].projections[1].weight, matrix)
    assert all(
        torch.equal(tensor, weights_of(second.encoder)[name]) for name, tensor in weights_of(unbroken.encoder).items()
    )


def test_scored_pairs_learn_the_teachers_score_alone(open_tiny, data, config, tmp_path):
    vectors = teacher_vectors(open_tiny, data)
    products = np.arange(len(data.queries), len(data.queries) + len(data.products))
    scored = sample_pairs(vectors, data.open_queries, products, seed=1)
    objective = student_objective(replace(config.distill, scored_share=0.5, gamma=0.9))
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


def test_only_a_taught_model_asks_teachers(config):
    settings = replace(
        config.distill,
        alpha_teacher=1.0,
        alpha_start=0.1,
        teacher_alpha_start=0.1,
        scored_share=2.0,
        alpha_cosent=1.0,
        alpha_margin=1.0,
    )
    taught, direct, teacher = (
        student_objective(settings),
        student_objective(settings, taught=False),
        teacher_objective(settings),
    )
    assert [list(each.alignments) for each in (taught, direct, teacher)] == [["teacher", "start"], ["start"], ["start"]]
    assert ["scored" in each.terms for each in (taught, direct, teacher)] == [True, False, False]
    assert [list(each.lists) for each in (taught, direct, teacher)] == [["margin", "cosent"], ["cosent"], []]
    assert [each.asks_teachers for each in (taught, direct, teacher)] == [True, False, False]
    alone = replace(config.distill, gamma=0.0, scored_share=2.0)
    assert not student_objective(alone).asks_teachers
    assert "scored" not in student_objective(alone).terms
    assert student_objective(replace(alone, alpha_listwise=1.0)).asks_scores
    without = replace(config.distill, similar_share=0.0, dissimilar_share=0.0)
    assert list(student_objective(without).terms) == list(teacher_objective(without).terms) == ["labels"]


def test_without_soft_scores_equation_6_waits_for_its_epoch(config):
    settings = replace(config.distill, switch_epoch=2)
    direct = student_objective(replace(settings, gamma=0.0))
    objectives = (direct, student_objective(settings), student_objective(settings, taught=False))
    assert [each.terms["dissimilar"].from_epoch for each in objectives] == [3, 1, 3]
    assert teacher_objective(settings).terms["dissimilar"].from_epoch == 3


def test_the_training_benchmark_has_a_shop(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    from benchmarks.train_inputs import CONFIG, make_shop

    judgements, similar, dissimilar = make_shop(320)
    found = assemble_data(judgements, QueryTables(similar=similar, dissimilar=dissimilar), config=CONFIG)
    assert (CONFIG.distill.gamma, CONFIG.distill.similar_share, CONFIG.distill.dissimilar_share) == (0.9, 0.5, 0.5)
    assert len(found.train) > 200
    assert len(found.similar) > 0
    assert len(found.dissimilar) > 0


def test_grades_become_labels():
    assert LABEL_OF_GRADE[[3, 2, 1, 0]].tolist() == [2, 1, 0, 0]


def test_a_checkpoint_without_counts_by_loss_had_every_loss_in_every_step(tmp_path):
    folder = CheckpointFolder(tmp_path, "student")
    folder.save_state(Position(epoch=2, step=4, sums={"loss": 2.0, "loss_labels": 1.0}), {})
    position, _ = folder.load_state()
    position.add_losses({"loss": 0.5})
    assert position.mean_losses() == {"loss": 0.5, "loss_labels": 0.25}


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
