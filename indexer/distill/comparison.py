"""Compare methods: train every cell that is not finished, put the scores together, and draw up the table."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from indexer.config import Config
from indexer.distill.comparison_cells import (
    CellFolder,
    identify_measured,
    identify_start,
    part_keys,
    teacher_folder,
)
from indexer.distill.comparison_plan import Variant, find_tested, plan_cells
from indexer.distill.comparison_scores import ModelScores, measure_model, read_scores, write_scores
from indexer.distill.comparison_table import ComparedModel, SeedRun, TableRow, join_folds, tabulate_models
from indexer.distill.data import TrainingData, read_training_data
from indexer.distill.evaluate import BM25, RANDOM, Encoder
from indexer.distill.judgements import Judgements, read_measured
from indexer.distill.lexical import score_by_bm25
from indexer.distill.objective import student_objective
from indexer.distill.purchases import read_traffic
from indexer.distill.query_probes import choose_probes
from indexer.distill.slices import Mask, slice_queries
from indexer.distill.step import identify_model
from indexer.distill.training_run import open_start, open_teacher
from indexer.errors import ConfigError
from indexer.runs import fingerprint

ZERO_SHOT, STUDENT = "zero-shot", "student"


class Comparison:
    """The cells of all variants below one folder; what is finished there is not done again."""

    def __init__(
        self, variants: Sequence[Variant], run_date: str, *, folds: int, out: Path, tested: int | None = None
    ) -> None:
        """Plan to test on the first `tested` folds, or on all."""
        self.variants = {variant.name: variant for variant in variants}
        self.run_date, self.folds, self.out = run_date, folds, out
        self.tested = folds if tested is None else tested
        cells = plan_cells(variants, folds=folds, tested=self.tested)
        self.cells = [CellFolder(out, cell, run_date) for cell in cells]

    @property
    def config(self) -> Config:
        """The configuration whose data and untrained models stand for all."""
        return self.cells[0].cell.config

    @cached_property
    def data(self) -> TrainingData:
        """What its trainings learn from, whichever of the queries are held out."""
        return read_training_data(self.config, self.run_date)

    def check_baseline(self, name: str) -> None:
        """Raise ConfigError for a row that there will not be; which teachers have one is known after training."""
        names = [RANDOM, BM25, *self._untrained(), *self.variants]
        if name not in names and not name.startswith("teacher"):
            raise ConfigError(f"--baseline {name}: expected one of {', '.join(names)}, or the row of a teacher")

    def train(self, *, progress: bool) -> None:
        """Run the cells that are not finished, in order, and measure the models as they come."""
        torch.set_num_threads(self.config.distill.threads or os.cpu_count() or 1)
        todo = list({folder.folder: folder for folder in self.cells if not folder.finished}.values())
        with tqdm(todo, desc="compare", unit="training", disable=None if progress else True) as bar:
            for folder in bar:
                bar.set_postfix_str(f"{folder.cell.variant}, fold {folder.cell.fold}, seed {folder.cell.seed}")
                folder.run()
        self._measure_untrained()

    def tabulate(self, *, baseline: str) -> list[TableRow]:
        """Return the rows: random, BM25, models as they come, teachers, ensembles, and the variants in their order."""
        judgements = self._read_judgements()
        folds = np.full(len(judgements.queries), -1, dtype=np.int64)
        for folder in self.cells:
            folds[_read_finished(folder.folder).query] = folder.cell.fold
        models = [
            *self._floors(judgements),
            *self._teachers(judgements),
            *self._other_teachers(judgements),
            *self._students(judgements),
        ]
        names = [model.name for model in models]
        if baseline not in names:
            raise ConfigError(f"--baseline {baseline}: expected one of {', '.join(names)}")
        slices, seed = self._slice(judgements), self.config.distill.split_seed
        return tabulate_models(models, judgements, folds, slices, baseline=baseline, seed=seed)

    def _read_judgements(self) -> Judgements:
        """Return the judgements that models are measured on, with the pairs of the tested folds."""
        found = read_measured(self.config.catalogue, self.config.labels)
        tested = find_tested(found.queries, self.config.distill, folds=self.folds, tested=self.tested)
        return replace(found, pairs=found.pairs.take(tested[found.pairs.query]))

    def _untrained(self) -> dict[str, tuple[Path, Callable[[], Encoder]]]:
        """Return the folder of each model as it comes, and how it is opened."""
        distill = self.config.distill
        identity = identify_measured(identify_start(self.config, self.run_date), self.config)
        if self.tested < self.folds:
            identity = fingerprint(identity, self.tested)
        teachers = dict.fromkeys(
            name for variant in self.variants.values() for name in variant.config.distill.encoder_teachers()
        )
        shown = self._shown_teachers()
        opened: dict[str, tuple[Any, Callable[[], Encoder]]] = {STUDENT: (STUDENT, lambda: open_start(distill))}
        for name in teachers:
            opened[shown[name]] = identify_model(name), partial(open_teacher, distill, name)
        return {
            f"{ZERO_SHOT} {name}": (self.out / ZERO_SHOT / fingerprint(model, identity)[:24], open_encoder)
            for name, (model, open_encoder) in opened.items()
        }

    def _measure_untrained(self) -> None:
        missing = [found for found in self._untrained().values() if read_scores(found[0]) is None]
        if not missing:
            return
        pairs = self._read_judgements().pairs
        probes = choose_probes(self.data, seed=self.config.distill.split_seed)
        for folder, open_encoder in missing:
            write_scores(folder, measure_model(open_encoder(), self.data, pairs, probes, self.config), {})

    def _floors(self, judgements: Judgements) -> list[ComparedModel]:
        """Return what needs no training."""
        rng = np.random.default_rng(self.config.distill.split_seed)
        unasked = np.full(len(judgements.pairs), np.nan)
        scores = {RANDOM: rng.random(len(judgements.pairs)), BM25: score_by_bm25(judgements)}
        runs = {name: SeedRun(scores=found, typo_scores=unasked) for name, found in scores.items()}
        for name, (folder, _) in self._untrained().items():
            runs[name] = join_folds([_read_finished(folder)], judgements)
        return [ComparedModel(name=name, runs=[run]) for name, run in runs.items()]

    def _teachers(self, judgements: Judgements) -> list[ComparedModel]:
        """Return the encoders that taught, each training once whatever methods it served.

        Of those with one name each is told by the first method that asked it.
        """
        runs: dict[str, dict[int, list[ModelScores]]] = {}
        served: dict[str, tuple[str, str]] = {}
        seen: set[Path] = set()
        shown = self._shown_teachers()
        # A method that asks none has the key of a teacher that others trained.
        keys_of = {
            name: part_keys(variant.config, self.run_date)
            for name, variant in self.variants.items()
            if student_objective(variant.config.distill).asks_teachers
        }
        for folder in (folder for folder in self.cells if folder.cell.variant in keys_of):
            variant, keys = self.variants[folder.cell.variant], keys_of[folder.cell.variant]
            for role, name in zip(keys, variant.config.distill.encoder_teachers(), strict=False):
                place = folder.measured(role)
                found = None if place in seen else read_scores(place)
                if found is not None:
                    seen.add(place)
                    served.setdefault(keys[role], (f"teacher {shown[name]}", variant.name))
                    runs.setdefault(keys[role], {}).setdefault(folder.cell.seed, []).append(found)
        twice = Counter(name for name, _ in served.values())
        return [
            ComparedModel(
                name=name if twice[name] == 1 else f"{name} of {variant}", runs=_join_seeds(runs[key], judgements)
            )
            for key, (name, variant) in served.items()
        ]

    def _other_teachers(self, judgements: Judgements) -> list[ComparedModel]:
        """Return the teachers that are no encoders, and the means of several, of the first variant that has them.

        A table of scores that does not know every pair has no figures that could be compared.
        """
        models: dict[tuple[str, ...], ComparedModel] = {}
        shown = self._shown_teachers()
        for variant in self.variants.values():
            distill = variant.config.distill
            single = [(name,) for name in distill.teachers if name not in distill.encoder_teachers()]
            for names in (*single, distill.teachers):
                found = self._collect(variant, teacher_folder(names))
                if not found or names in models:
                    continue
                name = f"teacher {shown[names[0]]}" if len(names) == 1 else f"teachers of {variant.name}"
                runs = _join_seeds(found, judgements)
                if all(np.isfinite(run.scores).all() for run in runs):
                    models[names] = ComparedModel(name=name, runs=runs)
        return list(models.values())

    def _students(self, judgements: Judgements) -> list[ComparedModel]:
        return [
            ComparedModel(name=name, runs=_join_seeds(self._collect(variant), judgements), swept=variant.swept)
            for name, variant in self.variants.items()
        ]

    def _shown_teachers(self) -> dict[str, str]:
        taught = (name for variant in self.variants.values() for name in variant.config.distill.teachers)
        return shorten_names([STUDENT, *taught])

    def _collect(self, variant: Variant, name: str = "") -> dict[int, list[ModelScores]]:
        """Return the scores of each seed's folds."""
        collected: dict[int, list[ModelScores]] = {}
        for folder in self.cells:
            if folder.cell.variant == variant.name:
                found = read_scores(folder.folder / name)
                if found is not None:
                    collected.setdefault(folder.cell.seed, []).append(found)
        return collected

    def _slice(self, judgements: Judgements) -> dict[str, Mask]:
        data = self.data
        others = data.queries[len(judgements.queries) :]
        work, bought = self.config.shop.work, bool(self.config.purchases.path)
        traffic = read_traffic(work, self.run_date, judgements.queries) if bought else None
        return slice_queries(judgements.queries, [*data.products, *data.unlabelled, *others], traffic)


def shorten_names(names: Iterable[str]) -> dict[str, str]:
    """Return each model's name as it is shown: a path's last part, or the whole where another ends alike.

    The kind before a colon stays.
    """
    every = list(dict.fromkeys(names))
    short = {
        name: f"{kind}{colon}{Path(place).name}" for name in every for kind, colon, place in [name.rpartition(":")]
    }
    twice = Counter(short.values())
    return {name: name if twice[short[name]] > 1 else short[name] for name in every}


def _join_seeds(seeds: dict[int, list[ModelScores]], judgements: Judgements) -> list[SeedRun]:
    return [join_folds(found, judgements) for _, found in sorted(seeds.items())]


def _read_finished(folder: Path) -> ModelScores:
    found = read_scores(folder)
    if found is None:
        raise ConfigError(f"{folder}: not finished; train before the table is drawn up")
    return found


def describe_plan(folders: Iterable[CellFolder]) -> str:
    """Return what there is to do, in one line."""
    cells = list(folders)
    left = len({folder.folder for folder in cells if not folder.finished})
    variants = len({folder.cell.variant for folder in cells})
    folds, seeds = (len({getattr(folder.cell, name) for folder in cells}) for name in ("fold", "seed"))
    return f"{len(cells)} trainings: {variants} methods, {folds} folds, up to {seeds} seeds; {left} left to do"
