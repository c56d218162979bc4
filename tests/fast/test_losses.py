"""Every loss against values worked by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from indexer.distill import baseline_losses as baselines
from indexer.distill.losses import (
    HIGH,
    IRRELEVANT,
    LOW,
    alignment_loss,
    dissimilar_loss,
    distillation_loss,
    hard_loss,
    label_loss,
    similar_loss,
    soft_loss,
)

BAND = {"low": 0.7, "high": 0.85}
SCORES = (-1.0, -0.2, 0.0, 0.5, 0.7, 0.8, 0.85, 0.95, 1.0)
HIGH_LOSS = (4.0, 1.44, 1.0, 0.25, 0.09, 0.04, 0.0225, 0.0025, 0.0)
LOW_LOSS = (2.89, 0.81, 0.49, 0.04, 0.0, 0.0, 0.0, 0.01, 0.0225)
IRRELEVANT_LOSS = (0.0, 0.0, 0.0, 0.25, 0.49, 0.64, 0.7225, 0.9025, 1.0)
SIMILAR_LOSS = (2.89, 0.81, 0.49, 0.04, 0.0, 0.0, 0.0, 0.0, 0.0)

PQ, LABELS, PQ_TEACHER = (0.9, 0.6, 0.95, 0.4), (HIGH, LOW, LOW, IRRELEVANT), (0.95, 0.75, 0.80, 0.1)
SIMILAR, SIMILAR_TEACHER = (0.5, 0.8), (0.78, 0.82)
DISSIMILAR, DISSIMILAR_TEACHER = (0.3, -0.1), (0.05, 0.0)

VO_LOGITS, VO_TARGETS, STUDENT = (2.0, 0.0, -1.5), (1.0, 0.5, 0.0), (0.8, 0.6, 0.1)


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def near(value: float) -> object:
    return pytest.approx(value, abs=5e-7)


@pytest.mark.parametrize(
    ("label", "expected"), [(HIGH, HIGH_LOSS), (LOW, LOW_LOSS), (IRRELEVANT, IRRELEVANT_LOSS)], ids=["H", "L", "I"]
)
def test_label_loss_of_each_score(label, expected):
    for score, loss in zip(SCORES, expected, strict=True):
        assert label_loss(doubles(score), torch.tensor([label]), **BAND).item() == near(loss)


def test_query_pair_losses_of_each_score():
    for score, similar, dissimilar in zip(SCORES, SIMILAR_LOSS, IRRELEVANT_LOSS, strict=True):
        assert similar_loss(doubles(score), low=0.7).item() == near(similar)
        assert dissimilar_loss(doubles(score)).item() == near(dissimilar)


def batch_losses(reduction: str) -> tuple[Tensor, Tensor, Tensor]:
    return (
        label_loss(doubles(*PQ), torch.tensor(LABELS), **BAND, reduction=reduction),
        similar_loss(doubles(*SIMILAR), low=0.7, reduction=reduction),
        dissimilar_loss(doubles(*DISSIMILAR), reduction=reduction),
    )


def batch_soft_loss(reduction: str) -> Tensor:
    query_pairs, teacher = doubles(*SIMILAR, *DISSIMILAR), doubles(*SIMILAR_TEACHER, *DISSIMILAR_TEACHER)
    return soft_loss(doubles(*PQ), doubles(*PQ_TEACHER), reduction=reduction) + soft_loss(
        query_pairs, teacher, reduction=reduction
    )


def test_items_of_the_worked_batch():
    items = [label_loss(doubles(s), torch.tensor([y]), **BAND).item() for s, y in zip(PQ, LABELS, strict=True)]
    assert items == [near(0.01), near(0.01), near(0.01), near(0.16)]


def test_sums_of_the_worked_batch():
    labels, similar, dissimilar = batch_losses("sum")
    assert (labels.item(), similar.item(), dissimilar.item()) == (near(0.19), near(0.04), near(0.09))
    assert hard_loss((1, labels), (1, similar)).item() == near(0.23)
    assert hard_loss((1, labels), (1, similar), (1, dissimilar)).item() == near(0.32)
    assert batch_soft_loss("sum").item() == near(0.2888)


@pytest.mark.parametrize(("gamma", "expected"), [(0, 0.32), (0.5, 0.3044), (0.9, 0.29192), (1, 0.2888)])
def test_equation_7_as_sums(gamma, expected):
    hard = hard_loss(*((1.0, loss) for loss in batch_losses("sum")))
    assert distillation_loss(batch_soft_loss("sum"), hard, gamma=gamma).item() == near(expected)


def test_equation_7_as_means():
    hard = hard_loss(*((1.0, loss) for loss in batch_losses("mean")))
    soft = batch_soft_loss("mean")
    assert (hard.item(), soft.item()) == (near(0.1125), near(0.0722))
    assert distillation_loss(soft, hard, gamma=0.9).item() == near(0.07623)


def test_alphas_weigh_the_terms():
    labels, similar, dissimilar = batch_losses("sum")
    assert hard_loss((2.0, labels), (0.5, similar), (3.0, dissimilar)).item() == near(0.38 + 0.02 + 0.27)


def test_two_teachers_weigh_half_each():
    score, teachers = doubles(0.6), torch.stack([doubles(0.9), doubles(0.5)])
    assert sum(soft_loss(score, teacher).item() for teacher in teachers) == near(0.10)
    assert soft_loss(score, teachers).item() == near(0.05)
    assert soft_loss(score, teachers).item() == near((0.7 - 0.6) ** 2 + 0.04)


@pytest.mark.parametrize(("label", "best"), [(HIGH, 0.64), (IRRELEVANT, 0.54), (LOW, 0.61)])
def test_minimiser_of_equation_7_for_one_pair(label, best):
    score = doubles(best).requires_grad_()
    hard = label_loss(score, torch.tensor([label]), **BAND)
    distillation_loss(soft_loss(score, doubles(0.6)), hard, gamma=0.9).backward()
    assert score.grad.item() == near(0)


def test_two_unweighted_teachers_act_as_a_larger_gamma():
    score, teacher, labels = doubles(0.3).requires_grad_(), doubles(0.6), torch.tensor([HIGH])
    (2 * 0.9 * soft_loss(score, teacher) + 0.1 * label_loss(score, labels, **BAND)).backward()
    unweighted = score.grad.item() / 1.9
    score.grad = None
    distillation_loss(soft_loss(score, teacher), label_loss(score, labels, **BAND), gamma=1.8 / 1.9).backward()
    assert score.grad.item() == near(unweighted)
    assert pytest.approx(0.947, abs=5e-4) == 1.8 / 1.9


def test_label_weights_are_a_weighted_mean():
    scores, labels = doubles(0.5, 0.5), torch.tensor([HIGH, LOW])
    assert label_loss(scores, labels, **BAND, weight=doubles(3, 1)).item() == near((3 * 0.25 + 0.04) / 4)
    assert label_loss(scores, labels, **BAND, weight=doubles(3, 1), reduction="sum").item() == near(0.79)


def test_only_teachers_with_an_opinion_count():
    nan = math.nan
    teachers = torch.stack([doubles(0.9, nan, nan), doubles(0.5, 0.2, nan)])
    score = doubles(0.6, 0.6, 0.6).requires_grad_()
    loss = soft_loss(score, teachers)
    # ((0.09 + 0.01) / 2 + 0.16) / 2 pairs; the third is nobody's.
    assert loss.item() == near(0.105)
    loss.backward()
    # The first pair's teachers have a mean of 0.7: 2 (0.6 - 0.7) / 2 pairs.
    assert score.grad.tolist() == [near(-0.1), near(0.4), 0.0]
    assert soft_loss(doubles(0.6), doubles(nan)).item() == 0


def test_empty_source_costs_nothing():
    assert similar_loss(doubles(), low=0.7).item() == 0
    assert soft_loss(doubles(), doubles()).item() == 0


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=20), st.sampled_from([IRRELEVANT, LOW, HIGH]))
def test_label_loss_equals_a_plain_loop(scores, label):
    def one(score: float) -> float:
        if label == HIGH:
            return (score - 1) ** 2
        if label == LOW:
            return min(0, score - 0.7) ** 2 + max(0, score - 0.85) ** 2
        return max(0, score) ** 2

    found = label_loss(doubles(*scores), torch.full((len(scores),), label), **BAND).item()
    assert found == pytest.approx(sum(map(one, scores)) / len(scores), abs=1e-12)


def test_vo_soft_labels():
    for logit, target, expected in zip(VO_LOGITS, VO_TARGETS, (0.126928, 0.693147, 0.201413), strict=True):
        assert baselines.soft_label_loss(doubles(logit), doubles(target)).item() == near(expected)
    assert baselines.soft_label_loss(doubles(0.0), doubles(0.5)).item() == near(math.log(2))
    # A label without weight costs nothing.
    weighed = baselines.soft_label_loss(doubles([0.0, 9.0]), doubles([0.5, 0.0]), doubles([2.0, 0.0]))
    assert weighed.item() == near(math.log(2))


def vo_margin(student: Tensor, teacher: Tensor) -> float:
    """Equation 5 over the three ordered kinds (1, .5), (1, 0), (.5, 0)."""
    above, below = baselines.order_pairs(np.array(VO_TARGETS, dtype=np.float32), np.zeros(3, dtype=np.int64), least=0.5)
    assert sorted(zip(above.tolist(), below.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 2)]
    return baselines.margin_loss(student, teacher, above, below).item()


def test_vo_margins():
    logits, student = doubles(*VO_LOGITS), doubles(*STUDENT)
    probabilities = torch.sigmoid(logits)
    assert vo_margin(student, probabilities) == near(0.021990)
    assert vo_margin(student, logits) == near(4.026667)
    assert soft_loss(student, probabilities).item() == near(0.007774)


def test_margins_ignore_a_shift_and_pointwise_does_not():
    shifted, probabilities = doubles(*STUDENT) + 0.15, torch.sigmoid(doubles(*VO_LOGITS))
    assert vo_margin(shifted, probabilities) == near(0.021990)
    assert soft_loss(shifted, probabilities).item() == near(0.023952)


@pytest.mark.parametrize(("kind", "score", "expected"), [(2, 0.7, 0.04), (1, 0.7, 0.0225), (0, 0.3, 0.01)])
def test_nigam_three_parts(kind, score, expected):
    assert baselines.threshold_loss(doubles(score), torch.tensor([kind])).item() == near(expected)


def test_nigam_weights_are_a_weighted_mean():
    found = baselines.threshold_loss(doubles(0.7, 0.3), torch.tensor([2, 0]), weight=doubles(3, 1))
    assert found.item() == near((3 * 0.04 + 0.01) / 4)


def test_listwise_kl():
    teacher, one = torch.sigmoid(doubles(*VO_LOGITS)), torch.zeros(3, dtype=torch.long)
    loss = baselines.listwise_loss(doubles(*STUDENT), teacher, one, temperature=0.1).item()
    assert loss == near(0.065671)
    assert loss * 0.1**2 == near(0.000657)
    # A second query whose student agrees with its teacher halves the mean; rows of queries may alternate.
    scores = torch.stack([doubles(*STUDENT), doubles(0.3, 0.2, 0.9)]).T.reshape(-1)
    targets = torch.stack([teacher, doubles(0.3, 0.2, 0.9)]).T.reshape(-1)
    both = baselines.listwise_loss(scores, targets, torch.tensor([0, 1, 0, 1, 0, 1]), temperature=0.1).item()
    assert both == near(0.065671 / 2)


def cosent(scores: Tensor, labels: list[int], groups: list[int]) -> float:
    group = np.array(groups)
    ordered = baselines.order_pairs(np.array(labels, dtype=np.float32), group, least=1)
    return baselines.cosent_loss(scores, torch.from_numpy(group), *ordered).item()


def test_cosent():
    assert cosent(doubles(*STUDENT), [0, 1, 2], [0, 0, 0]) == near(14.018195)
    assert cosent(doubles(*STUDENT), [2, 1, 0], [0, 0, 0]) == near(0.018195)
    both = cosent(doubles(*STUDENT, *STUDENT), [0, 1, 2, 2, 1, 0], [0, 0, 0, 1, 1, 1])
    assert both == near((14.018195 + 0.018195) / 2)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.04, 0.5, math.nan])), max_size=12))
def test_ordered_pairs_equal_a_plain_loop(items):
    group, value = (np.array(side) for side in (zip(*items, strict=True) if items else ([], [])))
    above, below = baselines.order_pairs(value.astype(np.float32), group.astype(np.int64), least=0.05)
    expected = {
        (i, j)
        for i, (one, high) in enumerate(items)
        for j, (other, low) in enumerate(items)
        if one == other and high - low >= 0.05
    }
    found = list(zip(above.tolist(), below.tolist(), strict=True))
    assert len(found) == len(expected)
    assert set(found) == expected


def test_lists_without_candidates_cost_nothing():
    none, pairs = (
        torch.empty(0, dtype=torch.long),
        baselines.order_pairs(np.empty(0, np.float32), np.empty(0, np.int64), least=1),
    )
    assert baselines.margin_loss(doubles(), doubles(), *pairs).item() == 0
    assert baselines.listwise_loss(doubles(), doubles(), none, temperature=0.1).item() == 0
    assert baselines.cosent_loss(doubles(), none, *pairs).item() == 0


def test_alignment_is_one_minus_the_mean_cosine():
    vectors = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    targets = torch.tensor([[0.8, 0.6], [-0.6, -0.8]])
    # Cosines 0.8 and -1.
    assert alignment_loss(vectors, targets).item() == pytest.approx(1.1)
