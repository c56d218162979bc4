"""Judged (query, product) pairs: the shop's labels joined with the texts of the products they name."""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from indexer.contracts import schemas
from indexer.contracts.duplicates import Version, choose_version
from indexer.contracts.inputs import open_input
from indexer.contracts.rejects import InputCounts
from indexer.distill.query_pairs import smallest_hashes
from indexer.errors import ContractError
from indexer.input_config import CatalogueConfig, LabelsConfig
from indexer.text import clean_text, normalise_query, product_text

Rows = NDArray[np.int64]

MAX_UNKNOWN_SHARE = 0.5
"""Labels outlive products; where more than this share of them name none, they belong to another catalogue."""


@dataclass(frozen=True, kw_only=True)
class LabelledPairs:
    """Aligned arrays; `query` and `product` are row numbers of the texts they belong to."""

    query: Rows
    product: Rows
    grade: Rows
    weight: NDArray[np.float32]
    source: Rows | None = None
    """Numbers of `sources`; None where nobody asks."""

    def __len__(self) -> int:
        return len(self.query)

    def take(self, rows: NDArray[Any]) -> "LabelledPairs":
        """Return the pairs of these row numbers, or of a mask."""
        return LabelledPairs(
            query=self.query[rows],
            product=self.product[rows],
            grade=self.grade[rows],
            weight=self.weight[rows],
            source=None if self.source is None else self.source[rows],
        )


@dataclass(frozen=True, kw_only=True)
class Judgements:
    """All usable labels of a shop, with what became of the others."""

    queries: list[str]
    product_ids: list[str]
    products: list[str]
    """Product texts, in the order of `product_ids`."""
    pairs: LabelledPairs
    sources: list[str] = field(default_factory=list)
    """Where labels come from, by their own word; empty where it says nothing."""
    counts: dict[str, Any] = field(default_factory=dict)
    rejects: list[dict[str, Any]] = field(default_factory=list)


def read_judgements(catalogue: CatalogueConfig, labels: LabelsConfig) -> Judgements:
    """Stream both tables and join them in order of query and product id, whatever the order of the input.

    A label whose product is not in the catalogue, or has no text that can be believed, is rejected. Several labels
    of one pair become one: the grade with the greatest weight, on a tie the lowest; those of training sources stand
    where there are no others. Raises ContractError where most
    labels name unknown products.
    """
    votes, label_counts = _read_votes(labels)
    wanted = {product_id for _, product_id in votes}
    texts, catalogue_counts = read_product_texts(catalogue, wanted)
    known = sorted(pair for pair in votes if pair[1] in texts)
    _reject_unknown(votes, texts, label_counts, catalogue)
    queries = sorted({query for query, _ in known})
    product_ids = sorted({product_id for _, product_id in known})
    settled = [settle_votes(votes[pair], labels.training_sources) for pair in known]
    sources = sorted({source for _, _, source in settled})
    by_source = Counter(source or "unnamed" for _, _, source in settled)
    counts = {
        "labels": label_counts.as_counts(),
        "labels_merged": sum(len(votes[pair]) - 1 for pair in known),
        "labels_conflicting": sum(len({vote.grade for vote in votes[pair]}) > 1 for pair in known),
        **({"label_sources": dict(sorted(by_source.items()))} if any(sources) else {}),
        "pairs": len(known),
        "queries": len(queries),
        "products": len(product_ids),
        "catalogue": catalogue_counts.as_counts(),
    }
    return Judgements(
        queries=queries,
        product_ids=product_ids,
        products=[texts[product_id] for product_id in product_ids],
        pairs=_index_pairs(known, settled, queries, product_ids, sources),
        sources=sources,
        counts=counts,
        rejects=label_counts.as_rows() + catalogue_counts.as_rows(),
    )


def read_measured(catalogue: CatalogueConfig, labels: LabelsConfig) -> Judgements:
    """Return the judgements without the pairs of training sources, which measure no model.

    Raises ContractError where none is left.
    """
    found = read_judgements(catalogue, labels)
    pairs = found.pairs.take(find_measured(found, labels.training_sources))
    if not len(pairs):
        raise ContractError(
            f"{labels.path}: all {len(found.pairs)} labels come from sources that train and never measure "
            f"({', '.join(labels.training_sources)}); give labels of another source"
        )
    return replace(found, pairs=pairs)


def find_measured(judgements: Judgements, training_sources: Sequence[str]) -> NDArray[np.bool_]:
    """Return which pairs a model may be measured on."""
    taught = [row for row, source in enumerate(judgements.sources) if source in training_sources]
    found = judgements.pairs.source
    return np.ones(len(judgements.pairs), dtype=np.bool_) if found is None else ~np.isin(found, taught)


def read_product_texts(catalogue: CatalogueConfig, wanted: Iterable[str]) -> tuple[dict[str, str], InputCounts]:
    """Stream the catalogue and return the text of each wanted product.

    Of several rows of one id the one stands that `choose_version` chooses; where it chooses none, all are rejected.
    """
    reader = open_input(schemas.CATALOGUE, catalogue)
    ids = pa.array(sorted(wanted), pa.string())
    versions: dict[str, list[Version]] = {}
    for batch in reader:
        for product in batch.filter(pc.is_in(batch["product_id"], value_set=ids)).to_pylist():
            text = product_text(product, fields=catalogue.text_fields, separator=catalogue.text_separator)
            if text:
                versions.setdefault(product["product_id"], []).append(Version(text, product["updated_at"]))
    texts = {}
    for product_id, rows in versions.items():
        place = choose_version(rows)
        if place is not None:
            texts[product_id] = str(rows[place].content)
        else:
            reader.counts.rows_out -= len(rows)
            reader.counts.reject("duplicate_id", key=product_id, sample=str(rows[0].content), count=len(rows))
    return texts, reader.counts


def sample_product_texts(catalogue: CatalogueConfig, *, limit: int, seed: int, known: Collection[str]) -> list[str]:
    """Stream the catalogue and return at most `limit` distinct texts that are not known, in order."""
    if not limit:
        return []
    texts = (
        text
        for batch in open_input(schemas.CATALOGUE, catalogue)
        for product in batch.to_pylist()
        if (text := product_text(product, fields=catalogue.text_fields, separator=catalogue.text_separator))
        and text not in known
    )
    return sorted(smallest_hashes(texts, limit=limit, key=str(seed)))


class Vote(NamedTuple):
    """One label of a pair."""

    grade: int
    weight: float
    source: str


Votes = dict[tuple[str, str], list[Vote]]


def settle_votes(votes: Sequence[Vote], training_sources: Collection[str]) -> tuple[int, float, str]:
    """Return the grade with the most weight, the lowest on a tie, the mean weight of a label, and the main source.

    Labels of training sources count only where there are no others.
    """
    counted = [vote for vote in votes if vote.source not in training_sources] or votes
    weights: dict[int, list[float]] = defaultdict(list)
    weights_of: dict[tuple[int, str], list[float]] = defaultdict(list)
    for vote in counted:
        weights[vote.grade].append(vote.weight)
        weights_of[vote.grade, vote.source].append(vote.weight)
    # Rounded once: no order of the votes makes another sum, or breaks a tie.
    grades = {grade: math.fsum(found) for grade, found in weights.items()}
    sources = {key: math.fsum(found) for key, found in weights_of.items()}
    grade = min(grades, key=lambda item: (-grades[item], item))
    source = min((key for key in sources if key[0] == grade), key=lambda key: (-sources[key], key))[1]
    return grade, math.fsum(vote.weight for vote in counted) / len(counted), source


def _read_votes(labels: LabelsConfig) -> tuple[Votes, InputCounts]:
    reader = open_input(schemas.LABELS, labels)
    votes: Votes = {}
    names: dict[str, str] = {}
    for batch in reader:
        columns = (batch[name].to_pylist() for name in ("query", "product_id", "grade", "weight", "source"))
        for query, product_id, grade, weight, source in zip(*columns, strict=True):
            normal = normalise_query(query)
            if not normal:
                reader.counts.rows_out -= 1
                reader.counts.reject("query_empty", key=f"{query} / {product_id}", sample=query)
                continue
            name = names.setdefault(clean_text(source or ""), clean_text(source or ""))
            vote = Vote(grade, 1.0 if weight is None else weight, name)
            votes.setdefault((normal, product_id), []).append(vote)
    reader.counts.check(labels.max_reject_share)
    return votes, reader.counts


def _reject_unknown(votes: Votes, texts: dict[str, str], counts: InputCounts, catalogue: CatalogueConfig) -> None:
    """Count the labels whose product has no text; they are apart from `max_reject_share`, since products come and go.

    Raises ContractError where they are more than MAX_UNKNOWN_SHARE.
    """
    lost = sorted(pair for pair in votes if pair[1] not in texts)
    rows = sum(len(votes[pair]) for pair in lost)
    if rows > MAX_UNKNOWN_SHARE * counts.rows_out:
        raise ContractError(
            f"{counts.table} from {counts.path}: {rows} of {counts.rows_out} labels name products that are not in "
            f"{catalogue.path}, such as {lost[0][1]!r}; expected the same ids in both, check both paths and `columns`"
        )
    if lost:
        counts.rows_out -= rows
        counts.reject("product_unknown", key=" / ".join(lost[0]), sample=lost[0][1], count=rows)


def _index_pairs(
    known: list[tuple[str, str]],
    settled: list[tuple[int, float, str]],
    queries: list[str],
    product_ids: list[str],
    sources: list[str],
) -> LabelledPairs:
    query_row = {query: row for row, query in enumerate(queries)}
    product_row = {product_id: row for row, product_id in enumerate(product_ids)}
    source_row = {source: row for row, source in enumerate(sources)}
    return LabelledPairs(
        query=np.array([query_row[query] for query, _ in known], dtype=np.int64),
        product=np.array([product_row[product_id] for _, product_id in known], dtype=np.int64),
        grade=np.array([grade for grade, _, _ in settled], dtype=np.int64),
        weight=np.array([weight for _, weight, _ in settled], dtype=np.float32),
        source=np.array([source_row[source] for _, _, source in settled], dtype=np.int64),
    )
