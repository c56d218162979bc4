"""Texts to tokens, and the pairs of a step to scores: each text is encoded once whatever pairs it stands in."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from indexer.distill.attributes import mark_title
from indexer.distill.batches import PairSource, Step
from indexer.distill.cross_encoder import CrossEncoder
from indexer.distill.data import TrainingData
from indexer.distill.encoders import TextEncoder, Tokens
from indexer.distill.ngrams import NgramEncoder
from indexer.distill.processes import ALONE, Processes

Tower = TextEncoder | NgramEncoder
"""What gives each text a vector of its own."""
Model = Tower | CrossEncoder
"""What can be trained."""
SIDES = ("left", "right")


def tokenise_data(model: Model, data: TrainingData) -> list[Tokens]:
    """Return the token ids of every text, queries first: the rows that pairs speak of."""
    products = [*data.products, *data.unlabelled]
    if isinstance(model, CrossEncoder):
        products = [data.marked.get(text) or mark_title(text) for text in products]
    return model.tokenise_queries(data.queries) + model.tokenise_products(products)


def score_pairs(
    model: Model, texts: Sequence[Tokens], step: Step, *, bf16: bool = False, processes: Processes = ALONE
) -> tuple[list[int], Tensor, dict[str, Tensor]]:
    """Return the distinct text rows, their vectors, and the score of each pair by source, with gradient.

    A score is a cosine; that of a cross-encoder is a logit, and it has no vectors.
    """
    if isinstance(model, CrossEncoder):
        left, right = ([texts[row] for pairs in step.values() for row in getattr(pairs, side)] for side in SIDES)
        rows: list[int] = []
        vectors, scores = torch.empty(0), share_pairs(partial(model.score, bf16=bf16), left, right, processes)
    else:
        rows, at_left, at_right = unique_rows(step)
        vectors = share_texts(partial(model.embed, bf16=bf16), [texts[row] for row in rows], processes)
        scores = (vectors[at_left.to(vectors.device)] * vectors[at_right.to(vectors.device)]).sum(-1)
    parts = torch.split(scores, [len(pairs) for pairs in step.values()])
    return rows, vectors, dict(zip(step, parts, strict=True))


def score_frozen(
    model: Model, texts: Sequence[Tokens], pairs: PairSource, *, processes: Processes = ALONE
) -> NDArray[np.float32]:
    """Return the score of each pair on the CPU, without gradient or dropout."""
    if isinstance(model, CrossEncoder):
        left, right = ([texts[row] for row in getattr(pairs, side)] for side in SIDES)
        found: NDArray[np.float32] = share_pairs(partial(_score_cross, model), left, right, processes).numpy()
        return found
    rows, at_left, at_right = unique_rows({"": pairs})
    vectors = share_texts(model.embed_frozen, [texts[row] for row in rows], processes)
    scores: NDArray[np.float32] = (vectors[at_left] * vectors[at_right]).sum(-1).numpy()
    return scores


def share_texts(embed: Callable[[Sequence[Tokens]], Tensor], texts: Sequence[Tokens], processes: Processes) -> Tensor:
    """Return the vectors of the texts, each process embedding its part."""
    return processes.share_out(lambda rows: embed([texts[row] for row in rows]), [len(text) for text in texts])


def share_pairs(
    score: Callable[[Sequence[Tokens], Sequence[Tokens]], Tensor],
    left: Sequence[Tokens],
    right: Sequence[Tokens],
    processes: Processes,
) -> Tensor:
    """Return the scores of the pairs, each process scoring its part."""
    sizes = [len(a) + len(b) for a, b in zip(left, right, strict=True)]
    return processes.share_out(lambda rows: score([left[row] for row in rows], [right[row] for row in rows]), sizes)


def _score_cross(model: CrossEncoder, left: Sequence[Tokens], right: Sequence[Tokens]) -> Tensor:
    return torch.from_numpy(model.score_frozen(left, right))


def unique_rows(step: Step) -> tuple[list[int], Tensor, Tensor]:
    """Return the distinct text rows and, for all pairs in order, the places of both sides among them."""
    left = np.concatenate([pairs.left for pairs in step.values()])
    right = np.concatenate([pairs.right for pairs in step.values()])
    rows, places = np.unique(np.concatenate([left, right]), return_inverse=True)
    return rows.tolist(), torch.from_numpy(places[: len(left)]), torch.from_numpy(places[len(left) :])
