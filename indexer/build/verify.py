"""Gates on single shards and files: what each must hold before anything else looks at it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import GateError, IntegrityError
from indexer.index_config import IndexConfig
from indexer.index_file import IndexShape, read_index
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
    files: Mapping[str, Path],
    ids: Sequence[str],
    texts: Sequence[str],
    vectors: npt.NDArray[np.float32],
    options: IndexConfig,
) -> Any:
    """Read a shard's files back as a consumer would and return the index; raises IntegrityError for any difference.

    `files` are index, ids and, where there are any, texts.
    """
    rows, dimension = vectors.shape
    for kind, values in (("ids", ids), ("texts", texts)):
        if kind not in files:
            continue
        written = read_lines(files[kind], rows)
        if any(written[row] != value for row, value in enumerate(values)):
            raise IntegrityError(f"{files[kind]}: the {kind} read back are not those written")
    if len(set(ids)) != rows:
        raise IntegrityError(f"{files['ids']}: {rows - len(set(ids))} ids stand twice")
    shape = IndexShape(rows=rows, dimension=dimension, m=options.m, storage=options.storage)
    index = read_index(files["index"], shape)
    for row in np.unique(np.linspace(0, rows - 1, SPOT_ROWS).astype(int)):
        stored = index.reconstruct(int(row))
        cosine = float(stored @ vectors[row]) / max(float(np.linalg.norm(stored)), 1e-12)
        if not cosine >= MIN_SPOT_COSINE[options.storage]:
            raise IntegrityError(f"{files['index']}: row {row} has another vector than was added, cosine {cosine:.4f}")
    return index
