"""Alignment of a model's vectors with given ones, through a matrix of its own where the widths differ."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from indexer.distill.losses import alignment_loss


class Alignment(nn.Module):
    """Mean over the targets of 1 - cos(W e(x), target(x)) (HISS, a reconstruction); W only where the widths differ.

    W, of (target width, model width), is trained with the model and left behind with the training.
    """

    def __init__(self, targets: Sequence[Tensor], width: int, *, seed: int) -> None:
        """`targets` are unit vectors by text row."""
        super().__init__()
        self.targets = list(targets)
        generator = torch.Generator().manual_seed(seed)
        self.projections = nn.ModuleList(_make_projection(width, target.shape[1], generator) for target in targets)

    def forward(self, vectors: Tensor, rows: list[int]) -> Tensor:
        """Return the loss of the texts in these rows, whose unit vectors are given."""
        losses = [
            alignment_loss(F.normalize(projection(vectors), dim=-1), target[rows].to(vectors.device))
            for projection, target in zip(self.projections, self.targets, strict=True)
        ]
        return torch.stack(losses).mean()


def _make_projection(width: int, target: int, generator: torch.Generator) -> nn.Module:
    if width == target:
        return nn.Identity()
    projection = nn.Linear(width, target, bias=False)
    nn.init.orthogonal_(projection.weight, generator=generator)
    return projection
