"""What is known of a file before its first row is read, and what is refused then: the wrong encoding, and bombs."""

import codecs
from pathlib import Path

import pyarrow.parquet as pq

from indexer.contracts.raw import RECORD_BYTES, open_bytes, readable
from indexer.errors import ContractError

MAX_RATIO = 200
"""No log or catalogue shrinks to a two-hundredth; gzip of one repeated byte comes to a thousandth."""
FREE_BYTES = RECORD_BYTES
"""Up to this size a file may unpack at any ratio."""
GZIP_RATIO = 1_032
"""The most that gzip can shrink."""
MAX_GROUP_ROWS = 100_000_000
"""Rows of one Parquet row group, which a reader takes as one piece."""


def check_file(path: Path, kind: str) -> None:
    """Raise ContractError for UTF-16, for a damaged gzip file or Parquet footer, and for a file that is a bomb."""
    with readable(path):
        if kind == "parquet":
            _check_parquet(path)
        else:
            _check_text(path)


def _check_text(path: Path) -> None:
    with open_bytes(path) as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise ContractError(f"{path}: is UTF-16; expected UTF-8, convert it")
    if path.suffix != ".gz" or path.stat().st_size * GZIP_RATIO <= FREE_BYTES:
        return
    unpacked = 0
    with open_bytes(path) as file:
        while chunk := file.read(1 << 20):
            unpacked += len(chunk)
            _check_ratio(path, unpacked, "unpacks")


def _check_parquet(path: Path) -> None:
    footer = pq.ParquetFile(path).metadata
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    _check_ratio(path, sum(group.total_byte_size for group in groups), "declares columns that unpack")
    for number, group in enumerate(groups):
        if group.num_rows > MAX_GROUP_ROWS:
            raise ContractError(
                f"{path}, row group {number}: {group.num_rows:,} rows, expected at most {MAX_GROUP_ROWS:,}; "
                "write it again in smaller row groups"
            )


def _check_ratio(path: Path, unpacked: int, does: str) -> None:
    packed = path.stat().st_size
    if unpacked > max(FREE_BYTES, MAX_RATIO * packed):
        raise ContractError(
            f"{path}: {does} to {unpacked:,} bytes or more of {packed:,}, expected at most {MAX_RATIO} times its size; "
            "is this the right file?"
        )
