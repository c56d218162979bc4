"""A training method as a table: which loss each source of pairs pays, its weight, and the teachers' part."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from indexer.distill.baseline_losses import cosent_loss, listwise_loss, margin_loss, order_pairs, threshold_loss
from indexer.distill.batches import LABELS, PairSource, Step, kind_of
from indexer.distill.losses import (
    dissimilar_loss,
    distillation_loss,
    hard_loss,
    label_loss,
    similar_loss,
    soft_loss,
)
from indexer.distill_config import DistillConfig

SOFT_GROUPS = ((LABELS, "scored"), ("similar", "dissimilar"))
"""Sources whose pairs share one mean in the soft part of equation 7."""
LISTS = (LABELS, "scored")
"""Sources whose pairs of one query are candidates that compete."""
TEACHER, START = "teacher", "start"
"""What a text's vector may be aligned with: the teacher's vector of it, or that of the uncut untrained encoder."""
LEAST_MARGIN = 0.05
"""Teachers' scores that differ by less order no pair without labels (project choice after Shang et al. 2025)."""


@dataclass(frozen=True, kw_only=True)
class LossTerm:
    """One source's hard loss; a source without one has a teacher's scores, or its texts, and no more."""

    alpha: float = 0.0
    loss: Callable[[Tensor, PairSource], Tensor] | None = None
    share: float | None = None
    """Pairs of the source per labelled pair; None: every pair once an epoch."""
    from_epoch: int = 1
    """First epoch, counted from 1, in which the term counts."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """A step's pairs of one source, as lists by query."""

    score: Tensor
    teacher: Tensor
    """Mean of the teachers that have an opinion, NaN where none has, or where none is asked."""
    group: NDArray[np.int64]
    """Number of each pair's query, from 0 on."""
    label: NDArray[np.int64] | None

    def order(self, *, taught: bool) -> tuple[Tensor, Tensor]:
        """Return the places of the better and the worse of each query's pairs, by labels where there are any.

        Without labels the teacher orders; where the loss is `taught`, pairs without an opinion order nothing.
        """
        teacher = self.teacher.numpy(force=True)
        if self.label is None:
            return order_pairs(teacher, self.group, least=LEAST_MARGIN)
        known = np.isfinite(teacher) | (not taught)
        return order_pairs(np.where(known, self.label, np.nan).astype(np.float32), self.group, least=1)


@dataclass(frozen=True, kw_only=True)
class ListTerm:
    """A loss over the candidates of each query, added to the others."""

    alpha: float
    loss: Callable[[Candidates], Tensor]
    taught: bool = True
    """Whether it asks the teachers; otherwise it asks for labels."""
    factor: float = 0.0
    """Start of a factor of the scores that is learnt with the weights; 0 leaves them as they are."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """All terms of a method."""

    terms: Mapping[str, LossTerm]
    gamma: float = 0.0
    alignments: Mapping[str, float] = field(default_factory=dict)
    """Weight of the alignment with TEACHER or START."""
    lists: Mapping[str, ListTerm] = field(default_factory=dict)

    @property
    def has_labels(self) -> bool:
        """Whether labels are learnt; otherwise vectors are met, on texts alone."""
        return LABELS in self.terms

    @property
    def asks_scores(self) -> bool:
        """Whether any term needs the teachers' scores."""
        return self.gamma > 0 or any(term.taught for term in self.lists.values())

    @property
    def asks_teachers(self) -> bool:
        """Whether any term needs teachers at all."""
        return self.asks_scores or TEACHER in self.alignments

    @property
    def has_loss(self) -> bool:
        """Whether anything is learned of pairs, beside staying near the start."""
        return self.asks_scores or bool(self.lists) or any(term.alpha for term in self.terms.values())

    def active_terms(self, epoch: int) -> dict[str, LossTerm]:
        """Return the terms that count in this epoch."""
        return {name: term for name, term in self.terms.items() if epoch >= term.from_epoch}


def teacher_objective(config: DistillConfig) -> Objective:
    """Equation 5, then 6, and the hold to the start."""
    alignments = {START: config.teacher_alpha_start} if config.teacher_alpha_start else {}
    return Objective(terms=_hard_terms(config, dissimilar_from=config.switch_epoch + 1), alignments=alignments)


def student_objective(config: DistillConfig, *, taught: bool = True) -> Objective:
    """Equation 7 with L2, and what is beside the paper; without soft scores, equation 5 and then 6.

    Untaught, there is none of what needs a teacher.

    Beside the paper: a student may learn the teachers' scores of unlabelled pairs, be aligned with its teacher (HISS),
    be held to where it started, and learn the order of each query's candidates.
    """
    gamma = config.gamma if taught else 0.0
    terms = _hard_terms(config, dissimilar_from=1 if gamma else config.switch_epoch + 1)
    alignments = {TEACHER: config.alpha_teacher if taught else 0.0, START: config.alpha_start}
    lists = {name: term for name, term in _list_terms(config).items() if term.alpha and (taught or not term.taught)}
    if config.scored_share and (gamma or any(term.taught for term in lists.values())):
        terms["scored"] = LossTerm(share=config.scored_share)
    return Objective(
        gamma=gamma,
        terms=terms,
        alignments={name: alpha for name, alpha in alignments.items() if alpha},
        lists=lists,
    )


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
    factors: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of one step and its parts by name.

    `teacher_scores`, (teachers, pairs) by source, is empty where no term asks for them; `alignments` has the alignment
    losses of the step's texts, `factors` that of each term of lists that has one.
    """
    hard = {name: term.loss(scores[name], step[name]) for name in scores if (term := objective.terms[name]).loss}
    lists = {
        name: _list_loss(term, scores, step, teacher_scores, factor=(factors or {}).get(name))
        for name, term in objective.lists.items()
    }
    extra = {**lists, **(alignments or {})}
    alphas = {name: term.alpha for name, term in objective.lists.items()} | dict(objective.alignments)
    added = [(alphas[name], loss) for name, loss in extra.items()]
    parts = {name: loss.item() for name, loss in {**hard, **extra}.items()}
    own = [(objective.terms[name].alpha, loss) for name, loss in hard.items()]
    if objective.gamma == 0:
        return hard_loss(*own, *added), parts
    soft = torch.stack([_soft_group(group, scores, teacher_scores) for group in SOFT_GROUPS]).sum()
    taught = distillation_loss(soft, hard_loss(*own) if own else soft.new_zeros(()), gamma=objective.gamma)
    return hard_loss((1.0, taught), *added), {**parts, "soft": soft.item()}


def _hard_terms(config: DistillConfig, *, dissimilar_from: int) -> dict[str, LossTerm]:
    """Return the terms of equations 5 and 6; a source of labels with a weight or share has its own mean (RTSM)."""

    def labels(score: Tensor, pairs: PairSource) -> Tensor:
        assert pairs.label is not None
        weight = None if pairs.weight is None else torch.from_numpy(pairs.weight).to(score.device)
        label = torch.from_numpy(pairs.label).to(score.device)
        if config.label_loss == "thresholds":
            return threshold_loss(score, label, weight=weight)
        return label_loss(score, label, low=config.theta_low, high=config.theta_high, weight=weight)

    own = {
        f"{LABELS}:{source}": LossTerm(
            alpha=config.alpha_labels * config.source_weights.get(source, 1.0),
            loss=labels,
            share=config.source_shares.get(source),
        )
        for source in sorted({*config.source_weights, *config.source_shares})
    }
    terms = {
        LABELS: LossTerm(alpha=config.alpha_labels, loss=labels),
        **own,
        "similar": LossTerm(
            alpha=config.alpha_similar,
            loss=lambda score, _: similar_loss(score, low=config.theta_low),
            share=config.similar_share,
        ),
        "dissimilar": LossTerm(
            alpha=config.alpha_dissimilar,
            loss=lambda score, _: dissimilar_loss(score),
            share=config.dissimilar_share,
            from_epoch=dissimilar_from,
        ),
    }
    # Query pairs without a share are left out: their texts would be encoded for nothing, negatives mined for nobody.
    # Labels without one stay a source of their own, or they would stand among the others.
    return {name: term for name, term in terms.items() if term.share != 0 or kind_of(name) == LABELS}


def _list_terms(config: DistillConfig) -> dict[str, ListTerm]:
    def margin(found: Candidates) -> Tensor:
        return margin_loss(found.score, found.teacher, *found.order(taught=True))

    def listwise(found: Candidates) -> Tensor:
        known = found.teacher.isfinite()
        group = torch.from_numpy(np.unique(found.group[known.numpy(force=True)], return_inverse=True)[1])
        side = group.to(found.score.device)
        return listwise_loss(found.score[known], found.teacher[known], side, temperature=config.listwise_temperature)

    def cosent(found: Candidates) -> Tensor:
        group = torch.from_numpy(found.group).to(found.score.device)
        return cosent_loss(found.score, group, *found.order(taught=False))

    return {
        "margin": ListTerm(
            alpha=config.alpha_margin,
            loss=margin,
            factor=config.margin_factor if config.cross_scale == "logit" else 0.0,
        ),
        "listwise": ListTerm(alpha=config.alpha_listwise, loss=listwise),
        "cosent": ListTerm(alpha=config.alpha_cosent, loss=cosent, taught=False),
    }


def _list_loss(
    term: ListTerm,
    scores: Mapping[str, Tensor],
    step: Step,
    teacher_scores: Mapping[str, Tensor],
    *,
    factor: Tensor | None,
) -> Tensor:
    """Return the sum of the term over the sources that have what it asks for."""
    total = next(iter(scores.values())).new_zeros(())
    for name in scores:
        if kind_of(name) in LISTS and (term.taught or step[name].label is not None):
            unknown = scores[name].new_full((1, len(scores[name])), torch.nan)
            found = Candidates(
                score=scores[name] if factor is None else scores[name] * factor,
                teacher=teacher_scores.get(name, unknown).nanmean(0),
                group=np.unique(step[name].left, return_inverse=True)[1].reshape(-1),
                label=step[name].label,
            )
            total = total + term.loss(found)
    return total


def _soft_group(group: Sequence[str], scores: Mapping[str, Tensor], teacher_scores: Mapping[str, Tensor]) -> Tensor:
    present = [name for kind in group for name in scores if kind_of(name) == kind]
    if not present:
        return next(iter(scores.values())).new_zeros(())
    return soft_loss(
        torch.cat([scores[name] for name in present]), torch.cat([teacher_scores[name] for name in present], dim=-1)
    )
