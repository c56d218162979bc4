"""What a release is searched with before it is published: sampled queries, products' own titles, golden queries."""

from collections.abc import Mapping, Sequence

import numpy as np

from indexer.build.catalogue import Row
from indexer.build.recall import ProbeQueries
from indexer.build.verify import check_vectors
from indexer.config import Config
from indexer.encoder import Encoder
from indexer.errors import GateError
from indexer.text import normalise_query

PROBE_WORDS = 4
"""Words of a title that stand for a query where a collection has no other texts to be probed with."""
OWN_TITLES = 200
"""Rows that are searched for by their own texts."""


def count_sampled(config: Config) -> int:
    """Return how many rows of a collection are sampled to make queries of."""
    return max(config.index.recall_queries, OWN_TITLES)


def embed_queries(
    config: Config, encoder: Encoder, rows: Mapping[str, Sequence[Row]], golden: Sequence[str]
) -> dict[str, ProbeQueries]:
    """Embed the queries of each collection, of which `rows` has a sample: `count_sampled` rows.

    Products are sampled by curated queries, or by the first words of titles where a shop has none; curated queries by
    words of titles. `golden` queries are asked of the products. Raises GateError where no row has a text, and
    for vectors that are not of unit length.
    """
    count = config.index.recall_queries
    titles = [" ".join(row.display.split()[:PROBE_WORDS]) for row in rows["products"][:count]]
    if not titles:
        raise GateError("gate titles: no product has a title; nothing was published, check the catalogue's columns")
    curated = [row.display for row in rows.get("queries", ())[:count]]
    sampled = {"products": curated or titles, "queries": titles}
    return {
        name: _embed(config, encoder, sampled[name], rows[name], golden if name == "products" else ()) for name in rows
    }


def _embed(
    config: Config, encoder: Encoder, sampled: Sequence[str], rows: Sequence[Row], golden: Sequence[str]
) -> ProbeQueries:
    texts = list(dict.fromkeys(normalise_query(text) for text in sampled))
    # Those that mean nothing to the encoder measure nothing, unless there are no others.
    texts = _leave_out_empty(encoder, texts) or texts
    owned = {row.id: normalise_query(row.display) for row in rows[:OWN_TITLES]}
    known = set(_leave_out_empty(encoder, list(owned.values())))
    owned = {name: text for name, text in owned.items() if text in known}
    every = (*texts, *owned.values(), *_leave_out_empty(encoder, list(dict.fromkeys(golden))))
    vectors = encoder.encode(every, kind="query").vectors
    check_vectors(vectors, every, max_norm_error=config.gates.max_norm_error, place="queries")
    return ProbeQueries(vectors=vectors, texts=every, sampled=len(texts), owners=tuple(owned))


def _leave_out_empty(encoder: Encoder, texts: Sequence[str]) -> list[str]:
    empty = encoder.find_empty(texts, kind="query") if texts else np.empty(0, dtype=np.bool_)
    return [text for text, is_empty in zip(texts, empty, strict=True) if not is_empty]
