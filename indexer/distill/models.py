"""The models of one run: a teacher by equations 5 and 6, then the student it teaches by equation 7."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from indexer.config import DistillConfig
from indexer.distill.data import TrainingData
from indexer.distill.encoders import TextEncoder, has_bf16, open_model
from indexer.distill.objective import kd_boost_objective
from indexer.distill.trainer import Trainer, TrainingResult, tokenise_data

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
    """Train teacher, student and, where ablations are asked for, the direct student.

    `folder` keeps checkpoints; a model that is finished there is not trained again.
    """
    results: dict[str, TrainingResult] = {}

    def train(name: str, role: Role, *, gamma: float, teachers: tuple[Tensor, ...] = ()) -> TextEncoder:
        encoder = open_start(config, role)
        trainer = Trainer(
            encoder,
            data,
            kd_boost_objective(config, gamma=gamma),
            config,
            name=name,
            folder=folder,
            teachers=teachers,
            progress=progress,
            bf16=config.bf16 and has_bf16(encoder.device),
        )
        results[name] = trainer.run()
        return encoder

    teacher = train("teacher", "teacher", gamma=0.0)
    vectors = teacher.embed_frozen(tokenise_data(teacher, data))
    student = train("student", "student", gamma=config.gamma, teachers=(vectors,))
    direct = train("direct", "student", gamma=0.0) if config.ablations else None
    return TrainedModels(teacher=teacher, student=student, direct=direct, results=results)


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
