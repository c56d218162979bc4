"""Embed the rows of a shard in chunks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from indexer.build.catalogue import Row
from indexer.encoder import Encoder

CHUNK_ROWS = 4_096
"""Texts tokenised and sorted by length at a time; large enough that batches need hardly any padding."""
KINDS = {"products": "product", "queries": "query"}
"""Collection -> side of the encoder."""


@dataclass(frozen=True, kw_only=True)
class EmbeddedRows:
    """Rows with their unit vectors, in the same order."""

    rows: list[Row]
    vectors: npt.NDArray[np.float32]
    empty: list[Row]
    """Rows in whose text the encoder knows no word; they have no meaningful vector."""
    truncated: int
    """Texts longer than the encoder's limit."""


def embed_rows(encoder: Encoder, collection: str, rows: Sequence[Row], *, label: str, progress: bool) -> EmbeddedRows:
    """Return float32 (n, dimension) vectors of the rows that have a meaning to the encoder."""
    vectors = np.empty((len(rows), encoder.dimension), dtype=np.float32)
    empty = np.zeros(len(rows), dtype=np.bool_)
    truncated = 0
    with tqdm(total=len(rows), desc=f"embedding {label}", unit=" rows", disable=not progress) as bar:
        for start in range(0, len(rows), CHUNK_ROWS):
            texts = [row.text for row in rows[start : start + CHUNK_ROWS]]
            encoded = encoder.encode(texts, kind=KINDS[collection])
            vectors[start : start + len(texts)] = encoded.vectors
            empty[start : start + len(texts)] = encoded.empty
            truncated += encoded.truncated
            bar.update(len(texts))
    return EmbeddedRows(
        rows=[row for row, is_empty in zip(rows, empty, strict=True) if not is_empty],
        vectors=vectors[~empty] if empty.any() else vectors,
        empty=[row for row, is_empty in zip(rows, empty, strict=True) if is_empty],
        truncated=truncated,
    )
