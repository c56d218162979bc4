"""Input files as shops have them: Parquet, CSV, TSV and JSONL, plain or gzip, a file, a folder or `s3://`.

CSV follows RFC 4180 (quotes doubled inside quotes). TSV knows no quoting: a quote is a character like any other.
Text formats give every value as text; a value that is no scalar (a JSON list) gives its JSON text.
"""

import codecs
import csv
import gzip
import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from indexer.errors import ContractError
from indexer.store import open_store

BATCH_ROWS = 5_000
BATCH_BYTES = 16 << 20
RECORD_BYTES = 16 << 20
FORMATS = {".parquet": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}
DELIMITERS = {"csv": ",", "tsv": "\t"}


@dataclass
class RawBatch:
    """Values as they stand in a file, column by column; rows that could not be read have a reason."""

    columns: dict[str, pa.Array]
    reasons: list[str | None]
    """None, `malformed` or `encoding` per row."""
    samples: dict[int, str]
    """Row -> text of a row that could not be read."""
    place: str


@contextmanager
def local_files(path: str) -> Iterator[list[Path]]:
    """Give the input's files on the local disk, in name order; `s3://` objects are downloaded for the while."""
    if not path:
        raise ContractError("no path is configured for this input; set `path` in its section")
    if not path.startswith("s3://"):
        yield _folder_files(Path(path))
        return
    with tempfile.TemporaryDirectory(prefix="indexer-input-") as folder:
        yield _download(path, Path(folder))


def detect_format(path: Path, configured: str = "auto") -> str:
    """Return parquet, csv, tsv or jsonl by the file's name unless it is configured."""
    if configured != "auto":
        return configured
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    if suffixes and suffixes[-1] in FORMATS:
        return FORMATS[suffixes[-1]]
    raise ContractError(f"input {path}: unknown kind of file; expected {', '.join(FORMATS)} or set `format`")


def read_header(path: Path, kind: str) -> list[str] | None:
    """Return the file's column names, or None for JSONL, where every record has its own."""
    with _readable(path):
        if kind == "parquet":
            names: list[str] = pq.ParquetFile(path).schema_arrow.names
            return _check_unique(names, path)
        if kind == "jsonl":
            return None
        with _open_text(path) as file:
            return _check_unique(next(_csv_rows(file, kind, path), []), path)


def read_batches(path: Path, kind: str, names: Sequence[str]) -> Iterator[RawBatch]:
    """Yield the named columns in bounded batches; a JSON record without a name has a null there."""
    with _readable(path):
        if kind == "parquet":
            yield from _parquet_batches(path, names)
        elif kind == "jsonl":
            yield from _text_batches(_json_records(path, names), names, path)
        else:
            yield from _text_batches(_csv_records(path, kind, names), names, path)


def _folder_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ContractError(f"input {path}: no such file or folder; check `path` in its section")
    if (path / "_temporary").exists():
        raise ContractError(f"input {path}: still being written (_temporary is there); wait for the writer to finish")
    files = sorted(item for item in path.rglob("*") if item.is_file() and not item.name.startswith(("_", ".")))
    if not files:
        raise ContractError(f"input {path}: an empty folder; expected part files")
    return files


def _download(url: str, folder: Path) -> list[Path]:
    bucket, _, key = url.removeprefix("s3://").partition("/")
    store = open_store(f"s3://{bucket}")
    keys = [item.key for item in store.list(key) if item.key == key or item.key.startswith(key.rstrip("/") + "/")]
    keys = [item for item in keys if not item.rpartition("/")[2].startswith(("_", "."))]
    if not keys:
        raise ContractError(f"input {url}: no such object or prefix; check `path` in its section")
    files = []
    for number, item in enumerate(keys):
        files.append(folder / f"{number:06d}-{item.rpartition('/')[2]}")
        store.get_file(item, files[-1])
    return files


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, pa.ArrowException, csv.Error, UnicodeError) as error:
        raise ContractError(f"input {path}: cannot be read: {error}; write it again") from error


def _check_unique(names: list[str], path: Path) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ContractError(f"input {path}: column {twice[0]!r} appears twice; rename one of them")
    return names


def _parquet_batches(path: Path, names: Sequence[str]) -> Iterator[RawBatch]:
    file = pq.ParquetFile(path)
    for batch in file.iter_batches(BATCH_ROWS, columns=list(names)):
        columns: dict[str, pa.Array] = {}
        bad: set[int] = set()
        for name in names:
            columns[name], wrong = _valid_text(batch.column(name))
            bad |= wrong
        reasons = ["encoding" if row in bad else None for row in range(batch.num_rows)]
        yield RawBatch(columns, reasons, dict.fromkeys(bad, "invalid UTF-8"), str(path))


def _valid_text(values: pa.Array) -> tuple[pa.Array, set[int]]:
    """Null out values of a text column that are no valid UTF-8 and return their rows."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
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
    for record in records:
        if record.reason is None and any(_is_damaged(value) for value in record.values):
            record.reason, record.sample = "encoding", "invalid UTF-8"
            record.values = [None if _is_damaged(value) else value for value in record.values]
    columns = {name: pa.array([record.values[at] for record in records], pa.string()) for at, name in enumerate(names)}
    samples = {row: record.sample for row, record in enumerate(records) if record.reason}
    return RawBatch(columns, [record.reason for record in records], samples, str(path))


def _is_damaged(value: str | None) -> bool:
    """Tell whether text holds undecodable bytes (kept as surrogates) or a lone surrogate."""
    return value is not None and not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value)


def _open_bytes(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _open_text(path: Path) -> IO[str]:
    with _open_bytes(path) as file:
        start = file.read(4)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ContractError(f"input {path}: is UTF-16; expected UTF-8, convert it")
    return io.TextIOWrapper(_open_bytes(path), encoding="utf-8-sig", errors="surrogateescape", newline="\n")


def _csv_rows(file: IO[str], kind: str, path: Path) -> Iterator[list[str]]:
    if kind == "tsv":
        yield from (line.rstrip("\r\n").split("\t") for line in file)
        return
    csv.field_size_limit(RECORD_BYTES)
    reader = csv.reader(file, delimiter=DELIMITERS[kind], strict=True)
    while True:
        start = reader.line_num + 1
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ContractError(f"input {path}: line {start}: {error}; is a quote unbalanced?") from None


def _csv_records(path: Path, kind: str, names: Sequence[str]) -> Iterator[_Record]:
    with _open_text(path) as file:
        rows = _csv_rows(file, kind, path)
        header = next(rows, [])
        places = [header.index(name) if name in header else None for name in names]
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                yield _Record([None] * len(names), "malformed", DELIMITERS[kind].join(row)[:200])
            else:
                yield _Record([None if at is None else row[at] for at in places])


def _json_records(path: Path, names: Sequence[str]) -> Iterator[_Record]:
    with _open_bytes(path) as file:
        for line in file:
            text = line.decode("utf-8-sig", errors="surrogateescape").strip()
            if not text:
                continue
            nothing: list[str | None] = [None] * len(names)
            try:
                record = json.loads(text) if len(line) <= RECORD_BYTES else None
            except (ValueError, RecursionError):
                record = None
            if isinstance(record, dict):
                yield _Record([_json_text(record.get(name)) for name in names])
            else:
                yield _Record(nothing, "malformed", text[:200])


def _json_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
