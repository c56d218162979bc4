"""What a build did and measured, as plain values for its report."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from indexer.build.drift import Canary
from indexer.build.finished import FinishedCollection
from indexer.build.recall import DEPTH, Name, count_asked, estimate_interval, find_rung
from indexer.manifest import ShardEntry

SHOWN_CANARIES = 20
"""Canary queries in the report, those that changed most."""
SHOWN_HITS = 5
SHOWN_GOLDEN = 50


def tell_build(
    finished: Sequence[FinishedCollection],
    seconds: Mapping[str, float],
    steps: Iterable[Mapping[str, Any]],
    *,
    run_folder: str,
) -> dict[str, Any]:
    """Return the build's part of the report; `steps` came before it, `run_folder` is the prefix of its own objects."""
    build = {
        "step": "build",
        "seconds": round(sum(seconds.values()), 1),
        "counts": {
            "inputs": gather_remarks(finished),
            **{item.name: item.as_figures() for item in finished},
        },
        "rejects": [row for item in finished for row in item.rejects],
    }
    return {
        "steps": [*steps, build],
        "collections": [item.as_figures() for item in finished],
        "funnel": [_count_rows(item) for item in finished],
        "search": [_tell_search(item) for item in finished],
        "drift": [_tell_drift(item) for item in finished if item.drift],
        "golden": [row for item in finished for row in _tell_golden(item)],
        "sizes": [row for item in finished for row in _count_bytes(item, run_folder)],
        "stages": [{"stage": name, "seconds": value} for name, value in seconds.items()],
    }


def gather_remarks(finished: Sequence[FinishedCollection]) -> dict[str, dict[str, Any]]:
    """Return what is odd about the inputs and what could not be looked at, by table or collection."""
    remarks = {table: found for item in finished for table, found in item.plan.intake.remarks.items()}
    remarks |= {item.name: dict(item.remarks) for item in finished if item.remarks}
    absent = [golden.product_id for item in finished if item.golden for golden in item.golden.absent]
    if absent:
        remarks["GOLDEN_QUERIES"] = {"absent": len(absent), "absent_such_as": ", ".join(absent[:SHOWN_HITS])}
    return remarks


def _count_rows(item: FinishedCollection) -> dict[str, Any]:
    """Return the funnel of a collection's rows."""
    rejected = {f"rejected {reason}": -count for reason, count in sorted(item.rejected.items())}
    tally = item.tally
    return {
        "collection": item.name,
        "read": item.plan.intake.rows_in,
        "duplicates": -item.duplicates,
        **rejected,
        "indexed": item.rows,
        "texts embedded tonight": tally.embedded,
    }


def _tell_search(item: FinishedCollection) -> dict[str, Any]:
    """Return recall and latency over efSearch, and both at the chosen one."""
    seconds = {rung: item.probe.seconds[find_rung(item.probe.seconds, rung)] for rung in item.curve}
    chosen = seconds[find_rung(seconds, item.ef_search)] * 1e3
    sampled = item.probe.sampled
    return {
        "name": item.name,
        "figures": {
            "efSearch": item.ef_search,
            "probe queries": sampled,
            "shards measured": f"{len(item.shard_curves)} of {len(item.shards)}",
            "recall@10": item.recall.at_10,
            "recall@10, 95 % interval": _show_interval(item.recall.at_10, sampled),
            "recall@100": item.recall.at_100,
            "recall@100, 95 % interval": _show_interval(item.recall.at_100, count_asked(sampled, DEPTH)),
            "ms a search of 10 in the measured shards, p50": round(float(np.percentile(chosen, 50)), 3),
            "ms a search of 10 in the measured shards, p99": round(float(np.percentile(chosen, 99)), 3),
            **_tell_answers(item),
        },
        "curve": [
            {
                "ef_search": rung,
                "recall_10": recall.at_10,
                "recall_100": recall.at_100,
                "ms": round(float(np.mean(seconds[rung])) * 1e3, 3),
            }
            for rung, recall in sorted(item.curve.items())
        ],
        "shards": [
            {
                "shard": number,
                "recall_10": recall.at_10,
                "recall_10_interval": _show_interval(recall.at_10, sampled),
                "recall_100": recall.at_100,
                "recall_100_interval": _show_interval(recall.at_100, count_asked(sampled, DEPTH)),
            }
            for number, recall in item.shard_recall.items()
        ],
    }


def _tell_answers(item: FinishedCollection) -> dict[str, Any]:
    hub, own = item.hub, item.own_titles
    return {
        "most frequent row": f"{hub.name} for {hub.share:.1%} of the queries" if hub else "-",
        "rows found by their own text": f"{own.found} of {own.asked}" if own else "-",
    }


def _show_interval(share: float, sample: int) -> str:
    low, high = estimate_interval(share, sample)
    return f"{low:.4f} to {high:.4f}"


def _tell_drift(item: FinishedCollection) -> dict[str, Any]:
    drift = item.drift
    assert drift
    changed = sorted(drift.canaries, key=lambda canary: canary.overlap)
    return {
        "name": item.name,
        "figures": {
            "rows before": drift.live_rows,
            "rows": item.rows,
            "ids compared": drift.churn.live,
            "ids gone": drift.churn.gone,
            "ids new": drift.churn.new,
            "same encoder": drift.same_encoder,
            "canary queries": len(drift.canaries),
            "median overlap of the first 10": drift.overlap,
            "canary queries with the same first 10": sum(canary.overlap == 1 for canary in drift.canaries),
        },
        "canaries": [_tell_canary(canary) for canary in changed[:SHOWN_CANARIES]],
    }


def _tell_canary(canary: Canary) -> dict[str, Any]:
    """Return the first hits of both releases beside each other, marked where the other's first 10 lack them."""
    live, new = ({name for name, _ in hits} for hits in (canary.live, canary.new))
    pairs = zip_longest(canary.live[:SHOWN_HITS], canary.new[:SHOWN_HITS])
    return {
        "query": canary.query,
        "overlap": canary.overlap,
        "hits": [{"live": _tell_hit(before, new), "new": _tell_hit(after, live)} for before, after in pairs],
    }


def _tell_hit(hit: Name | None, others: set[str]) -> dict[str, Any] | None:
    return None if hit is None else {"id": hit[0], "text": hit[1] or "", "changed": hit[0] not in others}


def _tell_golden(item: FinishedCollection) -> list[dict[str, Any]]:
    golden = item.golden
    if golden is None:
        return []
    rows = [{**missed._asdict(), "what": "not within its rank"} for missed in golden.missed]
    rows += [{**absent._asdict(), "what": "not in the catalogue"} for absent in golden.absent]
    return rows[:SHOWN_GOLDEN]


def _count_bytes(item: FinishedCollection, run_folder: str) -> list[dict[str, Any]]:
    """Return number and size of a collection's objects by kind, and what of them was there before."""
    objects, size, kept = Counter[str](), Counter[str](), Counter[str]()
    for kind, entry in (pair for shard in item.shards for pair in _list_objects(shard)):
        objects[kind] += 1
        size[kind] += entry.bytes
        kept[kind] += 0 if entry.key.startswith(run_folder) else entry.bytes
    return [
        {"collection": item.name, "kind": kind, "objects": objects[kind], "bytes": size[kind], "kept bytes": kept[kind]}
        for kind in objects
    ]


def _list_objects(shard: ShardEntry) -> list[tuple[str, Any]]:
    found = {
        "index": shard.index,
        "ids": shard.ids,
        "texts": shard.texts,
        "digests": shard.digests,
        "dead rows": shard.dead.rows if shard.dead else None,
    }
    return [(kind, entry) for kind, entry in found.items() if entry]
