"""The report of a comparison: its rows as JSON, and a self-contained HTML page without scripts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import Markup

from indexer.distill.comparison import Comparison
from indexer.distill.comparison_table import TableRow
from indexer.distill.evaluate import WHOLE
from indexer.distill.pages import changed_settings, render_page
from indexer.line_plot import Range, Series, draw_lines, draw_ranges

MAIN = ("auc", "fold_auc", "query_auc", "precision", "recall", "recall_98", "ndcg_5", "ndcg_10", "ndcg_all", "typo_auc")
RETRIEVAL = (
    *("exact_e_10", "index_e_10", "exact_e_100", "index_e_100", "exact_es_10", "index_es_10", "exact_es_100"),
    *("index_es_100", "index_recall_10", "index_recall_100"),
)
QUERIES = ("qq_answered", "qq_irrelevant", "qq_irrelevant_unseen")
COMPARED = ("auc", "fold_auc", "query_auc", "ndcg_10")
SWEPT = (*COMPARED, "qq_irrelevant")
SPLIT_SETTINGS = ("seed", "test_share", "test_start", "ablations")


def write_report(comparison: Comparison, rows: Sequence[TableRow], *, baseline: str) -> Path:
    """Write `table.json` and `report.html` into the comparison's folder and return the page's path."""
    config = comparison.config
    facts = {
        "shop": config.shop.name,
        "run date": comparison.run_date,
        "judged pairs": rows[0].pairs,
        "judged queries": rows[0].queries,
        "folds": comparison.folds,
        "folds tested": comparison.tested,
        "baseline": baseline,
        "validation share": config.distill.validation_share,
        "products searched": len(comparison.data.products) + len(comparison.data.unlabelled),
    }
    settings = {
        name: changed_settings(variant.config.distill, left_out=SPLIT_SETTINGS)
        for name, variant in comparison.variants.items()
    }
    document = {"facts": facts, "settings": settings, "rows": [asdict(row) for row in rows]}
    (comparison.out / "table.json").write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    page = comparison.out / "report.html"
    page.write_text(render_comparison(rows, facts=facts, settings=settings), encoding="utf-8")
    return page


def render_comparison(
    rows: Sequence[TableRow], *, facts: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]]
) -> str:
    """Return the page; all text is escaped. `facts` name the baseline and how many products are searched."""
    whole = [row for row in rows if row.part == WHOLE]
    slices = list(dict.fromkeys((row.part, row.queries, row.pairs) for row in rows if row.part != WHOLE))
    by_part = {(row.name, row.part): row for row in rows}
    return render_page(
        "comparison.html",
        title="Comparison of methods",
        facts=facts,
        rows=whole,
        tables={"main": MAIN, "retrieval": RETRIEVAL, "queries": QUERIES},
        compared=COMPARED,
        slices=slices,
        by_part=by_part,
        plots={figure: Markup(_plot_differences(whole, figure)) for figure in COMPARED},
        sweeps=[{"name": name, "plots": plots} for name, plots in _plot_sweeps(whole).items()],
        settings=settings,
    )


def _plot_differences(rows: Sequence[TableRow], figure: str) -> str:
    found = [(row.name, interval) for row in rows if (interval := row.differences.get(figure)) is not None]
    ranges = [Range(name, interval.difference, interval.low, interval.high) for name, interval in found]
    return draw_ranges(ranges, label=f"difference of {figure}")


def _plot_sweeps(rows: Sequence[TableRow]) -> dict[str, list[Markup]]:
    """Draw the figures of each sweep of a number over its values."""
    plots: dict[str, list[Markup]] = {}
    for name in dict.fromkeys(row.swept[0] for row in rows if row.swept):
        swept = sorted((row.swept[1], row) for row in rows if row.swept and row.swept[0] == name)
        for figure in SWEPT:
            points = [(at, value) for at, row in swept if (value := row.figures.get(figure)) is not None]
            if len(points) > 1:
                plots.setdefault(name, []).append(
                    Markup(draw_lines([Series(figure, points)], label=f"{name}: {figure}"))
                )
    return plots
