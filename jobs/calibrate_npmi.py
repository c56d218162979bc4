"""PURCHASES, QUERY_NODES and TAXONOMY -> NPMI_CALIBRATION: how often nodes agree per NPMI decile, and at which tau."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from indexer.config import Config
from indexer.contracts.schemas import NPMI_CALIBRATION, PRODUCT_NODES, PURCHASES, QUERY_NODES, TAXONOMY
from indexer.errors import ConfigError, ContractError
from indexer.input_config import MANY
from indexer.job_config import NpmiConfig
from indexer.runs import StepCommit
from jobs.calibration_page import render_page
from jobs.command import run_job
from jobs.lineages import read_lineages, read_tree, trace_labels
from jobs.npmi_pairs import scored_pairs
from jobs.steps import Account, held, run_step
from spark.calibration import (
    DecileAgreement,
    apart_nodes,
    count_agreement,
    count_cells,
    find_tau,
    measure_deciles,
    part_pairs,
    place_pairs,
    sample_pairs,
    share_of,
    shuffle_pairs,
    split_deciles,
)
from spark.negatives import relate_pairs
from spark.tables import frame_of, read_table

STEP = "calibrate_npmi"
SAMPLE = 500
"""Pairs per decile whose nodes are compared."""
SHOWN = 2
"""Sampled pairs per decile that are kept for people to look at."""


def run(session: SparkSession, config: Config, run_date: str, *, force: bool = False) -> StepCommit:
    """Write NPMI_CALIBRATION of the date and its page, or return the commit that already has them."""
    if config.npmi.variant == "literal":
        raise ConfigError("npmi.variant: `literal` has no upper bound, so no tau can be found; calibrate another one")
    return run_step(
        session,
        config,
        run_date,
        step=STEP,
        sections=("npmi", "nodes"),
        upstream=(PURCHASES, TAXONOMY, PRODUCT_NODES, QUERY_NODES),
        force=force,
        build=lambda folder: build_table(session, config, run_date, folder),
    )


def build_table(session: SparkSession, config: Config, run_date: str, folder: Path) -> Account:
    """Write the table and `calibration.html` below the folder; raises ContractError where there is no pair."""
    account, limits = Account(), config.npmi
    lineages, tree = read_lineages(session, config, run_date), read_tree(session, config, run_date)
    purchases, placed = (read_table(session, config.shop.work, table, run_date) for table in (PURCHASES, PRODUCT_NODES))
    # Every pair counts here, not only the best partners of a query.
    wide = replace(limits, tau=limits.calibration_tau, top_k=MANY)
    with scored_pairs(session, config, wide, run_date, step=STEP) as (scored, _):
        pairs = scored.where("tally IS NULL").select("query_a", "query_b", "npmi")
        cells = {row["cell"]: (row["pairs"], row["mean_npmi"]) for row in count_cells(pairs).collect()}
        if not cells:
            raise ContractError(
                f"PURCHASES of {run_date}: no pair of queries has an NPMI above {limits.calibration_tau} and enough "
                "support; lower npmi.calibration_tau or npmi.min_support"
            )
        deciles = split_deciles(cells, above=limits.calibration_tau)
        sample = sample_pairs(place_pairs(pairs, deciles), size=SAMPLE)
        with held(relate_pairs(sample, lineages, how="left")) as related:
            counts = {row.pop("decile"): row for row in _rows(count_agreement(related, "decile"))}
            shown = related.where(F.col("place") <= SHOWN).orderBy("decile", "place").drop("place")
            samples = [row | {"npmi": round(row["npmi"], 4)} for row in _rows(shown)]
        others = trace_labels(apart_nodes(sample, purchases, placed), tree, config.nodes)
        by_others = count_agreement(relate_pairs(part_pairs(sample), others, how="left"), "decile")
        apart = {row.pop("decile"): row for row in _rows(by_others)}
        by_chance = relate_pairs(shuffle_pairs(sample), lineages, how="left")
        (chance,) = _rows(count_agreement(by_chance))
    rows = measure_deciles(deciles, counts, apart)
    account.figures |= describe(rows, limits) | {"chance_agreement": share_of(chance)}
    account.figures |= {"deciles": [asdict(row) for row in rows], "samples": samples}
    table = pa.Table.from_pylist(account.figures["deciles"], schema=NPMI_CALIBRATION.schema)
    account.write(frame_of(session, table).coalesce(1), folder, NPMI_CALIBRATION)
    page = folder / "calibration.html"
    page.write_text(render_page(account.figures, run_date=run_date, shop=config.shop.name), encoding="utf-8")
    account.figures["page"] = str(page)
    return account


def describe(rows: Sequence[DecileAgreement], limits: NpmiConfig) -> dict[str, Any]:
    """Return the figures that answer which tau reaches the target, in a sentence and as a number."""
    tau, target = find_tau(rows, target=limits.target_agreement), limits.target_agreement
    if tau is not None:
        verdict = f"tau {tau}: the pairs above it reach an agreement of {target}; tau is {limits.tau} now"
    elif any(row.labelled for row in rows):
        best = max(row.agreement_above for row in rows if row.agreement_above is not None)
        verdict = f"no tau reaches an agreement of {target}; the best is {best}"
    else:
        verdict = "no sampled pair has two queries with confident nodes, so agreement cannot be measured"
    return {"verdict": verdict, "target_agreement": target, "calibrated_tau": tau}


def _rows(frame: DataFrame) -> list[dict[str, Any]]:
    return [row.asDict() for row in frame.collect()]


if __name__ == "__main__":
    run_job(STEP, run)
