"""KD-DSSM's encoder: the mean of hashed n-grams' vectors (Nigam et al. 2019, arXiv 1907.00937; a reconstruction).

It is there to compare with: an n-gram has no tokenizer file, so that it cannot be exported.
"""

import re
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from indexer.distill.encoders import Tokens

WORD = re.compile(r"\w+")
FROZEN_TEXTS = 16_384


class NgramBag(nn.Module):
    """Mean of the bins' vectors, then batch normalisation."""

    def __init__(self, bins: int, dimension: int) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(bins, dimension, mode="mean")
        self.norm = nn.BatchNorm1d(dimension)

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """Return (texts, dimension) of all texts' bins in one row, each text beginning at its offset."""
        found: Tensor = self.norm(self.bag(ids, offsets))
        return found


class NgramEncoder:
    """One tower for queries and products; vectors have unit length."""

    def __init__(self, *, bins: int, dimension: int, query_tokens: int, product_tokens: int) -> None:
        """The limits are in words; weights are drawn from torch's generator."""
        self.dimension, self._bins = dimension, bins
        self.query_tokens, self.product_tokens = query_tokens, product_tokens
        self.transformer = NgramBag(bins, dimension).to("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.transformer.parameters()).device

    def tokenise_queries(self, texts: Sequence[str]) -> list[Tokens]:
        """Return the bins of each query's n-grams."""
        return [hash_ngrams(text, limit=self.query_tokens, bins=self._bins) for text in texts]

    def tokenise_products(self, texts: Sequence[str]) -> list[Tokens]:
        """Return the bins of each product text's n-grams."""
        return [hash_ngrams(text, limit=self.product_tokens, bins=self._bins) for text in texts]

    def embed(self, texts: Sequence[Tokens], *, bf16: bool = False) -> Tensor:
        """Return (texts, dimension) unit vectors with their gradient; sums of few numbers stay float32."""
        if not texts:
            return torch.empty(0, self.dimension)
        lengths = torch.tensor([0, *map(len, texts[:-1])])
        ids = torch.tensor([token for text in texts for token in text])
        return F.normalize(self.transformer(ids.to(self.device), lengths.cumsum(0).to(self.device)), dim=-1)

    def embed_frozen(self, texts: Sequence[Tokens]) -> Tensor:
        """Return unit vectors on the CPU, without gradient."""
        was_training = self.transformer.training
        self.transformer.eval()
        rows, blocks = iter(texts), [torch.empty(0, self.dimension)]
        with torch.no_grad():
            while block := list(islice(rows, FROZEN_TEXTS)):
                blocks.append(self.embed(block).cpu())
        self.transformer.train(was_training)
        return torch.cat(blocks)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 (texts, dimension) unit vectors of queries."""
        return np.asarray(self.embed_frozen(self.tokenise_queries(texts)).numpy(), dtype=np.float32)

    def encode_products(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 (texts, dimension) unit vectors of product texts."""
        return np.asarray(self.embed_frozen(self.tokenise_products(texts)).numpy(), dtype=np.float32)


def hash_ngrams(text: str, *, limit: int, bins: int) -> Tokens:
    """Return the bins of the first `limit` words, their bigrams and their character trigrams; bin 0 alone has none."""
    words = WORD.findall(text.lower())[:limit]
    return [1 + zlib.crc32(ngram.encode()) % (bins - 1) for ngram in _list_ngrams(words)] or [0]


def _list_ngrams(words: list[str]) -> Iterator[str]:
    """Yield word unigrams, word bigrams, and the trigrams of each word between marks."""
    yield from (f"1 {word}" for word in words)
    yield from (f"2 {first} {second}" for first, second in pairwise(words))
    for word in words:
        framed = f"#{word}#"
        yield from (f"3 {framed[at : at + 3]}" for at in range(len(framed) - 2))
