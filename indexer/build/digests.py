"""What a row was made of, as 32 bytes: the next build tells by them what has changed."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from indexer.build.catalogue import Row
from indexer.errors import IntegrityError

DIGEST_BYTES = 16
ROW_BYTES = 2 * DIGEST_BYTES
"""Two digests: of what was embedded, and of what is shown."""


def read_digests(path: Path, rows: int) -> bytes:
    """Read the digests of a shard's rows; raises IntegrityError for another number of rows."""
    size = path.stat().st_size
    if size != rows * ROW_BYTES:
        raise IntegrityError(f"{path}: expected {rows * ROW_BYTES} bytes of digests, found {size}")
    return path.read_bytes()


def write_digests(path: Path, rows: Sequence[Row]) -> None:
    """Write the digests of a shard's rows."""
    with path.open("wb") as file:
        for row in rows:
            file.write(digest(row.text) + digest(row.display))


def digest(text: str) -> bytes:
    """Return 128 bits of a text's BLAKE2b."""
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()
