"""`indexer nightly`: the whole job of a night, in order."""

from dataclasses import asdict

import click

from indexer.cli.options import (
    config_options,
    date_options,
    force_option,
    json_option,
    open_config,
    print_json,
    show_progress,
)
from indexer.cli.steps import run_nightly
from indexer.cli.summary import print_night, print_step


@click.command()
@config_options
@date_options
@force_option
@json_option
def nightly(
    config_path: str | None, settings: tuple[str, ...], run_date: str, force: bool, no_progress: bool, as_json: bool
) -> None:
    """Run every step: purchase signals on Spark, distillation, index build, publication.

    A step whose inputs and configuration have not changed since it finished is skipped, so a failed night is
    started again with the same command. The summary lies in WORK/nightly/run_date=DATE/run.json as well.

    \b
    Example:
      indexer nightly --config shop.toml --run-date 2026-11-20
    """
    loaded = open_config(config_path, settings)
    summary = run_nightly(
        loaded,
        run_date,
        force=force,
        progress=show_progress(no_progress),
        on_step=None if as_json else lambda commit, status: print_step(commit, status=status),
    )
    print_json(asdict(summary)) if as_json else print_night(summary)
