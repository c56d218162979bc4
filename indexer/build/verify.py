"""Gates: what a shard and a release must hold before anyone can see them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.build.recall import Recall
from indexer.config import GatesConfig, IndexConfig
from indexer.encoder import EncoderDescription
from indexer.errors import GateError, IntegrityError
from indexer.index_file import IndexShape, read_index
from indexer.manifest import GateResult
from indexer.shard_file import Lines, read_lines

NORM_ROWS = 8_192
"""Rows whose lengths are computed at once."""
SPOT_ROWS = 16
MIN_SPOT_COSINE = {"flat": 1 - 1e-6, "sqfp16": 0.9999, "sq8": 0.99}
"""Least cosine between a vector and the one its index gives back."""


def check_vectors(
    vectors: npt.NDArray[np.float32], ids: Sequence[str] | Lines, *, max_norm_error: float, place: str
) -> float:
    """Return the largest norm error; raises GateError for vectors that are not finite or not of unit length."""
    blocks = (vectors[start : start + NORM_ROWS] for start in range(0, len(vectors), NORM_ROWS))
    norms = np.concatenate([np.linalg.norm(block.astype(np.float64), axis=1) for block in blocks])
    errors = np.where(np.isfinite(norms), np.abs(norms - 1), np.inf)
    worst = int(np.argmax(errors))
    if not errors[worst] <= max_norm_error:
        raise GateError(
            f"gate max_norm_error, {place}: expected vectors of length 1 within {max_norm_error}, found length "
            f"{norms[worst]} at id {ids[worst]!r} ({int((errors > max_norm_error).sum())} such rows); nothing was "
            "published, check the encoder"
        )
    return float(errors[worst])


def check_shard_files(
    files: Mapping[str, Path], ids: Sequence[str], vectors: npt.NDArray[np.float32], options: IndexConfig
) -> Any:
    """Read a shard's files back as a consumer would and return the index; raises IntegrityError for any difference.

    `files` are index, ids and, where there are any, texts.
    """
    rows, dimension = vectors.shape
    written = read_lines(files["ids"], rows)
    if [written[row] for row in range(rows)] != list(ids):
        raise IntegrityError(f"{files['ids']}: the ids read back are not those written")
    if len(set(ids)) != rows:
        raise IntegrityError(f"{files['ids']}: {rows - len(set(ids))} ids stand twice")
    if "texts" in files:
        read_lines(files["texts"], rows)
    shape = IndexShape(rows=rows, dimension=dimension, m=options.m, storage=options.storage)
    index = read_index(files["index"], shape)
    for row in np.unique(np.linspace(0, rows - 1, SPOT_ROWS).astype(int)):
        stored = index.reconstruct(int(row))
        cosine = float(stored @ vectors[row]) / max(float(np.linalg.norm(stored)), 1e-12)
        if not cosine >= MIN_SPOT_COSINE[options.storage]:
            raise IntegrityError(f"{files['index']}: row {row} has another vector than was added, cosine {cosine:.4f}")
    return index


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


def judge_size(collection: str, rows: int, live: Mapping[str, int], gates: GatesConfig) -> list[GateResult]:
    """Return the gate on rows lost against the live release; `live` has the rows of its collections."""
    if not live.get(collection):
        return []
    lost = round(max(0.0, 1 - rows / live[collection]), 6)
    name, expected = f"{collection} share lost since an earlier night", f"at most {gates.max_shrink}"
    return [GateResult(name=name, expected=expected, found=lost, passed=lost <= gates.max_shrink)]


def judge_vectors(collection: str, norm_error: float, gates: GatesConfig) -> GateResult:
    """Return the gate on the length of the vectors."""
    return GateResult(
        name=f"{collection} norm error",
        expected=f"at most {gates.max_norm_error}",
        found=norm_error,
        passed=norm_error <= gates.max_norm_error,
    )


def require_gates(results: Sequence[GateResult]) -> None:
    """Raise GateError naming every gate that refused."""
    refused = [gate for gate in results if not gate.passed]
    if refused:
        reasons = "; ".join(f"{gate.name}: expected {gate.expected}, found {gate.found:.4f}" for gate in refused)
        raise GateError(f"gate {reasons}; nothing was published, the live release is untouched")


def _at_least(name: str, found: float, least: float) -> GateResult:
    return GateResult(name=name, expected=f"at least {least}", found=round(found, 6), passed=found >= least)
