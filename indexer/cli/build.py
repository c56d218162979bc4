"""`indexer build`: embed catalogue and curated queries and publish a release."""

import click

from indexer.cli.options import config_options, date_options, json_option, open_config, print_json, show_progress
from indexer.cli.summary import print_plan, print_release
from indexer.index_config import REUSE


@click.command()
@config_options
@date_options
@click.option("--encoder", metavar="DIR", help="Encoder directory; by default the one distilled for the date.")
@click.option(
    "--reuse",
    type=click.Choice(REUSE),
    default="all",
    show_default=True,
    help="What of the live release is used again: vectors builds every shard anew (compaction), none embeds anew, too.",
)
@click.option("--dry-run", "dry", is_flag=True, help="Show the plan, and build nothing.")
@click.option("--memory-limit", metavar="GIB", type=float, help="Refuse a build that is expected to need more.")
@json_option
def build(
    config_path: str | None,
    settings: tuple[str, ...],
    run_date: str,
    no_progress: bool,
    encoder: str | None,
    reuse: str,
    dry: bool,
    memory_limit: float | None,
    as_json: bool,
) -> None:
    """Embed products and curated queries, build the shards, verify and publish them.

    Where the live release was made by the same encoder, what did not change is not embedded or built again.

    \b
    Examples:
      indexer build --config shop.toml --run-date 2026-11-20
      indexer build --config shop.toml --run-date 2026-11-20 --dry-run --memory-limit 4
      indexer build --config shop.toml --run-date 2026-11-20 --reuse vectors
      indexer build --config shop.toml --run-date 2026-11-20 --encoder models/student
    """
    from indexer.build.night import collect_story, find_encoder
    from indexer.build.release import build_release

    if memory_limit is not None:
        settings = (*settings, f"index.memory_limit_gib={memory_limit}")
    loaded = open_config(config_path, settings)
    summary = build_release(
        loaded,
        run_date,
        encoder_directory=find_encoder(loaded, run_date, encoder),
        story=collect_story(loaded, run_date),
        progress=show_progress(no_progress),
        reuse=reuse,
        dry=dry,
    )
    if as_json:
        print_json(summary.as_dict())
    elif summary.status == "planned":
        print_plan(summary.as_dict())
    else:
        print_release(summary.as_dict())
