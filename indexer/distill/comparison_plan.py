"""What a comparison trains: methods, their variations, folds of the queries and seeds, as a list of cells."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.config import Config
from indexer.config_file import load_config
from indexer.distill.splits import TEST, split_queries
from indexer.distill_config import DistillConfig
from indexer.errors import ConfigError
from indexer.methods import METHODS
from indexer.text import shorten

SPLIT_SETTINGS = ("validation_share", "test_share", "test_start", "split_seed")
"""What decides which labelled queries are held out: the same for all rows of a table, or its folds would not fit."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A method, or one with a setting changed: one row of the table."""

    name: str
    config: Config
    seeds: int
    swept: tuple[str, float] | None = None
    """The setting that a sweep changes, with its value where that is a number: a point of a curve."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training: a variant on all folds but one, with one seed."""

    variant: str
    fold: int
    seed: int
    config: Config


def read_variants(
    path: str | None,
    *,
    options: Sequence[str],
    methods: Sequence[str],
    sweeps: Sequence[str],
    seeds: int,
    sweep_seeds: int = 1,
) -> list[Variant]:
    """Return the variants in the order they are named.

    A method is `NAME` or `NAME:SEEDS`; a sweep is `NAME:KEY=[VALUES]`, which gives one variant per value of the key of
    `[distill]`. The method's settings go before the file's, `options` before the method's, the sweep's before all.
    Raises ConfigError for an unknown method and a sweep that cannot be read.
    """
    variants = []
    for method in methods:
        name, _, number = method.partition(":")
        if number and not (number.isdecimal() and int(number)):
            raise ConfigError(f"--methods {method}: expected NAME or NAME:SEEDS, such as rtsm:1")
        config = _load_method(path, name, options)
        variants.append(Variant(name=name, config=config, seeds=int(number) if number else seeds))
    for sweep in sweeps:
        method, key, values = _read_sweep(sweep)
        for value in values:
            variants.append(
                Variant(
                    name=f"{method} {key}={json.dumps(value)}",
                    config=_load_method(path, method, [*options, format_option(key, value)]),
                    seeds=sweep_seeds,
                    swept=(f"{method} {key}", float(value)) if isinstance(value, int | float) else None,
                )
            )
    names = [variant.name for variant in variants]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not variants or repeated:
        found = f"{', '.join(repeated)} twice" if repeated else "none"
        raise ConfigError(f"--methods and --sweep: expected different methods, found {found}")
    return variants


def plan_cells(variants: Sequence[Variant], *, folds: int, tested: int) -> list[Cell]:
    """Return all cells of the first `tested` folds; those that share a teacher, of one seed and fold, stand together.

    Raises ConfigError where there are not so many folds.
    """
    if not 1 <= tested <= folds:
        raise ConfigError(f"--test-folds {tested}: expected 1 up to the number of folds, {folds}")
    most = max(variant.seeds for variant in variants)
    return [
        Cell(
            variant=variant.name,
            fold=fold,
            seed=variant.config.distill.seed + number,
            config=fold_config(variant.config, fold=fold, folds=folds, seed=variant.config.distill.seed + number),
        )
        for number in range(most)
        for fold in range(tested)
        for variant in variants
        if number < variant.seeds
    ]


def fold_config(config: Config, *, fold: int, folds: int, seed: int) -> Config:
    """Return the configuration that tests on one fold; the validation queries come from the next one."""
    if folds < 2 or config.distill.validation_share >= 1 - 1 / folds:
        raise ConfigError(
            f"--folds {folds}: expected 2 at least, and room for distill.validation_share = "
            f"{config.distill.validation_share} beside a test part of one fold"
        )
    # What is not measured here is not trained.
    distill = replace(config.distill, seed=seed, ablations=False, qat_epochs=0)
    distill = replace(distill, test_share=1 / folds, test_start=fold / folds)
    return replace(config, distill=distill)


def find_tested(queries: Sequence[str], config: DistillConfig, *, folds: int, tested: int) -> NDArray[np.bool_]:
    """Return which queries the first `tested` folds hold out."""
    found = np.zeros(len(queries), dtype=np.bool_)
    for fold in range(tested):
        found |= split_queries(queries, replace(config, test_share=1 / folds, test_start=fold / folds)) == TEST
    return found


def _load_method(path: str | None, name: str, options: Sequence[str]) -> Config:
    if name not in METHODS:
        raise ConfigError(f"method {name!r}: expected one of {', '.join(METHODS)}")
    settings = {"method": name, **METHODS[name]}
    return load_config(path, options=[*(format_option(key, value) for key, value in settings.items()), *options])


def format_option(key: str, value: Any) -> str:
    """Return a setting of `[distill]` as an option of the command line."""
    return f"distill.{key}={value if isinstance(value, str) else _write_toml(value)}"


def _write_toml(value: Any) -> str:
    """Return a value as TOML: numbers, texts and lists are those of JSON, tables are not."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{json.dumps(key)} = {_write_toml(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_write_toml(item) for item in value)}]"
    return json.dumps(value)


def _read_sweep(text: str) -> tuple[str, str, list[Any]]:
    name, _, setting = text.partition("=")
    method, _, key = name.partition(":")
    try:
        values = tomllib.loads(f"values = {setting}")["values"]
        json.dumps(values)
    except (ValueError, TypeError, RecursionError):
        values = None
    if not key or not isinstance(values, list) or not values:
        raise ConfigError(f"--sweep {shorten(text)}: expected METHOD:KEY=[VALUES], such as kd-boost:gamma=[0, 0.5, 1]")
    if key.strip() in SPLIT_SETTINGS:
        raise ConfigError(f"--sweep {text}: {key.strip()} decides which queries are held out, the same in all rows")
    return method, key.strip(), values
