"""The model card of a student: what it was made of and what it can do."""

from collections.abc import Mapping, Sequence
from typing import Any

from indexer.config import Config
from indexer.distill.evaluate import EvaluationRow
from indexer.distill.objective import student_objective
from indexer.distill.trainer import TrainingResult
from indexer.distill_config import DistillConfig

PAIRS = ("labels", "similar", "dissimilar")
"""Terms of the student's loss with an alpha of their own."""
ADDED = {
    "alpha_teacher": "alignment with the teacher's vectors x",
    "alpha_start": "alignment with the start's vectors x",
    "teacher_alpha_start": "the teacher's alignment with its start x",
    "alpha_margin": "margin-MSE x",
    "alpha_listwise": "listwise KL x",
    "alpha_cosent": "CoSENT x",
    "scored_share": "unlabelled pairs per labelled one",
    "start_share": "share of the starting weights",
}
"""What is beside KD-Boost, as the card names it where it counts."""
FIGURES = ("auc", "query_auc", "precision", "recall", "ndcg_5", "ndcg_10")


def render_card(
    name: str,
    run_date: str,
    config: Config,
    counts: Mapping[str, Any],
    results: Mapping[str, TrainingResult],
    rows: Sequence[EvaluationRow],
) -> str:
    """Return the card as Markdown with the metadata block that sentence-transformers folders carry."""
    distill = config.distill
    layers = f"layers {', '.join(map(str, distill.student_layers)) or 'all'}"
    start = "the vectors of single tokens" if distill.student_kind == "static" else layers
    epochs = "; ".join(
        f"{role} {len(result.history) - 1} epochs, kept {result.best_epoch}" for role, result in results.items()
    )
    made_of = "\n".join(
        [
            f"- **Start**: {start} of `{distill.student}`; mean pooling, L2 norm.",
            *_describe_label_free(distill, results),
            *_describe_teachers(distill, results),
        ]
    )
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, feature-extraction, distillation, product-search]
---

# {name}

Encodes shop queries and products into unit vectors whose dot product says how relevant a product is to a query.

{made_of}
- **Student loss**: {_describe_loss(distill, results)}; method `{distill.method}` of the project; weights of the epoch
  with the best mean of {", ".join(distill.select_by)} on held-out validation queries, or of a later one within
  {distill.select_within:g} standard errors of it ({epochs}).
- **Texts**: queries lower case, cut at {distill.query_tokens} tokens; products as
  `{config.catalogue.text_separator.join(config.catalogue.text_fields)}`, cut at {distill.product_tokens} tokens.

## Data

{describe_window(config, run_date)}

| part | pairs | queries |
| --- | --- | --- |
| training labels | {counts["train_pairs"]:,} | {counts["train_queries"]:,} |
| validation labels | {counts["validation_pairs"]:,} | {counts["validation_queries"]:,} |
| test labels | {counts["test_pairs"]:,} | {counts["test_queries"]:,} |
| similar query pairs | {counts["similar_pairs"]:,} | |
| dissimilar query pairs, before mining | {counts["dissimilar_pairs"]:,} | |

## Figures on held-out queries

| model | {" | ".join(FIGURES)} |
| --- | {" | ".join("---" for _ in FIGURES)} |
{_table(rows)}

ROC-AUC: E and S against C and I, over all pairs (`auc`) and as the mean over queries (`query_auc`). Precision and
recall at a score of 0.7. NDCG: gains E 1, S 0.1, C 0.01, I 0.

## Licence

{_describe_origin(distill)} (all-MiniLM-L6-v2: Apache-2.0). The shop's own data may carry further terms.
"""


def describe_window(config: Config, run_date: str) -> str:
    """Return the date of the run and the days whose purchases counted, as sentences."""
    purchases = config.purchases
    if not purchases.path:
        return f"Run date {run_date}; no purchases."
    days = f"the {purchases.lookback_days} days that end with it" if purchases.lookback_days else "all days up to it"
    half = f", half-life {purchases.half_life_days} days" if purchases.half_life_days else ""
    return f"Run date {run_date}; purchases of {days}{half}."


def _describe_label_free(distill: DistillConfig, results: Mapping[str, TrainingResult]) -> list[str]:
    """Return a line for each training that was held to vectors, on texts without labels."""
    told = {
        "recovered": f"- **Recovery**: before it was taught, brought back to the whole of `{distill.student}`",
        "quantised": "- **int8**: a copy that computes in int8, brought back to the student",
    }
    return [
        f"{line} on texts without labels, {len(results[role].history) - 1} epochs."
        for role, line in told.items()
        if role in results
    ]


def _describe_teachers(distill: DistillConfig, results: Mapping[str, TrainingResult]) -> list[str]:
    if not student_objective(distill).asks_teachers:
        return []
    trained = "; frozen while they teach."
    if distill.encoder_teachers():
        equations = _describe_equations(distill, [results[role] for role in results if role.startswith("teacher")])
        trained = f", the encoders among them trained with KD-Boost {equations}{trained}"
    return [f"- **Teachers**: {_list_teachers(distill)}{trained}"]


def _describe_equations(distill: DistillConfig, results: Sequence[TrainingResult]) -> str:
    """Return which of equations 5 and 6 were paid: 6 adds the dissimilar pairs, where any counted in some epoch."""
    reached = [row["epoch"] for result in results for row in result.history if "loss_dissimilar" in row]
    return f"equation 5, with 6 from epoch {min(reached)}" if reached and distill.alpha_dissimilar else "equation 5"


def _describe_origin(distill: DistillConfig) -> str:
    if not student_objective(distill).asks_teachers:
        return f"The weights derive from `{distill.student}`; its licence holds for this model too"
    return (
        f"The weights derive from `{distill.student}` and, through what they teach, from {_list_teachers(distill)}; "
        "their licences hold for this model too"
    )


def _list_teachers(distill: DistillConfig) -> str:
    return ", ".join(f"`{teacher}`" for teacher in distill.teachers)


def _describe_loss(distill: DistillConfig, results: Mapping[str, TrainingResult]) -> str:
    """Return the terms of the student's loss that count, in words."""
    objective = student_objective(distill)
    paid = {name: objective.terms[name].alpha if name in objective.terms else 0.0 for name in PAIRS}
    by_pairs = paid["similar"] or paid["dissimilar"]
    first = []
    if distill.gamma:
        first.append(f"KD-Boost equation 7, gamma {distill.gamma}")
    elif by_pairs or (paid["labels"] and distill.label_loss == "bands"):
        first.append(
            f"KD-Boost {_describe_equations(distill, [results[role] for role in results if role == 'student'])}"
        )
    if distill.gamma or any(paid.values()):
        theta = f", theta {distill.theta_low} to {distill.theta_high}" if distill.label_loss == "bands" else ""
        first.append(f"labels by {distill.label_loss}{theta}, alphas {' / '.join(map(str, paid.values()))}")
    added = [f"{name} {value}" for key, name in ADDED.items() if (value := getattr(distill, key))]
    factors = any(term.factor for term in objective.lists.values())
    added += ["logits met by a learned factor of the cosines"] if factors else []
    untaught = [] if objective.asks_teachers else ["no teacher asked"]
    return ", ".join([*first, *added, *untaught])


def _table(rows: Sequence[EvaluationRow]) -> str:
    lines = []
    for row in rows:
        values = [getattr(row, name) for name in FIGURES]
        cells = ["-" if value is None else f"{value:.4f}" for value in values]
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return "\n".join(lines)
