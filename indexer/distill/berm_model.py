"""BERM and its online form as small modules over word embeddings (arXiv 2210.01701; a reconstruction).

The abstract names the parts: a word interaction matrix (0-order), metapaths with attention (k-order), a two-tower
form for serving. Their equations here are this project's; each stands in one function.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from indexer.distill.berm_graph import Rows
from indexer.distill.encoders import Tokens, pad_tokens

KERNEL_MEANS = (1.0, 0.9, 0.7, 0.5, 0.3, 0.1, -0.1, -0.3, -0.5, -0.7, -0.9)
KERNEL_WIDTHS = (1e-3, *(0.1,) * 10)
"""Eleven RBF kernels over cosines, the first for equal words alone (those of K-NRM, Xiong et al. 2017)."""
HIDDEN = 64


def pool_kernels(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over a query's words of exp(-(x - mu)^2 / (2 sigma^2)) for each kernel: (pairs, kernels).

    `values` and `mask` are (pairs, words).
    """
    means, widths = values.new_tensor(KERNEL_MEANS), values.new_tensor(KERNEL_WIDTHS)
    near = torch.exp(-(values.unsqueeze(-1) - means).square() / (2 * widths.square())) * mask.unsqueeze(-1)
    return near.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def match_words(query: Tensor, query_mask: Tensor, product: Tensor, product_mask: Tensor) -> Tensor:
    """Return the 0-order features: kernels over the row maxima, then over the row means, of M = E_q E_v^T.

    Words are unit vectors (pairs, words, width), masks (pairs, words); the result is (pairs, 2 * kernels).
    """
    cosines = query @ product.transpose(1, 2)
    present = product_mask.unsqueeze(1)
    best = cosines.masked_fill(~present, -1.0).amax(-1)
    mean = (cosines * present).sum(-1) / product_mask.sum(-1, keepdim=True).clamp(min=1)
    return torch.cat([pool_kernels(best, query_mask), pool_kernels(mean, query_mask)], dim=-1)


def attend(states: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    """Return the sum of states weighted by the softmax of their scores over the instances that the mask keeps.

    (pairs, instances, width), (pairs, instances) twice -> (pairs, width); zeros where there is no instance.
    """
    weights = torch.softmax(scores.masked_fill(~mask, torch.finfo(scores.dtype).min), dim=-1) * mask
    return (weights.unsqueeze(-1) * states).sum(1)


@dataclass(frozen=True, kw_only=True)
class GraphBatch:
    """Pairs of a batch; `pairs` and `paths` are places among the distinct `nodes`."""

    pairs: Tensor
    paths: Tensor
    query_words: tuple[Tensor, Tensor]
    product_words: tuple[Tensor, Tensor]
    """Ids and mask, (pairs, words)."""
    nodes: tuple[Tensor, Tensor]
    """All words of the nodes in one row, and where each node begins."""


def make_batch(texts: Sequence[Tokens], pairs: Rows, paths: Rows) -> GraphBatch:
    """Collect the words of the pairs' texts and of the nodes on their paths."""
    rows, places = np.unique(np.concatenate([pairs.ravel(), paths.ravel(), [-1]]), return_inverse=True)
    # The first of the distinct rows is -1, which fills.
    places = places[:-1] - 1
    query, product = (_pad_words([texts[row] for row in side]) for side in pairs.T)
    return GraphBatch(
        pairs=torch.from_numpy(places[: pairs.size].reshape(pairs.shape)),
        paths=torch.from_numpy(places[pairs.size :].reshape(paths.shape)),
        query_words=query,
        product_words=product,
        nodes=join_words([texts[row] for row in rows[1:]]),
    )


def join_words(texts: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
    """Return the words of all texts in one row, and the place where each text begins."""
    starts = np.cumsum([0, *(len(text) for text in texts)])[:-1]
    return torch.tensor([word for text in texts for word in text], dtype=torch.long), torch.from_numpy(starts)


class Berm(nn.Module):
    """The k-order model: y = sigmoid(MLP[z0; z1; path?; x(q) * x(v)])."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.words.weight, std=width**-0.5)
        self.zero_order = nn.Sequential(
            nn.Linear(2 * len(KERNEL_MEANS), HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()
        )
        self.path = nn.Linear(4 * width, width)
        self.attention = nn.Linear(3 * width, width, bias=False)
        self.attention_vector = nn.Linear(width, 1, bias=False)
        self.output = nn.Sequential(nn.Linear(HIDDEN + 2 * width + 1, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    def forward(self, batch: GraphBatch) -> Tensor:
        """Return the logit of each pair."""
        words, starts = batch.nodes
        nodes = F.embedding_bag(words, self.words.weight, starts, mode="mean")
        query, product = nodes[batch.pairs[:, 0]], nodes[batch.pairs[:, 1]]
        (query_ids, query_mask), (product_ids, product_mask) = batch.query_words, batch.product_words
        matched = match_words(self._unit_words(query_ids), query_mask, self._unit_words(product_ids), product_mask)
        walked = self.walk_paths(nodes, query, product, batch.paths)
        reached = (batch.paths[..., 0] >= 0).any(-1, keepdim=True).to(nodes.dtype)
        features = torch.cat([self.zero_order(matched), walked, reached, query * product], dim=-1)
        return self.output(features).squeeze(-1)  # type: ignore[no-any-return]

    def walk_paths(self, nodes: Tensor, query: Tensor, product: Tensor, paths: Tensor) -> Tensor:
        """Return z1: h = tanh(W_p [x(q); x(v'); x(q'); x(v)] + b), attended by a . LeakyReLU(W_a [x(q); x(v); h])."""
        mask = paths[..., 0] >= 0
        row, place = mask.nonzero(as_tuple=True)
        one, two = paths[row, place].T
        path = torch.tanh(self.path(torch.cat([query[row], nodes[one], nodes[two], product[row]], dim=-1)))
        tuned = F.leaky_relu(self.attention(torch.cat([query[row], product[row], path], dim=-1)))
        states = path.new_zeros((*mask.shape, path.shape[-1])).index_put((row, place), path)
        scores = path.new_zeros(mask.shape).index_put((row, place), self.attention_vector(tuned).squeeze(-1))
        return attend(states, scores, mask)

    def _unit_words(self, ids: Tensor) -> Tensor:
        return F.normalize(self.words(ids), dim=-1)


class OnlineBerm(nn.Module):
    """BERM-O: mean word vectors of both sides, s = sigmoid(w * cosine + b), for serving without a graph."""

    def __init__(self, words: Tensor) -> None:
        super().__init__()
        self.words = nn.Embedding(words.shape[0], words.shape[1], _weight=words.clone())
        self.scale = nn.Parameter(torch.tensor(5.0))
        self.shift = nn.Parameter(torch.tensor(0.0))

    def embed(self, words: tuple[Tensor, Tensor]) -> Tensor:
        """Return unit vectors of texts, given as `join_words` returns them."""
        return F.normalize(F.embedding_bag(words[0], self.words.weight, words[1], mode="mean"), dim=-1)

    def forward(self, batch: GraphBatch) -> Tensor:
        """Return the logit of each pair."""
        vectors = self.embed(batch.nodes)
        cosine = (vectors[batch.pairs[:, 0]] * vectors[batch.pairs[:, 1]]).sum(-1)
        return self.scale * cosine + self.shift


def _pad_words(texts: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
    ids, mask = pad_tokens([text or [0] for text in texts], pad_id=0)
    return ids, mask.bool()
