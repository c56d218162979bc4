"""Everything a training run learns from, as arrays of text rows."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.config import Config
from indexer.distill.judgements import Judgements, LabelledPairs, read_judgements
from indexer.distill.query_pairs import Pair, index_node_sets, index_pairs, read_node_sets, read_query_pairs
from indexer.distill.splits import TEST, TRAIN, VALIDATION, check_classes, split_queries


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Texts and the pairs between them; pairs hold row numbers of `queries` and `products`."""

    queries: list[str]
    products: list[str]
    product_ids: list[str]
    train: LabelledPairs
    validation: LabelledPairs
    test: LabelledPairs
    similar: NDArray[np.int64]
    """(pairs, 2): D_QQ+."""
    dissimilar: NDArray[np.int64]
    """(pairs, 2): D_QQ- as the taxonomy job found it, pairs of D_QQ+ left out."""
    query_nodes: NDArray[np.int32]
    """(queries, largest set): the nodes of each query, filled with -1."""
    mining_queries: NDArray[np.int64]
    """Queries whose neighbours may become hard negatives."""
    counts: dict[str, Any] = field(default_factory=dict)
    rejects: list[dict[str, Any]] = field(default_factory=list)


def read_training_data(config: Config, run_date: str) -> TrainingData:
    """Read labels, catalogue texts and the run's query tables; a shop without purchases has no query pairs.

    Raises GateError where a part holds labels of one class only.
    """
    judgements = read_judgements(config.catalogue, config.labels)
    similar: list[Pair] = []
    dissimilar: list[Pair] = []
    nodes: dict[str, frozenset[str]] = {}
    if config.purchases.path:
        similar, dissimilar = read_query_pairs(config.shop.work, run_date)
        nodes = read_node_sets(config.shop.work, run_date, config.nodes)
    return assemble_data(judgements, similar=similar, dissimilar=dissimilar, nodes=nodes, config=config)


def assemble_data(
    judgements: Judgements,
    *,
    similar: Sequence[Pair],
    dissimilar: Sequence[Pair],
    nodes: Mapping[str, frozenset[str]],
    config: Config,
) -> TrainingData:
    """Split by query, drop what would leak held-out queries, and number all texts."""
    distill = config.distill
    parts = split_queries(
        judgements.queries,
        validation_share=distill.validation_share,
        test_share=distill.test_share,
        seed=distill.seed,
    )
    held_out = {query for query, part in zip(judgements.queries, parts, strict=True) if part != TRAIN}
    kept_similar = [pair for pair in similar if held_out.isdisjoint(pair)]
    open_dissimilar = [pair for pair in dissimilar if held_out.isdisjoint(pair)]
    kept_dissimilar = sorted(set(open_dissimilar) - set(similar))
    mining = _choose_mining_queries(nodes, held_out, limit=distill.max_mining_queries, seed=distill.seed)
    queries = list(judgements.queries)
    paired = {query for pair in (*kept_similar, *kept_dissimilar) for query in pair}
    queries += sorted((paired | set(mining)) - set(queries))
    rows = {query: row for row, query in enumerate(queries)}
    train, validation, test = (
        judgements.pairs.take(parts[judgements.pairs.query] == part) for part in (TRAIN, VALIDATION, TEST)
    )
    check_classes(train, "training")
    check_classes(validation, "validation")
    counts = {
        "train_pairs": len(train),
        "train_queries": len(np.unique(train.query)),
        "validation_pairs": len(validation),
        "validation_queries": len(np.unique(validation.query)),
        "test_pairs": len(test),
        "test_queries": len(np.unique(test.query)),
        "similar_pairs": len(kept_similar),
        "similar_held_out": len(similar) - len(kept_similar),
        "dissimilar_pairs": len(kept_dissimilar),
        "dissimilar_held_out": len(dissimilar) - len(open_dissimilar),
        "dissimilar_also_similar": len(open_dissimilar) - len(kept_dissimilar),
        "mining_queries": len(mining),
        "unique_texts": len(queries) + len(judgements.products),
    }
    return TrainingData(
        queries=queries,
        products=judgements.products,
        product_ids=judgements.product_ids,
        train=train,
        validation=validation,
        test=test,
        similar=index_pairs(kept_similar, rows),
        dissimilar=index_pairs(kept_dissimilar, rows),
        query_nodes=index_node_sets(nodes, queries),
        mining_queries=np.array([rows[query] for query in mining], dtype=np.int64),
        counts={**judgements.counts, **counts},
        rejects=judgements.rejects,
    )


def _choose_mining_queries(
    nodes: Mapping[str, frozenset[str]], held_out: set[str], *, limit: int, seed: int
) -> list[str]:
    """Choose at most `limit` queries with nodes, the same ones for the same seed."""
    allowed = [query for query in nodes if query not in held_out]
    key = str(seed).encode()
    chosen = sorted(allowed, key=lambda query: hashlib.blake2b(query.encode(), digest_size=8, key=key).digest())[:limit]
    return sorted(chosen)
