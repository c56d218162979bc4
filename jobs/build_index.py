"""CATALOGUE and CURATED_QUERIES -> a release: `indexer build` for catalogues that outgrow one machine.

Executors embed the rows and build the base shards, one a task, and write them straight to the store; the driver builds
the deltas, judges the gates and commits. Shards, gates and report are those of `indexer build`.
"""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import click
from pyspark.sql import SparkSession

from indexer.build.night import collect_story, find_encoder
from indexer.build.release import build_release
from indexer.build.summary import ReleaseSummary
from indexer.cli.options import SafeCommand, log_options
from indexer.config import Config
from indexer.config_file import load_config
from indexer.console import start_logging
from indexer.index_config import REUSE
from indexer.runs import check_run_date
from indexer.text import escape
from jobs.command import exit_codes, job_session, show_value
from jobs.index_site import ClusterSite
from jobs.steps import located

STEP = "build_index"


@click.command(name=STEP, cls=SafeCommand, help=__doc__)
@click.option("--config", "config_path", help="TOML configuration of the shop.")
@click.option("--run-date", required=True, help="Date of the run, YYYY-MM-DD.")
@click.option("--set", "options", multiple=True, metavar="SECTION.KEY=VALUE", help="One setting; repeatable.")
@click.option("--encoder", metavar="DIR", help="Encoder directory; by default the one distilled for the date.")
@click.option(
    "--reuse",
    type=click.Choice(REUSE),
    default="all",
    show_default=True,
    help="What of the live release is used again: vectors builds every shard anew (compaction), none embeds anew, too.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of plan and table.")
@log_options
def command(
    config_path: str | None,
    run_date: str,
    options: tuple[str, ...],
    encoder: str | None,
    reuse: str,
    as_json: bool,
    log_level: str,
    unsafe_debug: bool,
) -> None:
    """Run the job as a command."""
    start_logging(log_level, unsafe=unsafe_debug)
    with exit_codes(STEP):
        config = load_config(config_path, options=options)
        directory = find_encoder(config, check_run_date(run_date), encoder)
        with job_session(config, STEP) as session:
            summary = run(session, config, run_date, encoder_directory=directory, reuse=reuse).as_dict()
    click.echo(json.dumps(summary, indent=1) if as_json else format_summary(summary))


def run(
    session: SparkSession, config: Config, run_date: str, *, encoder_directory: Path, reuse: str = "all"
) -> ReleaseSummary:
    """Publish the release of the date, or return the summary of the run that was published before.

    Raises what `indexer.build.release.build_release` does.
    """
    with (
        located(session, config, STEP, "catalogue") as locations,
        closing(ClusterSite(session, config, run_date, locations["catalogue"])) as site,
    ):
        return build_release(
            config,
            run_date,
            encoder_directory=encoder_directory,
            story=collect_story(config, run_date),
            progress=False,
            reuse=reuse,
            site=site,
        )


def format_summary(summary: dict[str, Any]) -> str:
    """Return the summary as a short text for people."""
    lines = [f"release {summary['run_id']}: {summary['status']}, log entry {summary['sequence']}"]
    for collection in summary["collections"]:
        figures = ", ".join(f"{name.replace('_', ' ')} {show_value(value)}" for name, value in collection.items())
        lines.append(f"  {figures}")
    lines += [f"  rejected {item['table']} {item['reason']}  {item['count']:,}" for item in summary["rejects"]]
    lines.append(f"  report {summary['report']}")
    return "\n".join(map(escape, lines))


if __name__ == "__main__":
    command(prog_name=STEP)
