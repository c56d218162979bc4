"""Embed the rows of a shard in chunks: what is known already is taken, equal texts are embedded once."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from indexer.build.catalogue import Row
from indexer.encoder import Encoder

CHUNK_ROWS = 4_096
"""Texts tokenised and sorted by length at a time; large enough that most batches are full."""
KINDS = {"products": "product", "queries": "query"}
"""Collection -> side of the encoder."""

Vectors = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class EmbeddedRows:
    """Rows with their unit vectors, in the same order."""

    rows: list[Row]
    vectors: Vectors
    empty: list[Row]
    """Rows in whose text the encoder knows no word; they have no meaningful vector."""
    truncated: int
    """Rows that were embedded and whose text is longer than the encoder's limit."""
    cut_fields: dict[str, int]
    """Text field -> rows of which something of it was not read."""
    embedded: int
    """Different texts that the encoder was given."""


def embed_rows(
    encoder: Encoder,
    collection: str,
    rows: Sequence[Row],
    *,
    label: str,
    progress: bool,
    known: tuple[Vectors, Mask] | None = None,
) -> EmbeddedRows:
    """Return float32 (n, dimension) vectors of the rows that have a meaning to the encoder.

    `known` has vectors of all rows and which of them are true; it is written to.
    """
    vectors, done = known or _make_blank(len(rows), encoder.dimension)
    empty, truncated = np.zeros(len(rows), dtype=np.bool_), np.zeros(len(rows), dtype=np.bool_)
    cut_fields: Counter[str] = Counter()
    places: dict[str, list[int]] = {}
    for place in np.flatnonzero(~done).tolist():
        places.setdefault(rows[place].text, []).append(place)
    texts = list(places)
    with tqdm(total=len(texts), desc=f"embedding {label}", unit=" texts", disable=not progress) as bar:
        chunks = [texts[start : start + CHUNK_ROWS] for start in range(0, len(texts), CHUNK_ROWS)]
        encoding = encoder.encode_chunks(chunks, kind=KINDS[collection])
        for chunk, encoded in zip(chunks, encoding, strict=True):
            at = np.array([place for text in chunk for place in places[text]])
            of = np.repeat(np.arange(len(chunk)), [len(places[text]) for text in chunk])
            vectors[at], empty[at], truncated[at] = encoded.vectors[of], encoded.empty[of], encoded.truncated[of]
            cut_fields.update(_count_cut_fields(encoder, [rows[place] for place in at[truncated[at]].tolist()]))
            bar.update(len(chunk))
    return EmbeddedRows(
        rows=[row for row, is_empty in zip(rows, empty, strict=True) if not is_empty],
        vectors=vectors[~empty] if empty.any() else vectors,
        empty=[row for row, is_empty in zip(rows, empty, strict=True) if is_empty],
        truncated=int(truncated.sum()),
        cut_fields=dict(cut_fields),
        embedded=len(texts),
    )


def _count_cut_fields(encoder: Encoder, rows: Sequence[Row]) -> Counter[str]:
    """Return of how many rows, whose texts were truncated, something of each text field was not read.

    Queries have no fields.
    """
    products = [row for row in rows if row.lengths is not None]
    names, separator = encoder.description.text_fields, len(encoder.description.text_separator)
    counts: Counter[str] = Counter()
    for row, read in zip(products, encoder.find_ends([row.text for row in products], kind="product"), strict=True):
        end = -separator
        for name, length in zip(names, map(int, (row.lengths or "").split(",")), strict=True):
            if length:
                end += separator + length
                counts[name] += end > read
    return counts


def _make_blank(rows: int, dimension: int) -> tuple[Vectors, Mask]:
    return np.empty((rows, dimension), dtype=np.float32), np.zeros(rows, dtype=np.bool_)
