"""The report of one distillation: what came of it, and how each of its models learned, as one page."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from indexer.config import Config
from indexer.console import clean
from indexer.distill.card import describe_window
from indexer.distill.evaluate import EvaluationRow
from indexer.distill.pages import changed_settings, render_page
from indexer.distill.trainer import TrainingResult
from indexer.line_plot import draw_history

MEASURED = (
    *("pairs", "queries", "auc", "query_auc", "precision", "recall", "recall_98"),
    *("ndcg_5", "ndcg_10", "ndcg_all"),
)
VALIDATED = ("auc", "query_auc", "ndcg_10")


def render_training(
    name: str,
    run_date: str,
    config: Config,
    counts: Mapping[str, Any],
    results: Mapping[str, TrainingResult],
    rows: Sequence[EvaluationRow],
    parity: Mapping[str, Mapping[str, float]],
) -> str:
    """Return the page; all text is escaped. `parity` has the cosines of each export with the student."""
    distill = config.distill
    settings = {
        f"{section}.{key}": value
        for section, found in (("distill", distill), ("berm", config.berm))
        for key, value in changed_settings(found).items()
    }
    facts = {
        "shop": config.shop.name,
        "data": describe_window(config, run_date),
        "method": distill.method,
        "student": distill.student,
        "teachers": ", ".join(distill.teachers),
    }
    return render_page(
        "training.html",
        title=name,
        facts=facts,
        rows=rows,
        measured=MEASURED,
        parity=parity,
        trainings=[_describe_training(role, result) for role, result in results.items()],
        counts=counts,
        settings=settings,
    )


def _describe_training(role: str, result: TrainingResult) -> dict[str, Any]:
    """Return what the page shows of a role, its curves by what they tell."""
    curves: dict[str, dict[str, Markup]] = {"losses": {}, "validation": {}, "mining and time": {}}
    for figure, svg in draw_history(result.history).items():
        kind = "validation" if figure in VALIDATED else "mining and time"
        # A loss may bear the name of a source of labels, which the shop gave.
        curves["losses" if figure.startswith("loss") else kind][figure] = Markup(clean(svg))
    return {"role": role, "epochs": len(result.history) - 1, "best": result.best_epoch, "curves": curves}
