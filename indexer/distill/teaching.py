"""The teachers of a run: trained, frozen, and opened for the student to ask."""

from collections.abc import Mapping

import numpy as np

from indexer.distill.berm import distil_berm
from indexer.distill.cross_teacher import CrossTeacher, cross_objective
from indexer.distill.data import TrainingData
from indexer.distill.encoders import TextEncoder
from indexer.distill.objective import teacher_objective
from indexer.distill.scoring import tokenise_data
from indexer.distill.teachers import Pairs, Teacher, VectorTeacher
from indexer.distill.training_run import TrainingRun, open_cross, open_teacher
from indexer.distill_config import CROSS


def train_encoders(run: TrainingRun) -> dict[str, TextEncoder]:
    """Train every teacher that is an encoder, and return them by role, in the order of the configuration."""
    encoders: dict[str, TextEncoder] = {}
    for name in run.config.encoder_teachers():
        role = f"teacher_{len(encoders) + 1}" if encoders else "teacher"
        held = run.embed(open_teacher(run.config, name)) if run.config.teacher_alpha_start else None
        encoders[role] = run.train(role, open_teacher(run.config, name), teacher_objective(run.config), start=held)
    return encoders


def open_teachers(run: TrainingRun, encoders: Mapping[str, TextEncoder]) -> dict[str, Teacher]:
    """Return all teachers by name, in the order of the configuration; cross-encoders and BERM are trained here."""
    # Texts of unlabelled products come last, and only scored pairs and BERM ask for the teacher's vectors of them.
    everything = run.config.scored_share or run.config.berm_teachers()
    asked = None if everything else len(run.data.queries) + len(run.data.products)
    names = run.config.encoder_teachers()
    vectors = {
        name: VectorTeacher(run.embed(encoder, asked)) for name, encoder in zip(names, encoders.values(), strict=True)
    }
    teachers: dict[str, Teacher] = {**vectors, **run.data.tables}
    crossed = [name for name in run.config.teachers if name.startswith(CROSS)]
    for place, name in enumerate(crossed, start=1):
        teachers[name] = train_cross(run, name, role="cross" if place == 1 else f"cross_{place}")
    if berms := run.config.berm_teachers():
        with run.processes.first_ahead():
            teachers |= distil_berm(
                run.data,
                list(vectors.values()),
                encoders["teacher"].tokenizer,
                run.berm,
                names=berms,
                folder=run.folder,
                seed=run.config.seed,
                progress=run.progress,
            )
    return {name: teachers[name] for name in run.config.teachers}


def train_cross(run: TrainingRun, name: str, *, role: str) -> CrossTeacher:
    """Train a cross-encoder, put it on its scale, and score the training labels."""
    model = run.train(role, open_cross(run.config, name.removeprefix(CROSS)), cross_objective())
    texts, queries = tokenise_data(model, run.data), len(run.data.queries)
    teacher = CrossTeacher(
        model,
        texts,
        queries=queries,
        path=run.folder / f"{role}.scores.npz",
        scale=run.config.cross_scale,
        processes=run.processes,
    )
    teacher.find_logits(labelled_pairs(run.data), progress=run.progress)
    teacher.calibrate(run.data.validation, run.config)
    return teacher


def labelled_pairs(data: TrainingData) -> Pairs:
    """Return (pairs, 2) text rows of the training labels."""
    return np.stack([data.train.query, data.train.product + len(data.queries)], axis=1)
