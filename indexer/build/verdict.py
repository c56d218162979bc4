"""Whether what was built may go live: comparison with the live release, gates, refusals, and the report of both."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from indexer.build.drift import Baseline, Drift, IdSample, measure_drift
from indexer.build.finished import FinishedCollection
from indexer.build.gates import judge_collection, judge_size, require_gates
from indexer.build.golden import GoldenQuery, find_golden
from indexer.build.published import find_baseline
from indexer.build.report import render_report
from indexer.build.run import BuildRun
from indexer.build.story import tell_build
from indexer.build.versions import read_versions
from indexer.config import as_document
from indexer.errors import ContractError, GateError, IntegrityError
from indexer.manifest import GateResult, Manifest
from indexer.runs import now_text

ONE_WRITER = "only one process at a time may write to this store (shop.single_writer)"


def judge_finished(
    run: BuildRun,
    finished: Sequence[FinishedCollection],
    golden: Sequence[GoldenQuery],
    ids: Mapping[str, tuple[IdSample, set[str]]],
) -> list[GateResult]:
    """Compare the collections with the newest release of an earlier night, and return what their gates say.

    Of each, `ids` has a sample of the ids and those that the golden queries want; it gets its `golden`, `drift` and
    `gates`.
    """
    baseline = find_baseline(run.folder.store, run.run_date, run.history)
    gates: list[GateResult] = []
    for collection in finished:
        sample, known = ids[collection.name]
        _ask_golden(collection, golden, known)
        collection.drift = _measure_drift(run, collection, baseline, sample)
        collection.gates = judge_collection(collection, _count_live(baseline, collection.name), run.config.gates)
        gates += collection.gates
    names = {collection.name for collection in finished}
    for item in baseline.collections if baseline else ():
        if item.name not in names:
            gates += judge_size(item.name, 0, item.rows, run.config.gates)
    return gates


def find_refusal(
    run: BuildRun, finished: Sequence[FinishedCollection], gates: Sequence[GateResult]
) -> ContractError | GateError | None:
    """Return what keeps the release from going live, or None."""
    try:
        _check_rejects(run, finished)
        require_gates(gates)
    except (ContractError, GateError) as refusal:
        return refusal
    return None


def write_report(
    run: BuildRun, story: Mapping[str, Any], finished: Sequence[FinishedCollection], gates: Sequence[GateResult]
) -> Path:
    """Write the report beside the run's work, also for a release that a gate refuses."""
    page = render_report(
        {
            **story,
            "run_id": run.folder.run_id,
            "run_date": run.run_date,
            "created_at": now_text(),
            "url": run.folder.store.url,
            **({"writers": ONE_WRITER} if run.config.shop.single_writer else {}),
            **tell_build(finished, run.seconds, story.get("steps", ()), run_folder=f"v/{run.folder.run_id}/"),
            "gates": [gate.__dict__ for gate in gates],
            "encoder": {"name": run.encoder.description.name, "parity": dict(run.encoder.description.parity)},
            "versions": read_versions(),
            "config": as_document(run.config),
        }
    )
    path = run.work / f"report-{run.folder.run_id}.html"
    path.write_text(page, encoding="utf-8")
    return path


def remark_store(run: BuildRun) -> dict[str, dict[str, Any]]:
    """Return what is odd about the store and its log, as remarks on tables are given."""
    remarks: dict[str, dict[str, Any]] = {}
    if run.config.shop.single_writer:
        remarks["STORE"] = {"writers": ONE_WRITER}
    if run.history.void:
        remarks["LOG"] = {"not_trusted": "; ".join(run.history.void.values())}
    return remarks


def _ask_golden(collection: FinishedCollection, golden: Sequence[GoldenQuery], known: set[str]) -> None:
    if golden and collection.name == "products":
        collection.golden = find_golden(
            golden, collection.probe, collection.queries.golden, ef_search=collection.ef_search, known=known
        )


def _measure_drift(
    run: BuildRun, collection: FinishedCollection, baseline: Manifest | None, ids: IdSample
) -> Drift | None:
    """Compare with the release of an earlier night; one that lost objects or has changed ones is no measure."""
    live = next((item for item in baseline.collections if item.name == collection.name), None) if baseline else None
    if baseline is None or live is None:
        return None
    asked = min(run.config.gates.canaries, collection.queries.sampled)
    if collection.unmeasured:
        # Few kept shards beside a delta of all would look like a release of much that is new.
        collection.remarks["canaries_not_asked"] = f"{len(collection.unmeasured)} shards were kept and not measured"
        asked = 0
    try:
        return measure_drift(
            Baseline(manifest=baseline, collection=live, cache=run.cache),
            new_ids=ids,
            encoder=run.encoder,
            canaries=collection.queries.texts[:asked],
            vectors=collection.queries.vectors[:asked],
            answers=(collection.probe, collection.ef_search),
        )
    except IntegrityError as error:
        collection.remarks["not_compared"] = str(error)
        return None


def _count_live(baseline: Manifest | None, name: str) -> int:
    return sum(item.rows for item in baseline.collections if item.name == name) if baseline else 0


def _check_rejects(run: BuildRun, finished: Sequence[FinishedCollection]) -> None:
    """Raise ContractError where duplicates and empty texts push the rejects over the input's limit."""
    products = finished[0]
    allowed = run.config.catalogue.max_reject_share
    rejected = sum(products.rejected.values())
    if rejected > allowed * products.plan.intake.rows_in:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(products.rejected.items()))
        raise ContractError(
            f"CATALOGUE from {run.config.catalogue.path}: {rejected} of {products.plan.intake.rows_in} rows rejected "
            f"({reasons}), more than the allowed share {allowed}; mend the input or raise max_reject_share"
        )
