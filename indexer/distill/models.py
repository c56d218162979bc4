"""The models of one run: teachers by equations 5 and 6, then the student, recovered and taught by equation 7."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from indexer.config import BERM, SCORES, BermConfig, DistillConfig
from indexer.distill.augmentation import sample_pairs
from indexer.distill.batches import Rows
from indexer.distill.berm import distil_berm
from indexer.distill.data import TrainingData
from indexer.distill.encoders import TextEncoder, has_bf16, open_model
from indexer.distill.objective import (
    START,
    TEACHER,
    Objective,
    recovery_objective,
    student_objective,
    teacher_objective,
)
from indexer.distill.scoring import tokenise_data
from indexer.distill.teachers import Teacher, VectorTeacher
from indexer.distill.trainer import Trainer, TrainingResult
from indexer.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TrainedModels:
    """Encoders with their best weights."""

    encoders: Mapping[str, TextEncoder]
    """The trained teachers that are encoders, by role: teacher, teacher_2."""
    teachers: Mapping[str, Teacher]
    """All that taught the student, by their names in the configuration."""
    student: TextEncoder
    direct: TextEncoder | None
    """The student trained without a teacher, for comparison."""
    results: Mapping[str, TrainingResult]


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """What the trainings of one run share; `folder` keeps checkpoints, and a finished model is not trained again."""

    config: DistillConfig
    data: TrainingData
    folder: Path
    progress: bool
    berm: BermConfig = BermConfig()
    results: dict[str, TrainingResult] = field(default_factory=dict)

    def train(
        self,
        name: str,
        encoder: TextEncoder,
        objective: Objective,
        *,
        settings: DistillConfig | None = None,
        teachers: Mapping[str, Teacher] | None = None,
        start: Tensor | None = None,
        scored: Rows | None = None,
    ) -> TextEncoder:
        """Train the encoder in place and return it."""
        taught = list((teachers or {}).values())
        targets = {
            START: [] if start is None else [start],
            TEACHER: [teacher.vectors for teacher in taught if isinstance(teacher, VectorTeacher)],
        }
        _check_targets(objective, targets)
        trainer = Trainer(
            encoder,
            self.data,
            objective,
            settings or self.config,
            name=name,
            folder=self.folder,
            teachers=taught,
            targets=targets,
            scored=scored,
            progress=self.progress,
            bf16=self.config.bf16 and has_bf16(encoder.device),
        )
        self.results[name] = trainer.run()
        return encoder


def train_models(
    config: DistillConfig, data: TrainingData, folder: Path, *, progress: bool, berm: BermConfig | None = None
) -> TrainedModels:
    """Train the teachers, recover the cut student, teach it, and where ablations are asked for train it directly, too.

    `folder` keeps checkpoints; a model that is finished there is not trained again.
    """
    run = TrainingRun(config=config, data=data, folder=folder, progress=progress, berm=berm or BermConfig())
    objective = student_objective(config)
    encoders = train_encoders(run) if objective.asks_teachers else {}
    teachers = open_teachers(run, encoders) if objective.asks_teachers else {}
    start = embed_start(config, data) if _recovers(config) or config.alpha_start else None
    student = run.train(
        "student",
        open_student(run, start),
        objective,
        teachers=teachers,
        start=start,
        scored=find_scored(run, teachers, start) if "scored" in objective.terms else None,
    )
    direct = None
    if config.ablations:
        direct = run.train("direct", open_student(run, start), student_objective(config, taught=False), start=start)
    return TrainedModels(encoders=encoders, teachers=teachers, student=student, direct=direct, results=run.results)


def train_encoders(run: TrainingRun) -> dict[str, TextEncoder]:
    """Train every teacher that is an encoder, and return them by role, in the order of the configuration."""
    encoders: dict[str, TextEncoder] = {}
    for name in run.config.encoder_teachers():
        role = f"teacher_{len(encoders) + 1}" if encoders else "teacher"
        held = None
        if run.config.alpha_start:
            held = _embed(open_teacher(run.config, name), run.data)
        encoders[role] = run.train(role, open_teacher(run.config, name), teacher_objective(run.config), start=held)
    return encoders


def open_teachers(run: TrainingRun, encoders: Mapping[str, TextEncoder]) -> dict[str, Teacher]:
    """Return all teachers by name, those that are encoders with their vectors of every text they will be asked for."""
    # Texts of unlabelled products come last, and only scored pairs and BERM ask for the teacher's vectors of them.
    asked = (
        None
        if run.config.scored_share or BERM in run.config.teachers
        else len(run.data.queries) + len(run.data.products)
    )
    trained = iter(encoders.values())
    teachers: dict[str, Teacher] = {}
    for name in run.config.teachers:
        if name.startswith(SCORES):
            teachers[name] = run.data.tables[name]
            continue
        if name == BERM:
            continue
        teachers[name] = VectorTeacher(_embed(next(trained), run.data, asked))
    if BERM in run.config.teachers:
        vectors = [teacher for teacher in teachers.values() if isinstance(teacher, VectorTeacher)]
        tokenizer = encoders["teacher"].tokenizer
        teachers[BERM] = distil_berm(
            run.data, vectors, tokenizer, run.berm, folder=run.folder, seed=run.config.seed, progress=run.progress
        )
    return teachers


def open_student(run: TrainingRun, start: Tensor | None) -> TextEncoder:
    """Open the student; a cut one is first brought back to the uncut one, whose vectors are `start`."""
    student = open_start(run.config)
    if not _recovers(run.config):
        return student
    return run.train("recovered", student, recovery_objective(), settings=recovery_settings(run.config), start=start)


def find_scored(run: TrainingRun, teachers: Mapping[str, Teacher], start: Tensor | None) -> Rows:
    """Return the unlabelled pairs to score: all of the tables, else what an encoder ranks high, further down, and any.

    The encoder is the first teacher that is one, else the student as it comes.
    """
    data = run.data
    tables = [table.pairs for table in data.tables.values()]
    if tables:
        pairs = np.unique(np.concatenate(tables), axis=0)
        return pairs[np.isin(pairs[:, 0], data.open_queries)]
    vectors = next((t.vectors for t in teachers.values() if isinstance(t, VectorTeacher)), start)
    if vectors is None:
        vectors = embed_start(run.config, data)
    products = np.arange(len(data.queries), len(data.queries) + len(data.products) + len(data.unlabelled))
    return sample_pairs(vectors, data.open_queries, products, seed=run.config.seed)


def recovery_settings(config: DistillConfig) -> DistillConfig:
    """Return the settings of the recovery: its own epochs, none of them skipped."""
    return replace(config, epochs=config.recovery_epochs)


def embed_start(config: DistillConfig, data: TrainingData) -> Tensor:
    """Return the vectors of all texts by the student as it comes, uncut and untrained."""
    return _embed(open_start(replace(config, student_layers=())), data)


def open_start(config: DistillConfig) -> TextEncoder:
    """Open the model the student starts from, with its configured layers."""
    return _open(config, config.student, config.student_layers)


def open_teacher(config: DistillConfig, name: str) -> TextEncoder:
    """Open the model that a teacher starts from."""
    return _open(config, name, ())


def _open(config: DistillConfig, name: str, layers: tuple[int, ...]) -> TextEncoder:
    # New weights, such as a pooler the checkpoint lacks, are drawn at random: fix them too.
    torch.manual_seed(config.seed)
    limits = {"query_tokens": config.query_tokens, "product_tokens": config.product_tokens}
    return open_model(name, **limits, layers=layers)


def _embed(encoder: TextEncoder, data: TrainingData, asked: int | None = None) -> Tensor:
    return encoder.embed_frozen(tokenise_data(encoder, data)[:asked])


def _recovers(config: DistillConfig) -> bool:
    return bool(config.student_layers and config.recovery_epochs)


def _check_targets(objective: Objective, targets: Mapping[str, Sequence[Tensor]]) -> None:
    if TEACHER in objective.alignments and not targets[TEACHER]:
        raise ConfigError(
            "distill.alpha_teacher: no teacher is an encoder that vectors could be aligned with; set it to 0"
        )
