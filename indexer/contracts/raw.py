"""The rows of an input file as they stand in it: Parquet, CSV, TSV or JSONL, plain or gzip.

CSV follows RFC 4180 (quotes doubled inside quotes). TSV knows no quoting: a quote is a character like any other.
Text formats give every value as text; a value that is no scalar (a JSON list) gives its JSON text.
"""

import csv
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from indexer.errors import ContractError

BATCH_ROWS = 5_000
BATCH_BYTES = 16 << 20
RECORD_BYTES = 16 << 20
DELIMITERS = {"csv": ",", "tsv": "\t"}
BYTE_ORDER_MARK = "\ufeff"
ASCII_SPACE = "".join(map(chr, range(33)))
"""What a TSV line may consist of and still count as empty."""

LONE_SURROGATE = r"(?i)(?<!\\)(?:\\\\)*\\u(?:d[89ab][0-9a-f]{2}(?!\\ud[c-f])|(?<!\\ud[89ab][0-9a-f]{2}\\u)d[c-f])"
"""An escaped half of a character, which is valid JSON and no valid text; Python and Java read the pattern alike."""

_LONE_SURROGATE = re.compile(LONE_SURROGATE)
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass
class RawBatch:
    """Values as they stand in a file, column by column; rows that could not be read have a reason."""

    columns: dict[str, pa.Array]
    reasons: list[str | None]
    """None, `malformed` or `encoding` per row."""
    samples: dict[int, str]
    """Row -> text of a row that could not be read."""
    place: str
    keys: frozenset[str] = frozenset()
    """Keys of the JSON records, read or not."""


def read_header(path: Path, kind: str) -> list[str] | None:
    """Return the file's column names, none for an empty file, or None for JSONL, where every record has its own."""
    with readable(path):
        if kind == "parquet":
            return read_columns(path)
        if kind == "jsonl":
            return None
        with _open_text(path) as file:
            return parse_header(file, kind, str(path))


def read_columns(path: Path) -> list[str]:
    """Return the column names of a Parquet file."""
    with readable(path):
        names: list[str] = pq.ParquetFile(path).schema_arrow.names
        return _check_unique(names, str(path))


def read_types(path: Path) -> dict[str, pa.DataType]:
    """Return the type of each column of a Parquet file; of a dictionary, that of its values."""
    with readable(path):
        schema = pq.ParquetFile(path).schema_arrow
    return {field.name: field.type.value_type if pa.types.is_dictionary(field.type) else field.type for field in schema}


def read_paths(path: Path) -> list[str]:
    """Return the dotted name of every column of a Parquet file and of every field below it."""
    with readable(path):
        schema = pq.ParquetFile(path).schema_arrow
        _check_unique(schema.names, str(path))
        return list(_name_fields(schema))


def _name_fields(fields: Iterable[pa.Field], before: str = "") -> Iterator[str]:
    for field in fields:
        yield before + field.name
        if pa.types.is_struct(field.type):
            yield from _name_fields(field.type, f"{before}{field.name}.")


def parse_header(lines: Iterable[str], kind: str, place: str) -> list[str]:
    """Return the column names of CSV or TSV lines, stripped; raises ContractError for unusable ones."""
    names = [name.strip() for name in next(_csv_rows(lines, kind, place), [])]
    if any(_is_damaged(name) for name in names):
        raise ContractError(f"{place}: the header is not UTF-8; convert the file")
    return _check_unique(names, place)


def refuse_unbalanced(path: Path, kind: str) -> None:
    """Read a CSV file to its end; raises ContractError that names the line of the first record without one."""
    with readable(path), _open_text(path) as file:
        for _ in _csv_rows(file, kind, str(path)):
            pass


def read_batches(path: Path, kind: str, names: Sequence[str]) -> Iterator[RawBatch]:
    """Yield the named columns in bounded batches; a JSON record without a name has a null there."""
    with readable(path):
        if kind == "parquet":
            yield from _parquet_batches(path, names)
        elif kind == "jsonl":
            yield from _text_batches(_json_records(path, names), names, path)
        else:
            yield from _text_batches(_csv_records(path, kind, names), names, path)


@contextmanager
def readable(path: Path, part: str = "") -> Iterator[None]:
    """Turn what the libraries raise of a damaged file, or of the named part of it, into a ContractError."""
    try:
        yield
    except (OSError, EOFError, zlib.error, pa.ArrowException, csv.Error, UnicodeError) as error:
        # Some of their messages have several lines.
        raise ContractError(f"{path}{part}: cannot be read: {' '.join(str(error).split())}; write it again") from error


def _check_unique(names: list[str], place: str) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ContractError(f"{place}: column {twice[0]!r} appears twice; rename one of them")
    return names


def _parquet_batches(path: Path, names: Sequence[str]) -> Iterator[RawBatch]:
    file = pq.ParquetFile(path, page_checksum_verification=True)
    for number in range(file.num_row_groups):
        with readable(path, f", row group {number}"):
            for batch in file.iter_batches(BATCH_ROWS, row_groups=[number], columns=list(names)):
                yield _parquet_batch(batch, names, path)


def _parquet_batch(batch: pa.RecordBatch, names: Sequence[str], path: Path) -> RawBatch:
    columns: dict[str, pa.Array] = {}
    bad: set[int] = set()
    for name in names:
        columns[name], wrong = _valid_text(batch.column(name))
        bad |= wrong
    reasons = ["encoding" if row in bad else None for row in range(batch.num_rows)]
    return RawBatch(columns, reasons, dict.fromkeys(bad, "invalid UTF-8"), str(path))


def _valid_text(values: pa.Array) -> tuple[pa.Array, set[int]]:
    """Null out values of a text column that are no valid UTF-8 and return their rows."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        values.validate(full=True)
        return values, set()
    try:
        values.validate(full=True)
        return values.cast(pa.string()), set()
    except pa.ArrowInvalid:
        raw = values.cast(pa.large_binary()).to_pylist()
    decoded = [None if item is None else _decode(item) for item in raw]
    bad = {row for row, (item, text) in enumerate(zip(raw, decoded, strict=True)) if item is not None and text is None}
    return pa.array(decoded, pa.string()), bad


def _decode(data: bytes) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


@dataclass
class _Record:
    values: list[str | None]
    reason: str | None = None
    sample: str = ""
    keys: tuple[str, ...] = ()
    """Keys of a JSON object."""


def _text_batches(records: Iterator[_Record], names: Sequence[str], path: Path) -> Iterator[RawBatch]:
    held: list[_Record] = []
    size = 0
    for record in records:
        held.append(record)
        size += sum(len(value) for value in record.values if value)
        if len(held) == BATCH_ROWS or size >= BATCH_BYTES:
            yield _raw_batch(held, names, path)
            held, size = [], 0
    if held:
        yield _raw_batch(held, names, path)


def _raw_batch(records: list[_Record], names: Sequence[str], path: Path) -> RawBatch:
    try:
        columns = _as_columns(records, names)
    except UnicodeEncodeError:
        _leave_out_damaged(records)
        columns = _as_columns(records, names)
    samples = {row: record.sample for row, record in enumerate(records) if record.reason}
    keys = frozenset(chain.from_iterable({record.keys for record in records}))
    return RawBatch(columns, [record.reason for record in records], samples, str(path), keys)


def _as_columns(records: list[_Record], names: Sequence[str]) -> dict[str, pa.Array]:
    return {name: pa.array([record.values[at] for record in records], pa.string()) for at, name in enumerate(names)}


def _leave_out_damaged(records: list[_Record]) -> None:
    for record in records:
        if record.reason is None and any(_is_damaged(value) for value in record.values):
            record.reason, record.sample = "encoding", "invalid UTF-8"
            record.values = [None if _is_damaged(value) else value for value in record.values]


def _is_damaged(value: str | None) -> bool:
    """Tell whether text holds undecodable bytes (kept as surrogates) or a lone surrogate."""
    return value is not None and not value.isascii() and _SURROGATE.search(value) is not None


def open_bytes(path: Path) -> IO[bytes]:
    """Open a plain or gzip file for its unpacked bytes."""
    return cast(IO[bytes], gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _open_text(path: Path) -> IO[str]:
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", errors="surrogateescape", newline="\n")


def _csv_rows(lines: Iterable[str], kind: str, place: str) -> Iterator[list[str]]:
    """Yield the fields of every line that is not empty."""
    if kind == "tsv":
        for number, line in enumerate(lines, 1):
            if len(line) > RECORD_BYTES:
                raise ContractError(f"{place}: line {number}: longer than {RECORD_BYTES:,} characters; is this TSV?")
            if line.strip(ASCII_SPACE):
                yield line.rstrip("\r\n").split("\t")
        return
    csv.field_size_limit(RECORD_BYTES)
    reader = csv.reader(lines, delimiter=DELIMITERS[kind], strict=True)
    while True:
        start = reader.line_num + 1
        try:
            if row := next(reader):
                yield row
        except StopIteration:
            return
        except csv.Error as error:
            raise ContractError(f"{place}: line {start}: {error}; is a quote unbalanced?") from None


def _csv_records(path: Path, kind: str, names: Sequence[str]) -> Iterator[_Record]:
    with _open_text(path) as file:
        rows = _csv_rows(file, kind, str(path))
        header = [name.strip() for name in next(rows, [])]
        places = [header.index(name) if name in header else None for name in names]
        for row in rows:
            if len(row) != len(header):
                yield _Record([None] * len(names), "malformed", DELIMITERS[kind].join(row)[:200])
            else:
                yield _Record([None if at is None else row[at] for at in places])


def _json_records(path: Path, names: Sequence[str]) -> Iterator[_Record]:
    with open_bytes(path) as file:
        for line in _bounded_lines(file):
            text = line.decode("utf-8", errors="surrogateescape").removeprefix(BYTE_ORDER_MARK).strip()
            if text:
                yield _parse_record(text, names)


def _bounded_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield lines; of one beyond RECORD_BYTES only its start, which is no JSON record."""
    while line := file.readline(RECORD_BYTES + 1):
        yield line
        while len(line) > RECORD_BYTES and not line.endswith(b"\n"):
            line = file.readline(RECORD_BYTES + 1)


def _parse_record(text: str, names: Sequence[str]) -> _Record:
    """Read one JSON object into the texts of its values."""
    nothing: list[str | None] = [None] * len(names)
    if _is_damaged(text) or ("\\u" in text and _LONE_SURROGATE.search(text)):
        return _Record(nothing, "encoding", "invalid UTF-8")
    try:
        record = parse_json(text, strict=True)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        return _Record(nothing, "malformed", text[:200])
    values = map(record.get, names)
    return _Record(
        [value if value is None or isinstance(value, str) else json_text(value) for value in values], keys=tuple(record)
    )


JSON_SPACE = " \t\n\r"


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(parse_int=str)
_STRICT_DECODER = json.JSONDecoder(parse_int=str, parse_constant=_refuse_constant)


def parse_json(text: str, *, strict: bool = False) -> Any:
    """Parse JSON with whole numbers as text, whatever their length; raises ValueError or RecursionError.

    A `strict` one refuses NaN and infinities, as Spark does in records, and not in lists.
    """
    bare = text.strip(JSON_SPACE)
    value, end = (_STRICT_DECODER if strict else _DECODER).raw_decode(bare)
    if end < len(bare):
        raise ValueError(f"expected nothing after the value, found {bare[end : end + 20]!r}")
    return value


def json_text(value: Any) -> str | None:
    """Return a text as it is, nothing for null, a fraction as Java writes it, and any other value as JSON."""
    if isinstance(value, float) and math.isfinite(value):
        return _java_text(value)
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _java_text(value: float) -> str:
    """Return a number as Spark has it: beyond 10 million and below a thousandth with an exponent, `1.2345678E7`."""
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return repr(value)
    sign, digits, exponent = Decimal(repr(value)).as_tuple()
    first, rest = digits[0], "".join(map(str, digits[1:])).rstrip("0")
    assert isinstance(exponent, int)
    return f"{'-' * sign}{first}.{rest or '0'}E{exponent + len(digits) - 1}"
