"""The models of one run: its teachers, then the student, recovered and taught by equation 7."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from indexer.distill.augmentation import PER_QUERY, sample_pairs
from indexer.distill.batches import Rows
from indexer.distill.data import TrainingData
from indexer.distill.encoders import TextEncoder
from indexer.distill.objective import recovery_objective, student_objective
from indexer.distill.processes import ALONE, Processes
from indexer.distill.quantisation import in_int8
from indexer.distill.scoring import Tower
from indexer.distill.teachers import Teacher, VectorTeacher, collect_opinions, mean_opinion
from indexer.distill.teaching import labelled_pairs, open_teachers, train_encoders
from indexer.distill.trainer import TrainingResult
from indexer.distill.training_run import TrainingRun, open_start
from indexer.distill_config import BermConfig, DistillConfig
from indexer.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TrainedModels:
    """Encoders with their best weights."""

    encoders: Mapping[str, TextEncoder]
    """The trained teachers that are encoders, by role: teacher, teacher_2."""
    teachers: Mapping[str, Teacher]
    """All that taught the student, by their names in the configuration."""
    student: Tower
    quantised: TextEncoder | None
    """The student trained to compute in int8."""
    direct: Tower | None
    """The student trained without a teacher, for comparison."""
    results: Mapping[str, TrainingResult]


def train_models(
    config: DistillConfig,
    data: TrainingData,
    folder: Path,
    *,
    progress: bool,
    berm: BermConfig | None = None,
    vectors: Path | None = None,
    processes: Processes = ALONE,
) -> TrainedModels:
    """Train the teachers, recover the cut student, teach it, and where ablations are asked for train it directly, too.

    `folder` keeps checkpoints; a model that is finished there is not trained again. `vectors`, a folder below it unless
    runs share one, keeps the vectors of frozen encoders. Without a term that asks them no teacher is trained. All
    `processes` call this, and the first writes.
    """
    run = TrainingRun(
        config=config,
        data=data,
        folder=folder,
        progress=progress,
        berm=berm or BermConfig(),
        vectors=vectors,
        processes=processes,
    )
    objective, untaught = student_objective(config), student_objective(config, taught=False)
    if config.ablations and not untaught.has_loss:
        raise ConfigError(
            f"distill.ablations: method {config.method} has no loss without a teacher, so there is no student to train "
            "without one; leave ablations off"
        )
    encoders = train_encoders(run) if objective.asks_teachers else {}
    teachers = open_teachers(run, encoders) if objective.asks_teachers else {}
    start = run.embed_start() if _recovers(config) or config.alpha_start else None
    scored = find_scored(run, teachers, start) if "scored" in objective.terms else None
    if objective.gamma == 1 and all(term.taught for term in objective.lists.values()):
        check_opinions(list(teachers.values()), data, scored)
    settings = student_settings(config)
    student = run.train(
        "student",
        open_student(run, start),
        objective,
        settings=settings,
        teachers=teachers,
        start=start,
        scored=scored,
    )
    quantised = quantise_student(run, student) if config.qat_epochs and isinstance(student, TextEncoder) else None
    direct = None
    if config.ablations:
        direct = run.train("direct", open_student(run, start), untaught, settings=settings, start=start)
    return TrainedModels(
        encoders=encoders,
        teachers=teachers,
        student=student,
        quantised=quantised,
        direct=direct,
        results=run.results,
    )


def open_student(run: TrainingRun, start: Tensor | None) -> Tower:
    """Open the student; a cut or static one is first brought back to the whole one, whose vectors are `start`."""
    student = open_start(run.config)
    if not _recovers(run.config):
        return student
    return run.train("recovered", student, recovery_objective(), settings=recovery_settings(run.config), start=start)


def quantise_student(run: TrainingRun, student: TextEncoder) -> TextEncoder:
    """Return a copy of the student that, computing in int8, gives the vectors the student gives in float32."""
    copy = open_start(run.config)
    assert isinstance(copy, TextEncoder)
    copy.transformer.load_state_dict(student.transformer.state_dict())
    settings = replace(student_settings(run.config), epochs=run.config.qat_epochs)
    with in_int8(copy.transformer):
        return run.train("quantised", copy, recovery_objective(), settings=settings, start=run.embed(student))


def check_opinions(teachers: Sequence[Teacher], data: TrainingData, scored: Rows | None) -> None:
    """Raise ConfigError where no teacher knows a pair of a query and a product that the student is to learn."""
    labelled = labelled_pairs(data)
    pairs = labelled if scored is None else np.concatenate([labelled, scored])
    if not np.isfinite(mean_opinion(teachers, pairs)).any():
        raise ConfigError(
            f"distill.teachers: none has a score for any of the {len(pairs):,} training pairs, and with "
            "distill.gamma = 1 the student learns from scores alone; give another table or a lower gamma"
        )


def find_scored(run: TrainingRun, teachers: Mapping[str, Teacher], start: Tensor | None) -> Rows:
    """Return the unlabelled pairs to score: all of the tables, else what an encoder ranks high, further down, and any.

    The encoder is the first teacher that is one, else the student as it comes.
    """
    data = run.data
    tables = [table.pairs for table in data.tables.values()]
    if tables:
        pairs = np.unique(np.concatenate(tables), axis=0)
        pairs = pairs[np.isin(pairs[:, 0], data.open_queries)]
    else:
        pairs = _sample_scored(run, teachers, start)
    # A cross-encoder keeps what it has scored: all at once is faster than step by step.
    collect_opinions(list(teachers.values()), pairs)
    return pairs


def _sample_scored(run: TrainingRun, teachers: Mapping[str, Teacher], start: Tensor | None) -> Rows:
    data = run.data
    vectors = next((t.vectors for t in teachers.values() if isinstance(t, VectorTeacher)), start)
    if vectors is None:
        vectors = run.embed_start()
    products = np.arange(len(data.queries), len(data.queries) + len(data.products) + len(data.unlabelled))
    # No more than all epochs can take: a cross-encoder will be asked about each pair.
    wanted = run.config.epochs * round(run.config.scored_share * len(data.train))
    queries = np.random.default_rng(run.config.seed).permutation(data.open_queries)[: -(-wanted // PER_QUERY)]
    return sample_pairs(vectors, np.sort(queries), products, seed=run.config.seed)


def recovery_settings(config: DistillConfig) -> DistillConfig:
    """Return the settings of the recovery, which has epochs, steps and, of layers, a learning rate of its own."""
    own = replace(config, learning_rate=config.recovery_learning_rate)
    return replace(student_settings(own), epochs=config.recovery_epochs, batch_size=config.recovery_batch_size)


def student_settings(config: DistillConfig) -> DistillConfig:
    """Return the settings of the student's trainings: a table of vectors learns at a rate of its own."""
    return config if config.student_kind == "transformer" else replace(config, learning_rate=config.table_learning_rate)


def _recovers(config: DistillConfig) -> bool:
    lacks = {"transformer": bool(config.student_layers), "static": True, "ngrams": False}
    return bool(lacks[config.student_kind] and config.recovery_epochs)
