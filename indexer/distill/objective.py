"""A training method as a table: which loss each source of pairs pays, its weight, and the teacher's part."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from indexer.config import DistillConfig
from indexer.distill.batches import PairSource, Step
from indexer.distill.losses import (
    dissimilar_loss,
    distillation_loss,
    hard_loss,
    label_loss,
    similar_loss,
    soft_loss,
)

SOFT_GROUPS = (("labels", "scored"), ("similar", "dissimilar"))
"""Sources whose pairs share one mean in the soft part of equation 7."""
TEACHER, START = "teacher", "start"
"""What a text's vector may be aligned with: the teacher's vector of it, or that of the uncut untrained encoder."""


@dataclass(frozen=True, kw_only=True)
class LossTerm:
    """One source's hard loss; a source without one has a teacher's scores, or its texts, and no more."""

    alpha: float = 0.0
    loss: Callable[[Tensor, PairSource], Tensor] | None = None
    share: float = 1.0
    """Pairs of the source per labelled pair."""
    from_epoch: int = 1
    """First epoch, counted from 1, in which the term counts."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """All terms of a method; gamma 0 asks no teacher for scores."""

    terms: Mapping[str, LossTerm]
    gamma: float = 0.0
    alignments: Mapping[str, float] = field(default_factory=dict)
    """Weight of the alignment with TEACHER or START."""

    def active_terms(self, epoch: int) -> dict[str, LossTerm]:
        """Return the terms that count in this epoch."""
        return {name: term for name, term in self.terms.items() if epoch >= term.from_epoch}


def kd_boost_objective(config: DistillConfig, *, gamma: float) -> Objective:
    """Equation 5 then 6 for a teacher or a directly trained student (gamma 0), equation 7 with L2 otherwise.

    Beside the paper: a student may learn its teacher's scores of unlabelled pairs, be aligned with its teacher (HISS),
    and be held to where it started.
    """

    def labels(score: Tensor, pairs: PairSource) -> Tensor:
        assert pairs.label is not None
        weight = None if pairs.weight is None else torch.from_numpy(pairs.weight).to(score.device)
        label = torch.from_numpy(pairs.label).to(score.device)
        return label_loss(score, label, low=config.theta_low, high=config.theta_high, weight=weight)

    taught = gamma > 0
    terms = {
        "labels": LossTerm(alpha=config.alpha_labels, loss=labels),
        "similar": LossTerm(
            alpha=config.alpha_similar,
            loss=lambda score, _: similar_loss(score, low=config.theta_low),
            share=config.similar_share,
        ),
        "dissimilar": LossTerm(
            alpha=config.alpha_dissimilar,
            loss=lambda score, _: dissimilar_loss(score),
            share=config.dissimilar_share,
            from_epoch=1 if taught else config.switch_epoch + 1,
        ),
    }
    if taught and config.scored_share:
        terms["scored"] = LossTerm(share=config.scored_share)
    alignments = {TEACHER: config.alpha_teacher if taught else 0.0, START: config.alpha_start}
    return Objective(gamma=gamma, terms=terms, alignments={name: alpha for name, alpha in alignments.items() if alpha})


def recovery_objective() -> Objective:
    """Bring a cut encoder back to the uncut one, on texts alone."""
    return Objective(terms={"texts": LossTerm()}, alignments={START: 1.0})


def combine_losses(
    scores: Mapping[str, Tensor],
    step: Step,
    objective: Objective,
    *,
    teacher_scores: Mapping[str, Tensor],
    alignments: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of one step and its parts by name.

    `teacher_scores` is empty where gamma is 0; `alignments` has the alignment losses of the step's texts.
    """
    pays = {name: term for name in scores if (term := objective.terms[name]).loss is not None}
    losses = {name: term.loss(scores[name], step[name]) for name, term in pays.items() if term.loss is not None}
    extra = [(objective.alignments[name], loss) for name, loss in (alignments or {}).items()]
    parts = {name: loss.item() for name, loss in {**losses, **(alignments or {})}.items()}
    hard = [(pays[name].alpha, loss) for name, loss in losses.items()]
    if objective.gamma == 0:
        return hard_loss(*hard, *extra), parts
    soft = torch.stack([_soft_group(group, scores, teacher_scores) for group in SOFT_GROUPS]).sum()
    own = hard_loss(*hard) if hard else soft.new_zeros(())
    taught = distillation_loss(soft, own, gamma=objective.gamma)
    return hard_loss((1.0, taught), *extra), {**parts, "soft": soft.item()}


def _soft_group(group: Sequence[str], scores: Mapping[str, Tensor], teacher_scores: Mapping[str, Tensor]) -> Tensor:
    present = [name for name in group if name in scores]
    if not present:
        return next(iter(scores.values())).new_zeros(())
    return soft_loss(
        torch.cat([scores[name] for name in present]), torch.cat([teacher_scores[name] for name in present], dim=-1)
    )
