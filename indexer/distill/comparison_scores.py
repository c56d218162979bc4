"""What a model says of pairs that were held out from it, measured once and kept in a folder."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.config import Config
from indexer.distill.data import TrainingData
from indexer.distill.evaluate import Encoder
from indexer.distill.judgements import LabelledPairs
from indexer.distill.query_probes import NO_ANSWERS, Answers, QueryProbes, find_answers
from indexer.distill.retrieval import measure_retrieval
from indexer.distill.slices import misspell_queries
from indexer.distill.teachers import Teacher, mean_opinion
from indexer.errors import IntegrityError

ARRAYS, DOCUMENT = "scores.npz", "cell.json"
PAIR_ARRAYS = ("query", "product", "scores", "typo_scores")
ASKED = "asked_"
"""What the names of the arrays of answers begin with."""

Rows = NDArray[np.int64]
Scores = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ModelScores:
    """Aligned arrays, one entry per held-out pair; `query` and `product` are row numbers of the judgements."""

    query: Rows
    product: Rows
    scores: Scores
    typo_scores: Scores
    """Scores where each query has one typo; NaN where the model cannot be asked."""
    retrieval: Mapping[str, float | None] = field(default_factory=dict)
    answers: Answers = NO_ANSWERS
    document: Mapping[str, Any] = field(default_factory=dict)
    """What else there is to tell."""


def measure_model(
    encoder: Encoder, data: TrainingData, pairs: LabelledPairs, probes: QueryProbes, config: Config
) -> ModelScores:
    """Score the pairs, once more with misspelled queries, search all texts of products in `data`, answer the probes."""
    rows, places = np.unique(pairs.query, return_inverse=True)
    texts = [data.queries[row] for row in rows]
    queries = encoder.encode_queries(texts)
    misspelled = encoder.encode_queries(misspell_queries(texts, seed=config.distill.split_seed))
    products = encoder.encode_products([*data.products, *data.unlabelled])
    asked = encoder.encode_queries([data.queries[row] for row in probes.asked])
    answers = encoder.encode_queries([data.queries[row] for row in probes.answers])
    return ModelScores(
        query=pairs.query,
        product=pairs.product,
        scores=np.einsum("nd,nd->n", queries[places], products[pairs.product]),
        typo_scores=np.einsum("nd,nd->n", misspelled[places], products[pairs.product]),
        retrieval=measure_retrieval(queries, products, replace(pairs, query=places), config.index),
        answers=find_answers(asked, answers, probes, data),
    )


def measure_teachers(teachers: Sequence[Teacher], data: TrainingData) -> ModelScores:
    """Score the test pairs by the mean of all teachers."""
    pairs = data.test
    scores = mean_opinion(teachers, np.stack([pairs.query, pairs.product + len(data.queries)], axis=1))
    return ModelScores(
        query=pairs.query, product=pairs.product, scores=scores, typo_scores=np.full_like(scores, np.nan)
    )


def write_scores(folder: Path, found: ModelScores, document: Mapping[str, Any]) -> None:
    """Write the arrays, then the document, whose being there says that all is."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: getattr(found, name) for name in PAIR_ARRAYS}
    np.savez_compressed(folder / ARRAYS, **arrays, **{f"{ASKED}{name}": a for name, a in vars(found.answers).items()})
    draft = folder / f".{DOCUMENT}"
    written = {**document, "retrieval": dict(found.retrieval)}
    draft.write_text(json.dumps(written, indent=1, allow_nan=False) + "\n")
    draft.replace(folder / DOCUMENT)


def read_scores(folder: Path) -> ModelScores | None:
    """Return the scores of a folder, or None where it is not finished; raises IntegrityError on a damaged one."""
    try:
        document = json.loads((folder / DOCUMENT).read_text())
        retrieval = document.pop("retrieval")
        with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
            answers = Answers(**{field.name: arrays[f"{ASKED}{field.name}"] for field in fields(Answers)})
            own = {name: arrays[name] for name in PAIR_ARRAYS}
        return ModelScores(**own, retrieval=retrieval, answers=answers, document=document)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, RecursionError, zipfile.BadZipFile) as error:
        raise IntegrityError(f"{folder}: cannot be read: {error}; delete the folder to measure it again") from None
