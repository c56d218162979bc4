"""ONNX Runtime's dynamic int8 in float arithmetic, with straight-through gradients, so that a model can learn in it.

Weights of linear layers: int8, symmetric, one scale per output. Their inputs: uint8 with a zero point, one scale per
text, as where each text is encoded alone. Tables of vectors: uint8, one scale for the whole table.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from indexer.distill.static_encoder import TokenTable

TINY = torch.finfo(torch.float32).tiny


@contextmanager
def in_int8(transformer: nn.Module) -> Iterator[None]:
    """Let every linear layer and table compute as its exported int8 form does, for the time of the block."""
    changed = []
    for module in transformer.modules():
        kind = next((kind for kind in FORWARDS if isinstance(module, kind)), None)
        if kind:
            module.forward = partial(FORWARDS[kind], module)
            changed.append(module)
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def round_weight(weight: Tensor) -> Tensor:
    """Return an (outputs, inputs) matrix on its int8 grid: scale = largest magnitude of an output / 127."""
    scale = (weight.detach().abs().amax(1, keepdim=True) / 127).clamp(min=TINY)
    return _straight_through(weight, (weight / scale).round().clamp(-127, 127) * scale)


def round_states(states: Tensor) -> Tensor:
    """Return (texts, ..., width) inputs of a layer on the uint8 grid of each text."""
    dims = tuple(range(1, states.dim()))
    return _round_between(states, states.detach().amin(dims, keepdim=True), states.detach().amax(dims, keepdim=True))


def round_rows(rows: Tensor, table: Tensor) -> Tensor:
    """Return rows of a table on the table's uint8 grid."""
    return _round_between(rows, table.detach().amin(), table.detach().amax())


def _round_between(value: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the value on 256 steps from low to high, widened to hold 0, which is a step itself."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = ((high - low) / 255).clamp(min=TINY)
    zero = (-low / scale).round()
    return _straight_through(value, (((value / scale).round() + zero).clamp(0, 255) - zero) * scale)


def _straight_through(value: Tensor, rounded: Tensor) -> Tensor:
    """Return the rounded value with the gradient of the unrounded one."""
    return value + (rounded - value).detach()


def _linear(layer: nn.Linear, states: Tensor) -> Tensor:
    return F.linear(round_states(states), round_weight(layer.weight), layer.bias)


def _embedding(table: nn.Embedding, ids: Tensor) -> Tensor:
    return round_rows(F.embedding(ids, table.weight, table.padding_idx), table.weight)


def _token_table(table: TokenTable, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
    rows = F.embedding(input_ids, table.bag.weight)
    return SimpleNamespace(last_hidden_state=round_rows(rows, table.bag.weight))


FORWARDS: Mapping[type[nn.Module], Callable[..., Any]] = {
    nn.Linear: _linear,
    nn.Embedding: _embedding,
    TokenTable: _token_table,
}
"""Kind of module -> what it computes in int8."""
