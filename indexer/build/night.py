"""What the earlier steps of the night leave for the build: the encoder that serves the date, and what they did."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

from indexer.config import Config, as_document
from indexer.errors import ConfigError, ContractError
from indexer.manifest import ENCODER_FILES
from indexer.runs import StepCommit, StepFolder, check_run_date

SPARK_STEPS = ("purchase_gram", "npmi_pairs", "taxonomy_labels", "hard_negatives", "curated_queries")
TRAINING_STEP = "distill"
SIDE_STEP = "calibrate_npmi"
"""Runs on its own; where it did, the report shows it."""


def find_encoder(config: Config, run_date: str, named: str | None = None) -> Path:
    """Return the directory of the encoder that serves the date, or of the one that an option names.

    Raises ContractError where none was distilled, ConfigError where the named folder is not there.
    """
    if named:
        if not Path(named).is_dir():
            raise ConfigError(f"--encoder {named}: no such folder; expected {', '.join(ENCODER_FILES)}")
        return Path(named)
    training = find_training(config, run_date)
    if training is None:
        raise ContractError(f"no encoder for {run_date}: run `indexer distill` first, or name one by --encoder")
    folder = StepFolder(config.shop.work, TRAINING_STEP, training.run_date)
    return folder.attempt_folder(training.attempt) / f"encoder-{config.index.precision}"


def find_training(config: Config, run_date: str) -> StepCommit | None:
    """Return the newest training of the last `distill.every_days` days up to the date, or None."""
    last = date.fromisoformat(check_run_date(run_date))
    for days in range(config.distill.every_days):
        day = (last - timedelta(days=days)).isoformat()
        commit = StepFolder(config.shop.work, TRAINING_STEP, day).newest()
        if commit:
            return commit
    return None


def collect_story(config: Config, run_date: str) -> dict[str, Any]:
    """Gather what the finished steps of the date did, for the release's report."""
    commits = [StepFolder(config.shop.work, name, run_date).newest() for name in (*SPARK_STEPS, SIDE_STEP)]
    commits.append(find_training(config, run_date))
    return {
        "shop": config.shop.name,
        "run_date": run_date,
        "steps": [summarise_step(commit) for commit in commits if commit],
        "config": as_document(config),
    }


def summarise_step(commit: StepCommit) -> dict[str, Any]:
    """Return what a report says of a finished step."""
    return {
        "step": commit.step,
        "run_date": commit.run_date,
        "seconds": round(commit.seconds, 1),
        "counts": commit.counts,
        "rejects": commit.rejects,
    }
