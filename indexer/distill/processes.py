"""Several processes, each with a GPU of its own, train one model: texts are shared out, losses are not.

All plan the same step. Each encodes its part of the texts and is told the vectors of the others; then it computes the
whole loss, and the gradient by its own vectors. Summed over the processes that is the gradient of one that encodes all
texts, whatever the loss is.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
from torch import Tensor, nn

from indexer.errors import ConfigError

LONGEST_WAIT = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among those that train together."""

    count: int = 1
    number: int = 0
    device: torch.device = torch.device("cpu")
    """Where tensors lie that processes send each other."""

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes files and tells people."""
        return self.number == 0

    def share_out(self, encode: Callable[[list[int]], Tensor], sizes: Sequence[int]) -> Tensor:
        """Return what `encode` gives for all rows, whose sizes are given; the gradient is that of the own rows."""
        if self.count == 1 or not sizes:
            return encode(list(range(len(sizes))))
        # Dealt by size, so that all have as much to do.
        order = np.argsort(sizes, kind="stable")
        dealt = [order[number :: self.count] for number in range(self.count)]
        own = encode(dealt[self.number].tolist())
        longest = max(len(rows) for rows in dealt)
        padded = own.new_zeros(longest, *own.shape[1:])
        padded[: len(own)] = own.detach()
        parts = list(torch.split(self._gather(padded), longest))
        parts = [part[: len(rows)] for part, rows in zip(parts, dealt, strict=True)]
        parts[self.number] = own
        return torch.cat(parts)[torch.from_numpy(np.concatenate(dealt).argsort()).to(own.device)]

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over the processes; one that none of them has stays None."""
        if self.count == 1:
            return
        from accelerate.utils import reduce

        every = list(parameters)
        known = torch.tensor([float(p.grad is not None) for p in every], device=self.device)
        flat = torch.cat([(p.new_zeros(p.shape) if p.grad is None else p.grad).reshape(-1) for p in every])
        known, flat = reduce(known, "sum"), reduce(flat, "sum")
        for parameter, found, part in zip(
            every, known.tolist(), torch.split(flat, [p.numel() for p in every]), strict=True
        ):
            parameter.grad = part.view_as(parameter) if found else None

    def seed_step(self, *place: int) -> None:
        """Seed the dropout of a step, which each process draws for its own texts; one alone goes on drawing."""
        if self.count > 1:
            torch.manual_seed(int(np.random.SeedSequence([*place, self.number]).generate_state(1)[0]))

    def all_agree(self, answer: bool) -> bool:
        """Return whether the answer is yes in every process."""
        if self.count == 1:
            return answer
        from accelerate.utils import reduce

        total: Tensor = reduce(torch.tensor(float(answer), device=self.device), "sum")
        return int(total.item()) == self.count

    def wait(self) -> None:
        """Wait until all processes have come so far."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    @contextmanager
    def first_ahead(self) -> Iterator[None]:
        """Let the first process go through the block before the others, which find what it has written."""
        if self.count == 1:
            yield
            return
        from accelerate import PartialState

        with PartialState().main_process_first():
            yield

    def _gather(self, tensor: Tensor) -> Tensor:
        from accelerate.utils import gather

        found: Tensor = gather(tensor.to(self.device))
        return found.to(tensor.device)


ALONE = Processes()


def count_launched() -> int:
    """Return of how many processes this one is; raises ConfigError where the launcher's variable is no number."""
    text = os.environ.get("WORLD_SIZE") or "1"
    if not re.fullmatch("[1-9][0-9]{0,5}", text):
        raise ConfigError(f"environment variable WORLD_SIZE: expected the number of processes, found {text!r}")
    return int(text)


def open_processes() -> Processes:
    """Return the processes that `accelerate launch` has started, or this one alone."""
    if count_launched() == 1:
        return ALONE
    from accelerate import PartialState

    # The others wait while the first trains what is not shared out.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=LONGEST_WAIT)
    return Processes(count=state.num_processes, number=state.process_index, device=state.device)
