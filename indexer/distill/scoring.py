"""Texts to tokens, and the pairs of a step to scores: each text is encoded once whatever pairs it stands in."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from indexer.distill.batches import Step
from indexer.distill.data import TrainingData
from indexer.distill.encoders import TextEncoder, Tokens


def tokenise_data(encoder: TextEncoder, data: TrainingData) -> list[Tokens]:
    """Return the token ids of every text, queries first: the rows that pairs speak of."""
    return encoder.tokenise_queries(data.queries) + encoder.tokenise_products([*data.products, *data.unlabelled])


def score_pairs(
    encoder: TextEncoder, texts: Sequence[Tokens], step: Step, *, bf16: bool = False
) -> tuple[list[int], Tensor, dict[str, Tensor]]:
    """Return the distinct text rows, their vectors, and the cosine of each pair by source, with gradient."""
    rows, left, right = unique_rows(step)
    vectors = encoder.embed([texts[row] for row in rows], bf16=bf16)
    scores = (vectors[left.to(vectors.device)] * vectors[right.to(vectors.device)]).sum(-1)
    parts = torch.split(scores, [len(pairs) for pairs in step.values()])
    return rows, vectors, dict(zip(step, parts, strict=True))


def unique_rows(step: Step) -> tuple[list[int], Tensor, Tensor]:
    """Return the distinct text rows and, for all pairs in order, the places of both sides among them."""
    left = np.concatenate([pairs.left for pairs in step.values()])
    right = np.concatenate([pairs.right for pairs in step.values()])
    rows, places = np.unique(np.concatenate([left, right]), return_inverse=True)
    return rows.tolist(), torch.from_numpy(places[: len(left)]), torch.from_numpy(places[len(left) :])
