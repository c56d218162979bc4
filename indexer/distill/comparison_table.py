"""The table of a comparison: every figure of every model, over seeds, with intervals of the differences.

A model's scores of one seed are put together over the folds: each pair is scored by the training that did not see its
query. The pooled figures (`auc`, precision, recall) are taken over all these scores as they are, although each fold has
its own model; `fold_auc` is the mean over the folds of the ROC-AUC within a fold, which their offsets do not touch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.distill.bootstrap import Interval, JudgedPairs, bootstrap_figures, compare_figures, draw_weights
from indexer.distill.comparison_scores import ModelScores
from indexer.distill.evaluate import WHOLE, measure_scores
from indexer.distill.judgements import Judgements
from indexer.distill.metrics import POSITIVE_GRADE, SWAPPED_GAINS, mean_ndcg, roc_auc
from indexer.distill.query_probes import NO_ANSWERS, Answers, join_answers, measure_rates
from indexer.distill.retrieval import find_least_grade
from indexer.distill.slices import Mask
from indexer.errors import IntegrityError

LEFT_OUT = ("name", "part", "pairs", "queries", "auc_queries", "ndcg_skipped", "threshold_98")
"""Columns of an evaluation that are no figures."""

Scores = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SeedRun:
    """One seed of a model: its scores of every judged pair, put together over the folds."""

    scores: Scores
    typo_scores: Scores
    retrieval: Mapping[str, float | None] = field(default_factory=dict)
    answers: Answers = NO_ANSWERS
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class ComparedModel:
    """A row of the table."""

    name: str
    runs: Sequence[SeedRun]
    swept: tuple[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A model's figures over its seeds, and how they differ from the baseline's."""

    name: str
    part: str
    seeds: int
    pairs: int
    queries: int
    figures: Mapping[str, float | None]
    """Mean over the seeds; retrieval is the mean over the folds, by their queries that count."""
    deviations: Mapping[str, float | None]
    """Standard deviation over the seeds, none of one seed."""
    differences: Mapping[str, Interval | None]
    """From the baseline, with 95 % of a paired bootstrap by query; empty in the baseline's own row."""
    swept: tuple[str, float] | None = None


def tabulate_models(
    models: Sequence[ComparedModel],
    judgements: Judgements,
    folds: NDArray[np.int64],
    slices: Mapping[str, Mask],
    *,
    baseline: str,
    seed: int,
) -> list[TableRow]:
    """Return every model's row of the whole, then of each slice that has a judged pair.

    `folds` has the fold of each judged query, `slices` masks of the queries.
    """
    parts: dict[str, Mask] = {WHOLE: np.ones(len(judgements.queries), dtype=np.bool_), **slices}
    return [
        row
        for part, mask in parts.items()
        if mask[judgements.pairs.query].any()
        for row in _tabulate_part(models, judgements, folds, part, mask, baseline=baseline, seed=seed)
    ]


def _tabulate_part(
    models: Sequence[ComparedModel],
    judgements: Judgements,
    folds: NDArray[np.int64],
    part: str,
    mask: Mask,
    *,
    baseline: str,
    seed: int,
) -> list[TableRow]:
    chosen = mask[judgements.pairs.query]
    pairs = judgements.pairs.take(chosen)
    ids = [judgements.product_ids[row] for row in pairs.product]
    judged = JudgedPairs(query=pairs.query, grade=pairs.grade, product_ids=ids, fold=folds[pairs.query])
    queries = len(np.unique(pairs.query))
    weights = draw_weights(queries, seed=seed)
    drawn = {
        model.name: bootstrap_figures([run.scores[chosen].astype(np.float64) for run in model.runs], judged, weights)
        for model in models
    }
    if part == WHOLE:
        rates = _draw_rates(models, seed=seed)
        drawn = {name: {**figures, **rates[name]} for name, figures in drawn.items()}
    rows = []
    for model in models:
        found = [measure_run(model.name, run, judgements, folds, chosen, part=part) for run in model.runs]
        against = {} if model.name == baseline else compare_figures(drawn[model.name], drawn[baseline])
        rows.append(
            TableRow(
                name=model.name,
                part=part,
                seeds=len(model.runs),
                pairs=len(pairs),
                queries=queries,
                figures={name: _mean([run[name] for run in found]) for name in found[0]},
                deviations={name: _deviation([run[name] for run in found]) for name in found[0]},
                differences=against,
                swept=model.swept,
            )
        )
    return rows


def _draw_rates(models: Sequence[ComparedModel], *, seed: int) -> dict[str, dict[str, Floats]]:
    """Return the rates of Q-Q irrelevance of each model and draw, as the mean over its runs.

    A query is drawn with all its answers, one of each fold.
    """
    queries = np.unique(np.concatenate([run.answers.queries for model in models for run in model.runs]))
    if not len(queries):
        return {model.name: {} for model in models}
    weights = draw_weights(len(queries), seed=seed)
    found = {model.name: [measure_rates(run.answers, queries, weights) for run in model.runs] for model in models}
    return {
        name: {figure: np.mean([run[figure] for run in runs], axis=0) for figure in runs[0]}
        for name, runs in found.items()
    }


def _rate_answers(found: Answers) -> dict[str, float | None]:
    queries = np.unique(found.queries)
    rates = measure_rates(found, queries, np.ones((1, len(queries))))
    return {name: float(rate[0]) if np.isfinite(rate[0]) else None for name, rate in rates.items()}


def measure_run(
    name: str, run: SeedRun, judgements: Judgements, folds: NDArray[np.int64], chosen: Mask, *, part: str
) -> dict[str, float | None]:
    """Return every figure of one seed on the chosen pairs; what is not of single pairs stands in the whole alone."""
    pairs = judgements.pairs.take(chosen)
    ids = [judgements.product_ids[row] for row in pairs.product]
    positive = pairs.grade >= POSITIVE_GRADE
    scores, typos = run.scores[chosen], run.typo_scores[chosen]
    row = measure_scores(name, scores, pairs, judgements.product_ids, part=part).as_dict()
    of_fold = folds[pairs.query]
    within = [roc_auc(scores[of_fold == fold], positive[of_fold == fold]) for fold in np.unique(of_fold)]
    swapped, _ = mean_ndcg(scores, pairs.grade, ids, pairs.query, gains=SWAPPED_GAINS)
    figures = {figure: value for figure, value in row.items() if figure not in LEFT_OUT}
    figures |= {"fold_auc": _mean(within), "ndcg_swapped": swapped}
    if part == WHOLE:
        figures["typo_auc"] = roc_auc(typos, positive) if np.isfinite(typos).all() else None
        figures |= {**run.retrieval, **_rate_answers(run.answers), "seconds": run.seconds}
    return figures


def join_folds(found: Sequence[ModelScores], judgements: Judgements) -> SeedRun:
    """Put the folds of one seed together; raises IntegrityError unless they hold every judged pair once."""
    width = len(judgements.product_ids)
    wanted = judgements.pairs.query * width + judgements.pairs.product
    keys = np.concatenate([fold.query * width + fold.product for fold in found])
    order = np.argsort(keys, kind="stable")
    if not np.array_equal(keys[order], wanted):
        raise IntegrityError(
            f"comparison: expected each of {len(wanted)} judged pairs in one fold, found {len(keys)} in {len(found)} "
            "folds; the labels changed, or a fold is not finished: run the comparison again"
        )
    graded = [judgements.pairs.grade[np.searchsorted(wanted, fold.query * width + fold.product)] for fold in found]
    names = dict.fromkeys(name for fold in found for name in fold.retrieval)
    seconds = [fold.document["training"]["seconds"] for fold in found if "training" in fold.document]
    return SeedRun(
        scores=np.concatenate([fold.scores for fold in found])[order],
        typo_scores=np.concatenate([fold.typo_scores for fold in found])[order],
        retrieval={
            name: _weighted(
                [fold.retrieval.get(name) for fold in found],
                [
                    len(np.unique(fold.query[grades >= find_least_grade(name)]))
                    for fold, grades in zip(found, graded, strict=True)
                ],
            )
            for name in names
        },
        answers=join_answers([fold.answers for fold in found]),
        seconds=_mean(seconds),
    )


def _weighted(values: Sequence[float | None], sizes: Sequence[int]) -> float | None:
    found = [(value, size) for value, size in zip(values, sizes, strict=True) if value is not None]
    return sum(value * size for value, size in found) / sum(size for _, size in found) if found else None


def _mean(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return float(np.mean(found)) if found else None


def _deviation(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return float(np.std(found, ddof=1)) if len(found) > 1 else None
