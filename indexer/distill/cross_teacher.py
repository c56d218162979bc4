"""The cross-encoder as a teacher: soft human labels, scores kept by pair, and their place on the scale of cosines."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

from indexer.distill.baseline_losses import soft_label_loss
from indexer.distill.batches import LABEL_OF_GRADE, PairSource
from indexer.distill.checkpoints import replace_file
from indexer.distill.cross_encoder import CrossEncoder
from indexer.distill.encoders import Tokens
from indexer.distill.judgements import LabelledPairs
from indexer.distill.objective import LossTerm, Objective
from indexer.distill.processes import ALONE, Processes
from indexer.distill.scoring import share_pairs
from indexer.distill.teachers import Pairs
from indexer.distill_config import DistillConfig
from indexer.errors import IntegrityError

SOFT_LABELS = torch.tensor([0.0, 0.5, 1.0])
"""Irrelevant, low and high (Vo et al. 2024: bad and okay 0, good 0.5, excellent 1)."""

Scores = NDArray[np.float32]


def cross_objective() -> Objective:
    """Cross-entropy against soft human labels (Vo et al. 2024, equation 3)."""

    def labels(logit: Tensor, pairs: PairSource) -> Tensor:
        assert pairs.label is not None
        target = SOFT_LABELS[torch.from_numpy(pairs.label)].to(logit.device)
        weight = None if pairs.weight is None else torch.from_numpy(pairs.weight).to(logit.device)
        return soft_label_loss(logit, target, weight)

    return Objective(terms={"labels": LossTerm(alpha=1.0, loss=labels)})


class CrossTeacher:
    """Scores of (query, product) pairs, each computed once and kept in `path`; it has no opinion about two queries.

    `scale` says what it gives: logit, what the model says as it is; probability, its sigmoid; or cosine, a curve of
    that, which `calibrate` fits.
    """

    def __init__(
        self,
        model: CrossEncoder,
        texts: Sequence[Tokens],
        *,
        queries: int,
        path: Path,
        scale: str = "cosine",
        processes: Processes = ALONE,
    ) -> None:
        """`texts` are the tokens of all text rows, the first `queries` of them of queries."""
        self._processes = processes
        self._model, self._texts, self._queries, self._path = model, texts, queries, path
        self._scale = scale
        self._keys, self._logits = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        self.curve: IsotonicRegression | None = None
        if path.exists():
            self._keys, self._logits = _read_kept(path)

    def score_pairs(self, pairs: Pairs) -> Scores:
        """Return the score of each pair on its scale; those that are new are computed first."""
        if self._scale == "logit":
            return self.find_logits(pairs)
        found = self._find_probabilities(pairs)
        known = np.isfinite(found)
        if self._scale == "cosine" and known.any():
            assert self.curve is not None, "not calibrated"
            found[known] = self.curve.predict(found[known])
        return found

    def find_logits(self, pairs: Pairs, *, progress: bool = False) -> Scores:
        """Return the logit of each pair, NaN for pairs of two queries."""
        known = np.flatnonzero((pairs[:, 0] < self._queries) & (pairs[:, 1] >= self._queries))
        keys = pairs[known, 0] * len(self._texts) + pairs[known, 1]
        self._add_pairs(np.setdiff1d(keys, self._keys), progress)
        found = np.full(len(pairs), np.nan, dtype=np.float32)
        found[known] = self._logits[np.searchsorted(self._keys, keys)]
        return found

    def calibrate(self, pairs: LabelledPairs, config: DistillConfig) -> None:
        """Fit the isotonic curve from probabilities to 1 (high), the middle of the band (low) and 0 (irrelevant).

        The scales that are no cosines need none.
        """
        if self._scale != "cosine":
            return
        rows = np.stack([pairs.query, pairs.product + self._queries], axis=1)
        targets = np.array([0.0, (config.theta_low + config.theta_high) / 2, 1.0])
        curve = IsotonicRegression(out_of_bounds="clip")
        found = self._find_probabilities(rows)
        self.curve = curve.fit(found, targets[LABEL_OF_GRADE[pairs.grade]], sample_weight=pairs.weight)

    def _find_probabilities(self, pairs: Pairs) -> Scores:
        return torch.sigmoid(torch.from_numpy(self.find_logits(pairs))).numpy()

    def _add_pairs(self, keys: NDArray[np.int64], progress: bool) -> None:
        if not len(keys):
            return
        left, right = ([self._texts[row] for row in side] for side in np.divmod(keys, len(self._texts)))

        def score(left: Sequence[Tokens], right: Sequence[Tokens]) -> Tensor:
            return torch.from_numpy(self._model.score_frozen(left, right, progress=progress))

        logits = share_pairs(score, left, right, self._processes)
        every = np.concatenate([self._keys, keys])
        order = np.argsort(every)
        self._keys = every[order]
        self._logits = np.concatenate([self._logits, logits.numpy()])[order]
        if self._processes.is_first:
            replace_file(self._path, lambda path: np.savez(path, keys=self._keys, logits=self._logits))


def _read_kept(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the kept pairs and their logits; raises IntegrityError for a damaged file."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            return kept["keys"], kept["logits"]
    except (ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise IntegrityError(f"scores {path}: cannot be read: {error}; delete the file to score again") from None
