"""Gates on a whole release: expected against found, each with a setting of `[gates]`.

Any that refuses keeps the release from going live. Gates on shares are judged where there are rows enough for a share
to mean something, so that a first night and a small shop pass.
"""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from indexer.build.answers import Hub, OwnTitles
from indexer.build.drift import Drift
from indexer.build.finished import FinishedCollection
from indexer.build.golden import GoldenFindings
from indexer.build.recall import NARROW, Recall
from indexer.encoder import EncoderDescription
from indexer.errors import GateError
from indexer.index_config import GatesConfig
from indexer.manifest import GateResult
from indexer.text import shorten

GROWTH_ROWS = 1_000
"""Live rows from which growth is judged: a young shop doubles."""
DRIFT_ROWS = 100
"""Rows, live and new, from which exchanged ids and answers are judged."""
DRIFT_CANARIES = 20
OWN_ROWS = 50
HUB_FACTOR = 20


def judge_collection(item: FinishedCollection, live_rows: int, gates: GatesConfig) -> list[GateResult]:
    """Return all gates of a collection; `live_rows` are those of the live release, 0 without one."""
    name, rows = item.name, item.rows
    rejected = sum(item.rejected.values())
    return [
        judge_rows(name, item.plan.intake.rows_in, rows, item.duplicates, rejected),
        *(judge_size(name, rows, live_rows, gates) if live_rows else ()),
        judge_vectors(name, item.tally.norm_error, gates),
        *judge_kept_vectors(name, item.tally.kept_cosines, gates),
        *judge_recall(name, list(item.shard_recall.values()), item.recall, gates),
        # Beside few of the other rows, any row of a delta would be everywhere.
        *judge_hubs(name, None if item.unmeasured else item.hub, rows, gates),
        *judge_own_titles(name, item.own_titles, gates),
        *(judge_drift(name, item.drift, rows, gates) if item.drift else ()),
        *([judge_golden(item.golden, gates)] if item.golden else ()),
    ]


def judge_recall(collection: str, shards: Sequence[Recall], merged: Recall, gates: GatesConfig) -> list[GateResult]:
    """Return the recall gates of a collection, over all shards and for the worst shard."""
    found = {
        "recall@10": (merged.at_10, gates.min_recall_10),
        "recall@100": (merged.at_100, gates.min_recall_100),
        "worst shard recall@10": (min(shard.at_10 for shard in shards), gates.min_recall_10),
        "worst shard recall@100": (min(shard.at_100 for shard in shards), gates.min_recall_100),
    }
    return [_at_least(f"{collection} {name}", value, least) for name, (value, least) in found.items()]


def judge_encoder(encoder: EncoderDescription, gates: GatesConfig) -> list[GateResult]:
    """Return the gate on the cosine between the trained student and its export, where the export measured it."""
    found = encoder.parity.get("mean_cosine")
    if not isinstance(found, int | float):
        return []
    least = gates.min_parity_fp32 if encoder.precision == "fp32" else gates.min_parity_int8
    return [_at_least(f"encoder parity {encoder.precision}", float(found), least)]


def judge_rows(collection: str, rows_in: int, indexed: int, duplicates: int, rejected: int) -> GateResult:
    """Return the gate that every row read is indexed, a duplicate or rejected."""
    lost = rows_in - indexed - duplicates - rejected
    return GateResult(name=f"{collection} rows lost", expected="0", found=float(lost), passed=lost == 0)


def judge_size(collection: str, rows: int, live_rows: int, gates: GatesConfig) -> list[GateResult]:
    """Return the gates on rows lost and gained against the live release."""
    lost = round(max(0.0, 1 - rows / live_rows), 6)
    gained = round(max(0.0, rows / live_rows - 1), 6)
    found = [_at_most(f"{collection} share lost since an earlier night", lost, gates.max_shrink)]
    if live_rows >= GROWTH_ROWS:
        found.append(_at_most(f"{collection} share gained since an earlier night", gained, gates.max_growth))
    return found


def judge_vectors(collection: str, norm_error: float, gates: GatesConfig) -> GateResult:
    """Return the gate on the length of the vectors."""
    return _at_most(f"{collection} norm error", norm_error, gates.max_norm_error)


def judge_kept_vectors(collection: str, cosines: Sequence[float], gates: GatesConfig) -> list[GateResult]:
    """Return the gate on vectors of the live release beside those of the same texts embedded tonight."""
    if not cosines:
        return []
    return [_at_least(f"{collection} cosine of kept vectors", fmean(cosines), gates.min_kept_cosine)]


def judge_own_titles(collection: str, own: OwnTitles | None, gates: GatesConfig) -> list[GateResult]:
    """Return the gate on rows that a search for their own text finds; of few rows it says nothing."""
    if own is None or own.asked < OWN_ROWS:
        return []
    return [_at_least(f"{collection} found by their own text", own.found / own.asked, gates.min_own_title)]


def judge_hubs(collection: str, hub: Hub | None, rows: int, gates: GatesConfig) -> list[GateResult]:
    """Return the gate on the row that the most queries have among their first 10.

    On average a row is in 10 / rows of the lists, and some are in more: up to 9 times that in clean catalogues of real
    titles. So the limit means something where it is 20 times that at least, and where 20 lists would reach it.
    """
    limit = gates.max_hub_share
    if hub is None or rows * limit < HUB_FACTOR * NARROW or hub.queries * limit < HUB_FACTOR:
        return []
    gate = _at_most(f"{collection} share of queries with one row among the first 10", hub.share, limit)
    return [gate if gate.passed else replace(gate, expected=f"{gate.expected}, exceeded by {shorten(hub.name)}")]


def judge_golden(findings: GoldenFindings, gates: GatesConfig) -> GateResult:
    """Return the gate on the golden queries' products; those that the catalogue lacks are named apart."""
    gate = _at_least("golden queries", findings.share, gates.min_golden)
    if gate.passed:
        return gate
    parts = []
    if findings.missed:
        first = findings.missed[0]
        parts.append(
            f"{len(findings.missed)} not within rank, such as {shorten(first.product_id)} for {shorten(first.query)}"
        )
    if findings.absent:
        parts.append(f"{len(findings.absent)} not in the catalogue, such as {shorten(findings.absent[0].product_id)}")
    return replace(gate, expected=f"{gate.expected} ({'; '.join(parts)})")


def judge_drift(collection: str, drift: Drift, rows: int, gates: GatesConfig) -> list[GateResult]:
    """Return the gates on ids that were exchanged and on answers that changed; of few rows they say nothing."""
    if min(drift.live_rows, rows) < DRIFT_ROWS:
        return []
    found = [_at_most(f"{collection} share of ids exchanged", drift.churn.exchanged, gates.max_exchange)]
    if len(drift.canaries) >= DRIFT_CANARIES:
        least = gates.min_overlap if drift.same_encoder else gates.min_overlap_new_encoder
        made_by = "the same encoder" if drift.same_encoder else "another encoder"
        found.append(_at_least(f"{collection} canary overlap@10 with a release by {made_by}", drift.overlap, least))
    return found


def require_gates(results: Sequence[GateResult]) -> None:
    """Raise GateError naming every gate that refused."""
    refused = [gate for gate in results if not gate.passed]
    if refused:
        reasons = "; ".join(f"{gate.name}: expected {gate.expected}, found {gate.found:.4f}" for gate in refused)
        raise GateError(f"gate {reasons}; nothing was published, the live release is untouched")


def _at_least(name: str, found: float, least: float) -> GateResult:
    return GateResult(name=name, expected=f"at least {least}", found=round(found, 6), passed=found >= least)


def _at_most(name: str, found: float, most: float) -> GateResult:
    return GateResult(name=name, expected=f"at most {most}", found=round(found, 9), passed=found <= most)
