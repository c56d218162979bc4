"""What the trainings of one run share, and the models that they start from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from indexer.distill.batches import Rows
from indexer.distill.cross_encoder import FRAME_TOKENS, CrossEncoder
from indexer.distill.data import TrainingData
from indexer.distill.encoders import TextEncoder, count_positions, has_bf16, is_static, open_model, open_static
from indexer.distill.kept_vectors import embed_kept
from indexer.distill.ngrams import NgramEncoder
from indexer.distill.objective import START, TEACHER, Objective
from indexer.distill.processes import ALONE, Processes
from indexer.distill.scoring import Model, Tower, tokenise_data
from indexer.distill.teachers import Teacher, VectorTeacher
from indexer.distill.trainer import Trainer, TrainingResult
from indexer.distill_config import CROSS, BermConfig, DistillConfig
from indexer.errors import ConfigError

Trained = TypeVar("Trained", bound=Model)


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """What the trainings of one run share.

    `folder` keeps checkpoints, and a finished model is not trained again. `vectors`, below it unless runs share them,
    keeps what frozen encoders say of texts.
    """

    config: DistillConfig
    data: TrainingData
    folder: Path
    progress: bool
    berm: BermConfig = BermConfig()
    vectors: Path | None = None
    processes: Processes = ALONE
    results: dict[str, TrainingResult] = field(default_factory=dict)

    def train(
        self,
        name: str,
        model: Trained,
        objective: Objective,
        *,
        settings: DistillConfig | None = None,
        teachers: Mapping[str, Teacher] | None = None,
        start: Tensor | None = None,
        scored: Rows | None = None,
    ) -> Trained:
        """Train the model in place and return it; `start` has the vectors of what it is held to."""
        taught = list((teachers or {}).values())
        targets = {
            START: [] if start is None else [start],
            TEACHER: [teacher.vectors for teacher in taught if isinstance(teacher, VectorTeacher)],
        }
        trainer = Trainer(
            model,
            self.data,
            objective,
            settings or self.config,
            name=name,
            folder=self.folder,
            teachers=taught,
            targets=targets,
            scored=scored,
            progress=self.progress,
            bf16=self.config.bf16 and has_bf16(model.device),
            processes=self.processes,
        )
        self.results[name] = trainer.run()
        return model

    def embed(self, encoder: TextEncoder, asked: int | None = None) -> Tensor:
        """Return the vectors of the first `asked` text rows, or of all."""
        texts, folder = tokenise_data(encoder, self.data)[:asked], self.vectors or self.folder / "vectors"
        return embed_kept(encoder, texts, folder, processes=self.processes)

    def embed_start(self) -> Tensor:
        """Return the vectors of all texts by the student as it comes, uncut and untrained."""
        return self.embed(_open(self.config, self.config.student, ()))


def open_start(config: DistillConfig) -> Tower:
    """Open the model the student starts from: with its configured layers, as a token table, or n-grams drawn anew."""
    limits = {"query_tokens": config.query_tokens, "product_tokens": config.product_tokens}
    if config.student_kind == "transformer":
        return _open(config, config.student, config.student_layers)
    torch.manual_seed(config.seed)
    if config.student_kind == "static":
        return open_static(config.student, **limits)
    return NgramEncoder(bins=config.ngram_bins, dimension=config.ngram_dimension, **limits)


def open_teacher(config: DistillConfig, name: str) -> TextEncoder:
    """Open the model that a teacher starts from."""
    return _open(config, name, ())


def open_cross(config: DistillConfig, name: str) -> CrossEncoder:
    """Open the model that a cross-encoder starts from; its head is drawn by the seed."""
    encoder = open_teacher(config, name)
    if is_static(encoder.model):
        raise ConfigError(f"teacher {CROSS}{name}: a table of token vectors reads no two texts together; name another")
    both = config.query_tokens + config.product_tokens + FRAME_TOKENS
    _check_positions(encoder, name, both, f"distill.query_tokens and product_tokens with {FRAME_TOKENS} more")
    torch.manual_seed(config.seed)
    return CrossEncoder(encoder)


def _open(config: DistillConfig, name: str, layers: tuple[int, ...]) -> TextEncoder:
    # New weights, such as a pooler the checkpoint lacks, are drawn at random: fix them too.
    torch.manual_seed(config.seed)
    limits = {"query_tokens": config.query_tokens, "product_tokens": config.product_tokens}
    encoder = open_model(name, **limits, layers=layers)
    _check_positions(encoder, name, max(limits.values()), "the larger of distill.query_tokens and product_tokens")
    return encoder


def _check_positions(encoder: TextEncoder, name: str, wanted: int, what: str) -> None:
    """Raise ConfigError where texts could be longer than the model has places for; the first such text would end it."""
    places = count_positions(encoder)
    if places is not None and wanted > places:
        raise ConfigError(f"model {name!r}: has places for {places} tokens, but {what} is {wanted}; lower it")
