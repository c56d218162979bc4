"""KD-Boost's losses (Agrawal, Sembium, Ankith, EMNLP 2023 Industry) as functions of cosine scores.

The paper sums over sets of very different size; the default here is the mean, so that batch shares, not
set sizes, balance the sources. `reduction="sum"` gives the printed form.
"""

from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["mean", "sum"]

IRRELEVANT, LOW, HIGH = 0, 1, 2
"""Label values of equation 1."""


def label_loss(
    score: Tensor,
    label: Tensor,
    *,
    low: float,
    high: float,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Equation 1: pull high pairs to 1, low pairs into [low, high], push irrelevant pairs down to 0."""
    per_label = torch.stack(
        [
            score.clamp(min=0).square(),
            (score - low).clamp(max=0).square() + (score - high).clamp(min=0).square(),
            (score - 1).square(),
        ]
    )
    return reduce_items(per_label.gather(0, label.unsqueeze(0)).squeeze(0), reduction, weight)


def similar_loss(score: Tensor, *, low: float, reduction: Reduction = "mean") -> Tensor:
    """Equation 3: pull queries that mean the same above `low`."""
    return reduce_items((score - low).clamp(max=0).square(), reduction)


def dissimilar_loss(score: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Equation 4: push queries that share no node down to 0."""
    return reduce_items(score.clamp(min=0).square(), reduction)


def hard_loss(*terms: tuple[float, Tensor]) -> Tensor:
    """Equations 5 and 6: the sum of (alpha, loss) terms; equation 5 leaves the dissimilar term out."""
    return torch.stack([alpha * loss for alpha, loss in terms]).sum()


def soft_loss(score: Tensor, teacher: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Squared error to the teachers' scores (the bracket of equation 7).

    `teacher` is (pairs,) or (teachers, pairs), NaN where a teacher has no opinion. The m teachers that have one weigh
    1 / m, which equals the error to their mean plus a constant; a pair without any costs nothing and does not count.
    """
    opinions = teacher if teacher.dim() == 2 else teacher.unsqueeze(0)
    known = opinions.isfinite()
    errors = (torch.where(known, opinions, score.detach()) - score).square().sum(0)
    counts = known.sum(0)
    return reduce_items((errors / counts.clamp(min=1))[counts > 0], reduction)


def distillation_loss(soft: Tensor, hard: Tensor, *, gamma: float) -> Tensor:
    """Equation 7: gamma of the soft loss and 1 - gamma of the student's own hard loss."""
    return gamma * soft + (1 - gamma) * hard


def alignment_loss(vectors: Tensor, targets: Tensor) -> Tensor:
    """One minus the mean cosine of each text's unit vector and its target, both (texts, dimension).

    To the teacher it is the alignment of HISS (reconstruction), to the uncut encoder the recovery of a cut one.
    """
    return 1 - (vectors * targets).sum(-1).mean()


def reduce_items(items: Tensor, reduction: Reduction, weight: Tensor | None = None) -> Tensor:
    """Return the (weighted) mean or sum of per-item losses; an empty batch costs 0."""
    total = items.sum() if weight is None else (items * weight).sum()
    if reduction == "sum" or items.numel() == 0:
        return total
    return total / (items.numel() if weight is None else weight.sum().clamp(min=torch.finfo(items.dtype).tiny))
