"""Losses of the systems KD-Boost is compared with, one function each; scores are cosines unless said."""

import torch
from torch import Tensor
from torch.nn import functional as F


def soft_label_loss(logit: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of sigmoid(logit) against graded labels (Vo et al. 2024, equation 3 read on logits).

    A target of 0.5 costs log 2 at least.
    """
    return F.binary_cross_entropy_with_logits(logit, target)


def margin_loss(score: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
    """Squared error between score margins over the ordered pairs of one query (Vo et al. 2024, equation 5).

    `teacher` should be probabilities: raw logits have margins far outside those of cosines.
    """
    ordered = label.unsqueeze(1) > label.unsqueeze(0)
    score_margin = score.unsqueeze(1) - score.unsqueeze(0)
    teacher_margin = teacher.unsqueeze(1) - teacher.unsqueeze(0)
    return (teacher_margin - score_margin)[ordered].square().mean()


def threshold_loss(
    score: Tensor, kind: Tensor, *, purchased: float = 0.9, impressed: float = 0.55, random: float = 0.2
) -> Tensor:
    """Three-part hinge of Nigam et al. 2019 (reconstruction); kind 2 purchased, 1 impressed only, 0 random."""
    per_kind = torch.stack(
        [
            (score - random).clamp(min=0).square(),
            (score - impressed).clamp(min=0).square(),
            (purchased - score).clamp(min=0).square(),
        ]
    )
    return per_kind.gather(0, kind.unsqueeze(0)).mean()


def listwise_loss(score: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """KL(teacher || student) over the candidates of each query, both sides (queries, candidates).

    Cosines need a temperature of 0.05 to 0.1; at 1 both sides are near uniform.
    """
    target = F.log_softmax(teacher / temperature, dim=-1)
    return F.kl_div(F.log_softmax(score / temperature, dim=-1), target, log_target=True, reduction="batchmean")


def cosent_loss(score: Tensor, label: Tensor, *, scale: float = 20.0) -> Tensor:
    """CoSENT: log(1 + sum of exp(scale * (score_i - score_j)) over the pairs with label_i < label_j)."""
    wrong_order = label.unsqueeze(1) < label.unsqueeze(0)
    exponents = (scale * (score.unsqueeze(1) - score.unsqueeze(0)))[wrong_order]
    return torch.logsumexp(torch.cat([exponents.new_zeros(1), exponents]), dim=0)


def guided_contrastive_loss(score: Tensor, guide: Tensor, *, temperature: float = 0.01, margin: float = 0.0) -> Tensor:
    """GISTEmbed: InfoNCE over an (anchors, candidates) block whose diagonal holds the positives.

    Candidates that the guide scores above the anchor's own positive minus `margin` count as false negatives
    and leave the sum.
    """
    own = guide.diagonal().unsqueeze(1)
    false_negative = (guide > own - margin) & ~torch.eye(len(guide), dtype=torch.bool, device=guide.device)
    logits = (score / temperature).masked_fill(false_negative, -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(score), device=score.device))
