"""Everything a training run learns from, as arrays of text rows."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.config import Config
from indexer.distill.attributes import read_marked_texts
from indexer.distill.judgements import (
    Judgements,
    LabelledPairs,
    find_measured,
    read_judgements,
    read_product_texts,
    sample_product_texts,
)
from indexer.distill.purchases import Bought, read_bought_pairs, sample_bought_queries
from indexer.distill.query_pairs import (
    Pair,
    QueryNodes,
    index_node_sets,
    index_pairs,
    read_node_sets,
    read_parents,
    read_query_pairs,
    sample_queries,
)
from indexer.distill.score_tables import ScoreTable, read_scores
from indexer.distill.splits import TEST, TRAIN, VALIDATION, check_classes, split_queries
from indexer.distill.teachers import TableTeacher
from indexer.distill_config import CROSS, SCORES, DistillConfig


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Texts and the pairs between them; pairs hold row numbers of `queries` and `products`."""

    queries: list[str]
    products: list[str]
    product_ids: list[str]
    sources: list[str]
    """Where labels come from; the pairs hold numbers of it."""
    train: LabelledPairs
    validation: LabelledPairs
    test: LabelledPairs
    similar: NDArray[np.int64]
    """(pairs, 2): D_QQ+."""
    dissimilar: NDArray[np.int64]
    """(pairs, 2): D_QQ- as the taxonomy job found it, pairs of D_QQ+ left out."""
    query_nodes: QueryNodes
    """The nodes of each query, and those above them."""
    mining_queries: NDArray[np.int64]
    """Queries whose neighbours may become hard negatives."""
    open_queries: NDArray[np.int64]
    """Queries that training may see."""
    free_queries: NDArray[np.int64]
    """Some of them, bought after and without a label: the same ones whichever of the labelled are held out."""
    unlabelled: list[str]
    """Texts of other products; their rows come after those of `products`."""
    marked: Mapping[str, str] = field(default_factory=dict)
    """Product text -> its attributes, marked for a cross-encoder, where one teaches and the catalogue has any."""
    tables: Mapping[str, TableTeacher] = field(default_factory=dict)
    """Scores of other models, by the teacher's name."""
    bought: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 3), dtype=np.int64))
    """(pairs, 3): text rows of an open query and a product, and purchases; empty unless a teacher asks for them."""
    counts: dict[str, Any] = field(default_factory=dict)
    rejects: list[dict[str, Any]] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        """All texts, by the rows that pairs speak of."""
        return [*self.queries, *self.products, *self.unlabelled]

    @property
    def label_free_rows(self) -> NDArray[np.int64]:
        """Text rows for what is learnt without labels: all products, and the free queries where they are most.

        They are the same texts in every fold of a comparison, which so shares what is learnt of them.
        """
        most = 2 * len(self.free_queries) >= len(self.open_queries)
        queries = self.free_queries if most else self.open_queries
        first = len(self.queries)
        return np.concatenate([queries, np.arange(first, first + len(self.products) + len(self.unlabelled))])


@dataclass(frozen=True, kw_only=True)
class QueryTables:
    """What the jobs of the night say of queries; a shop without purchases has none of it."""

    similar: Sequence[Pair] = ()
    """D_QQ+."""
    dissimilar: Sequence[Pair] = ()
    """D_QQ-."""
    mining: Sequence[str] = ()
    """Queries whose neighbours may become hard negatives, none of them held out."""
    nodes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """The nodes of every query that may stand in a negative pair."""
    parents: Mapping[str, str] = field(default_factory=dict)
    """The node above each node that has one."""


def read_training_data(config: Config, run_date: str) -> TrainingData:
    """Read labels, catalogue texts and the run's query tables; a shop without purchases has no query pairs.

    Raises GateError where a part holds labels of one class only.
    """
    judgements = read_judgements(config.catalogue, config.labels)
    distill = config.distill
    unlabelled = sample_product_texts(
        config.catalogue, limit=distill.unlabelled_products, seed=distill.seed, known=set(judgements.products)
    )
    tables = {name: read_scores(name.removeprefix(SCORES)) for name in distill.teachers if name.startswith(SCORES)}
    held_out = find_held_out(judgements.queries, distill)
    found = _read_query_tables(config, run_date, held_out)
    free: Collection[str] = ()
    if config.purchases.path and distill.unlabelled_queries:
        limit, labelled = distill.unlabelled_queries, set(judgements.queries)
        free = sample_bought_queries(config.shop.work, run_date, known=labelled, limit=limit, seed=distill.seed)
    bought: list[Bought] = []
    if distill.berm_teachers() and config.purchases.path:
        paired = (query for pair in (*found.similar, *found.dissimilar) for query in pair)
        known = {*judgements.queries, *found.mining, *free, *paired}
        bought = read_bought_pairs(config.shop.work, run_date, queries=known - held_out, limit=config.berm.neighbours)
    others = {name for table in tables.values() for name in table.product_ids}
    others = others.union(product_id for _, product_id, _ in bought) - set(judgements.product_ids)
    texts = read_product_texts(config.catalogue, others)[0] if others else {}
    data = assemble_data(
        judgements,
        found,
        config=config,
        unlabelled=unlabelled,
        tables=tables,
        bought=bought,
        others=texts,
        free=free,
    )
    if any(name.startswith(CROSS) for name in distill.teachers):
        return replace(data, marked=read_marked_texts(config.catalogue, {*data.products, *data.unlabelled}))
    return data


def find_held_out(queries: Sequence[str], config: DistillConfig) -> set[str]:
    """Return the labelled queries that no training may see."""
    parts = split_queries(queries, config)
    return {query for query, part in zip(queries, parts, strict=True) if part != TRAIN}


def assemble_data(
    judgements: Judgements,
    found: QueryTables,
    *,
    config: Config,
    unlabelled: Sequence[str] = (),
    tables: Mapping[str, ScoreTable] | None = None,
    bought: Sequence[Bought] = (),
    others: Mapping[str, str] | None = None,
    free: Collection[str] = (),
) -> TrainingData:
    """Split by query, drop pairs that would leak held-out queries, and number all texts.

    `tables` are scores by teacher, `bought` purchases after open queries, `others` the texts by id of the products that
    only these two name, `free` queries for what is learnt without labels.
    """
    tables, others = tables or {}, others or {}
    parts = split_queries(judgements.queries, config.distill)
    held_out = find_held_out(judgements.queries, config.distill)
    kept_similar = [pair for pair in found.similar if held_out.isdisjoint(pair)]
    open_dissimilar = [pair for pair in found.dissimilar if held_out.isdisjoint(pair)]
    kept_dissimilar = sorted(set(open_dissimilar) - set(found.similar))
    queries = list(judgements.queries)
    paired = {query for pair in (*found.similar, *found.dissimilar) for query in pair}
    asked = {query for table in tables.values() for query in table.queries}
    # All of them, whatever is held out: with the same rows in every fold, vectors of the texts serve all folds.
    queries += sorted({*paired, *found.mining, *asked, *free} - set(queries))
    unlabelled = sorted({*unlabelled, *others.values()} - set(judgements.products))
    rows = {query: row for row, query in enumerate(queries)}
    part_of_pair = parts[judgements.pairs.query]
    measured = find_measured(judgements, config.labels.training_sources)
    train = judgements.pairs.take(part_of_pair == TRAIN)
    validation, test = (judgements.pairs.take((part_of_pair == part) & measured) for part in (VALIDATION, TEST))
    text_rows = {text: row for row, text in enumerate([*judgements.products, *unlabelled], start=len(queries))}
    product_rows = {name: len(queries) + row for row, name in enumerate(judgements.product_ids)}
    product_rows |= {name: text_rows[text] for name, text in others.items()}
    joined = {name: table.join(rows, product_rows) for name, table in tables.items()}
    edges = [
        (rows[query], product_rows[name], count)
        for query, name, count in bought
        if query in rows and name in product_rows
    ]
    check_classes(train, "training")
    check_classes(validation, "validation")
    counts = {
        "train_pairs": len(train),
        "train_queries": len(np.unique(train.query)),
        "validation_pairs": len(validation),
        "validation_queries": len(np.unique(validation.query)),
        "test_pairs": len(test),
        "test_queries": len(np.unique(test.query)),
        "unmeasured_pairs": len(judgements.pairs) - len(train) - len(validation) - len(test),
        "similar_pairs": len(kept_similar),
        "similar_held_out": len(found.similar) - len(kept_similar),
        "dissimilar_pairs": len(kept_dissimilar),
        "dissimilar_held_out": len(found.dissimilar) - len(open_dissimilar),
        "dissimilar_also_similar": len(open_dissimilar) - len(kept_dissimilar),
        "mining_queries": len(found.mining),
        "unlabelled_products": len(unlabelled),
        "unlabelled_queries": len(free),
        **{f"scores_{place}": table.counts.as_counts() for place, table in enumerate(tables.values(), start=1)},
        **({"bought_pairs": len(edges), "bought_unknown": len(bought) - len(edges)} if bought else {}),
        "unique_texts": len(queries) + len(judgements.products) + len(unlabelled),
    }
    return TrainingData(
        queries=queries,
        products=judgements.products,
        product_ids=judgements.product_ids,
        sources=judgements.sources,
        train=train,
        validation=validation,
        test=test,
        similar=index_pairs(kept_similar, rows),
        dissimilar=index_pairs(kept_dissimilar, rows),
        query_nodes=index_node_sets(found.nodes, queries, found.parents),
        mining_queries=np.array([rows[query] for query in found.mining], dtype=np.int64),
        open_queries=np.array([row for row, query in enumerate(queries) if query not in held_out], dtype=np.int64),
        free_queries=np.array([rows[query] for query in sorted(free)], dtype=np.int64),
        unlabelled=unlabelled,
        tables=joined,
        bought=np.array(edges, dtype=np.int64).reshape(-1, 3),
        counts={**judgements.counts, **counts},
        rejects=judgements.rejects + [row for table in tables.values() for row in table.counts.as_rows()],
    )


def _read_query_tables(config: Config, run_date: str, held_out: set[str]) -> QueryTables:
    if not config.purchases.path:
        return QueryTables()
    work, distill = config.shop.work, config.distill
    similar, dissimilar = read_query_pairs(work, run_date)
    sampled = sample_queries(work, run_date, config.nodes, limit=distill.max_mining_queries, seed=distill.seed)
    mining = [query for query in sampled if query not in held_out]
    # Mining asks for the nodes of its own queries and of those that the taxonomy job paired.
    asked = {query for pair in dissimilar for query in pair if query not in held_out}.union(mining)
    return QueryTables(
        similar=similar,
        dissimilar=dissimilar,
        mining=mining,
        nodes=read_node_sets(work, run_date, config.nodes, wanted=asked),
        parents=read_parents(work, run_date),
    )
