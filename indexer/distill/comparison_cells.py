"""One cell of a comparison: train, score what was held out, and leave a folder that need not be made again.

What several methods have in common in a fold and a seed, the trained teachers and the recovered student, is trained
once: a finished training lies under the fingerprint of what decides it, and its files are linked to where a training
looks for its own.
"""

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from indexer import __version__
from indexer.config import Config, as_document
from indexer.distill.comparison_plan import SPLIT_SETTINGS, Cell
from indexer.distill.comparison_scores import measure_model, measure_teachers, read_scores, write_scores
from indexer.distill.data import TrainingData, read_training_data
from indexer.distill.models import train_models
from indexer.distill.query_probes import choose_probes, hide_probes
from indexer.distill.step import identify_model, identify_training
from indexer.distill.trainer import TrainingResult
from indexer.distill_config import CROSS, SCORES, DistillConfig
from indexer.runs import fingerprint

TAUGHT_SETTINGS = (
    *("method", "gamma", "scored_share", "alpha_teacher", "alpha_margin", "alpha_listwise", "alpha_cosent"),
    *("listwise_temperature", "cross_scale", "margin_factor", "alpha_start"),
)
"""What only the teaching of a student depends on."""
LOSS_SETTINGS = (
    *("teacher_alpha_start", "start_share", "alpha_labels", "alpha_similar", "alpha_dissimilar"),
    *("label_loss", "theta_low", "theta_high"),
    *("epochs", "switch_epoch", "patience", "select_by", "select_within", "similar_share", "dissimilar_share"),
    *("mining_neighbours", "mining_low", "mining_high", "mining_per_query", "mining_kept_share"),
    *("source_weights", "source_shares"),
)
"""What teaching and teachers depend on, and no recovery."""
STUDENT_SETTINGS = (
    *("student", "student_kind", "student_layers", "recovery_epochs", "table_learning_rate"),
    *("recovery_batch_size", "recovery_learning_rate"),
    *("ngram_bins", "ngram_dimension"),
)
PACE_SETTINGS = ("batch_size", "learning_rate", "threads", "checkpoint_steps", "every_days")
"""What a recovery has settings of its own for, and what decides no weights."""
INDEX_SETTINGS = ("m", "ef_construction", "stated_ef_search", "storage")
"""What figures of retrieval depend on beside the model."""
RULES = 2
"""Goes up with every change of what a training or a measurement gives, so that no table mixes figures of two rules."""
RECOVERED = "recovered"
CHECKPOINT_FILES = ("best.safetensors", "scores.npz", "state.pt")
"""The state, which says that a training is finished, comes last."""


class CellFolder:
    """The files of one cell below the comparison's folder."""

    def __init__(self, out: Path, cell: Cell, run_date: str) -> None:
        self.cell = cell
        self.run_date = run_date
        self.fingerprint = identify_measured(identify_training(cell.config, run_date), cell.config)
        self.out = out
        # Not by the variant's name: of two with the same settings one is trained.
        self.folder = out / "cells" / f"fold-{cell.fold}-seed-{cell.seed}-{self.fingerprint[:16]}"
        self.parts = {role: out / "parts" / key[:24] for role, key in part_keys(cell.config, run_date).items()}

    @property
    def finished(self) -> bool:
        """Whether there is nothing to do."""
        found = read_scores(self.folder)
        return found is not None and found.document["fingerprint"] == self.fingerprint

    def measured(self, role: str) -> Path:
        """Return where the scores of a trained teacher lie."""
        return self.parts[role] / f"measured-{identify_measured(role, self.cell.config)[:8]}"

    def run(self) -> None:
        """Train what is not trained yet, measure, and write the scores; the student's come last."""
        started = time.monotonic()
        config = self.cell.config
        data = read_training_data(config, self.run_date)
        probes = choose_probes(data, seed=config.distill.split_seed)
        checkpoints = self.folder / "checkpoints"
        seen = hide_probes(data, probes)
        parts = {**self.parts, RECOVERED: self.out / "parts" / identify_recovery(config.distill, seen)[:24]}
        for role, folder in parts.items():
            _link_files(folder, "", checkpoints, f"{role}.")
        models = train_models(
            config.distill, seen, checkpoints, progress=False, berm=config.berm, vectors=self.out / "vectors"
        )
        for role, folder in parts.items():
            _link_files(checkpoints, f"{role}.", folder, "")
        trainings = {role: _describe_training(result) for role, result in models.results.items()}
        for role, encoder in models.encoders.items():
            if read_scores(self.measured(role)) is None:
                found = measure_model(encoder, data, data.test, probes, config)
                write_scores(self.measured(role), found, {"training": trainings[role]})
        single = [(name,) for name in models.teachers if name not in config.distill.encoder_teachers()]
        for names in (*single, *([tuple(models.teachers)] if len(models.teachers) > 1 else [])):
            found = measure_teachers([models.teachers[name] for name in names], data)
            write_scores(self.folder / teacher_folder(names), found, {})
        document = {
            "variant": self.cell.variant,
            "fold": self.cell.fold,
            "seed": self.cell.seed,
            "fingerprint": self.fingerprint,
            "training": trainings.pop("student"),
            "shared": trainings,
            "seconds": round(time.monotonic() - started, 1),
        }
        write_scores(self.folder, measure_model(models.student, data, data.test, probes, config), document)
        shutil.rmtree(checkpoints)


def identify_measured(model: str, config: Config) -> str:
    """Return the fingerprint of a model's figures: of the model, and of the index that it is searched through."""
    return fingerprint(RULES, model, [getattr(config.index, name) for name in INDEX_SETTINGS])


def teacher_folder(names: tuple[str, ...]) -> str:
    """Return where a cell keeps the scores of teachers that are not encoders alone."""
    return f"teachers-{fingerprint(list(names))[:8]}"


def part_keys(config: Config, run_date: str) -> dict[str, str]:
    """Return the fingerprint of each training of a teacher that methods may share, by role."""
    distill = config.distill
    encoders: list[tuple[str, ...]] = [(name,) for name in distill.encoder_teachers()]
    # An encoder stands beside it, since BERM asks for one.
    crossed: list[tuple[str, ...]] = [
        (*DistillConfig().teachers, name) for name in distill.teachers if name.startswith(CROSS)
    ]
    keys: dict[str, str] = {}
    for kind, teachers in (("teacher", encoders), ("cross", crossed)):
        for number, names in enumerate(teachers, start=1):
            role = kind if number == 1 else f"{kind}_{number}"
            keys[role] = _identify(config, names, (*TAUGHT_SETTINGS, *STUDENT_SETTINGS), run_date)
    return keys


def identify_recovery(config: DistillConfig, data: TrainingData) -> str:
    """Return the fingerprint of a recovery, which depends on no label and so on no fold: its texts and settings."""
    unread = {*TAUGHT_SETTINGS, *LOSS_SETTINGS, *SPLIT_SETTINGS, *PACE_SETTINGS}
    unread |= {"teachers", "student", "max_mining_queries"}
    settings = {name: value for name, value in as_document(config).items() if name not in unread}
    texts = data.texts
    chosen = [texts[row] for row in data.label_free_rows]
    return fingerprint(RULES, RECOVERED, chosen, identify_model(config.student), settings, __version__)


def identify_start(config: Config, run_date: str) -> str:
    """Return the fingerprint of the data and of the student before it is taught."""
    return _identify(config, DistillConfig().teachers, (*TAUGHT_SETTINGS, *LOSS_SETTINGS), run_date)


def _identify(config: Config, teachers: tuple[str, ...], unread: tuple[str, ...], run_date: str) -> str:
    """Return the fingerprint of the data and of the settings that are read, with these teachers.

    Beside them stand those that bring texts of their own into the data.
    """
    distill, default = config.distill, DistillConfig()
    tables = [name for name in distill.teachers if name.startswith(SCORES)]
    # At once: a setting that is not read may not go with another's default.
    plain = replace(
        distill,
        teachers=(*teachers, *distill.berm_teachers(), *tables),
        **{name: getattr(default, name) for name in unread},
    )
    return fingerprint(RULES, identify_training(replace(config, distill=plain), run_date))


def _link_files(source: Path, prefix: str, target: Path, new_prefix: str) -> None:
    """Give the files of a finished training a second name; what is there stays."""
    if not (source / f"{prefix}{CHECKPOINT_FILES[-1]}").exists():
        return
    target.mkdir(parents=True, exist_ok=True)
    for name in CHECKPOINT_FILES:
        old, new = source / f"{prefix}{name}", target / f"{new_prefix}{name}"
        if old.exists() and not new.exists():
            os.link(old, new)


def _describe_training(result: TrainingResult) -> dict[str, Any]:
    return {
        "epochs": len(result.history) - 1,
        "best_epoch": result.best_epoch,
        "seconds": round(sum(row["seconds"] for row in result.history), 1),
        "history": result.history,
    }
