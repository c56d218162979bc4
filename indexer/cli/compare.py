"""`indexer compare`: train methods on folds of the labelled queries and compare them."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from indexer.claims import tell_refusals
from indexer.cli.options import config_options, date_options, json_option, print_json, show_progress
from indexer.cli.summary import format_value, print_table

if TYPE_CHECKING:
    from indexer.distill.comparison_table import TableRow

SHOWN = ("auc", "fold_auc", "query_auc", "ndcg_10", "recall_98", "typo_auc", "exact_e_100", "qq_irrelevant", "seconds")


@click.command()
@config_options
@date_options
@click.option("--methods", default="direct,kd-soft,hiss,kd-boost,default", help="Names, or NAME:SEEDS, by commas.")
@click.option("--sweep", "sweeps", multiple=True, metavar="METHOD:KEY=[VALUES]", help="One row per value of a setting.")
@click.option(
    "--folds",
    type=click.IntRange(min=2),
    default=5,
    help="Parts of the labelled queries, each tested by trainings on the others.",
)
@click.option("--test-folds", type=click.IntRange(min=1), help="Test the first so many folds alone; else all.")
@click.option("--seeds", type=click.IntRange(min=1), default=2, help="Trainings per method and fold.")
@click.option("--sweep-seeds", type=click.IntRange(min=1), default=1, help="Trainings per value of a sweep and fold.")
@click.option("--baseline", help="Row that the others are compared with; else the first method.")
@click.option("--out", required=True, metavar="DIR", help="Folder of the comparison; what is finished there stays.")
@json_option
def compare(
    config_path: str | None,
    settings: tuple[str, ...],
    run_date: str,
    methods: str,
    sweeps: tuple[str, ...],
    folds: int,
    test_folds: int | None,
    seeds: int,
    sweep_seeds: int,
    baseline: str | None,
    out: str,
    no_progress: bool,
    as_json: bool,
) -> None:
    """Train methods on folds of the labelled queries and print their figures, with intervals of the differences.

    Each method is a row of indexer/methods.py. The command may be stopped and given again: trainings that are finished
    are not repeated. DIR/report.html has every figure.

    \b
    Example:
      indexer compare --config shop.toml --run-date 2026-11-20 --out comparison \\
        --methods direct,kd-boost,rtsm:1 --sweep 'kd-boost:gamma=[0.5, 1.0]'
    """
    from indexer.distill.comparison import Comparison, describe_plan
    from indexer.distill.comparison_plan import read_variants
    from indexer.distill.comparison_report import write_report

    named = [name.strip() for name in methods.split(",") if name.strip()]
    variants = read_variants(
        config_path, options=settings, methods=named, sweeps=sweeps, seeds=seeds, sweep_seeds=sweep_seeds
    )
    with tell_refusals(Path(out)):
        comparison = Comparison(variants, run_date, folds=folds, out=Path(out), tested=test_folds)
        against = baseline or variants[0].name
        comparison.check_baseline(against)
        click.echo(describe_plan(comparison.cells), err=True)
        comparison.train(progress=show_progress(no_progress))
        rows = comparison.tabulate(baseline=against)
        report = write_report(comparison, rows, baseline=against)
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    print_table([_show(row) for row in rows if row.part == "all"])
    click.echo(f"  differences from {against}, with 95 % of a paired bootstrap by query; report  {report}")


def _show(row: "TableRow") -> dict[str, Any]:
    shown: dict[str, Any] = {"name": row.name, "seeds": row.seeds}
    for name in SHOWN:
        spread = row.deviations.get(name)
        shown[name] = format_value(row.figures.get(name)) + (f" ±{spread:.4f}" if spread is not None else "")
        if name in ("auc", "fold_auc", "query_auc", "ndcg_10"):
            found = row.differences.get(name)
            shown[f"{name} vs"] = f"{found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}]" if found else "-"
    return shown
