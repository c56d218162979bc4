"""State of an unfinished training run on disk, replaced atomically and read back without pickled code."""

import json
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from indexer.errors import IntegrityError, StoreError

UNWRITTEN = ("PytorchStreamWriter", "inline_container", "os error")
"""What the errors of torch and tokenizers name where a file cannot be written."""


@dataclass(kw_only=True)
class Position:
    """Where a run stands: the next step to do, and all that is not weights."""

    epoch: int = 1
    step: int = 0
    finished: bool = False
    best_score: float = -1.0
    best_error: float = 0.0
    """Standard error of the best score, where epochs within it are as good."""
    best_epoch: int = 0
    """The epoch that is kept: the best, or a later one as good."""
    history: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    """Losses of the epoch so far, each summed over the steps in which it was paid."""
    paid: dict[str, int] = field(default_factory=dict)
    """How many steps these are."""
    seconds: float = 0.0
    """What the epoch took so far, without what a kill undid."""
    counts: dict[str, float] = field(default_factory=dict)
    """What mining did for the epoch."""

    def add_losses(self, losses: Mapping[str, float]) -> None:
        """Count the losses that one step paid."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.paid[name] = self.paid.get(name, 0) + 1

    def mean_losses(self) -> dict[str, float]:
        """Return the mean of each loss of the epoch over the steps that paid it."""
        return {name: total / self.paid[name] for name, total in self.sums.items()}


class CheckpointFolder:
    """The newest state and the best weights of one named model."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self._state = folder / f"{name}.state.pt"
        self._best = folder / f"{name}.best.safetensors"
        self._metrics = folder / name_metrics(name)

    def save_state(self, position: Position, tensors: dict[str, Any]) -> None:
        """Replace the state; a run killed at any moment leaves the old or the new one."""
        replace_file(self._state, lambda path: torch.save({"position": asdict(position), **tensors}, path))

    def save_metrics(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Replace the file of figures by epoch."""
        replace_file(self._metrics, lambda path: write_metrics(path, history))

    def describe(self) -> str:
        """Return the newest state's file and position, for messages."""
        found = self.load_state()
        return f"{self._state} of epoch {found[0].epoch}, step {found[0].step}" if found else "none yet"

    def load_state(self) -> tuple[Position, dict[str, Any]] | None:
        """Return the newest state, or None where there is none; raises IntegrityError on a damaged file."""
        if not self._state.exists():
            return None
        try:
            state = torch.load(self._state, weights_only=True, map_location="cpu")
            position = Position(**state.pop("position"))
            if not position.paid:
                # An earlier program counted no steps by loss: it divided by all of them.
                position.paid = dict.fromkeys(position.sums, position.step)
            return position, state
        except (RuntimeError, ValueError, TypeError, KeyError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise IntegrityError(
                f"checkpoint {self._state}: cannot be read: {reason}; delete the folder to train from the start"
            ) from None

    def save_best(self, weights: dict[str, Tensor]) -> None:
        """Replace the best weights."""
        copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
        replace_file(self._best, lambda path: save_file(copies, path))

    def has_best(self) -> bool:
        """Return whether weights were saved."""
        return self._best.exists()

    def load_best(self) -> dict[str, Tensor]:
        """Return the best weights; raises IntegrityError on a damaged file."""
        try:
            return load_file(self._best)
        except (SafetensorError, ValueError, FileNotFoundError) as error:
            raise IntegrityError(
                f"checkpoint {self._best}: cannot be read: {error}; delete the folder to train from the start"
            ) from None


def name_metrics(model: str) -> str:
    """Return the name of the file that has a model's figures by epoch."""
    return f"{model}.metrics.jsonl"


def write_metrics(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write one line of JSON per epoch."""
    lines = [json.dumps(row, allow_nan=False) + "\n" for row in history]
    path.write_text("".join(lines), encoding="utf-8")


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file beside the path and put it in its place; a kill at any moment leaves the old or the new one.

    Raises StoreError where a library cannot write it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two comparisons of other seeds may share a folder.
    fresh = path.with_suffix(f".tmp{os.getpid()}{path.suffix}")
    try:
        with tell_library_refusals(path):
            write(fresh)
        with fresh.open("rb") as handle:
            os.fsync(handle.fileno())
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


@contextmanager
def tell_library_refusals(path: Path) -> Iterator[None]:
    """Raise StoreError where a library cannot write a file, which each says in its own words and class."""
    try:
        yield
    except Exception as error:
        # Those of tokenizers have no class of their own.
        told = type(error) is Exception or isinstance(error, RuntimeError)
        if not isinstance(error, SafetensorError) and not (told and any(mark in str(error) for mark in UNWRITTEN)):
            raise
        reason = str(error).partition("\n")[0]
        raise StoreError(f"{path}: cannot be written: {reason}; check the work folder and the disk") from error
