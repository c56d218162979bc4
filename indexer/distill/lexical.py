"""BM25 of judged pairs: what matching words alone is worth."""

import numpy as np
from numpy.typing import NDArray

from indexer.distill.judgements import Judgements

K1, B = 1.2, 0.75
"""Saturation of a word's count and weight of the product's length: Lucene's defaults."""


def score_by_bm25(judgements: Judgements) -> NDArray[np.float64]:
    """Return the BM25 of each judged pair; the product texts are the collection.

    Sum over the words w of the query, as often as they stand in it, of
    log(1 + (N - n_w + 0.5) / (n_w + 0.5)) * f (K1 + 1) / (f + K1 (1 - B + B length / mean length)), where f is the
    word's count in the product and n_w the number of products with it (Robertson and Zaragoza 2009, section 3.5;
    the 1 within the logarithm is Lucene's and keeps a word of most products from counting against it).
    """
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(token_pattern=r"(?u)\b\w+\b")
    weights = counter.fit_transform(judgements.products).astype(np.float64)
    lengths = np.asarray(weights.sum(axis=1)).ravel()
    holders = np.bincount(weights.indices, minlength=weights.shape[1])
    rarity = np.log1p((len(lengths) - holders + 0.5) / (holders + 0.5))
    damping = K1 * (1 - B + B * lengths / lengths.mean())
    counts = weights.data
    weights.data = rarity[weights.indices] * counts * (K1 + 1) / (counts + np.repeat(damping, np.diff(weights.indptr)))
    asked = counter.transform(judgements.queries)
    pairs = judgements.pairs
    return np.asarray(asked[pairs.query].multiply(weights[pairs.product]).sum(axis=1), dtype=np.float64).ravel()
