"""The models of one run: a teacher by equations 5 and 6, then the student, recovered and taught by equation 7."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from indexer.config import DistillConfig
from indexer.distill.augmentation import sample_pairs
from indexer.distill.batches import Rows
from indexer.distill.data import TrainingData
from indexer.distill.encoders import TextEncoder, has_bf16, open_model
from indexer.distill.objective import START, TEACHER, Objective, kd_boost_objective, recovery_objective
from indexer.distill.trainer import Trainer, TrainingResult, tokenise_data
from indexer.errors import ConfigError

Role = Literal["teacher", "student"]


@dataclass(frozen=True, kw_only=True)
class TrainedModels:
    """Encoders with their best weights."""

    teacher: TextEncoder
    student: TextEncoder
    direct: TextEncoder | None
    """The student trained without a teacher, for comparison."""
    results: dict[str, TrainingResult]


def train_models(config: DistillConfig, data: TrainingData, folder: Path, *, progress: bool) -> TrainedModels:
    """Train the teacher, recover the cut student, teach it, and where ablations are asked for train it directly, too.

    `folder` keeps checkpoints; a model that is finished there is not trained again.
    """
    results: dict[str, TrainingResult] = {}

    def train(
        name: str,
        encoder: TextEncoder,
        objective: Objective,
        *,
        settings: DistillConfig = config,
        teacher: Tensor | None = None,
        start: Tensor | None = None,
        scored: Rows | None = None,
    ) -> TextEncoder:
        targets = {TEACHER: teacher, START: start}
        trainer = Trainer(
            encoder,
            data,
            objective,
            settings,
            name=name,
            folder=folder,
            teachers=() if teacher is None else (teacher,),
            targets={target: vectors for target, vectors in targets.items() if vectors is not None},
            scored=scored,
            progress=progress,
            bf16=config.bf16 and has_bf16(encoder.device),
        )
        results[name] = trainer.run()
        return encoder

    held = embed_start(config, data, "teacher") if config.alpha_start else None
    teacher = train("teacher", open_start(config, "teacher"), kd_boost_objective(config, gamma=0.0), start=held)
    _check_widths(config, teacher)
    texts = tokenise_data(teacher, data)
    # Texts of unlabelled products come last, and only scored pairs ask for the teacher's vectors of them.
    taught = teacher.embed_frozen(texts if config.scored_share else texts[: len(data.queries) + len(data.products)])
    recovers = bool(config.student_layers and config.recovery_epochs)
    start = embed_start(config, data, "student") if recovers or config.alpha_start else None

    def open_student() -> TextEncoder:
        student = open_start(config, "student")
        if not recovers:
            return student
        return train("recovered", student, recovery_objective(), settings=recovery_settings(config), start=start)

    products = np.arange(len(data.queries), len(data.queries) + len(data.products) + len(data.unlabelled))
    scored = sample_pairs(taught, data.open_queries, products, seed=config.seed) if config.scored_share else None
    objective = kd_boost_objective(config, gamma=config.gamma)
    student = train("student", open_student(), objective, teacher=taught, start=start, scored=scored)
    direct = None
    if config.ablations:
        direct = train("direct", open_student(), kd_boost_objective(config, gamma=0.0), start=start)
    return TrainedModels(teacher=teacher, student=student, direct=direct, results=results)


def recovery_settings(config: DistillConfig) -> DistillConfig:
    """Return the settings of the recovery: its own epochs, none of them skipped."""
    return replace(config, epochs=config.recovery_epochs)


def embed_start(config: DistillConfig, data: TrainingData, role: Role) -> Tensor:
    """Return the vectors of all texts by a role's model as it comes, uncut and untrained."""
    encoder = open_start(replace(config, student_layers=()), role)
    return encoder.embed_frozen(tokenise_data(encoder, data))


def open_start(config: DistillConfig, role: Role) -> TextEncoder:
    """Open the model a role starts from; the student keeps its configured layers."""
    # New weights, such as a pooler the checkpoint lacks, are drawn at random: fix them too.
    torch.manual_seed(config.seed)
    return open_model(
        config.teacher if role == "teacher" else config.student,
        query_tokens=config.query_tokens,
        product_tokens=config.product_tokens,
        layers=() if role == "teacher" else config.student_layers,
    )


def _check_widths(config: DistillConfig, teacher: TextEncoder) -> None:
    if not config.alpha_teacher:
        return
    width = open_start(config, "student").dimension
    if width != teacher.dimension:
        raise ConfigError(
            f"distill.alpha_teacher: the teacher's vectors have {teacher.dimension} numbers, the student's {width}; "
            "choose models of one width, or set it to 0"
        )
