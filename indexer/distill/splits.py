"""Train, validation and test parts, split by query so that no query stands in two."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from indexer.distill.judgements import LabelledPairs
from indexer.distill.metrics import POSITIVE_GRADE
from indexer.distill_config import DistillConfig
from indexer.errors import GateError

TRAIN, VALIDATION, TEST = 0, 1, 2


def split_queries(queries: Sequence[str], config: DistillConfig) -> NDArray[np.int64]:
    """Return TRAIN, VALIDATION or TEST per query.

    The part depends on the query's text and the seed alone: a query held out tonight is held out every night,
    whatever other queries come and go. Hashes lie on a circle of length 1, on which the test part begins at
    `test_start` and the validation part where it ends: starts of 0, 0.2, ... with a share of 0.2 are five folds.
    """
    places = np.array([hash_to_unit(query, config.split_seed) for query in queries])
    places = np.where(places < config.test_start, places + 1, places) - config.test_start
    parts = np.full(len(places), TRAIN, dtype=np.int64)
    parts[places < config.test_share + config.validation_share] = VALIDATION
    parts[places < config.test_share] = TEST
    return parts


def check_classes(pairs: LabelledPairs, part: str) -> None:
    """Raise GateError where a part that training needs holds no positive or no negative label."""
    positives = int((pairs.grade >= POSITIVE_GRADE).sum())
    if positives == 0 or positives == len(pairs):
        raise GateError(
            f"labels, {part} part: expected both relevant (E, S) and irrelevant (C, I) pairs, found {positives} "
            f"relevant among {len(pairs)}; a model cannot be trained or chosen on one class, give more labelled queries"
        )


def hash_to_unit(text: str, seed: int) -> float:
    """Return a number from 0 up to below 1 that looks random and never changes."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "big") / 2**64
