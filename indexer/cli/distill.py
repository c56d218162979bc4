"""`indexer distill`: train teacher and student and export the encoder."""

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
from indexer.cli.summary import print_step


@click.command()
@config_options
@date_options
@force_option
@json_option
def distill(
    config_path: str | None, settings: tuple[str, ...], run_date: str, force: bool, no_progress: bool, as_json: bool
) -> None:
    """Distil the student encoder from the teacher on the night's tables.

    \b
    Example:
      indexer distill --config shop.toml --run-date 2026-11-20
    """
    from indexer.distill.step import run_distill

    loaded = open_config(config_path, settings)
    commit = run_distill(loaded, run_date, force=force, progress=show_progress(no_progress))
    print_json(commit.counts) if as_json else print_step(commit)
