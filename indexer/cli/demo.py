"""`indexer demo`: a generated shop, the whole nightly job, and a few searches."""

from dataclasses import replace
from pathlib import Path

import click

from indexer.claims import tell_refusals
from indexer.cli.options import show_progress
from indexer.cli.steps import run_nightly
from indexer.cli.summary import print_night, print_step
from indexer.config_file import load_config
from indexer.text import escape

RUN_DATE = "2026-01-07"
"""The last day of the generated purchases."""

SEARCHES = (
    ("couch", "a synonym: most of the products are called sofa"),
    ("baby sipper", "two words"),
    ("hedphones", "a misspelling"),
)


@click.command()
@click.option("--folder", default="demo-shop", metavar="DIR", help="Folder for the shop, its tables and its release.")
@click.option(
    "--size",
    type=click.Choice(["small", "medium", "large"]),
    default="small",
    show_default=True,
    help="medium has 13,000 labels and large 50,000, to compare methods on.",
)
@click.option(
    "--label-noise",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Part of the labels whose grade is drawn by chance; by default 0, of medium and large 0.1.",
)
@click.option("--shop-only", is_flag=True, help="Generate the shop, and stop.")
@click.option("--no-progress", is_flag=True, help="No progress bars.")
def demo(folder: str, size: str, label_noise: float | None, shop_only: bool, no_progress: bool) -> None:
    """Generate a shop with known answers, run the nightly job on it and search the release.

    Needs no network, no cloud account and no GPU. Run again, it skips what is finished.

    \b
    Example:
      indexer demo --folder demo-shop
    """
    from indexer.demo.shop import SHOPS, write_demo_shop
    from indexer.reader import open_index

    home = Path(folder)
    if not (home / "shop.toml").exists():
        settings = SHOPS[size] if label_noise is None else replace(SHOPS[size], label_noise=label_noise)
        with tell_refusals(home):
            answers = write_demo_shop(home, settings)
        click.echo(f"shop  {home}  {answers.products} products, {len(answers.synonyms)} planted synonym pairs")
    else:
        click.echo(f"shop  {home}  is there already, whatever its size")
    if shop_only:
        return
    config = load_config(str(home / "shop.toml"))
    summary = run_nightly(
        config,
        RUN_DATE,
        progress=show_progress(no_progress),
        on_step=lambda commit, status: print_step(commit, status=status),
    )
    index = open_index(config.shop.release)
    for text, why in SEARCHES:
        click.echo(f"\nindexer query {config.shop.release} {text!r}  ({why})")
        for hit in index.search(text, k=3):
            click.echo(f"  {hit.score:.3f}  {hit.id}  {escape(hit.text or '')}")
        others = ", ".join(index.reformulate(text, k=3))
        click.echo(f"  reformulations: {escape(others)}")
    click.echo("")
    print_night(summary)
