"""Losses of the systems KD-Boost is compared with, one function each; scores are cosines unless said.

Those over the candidates of one query take the pairs of many queries at once: `group` numbers the query of each pair
from 0 on, `above` and `below` are the places of pairs of one query, the better and the worse (`order_pairs`).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from indexer.distill.losses import reduce_items


def soft_label_loss(logit: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy of sigmoid(logit) against graded labels (Vo et al. 2024, equation 3 read on logits).

    A target of 0.5 costs log 2 at least.
    """
    return reduce_items(F.binary_cross_entropy_with_logits(logit, target, reduction="none"), "mean", weight)


def threshold_loss(
    score: Tensor,
    kind: Tensor,
    *,
    purchased: float = 0.9,
    impressed: float = 0.55,
    random: float = 0.2,
    weight: Tensor | None = None,
) -> Tensor:
    """Three-part hinge of Nigam et al. 2019 (reconstruction); kind 2 purchased, 1 impressed only, 0 random."""
    per_kind = torch.stack(
        [
            (score - random).clamp(min=0).square(),
            (score - impressed).clamp(min=0).square(),
            (purchased - score).clamp(min=0).square(),
        ]
    )
    return reduce_items(per_kind.gather(0, kind.unsqueeze(0)).squeeze(0), "mean", weight)


def margin_loss(score: Tensor, teacher: Tensor, above: Tensor, below: Tensor) -> Tensor:
    """Squared error between score margins over ordered pairs of one query (Vo et al. 2024, equation 5).

    `teacher` should be probabilities or cosines, or `score` cosines times a factor: margins of logits lie far outside
    those of cosines.
    """
    margins = (teacher[above] - teacher[below]) - (score[above] - score[below])
    return reduce_items(margins.square(), "mean")


def listwise_loss(score: Tensor, teacher: Tensor, group: Tensor, *, temperature: float) -> Tensor:
    """KL(softmax of teacher / T || softmax of score / T) over the candidates of a query, mean over queries.

    Cosines need a temperature of 0.05 to 0.1; at 1 both sides are near uniform.
    """
    target, own = (_log_softmax(side / temperature, group) for side in (teacher, score))
    return (target.exp() * (target - own)).sum() / max(1, _count_groups(group))


def cosent_loss(score: Tensor, group: Tensor, above: Tensor, below: Tensor, *, scale: float = 20.0) -> Tensor:
    """CoSENT: log(1 + sum of exp(scale * (worse - better)) over the ordered pairs of a query), mean over queries."""
    sums = score.new_zeros(_count_groups(group))
    sums = sums.index_add(0, group[above], (scale * (score[below] - score[above])).exp())
    return reduce_items(sums.log1p(), "mean")


def order_pairs(value: NDArray[np.float32], group: NDArray[np.int64], *, least: float) -> tuple[Tensor, Tensor]:
    """Return the places (above, below) of all pairs of one group whose values differ by `least` or more.

    NaN stands above and below nothing.
    """
    order = np.argsort(group, kind="stable")
    _, starts, sizes = np.unique(group[order], return_index=True, return_counts=True)
    partners = np.repeat(sizes, sizes)
    left = np.repeat(np.arange(len(group)), partners)
    # Places 0, 1, 2 .. within the partners of each left side, from where its group starts.
    within = np.arange(len(left)) - np.repeat(np.cumsum(partners) - partners, partners)
    right = np.repeat(np.repeat(starts, sizes), partners) + within
    left, right = order[left], order[right]
    apart = value[left] - value[right] >= least
    return torch.from_numpy(left[apart]), torch.from_numpy(right[apart])


def _log_softmax(value: Tensor, group: Tensor) -> Tensor:
    """Return the log-softmax of each value among those of its group."""
    groups = _count_groups(group)
    top = value.new_full((groups,), -torch.inf).scatter_reduce(0, group, value.detach(), "amax")
    shifted = value - top[group]
    sums = value.new_zeros(groups).index_add(0, group, shifted.exp())
    return shifted - sums.log()[group]


def _count_groups(group: Tensor) -> int:
    return int(group.max()) + 1 if len(group) else 0
