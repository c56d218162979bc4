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

    What it prints ends with the path of a report, which has the curves of every training. On a machine with several
    GPUs, `accelerate launch` starts a process for each; they train together.

    \b
    Examples:
      indexer distill --config shop.toml --run-date 2026-11-20
      accelerate launch --num_processes 4 .venv/bin/indexer distill --config shop.toml --run-date 2026-11-20
    """
    from indexer.distill.processes import open_processes
    from indexer.distill.step import find_report, join_distill, run_distill

    loaded, processes = open_config(config_path, settings), open_processes()
    if not processes.is_first:
        join_distill(loaded, run_date, force=force, processes=processes)
        return
    progress = show_progress(no_progress)
    commit = run_distill(loaded, run_date, force=force, progress=progress, processes=processes)
    report = find_report(loaded, commit)
    if as_json:
        print_json({**commit.counts, "report": str(report) if report else None})
        return
    print_step(commit)
    click.echo(f"  report  {report or '-'}")
