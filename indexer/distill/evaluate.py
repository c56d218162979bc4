"""Quality of an encoder on judged pairs, beside rows that show what the figures are worth."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from indexer.distill.encoders import PACKAGED_MODEL, open_model
from indexer.distill.judgements import Judgements, LabelledPairs, read_measured, sample_product_texts
from indexer.distill.lexical import score_by_bm25
from indexer.distill.metrics import (
    POSITIVE_GRADE,
    mean_ndcg,
    mean_query_auc,
    precision_recall,
    recall_at_precision,
    roc_auc,
)
from indexer.distill.retrieval import measure_retrieval
from indexer.distill.slices import Mask, slice_queries
from indexer.distill.splits import TEST, split_queries
from indexer.distill_config import DistillConfig
from indexer.encoder import Encoder as ExportedEncoder
from indexer.encoder import open_encoder
from indexer.errors import ContractError, EncoderError
from indexer.index_config import IndexConfig
from indexer.input_config import MANY, CatalogueConfig, LabelsConfig

THRESHOLD = 0.7
"""Precision and recall are read at this score (KD-Boost table 1)."""
PRECISION = 0.98
"""Recall is read at this precision, too: 0.7 favours models that were taught to score above it."""

WHOLE = "all"
RANDOM, BM25 = "random", "BM25"

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
    part: str
    """The slice of the queries, or `all`."""
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
    recall_98: float | None
    """Recall at the lowest score above which 98 % of the pairs are relevant."""
    threshold_98: float | None
    """That score."""
    ndcg_5: float | None
    ndcg_10: float | None
    ndcg_all: float | None
    """NDCG of the whole judged lists."""
    ndcg_skipped: int
    """Queries without any relevant product, which have no NDCG."""

    def as_dict(self) -> dict[str, Any]:
        """Return the row as JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Everything measured of an encoder, beside the rows that show what it is worth."""

    rows: list[EvaluationRow]
    slices: list[EvaluationRow]
    retrieval: list[dict[str, Any]]


def evaluate_encoder(
    encoder_dir: str | Path,
    catalogue: CatalogueConfig,
    labels: LabelsConfig,
    *,
    query_tokens: int = 32,
    product_tokens: int = 96,
    with_slices: bool = False,
    with_retrieval: bool = False,
    held_out: DistillConfig | None = None,
    seed: int = 13,
    progress: bool = True,
) -> Evaluation:
    """Measure a sentence-transformers folder or an exported encoder on the labels, beside the floor rows.

    An exported encoder says itself how product texts are composed and cut; a sentence-transformers folder does not,
    so `catalogue` and the token limits decide. Slices and retrieval need the whole catalogue in memory. `held_out`
    has the split of a training: the queries alone are measured that it does not see. Raises EncoderError where the
    folder holds neither, and ContractError where no label may measure.
    """
    if not Path(encoder_dir).is_dir():
        raise EncoderError(
            f"encoder {encoder_dir}: no such folder; give an exported encoder (encoder.json, encoder.onnx, "
            "tokenizer.json) or a folder of sentence-transformers"
        )
    encoder = open_any_encoder(encoder_dir, query_tokens=query_tokens, product_tokens=product_tokens)
    described = _with_text_rule(catalogue, encoder)
    judgements = read_measured(described, labels)
    if held_out:
        judgements = _hold_out(judgements, held_out)
    zero_shot = open_model(PACKAGED_MODEL, query_tokens=query_tokens, product_tokens=product_tokens)
    models = {f"zero-shot {PACKAGED_MODEL}": zero_shot, Path(encoder_dir).name: encoder}
    limit = MANY if with_slices or with_retrieval else 0
    others = sample_product_texts(described, limit=limit, seed=seed, known=set(judgements.products))
    slices = slice_queries(judgements.queries, [*judgements.products, *others]) if with_slices else {}
    rows = evaluate_rows(judgements, models, slices=slices, seed=seed, progress=progress)
    searched = models if with_retrieval else {}
    return Evaluation(
        rows=[row for row in rows if row.part == WHOLE],
        slices=[row for row in rows if row.part != WHOLE],
        retrieval=[{"name": name, **retrieve(model, judgements, others)} for name, model in searched.items()],
    )


def _hold_out(judgements: Judgements, config: DistillConfig) -> Judgements:
    """Return the judgements of the test queries alone."""
    is_test = split_queries(judgements.queries, config) == TEST
    pairs = judgements.pairs.take(is_test[judgements.pairs.query])
    if not len(pairs):
        raise ContractError(f"labels: none of the {len(judgements.queries)} queries is held out; give more labels")
    return replace(judgements, pairs=pairs)


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
    judgements: Judgements,
    models: Mapping[str, Encoder],
    *,
    slices: Mapping[str, Mask] | None = None,
    seed: int,
    progress: bool = True,
) -> list[EvaluationRow]:
    """Return the rows random, BM25 and one per model, in this order, each followed by its slices."""
    rng = np.random.default_rng(seed)
    scores: dict[str, Scores] = {RANDOM: rng.random(len(judgements.pairs)), BM25: score_by_bm25(judgements)}
    for name, encoder in tqdm(models.items(), desc="evaluate", unit="model", disable=None if progress else True):
        scores[name] = score_by_encoder(encoder, judgements)
    parts: dict[str, Mask] = {WHOLE: np.ones(len(judgements.queries), dtype=np.bool_), **(slices or {})}
    return [
        measure_part(name, found, judgements, mask, part=part)
        for name, found in scores.items()
        for part, mask in parts.items()
        if mask[judgements.pairs.query].any()
    ]


def score_by_encoder(encoder: Encoder, judgements: Judgements) -> Scores:
    """Return the cosine of each judged pair; each text is encoded once."""
    pairs = judgements.pairs
    query_rows, query_places = np.unique(pairs.query, return_inverse=True)
    product_rows, product_places = np.unique(pairs.product, return_inverse=True)
    queries = encoder.encode_queries([judgements.queries[row] for row in query_rows])
    products = encoder.encode_products([judgements.products[row] for row in product_rows])
    scores: Scores = np.einsum("nd,nd->n", queries[query_places], products[product_places])
    return scores


def retrieve(encoder: Encoder, judgements: Judgements, others: Sequence[str]) -> dict[str, float | None]:
    """Search all judged products and `others`, the rest of the catalogue, for every judged query."""
    queries = encoder.encode_queries(judgements.queries)
    products = encoder.encode_products([*judgements.products, *others])
    return measure_retrieval(queries, products, judgements.pairs, IndexConfig())


def measure_part(name: str, scores: Scores, judgements: Judgements, mask: Mask, *, part: str) -> EvaluationRow:
    """Compute every figure of one model on the queries of a slice."""
    rows = mask[judgements.pairs.query]
    return measure_scores(name, scores[rows], judgements.pairs.take(rows), judgements.product_ids, part=part)


def measure_scores(
    name: str, scores: Scores, pairs: LabelledPairs, product_ids: list[str], *, part: str = WHOLE
) -> EvaluationRow:
    """Compute every figure of one model's scores; BM25's are no cosines and have no precision and recall at 0.7."""
    positive = pairs.grade >= POSITIVE_GRADE
    ids = [product_ids[row] for row in pairs.product]
    query_auc, auc_queries = mean_query_auc(scores, positive, pairs.query)
    cut = precision_recall(scores, positive, threshold=THRESHOLD) if name != BM25 else (None, None)
    recall_98, threshold_98 = recall_at_precision(scores, positive, precision=PRECISION)
    ndcg_5, ndcg_10, ndcg_all = (
        mean_ndcg(scores, pairs.grade, ids, pairs.query, depth=depth) for depth in (5, 10, None)
    )
    return EvaluationRow(
        name=name,
        part=part,
        pairs=len(pairs),
        queries=len(np.unique(pairs.query)),
        auc=_round(roc_auc(scores, positive)),
        query_auc=_round(query_auc),
        auc_queries=auc_queries,
        precision=_round(cut[0]),
        recall=_round(cut[1]),
        recall_98=_round(recall_98),
        threshold_98=_round(threshold_98),
        ndcg_5=_round(ndcg_5[0]),
        ndcg_10=_round(ndcg_10[0]),
        ndcg_all=_round(ndcg_all[0]),
        ndcg_skipped=ndcg_all[1],
    )


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
