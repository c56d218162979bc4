"""When a training goes how fast, which epoch it keeps, and when it ends."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from indexer.distill.bootstrap import JudgedPairs, bootstrap_figures, draw_weights
from indexer.distill.data import TrainingData
from indexer.distill.evaluate import EvaluationRow
from indexer.distill.objective import Objective
from indexer.distill_config import DistillConfig

ERROR_DRAWS = 200


def first_choice(objective: Objective, data: TrainingData, config: DistillConfig) -> int:
    """Return the first epoch whose weights may be kept: one in which every term has had its say."""
    if not objective.has_labels:
        # Nothing that validation could judge is taught: the last epoch is the one that is wanted.
        return config.epochs
    mines = "dissimilar" in objective.terms and (len(data.dissimilar) or len(data.mining_queries) > 1)
    return min(objective.terms["dissimilar"].from_epoch if mines else 1, config.epochs)


def choose_score(row: EvaluationRow, figures: Sequence[str]) -> float:
    """Return the mean of the named figures that the validation queries allow, 0 where they allow none."""
    found = [value for name in figures if (value := getattr(row, name)) is not None]
    return sum(found) / len(found) if found else 0.0


def measure_error(scores: NDArray[np.floating[Any]], data: TrainingData, figures: Sequence[str], *, seed: int) -> float:
    """Return the standard error of `choose_score` on the validation pairs, by a bootstrap of their queries."""
    pairs = data.validation
    judged = JudgedPairs(
        query=pairs.query, grade=pairs.grade, product_ids=[data.product_ids[row] for row in pairs.product]
    )
    weights = draw_weights(len(np.unique(pairs.query)), draws=ERROR_DRAWS, seed=seed)
    drawn = bootstrap_figures([scores.astype(np.float64)], judged, weights)
    # The first draw is the data as they are: where they define no figure, the score has none.
    defined = [drawn[name] for name in figures if np.isfinite(drawn[name][0])]
    means = np.mean(defined, axis=0) if defined else np.zeros(len(weights))
    return float(np.std(means[1:][np.isfinite(means[1:])]))


def should_stop(epoch: int, best_epoch: int, config: DistillConfig) -> bool:
    """Return whether training ends here: the last epoch, or `patience` epochs without a better one."""
    return epoch >= config.epochs or epoch - best_epoch >= config.patience


def schedule_rate(done: int, *, total: int, warmup: int) -> float:
    """Return the share of the peak learning rate of the next step: linear rise, then linear fall to 0."""
    if done < warmup:
        return (done + 1) / warmup
    return max(0.0, (total - done) / max(1, total - warmup))


def seed_everything(seed: int) -> None:
    """Seed every generator that training could draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
