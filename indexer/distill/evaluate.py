"""Quality of an encoder on judged pairs, beside rows that show what the figures are worth."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from indexer.distill.encoders import PACKAGED_MODEL, open_model
from indexer.distill.judgements import Judgements, LabelledPairs, read_judgements
from indexer.distill.metrics import POSITIVE_GRADE, mean_ndcg, mean_query_auc, precision_recall, roc_auc
from indexer.encoder import Encoder as ExportedEncoder
from indexer.encoder import open_encoder
from indexer.errors import EncoderError
from indexer.input_config import CatalogueConfig, LabelsConfig

THRESHOLD = 0.7
"""Precision and recall are read at this score (KD-Boost table 1)."""

Scores = NDArray[np.floating[Any]]


class Encoder(Protocol):
    """What is asked of an encoder; texts in, float32 (texts, dimension) unit vectors out."""

    def encode_queries(self, texts: list[str], /) -> NDArray[np.float32]:
        """Encode queries."""

    def encode_products(self, texts: list[str], /) -> NDArray[np.float32]:
        """Encode product texts."""


@dataclass(frozen=True, kw_only=True)
class EvaluationRow:
    """One model's figures; None where the data do not define one."""

    name: str
    pairs: int
    queries: int
    auc: float | None
    """ROC-AUC pooled over all pairs, E and S positive."""
    query_auc: float | None
    """Mean ROC-AUC of the queries that have both classes."""
    auc_queries: int
    precision: float | None
    """Precision at a score of 0.7."""
    recall: float | None
    ndcg_5: float | None
    ndcg_10: float | None
    ndcg_skipped: int
    """Queries without any relevant product, which have no NDCG."""

    def as_dict(self) -> dict[str, Any]:
        """Return the row as JSON-ready values."""
        return asdict(self)


def evaluate_encoder(
    encoder_dir: str | Path,
    catalogue: CatalogueConfig,
    labels: LabelsConfig,
    *,
    query_tokens: int = 32,
    product_tokens: int = 96,
    seed: int = 13,
    progress: bool = True,
) -> list[EvaluationRow]:
    """Measure a sentence-transformers folder or an exported encoder on all labels, beside the floor rows.

    An exported encoder says itself how product texts are composed and cut; a sentence-transformers folder does not,
    so `catalogue` and the token limits decide. Raises EncoderError where the folder holds neither.
    """
    if not Path(encoder_dir).is_dir():
        raise EncoderError(
            f"encoder {encoder_dir}: no such folder; give an exported encoder (encoder.json, encoder.onnx, "
            "tokenizer.json) or a folder of sentence-transformers"
        )
    encoder = open_any_encoder(encoder_dir, query_tokens=query_tokens, product_tokens=product_tokens)
    judgements = read_judgements(_with_text_rule(catalogue, encoder), labels)
    zero_shot = open_model(PACKAGED_MODEL, query_tokens=query_tokens, product_tokens=product_tokens)
    models = {f"zero-shot {PACKAGED_MODEL}": zero_shot, Path(encoder_dir).name: encoder}
    return evaluate_rows(judgements, models, seed=seed, progress=progress)


def open_any_encoder(folder: str | Path, *, query_tokens: int, product_tokens: int) -> Encoder:
    """Open an exported encoder folder with ONNX Runtime, anything else with sentence-transformers."""
    if not (Path(folder) / "encoder.json").exists():
        return open_model(str(folder), query_tokens=query_tokens, product_tokens=product_tokens)
    return open_encoder(Path(folder))


def _with_text_rule(catalogue: CatalogueConfig, encoder: Encoder) -> CatalogueConfig:
    """Return the catalogue with the text fields an exported encoder was trained on."""
    if not isinstance(encoder, ExportedEncoder):
        return catalogue
    description = encoder.description
    return replace(catalogue, text_fields=description.text_fields, text_separator=description.text_separator)


def evaluate_rows(
    judgements: Judgements, models: Mapping[str, Encoder], *, seed: int, progress: bool = True
) -> list[EvaluationRow]:
    """Return the rows random, TF-IDF and one per model, in this order."""
    rng = np.random.default_rng(seed)
    rows = [
        measure_scores("random", rng.random(len(judgements.pairs)), judgements.pairs, judgements.product_ids),
        measure_scores("TF-IDF", score_by_tfidf(judgements), judgements.pairs, judgements.product_ids),
    ]
    for name, encoder in tqdm(models.items(), desc="evaluate", unit="model", disable=None if progress else True):
        scores = score_by_encoder(encoder, judgements)
        rows.append(measure_scores(name, scores, judgements.pairs, judgements.product_ids))
    return rows


def score_by_encoder(encoder: Encoder, judgements: Judgements) -> Scores:
    """Return the cosine of each judged pair; each text is encoded once."""
    pairs = judgements.pairs
    query_rows, query_places = np.unique(pairs.query, return_inverse=True)
    product_rows, product_places = np.unique(pairs.product, return_inverse=True)
    queries = encoder.encode_queries([judgements.queries[row] for row in query_rows])
    products = encoder.encode_products([judgements.products[row] for row in product_rows])
    scores: Scores = np.einsum("nd,nd->n", queries[query_places], products[product_places])
    return scores


def score_by_tfidf(judgements: Judgements) -> Scores:
    """Return the cosine of the TF-IDF vectors of each judged pair, fitted on the product texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    products = vectorizer.fit_transform(judgements.products)
    queries = vectorizer.transform(judgements.queries)
    pairs = judgements.pairs
    return np.asarray(queries[pairs.query].multiply(products[pairs.product]).sum(axis=1)).ravel()


def measure_scores(name: str, scores: Scores, pairs: LabelledPairs, product_ids: list[str]) -> EvaluationRow:
    """Compute every figure of one model's scores."""
    positive = pairs.grade >= POSITIVE_GRADE
    ids = [product_ids[row] for row in pairs.product]
    query_auc, auc_queries = mean_query_auc(scores, positive, pairs.query)
    precision, recall = precision_recall(scores, positive, threshold=THRESHOLD)
    ndcg_5, skipped = mean_ndcg(scores, pairs.grade, ids, pairs.query, depth=5)
    ndcg_10, _ = mean_ndcg(scores, pairs.grade, ids, pairs.query, depth=10)
    return EvaluationRow(
        name=name,
        pairs=len(pairs),
        queries=len(np.unique(pairs.query)),
        auc=_round(roc_auc(scores, positive)),
        query_auc=_round(query_auc),
        auc_queries=auc_queries,
        precision=_round(precision),
        recall=_round(recall),
        ndcg_5=_round(ndcg_5),
        ndcg_10=_round(ndcg_10),
        ndcg_skipped=skipped,
    )


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
