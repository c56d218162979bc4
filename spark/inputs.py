"""Find a shop's input and open it as raw columns, before any value is judged.

Text formats come as text, whatever the value looks like; Parquet keeps its types. Besides the contract's
columns a raw frame has `_line`, a record that could not be parsed, and `_broken`, whether its bytes are no UTF-8.
"""

import csv
import gzip
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyspark.sql import Column, DataFrame, DataFrameReader, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from indexer.contracts.schemas import Table
from indexer.errors import ConfigError, ContractError, StoreError
from indexer.input_config import InputConfig
from indexer.runs import identify_input
from indexer.store import open_store

SUFFIXES = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
JSON_SAMPLE_ROWS = 1_000
MAX_CELL_CHARACTERS = 100_000
MAX_HEADER_BYTES = 1 << 20

LONE_SURROGATE = r"(?i)(?<!\\)(?:\\\\)*\\u(?:d[89ab][0-9a-f]{2}(?!\\ud[c-f])|(?<!\\ud[89ab][0-9a-f]{2}\\u)d[c-f])"
"""An escaped half of a character, which is valid JSON and no valid text."""


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where an input lies and how it is written."""

    section: str
    shown: str
    """The address as the configuration has it, for messages."""
    files: tuple[str, ...]
    """Local files, or the one `s3a://` address that Spark reads on a cluster."""
    format: str
    identity: Any
    """JSON-ready; other bytes give another one: hashes of local files, sizes and times of remote ones."""

    @property
    def remote(self) -> bool:
        """Whether the executors read the input from object storage."""
        return self.files[0].startswith("s3a://")


def locate_input(session: SparkSession, source: InputConfig, *, section: str, staging: Path) -> Location:
    """Find the input's files; `s3://` is downloaded below `staging` where Spark runs on this machine alone.

    Raises ConfigError where the section has no path, ContractError where nothing usable lies there.
    """
    if not source.path:
        raise ConfigError(f"[{section}] path: not set; give the file or folder of the table")
    if not source.path.startswith("s3://"):
        return _local_location(Path(source.path), source, section, source.path)
    if (session.sparkContext.master or "").startswith("local"):
        folder = _download(source.path, staging / uuid.uuid4().hex)
        return _local_location(folder, source, section, source.path)
    address = "s3a://" + source.path.removeprefix("s3://")
    listing = session.read.format("binaryFile").option("recursiveFileLookup", "true").load(address)
    files = [list(row) for row in listing.select("path", "length", F.col("modificationTime").cast("string")).collect()]
    format = _format_of([name for name, *_ in files], source, section)
    return Location(section=section, shown=source.path, files=(address,), format=format, identity=sorted(files))


def open_input(session: SparkSession, table: Table, location: Location, columns: Mapping[str, str]) -> DataFrame:
    """Return the raw columns of the table that the input has; raises ContractError where a required one is missing."""
    if location.format == "parquet":
        return _open_parquet(session, table, location, columns)
    if location.format == "jsonl":
        return _open_json(session, table, location, columns)
    return _open_delimited(session, table, location, columns)


def match_columns(table: Table, location: Location, columns: Mapping[str, str], found: Sequence[str]) -> dict[str, str]:
    """Return contract column -> the input's column, for those it has; raises ContractError for a missing one."""
    unknown = sorted(set(columns) - {column.name for column in table.columns})
    if unknown:
        known = ", ".join(column.name for column in table.columns)
        raise ConfigError(f"[{location.section}.columns] {', '.join(unknown)}: {table.name} has only {known}")
    matched = {}
    for column in table.columns:
        name = columns.get(column.name, column.name)
        if name in found:
            matched[column.name] = name
        elif not column.nullable or column.name in columns:
            raise ContractError(
                f"{location.shown}: {table.name} needs the column {name!r}, found {', '.join(found) or 'none'}; "
                f'map it in the configuration: [{location.section}.columns] {column.name} = "your column"'
            )
    return matched


def _local_location(path: Path, source: InputConfig, section: str, shown: str) -> Location:
    if not path.exists():
        raise ContractError(f"{shown}: no such file or folder; correct [{section}] path or deliver the table")
    files = sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
    if any("_temporary" in file.relative_to(path).parts for file in files):
        raise ContractError(f"{shown}: still being written (_temporary); wait for its writer to finish")
    kept = [file for file in files if file == path or not file.name.startswith((".", "_"))]
    if not any(file.stat().st_size for file in kept):
        raise ContractError(f"{shown}: 0 rows; an empty input stops the run")
    names = tuple(str(file.resolve()) for file in kept)
    format = _format_of(names, source, section)
    return Location(section=section, shown=shown, files=names, format=format, identity=identify_input(path))


def _download(url: str, folder: Path) -> Path:
    parent, _, name = url.rstrip("/").rpartition("/")
    if parent == "s3:/":
        raise ConfigError(f"{url}: expected s3://bucket/key of a file or folder")
    store = open_store(parent)
    found = [item for item in store.list(name) if item.key == name or item.key.startswith(f"{name}/")]
    if not found:
        raise ContractError(f"{url}: no such object or folder; correct the address or deliver the table")
    for item in found:
        file = folder / item.key
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{file.parent}: cannot be made: {error.strerror}") from None
        store.get_file(item.key, file)
    return folder / name


def _format_of(names: Iterable[str], source: InputConfig, section: str) -> str:
    if source.format != "auto":
        return source.format
    suffixes = {Path(name.removesuffix(".gz")).suffix.lower() for name in names}
    formats = {SUFFIXES.get(suffix, "") for suffix in suffixes}
    if len(formats) != 1 or "" in formats:
        raise ContractError(
            f"{source.path}: expected files of one kind among {', '.join(SUFFIXES)} (or .gz of them), "
            f"found {', '.join(sorted(suffixes)) or 'none'}; name it: [{section}] format"
        )
    return formats.pop()


def _open_parquet(session: SparkSession, table: Table, location: Location, columns: Mapping[str, str]) -> DataFrame:
    frame = _reader(session).parquet(*location.files)
    matched = match_columns(table, location, columns, frame.columns)
    chosen = [F.col(f"`{name}`").alias(column) for column, name in matched.items()]
    return frame.select(*chosen, F.lit(None).cast("string").alias("_line"), F.lit(False).alias("_broken"))


def _open_json(session: SparkSession, table: Table, location: Location, columns: Mapping[str, str]) -> DataFrame:
    lines = _reader(session).text(list(location.files)).where(F.trim("value") != "")
    keys = F.explode(F.json_object_keys(F.col("value"))).alias("key")
    sample = lines.where(F.is_valid_utf8("value")).limit(JSON_SAMPLE_ROWS).select(keys).distinct()
    matched = match_columns(table, location, columns, sorted(row.key for row in sample.collect()))
    fields = [T.StructField(name, T.StringType()) for name in dict.fromkeys(matched.values())]
    record = F.from_json("value", T.StructType(fields), {"mode": "PERMISSIVE"})
    # A record that is broken half way still yields its first fields, so the line is counted as an array of one.
    items = F.json_array_length(F.concat(F.lit("["), "value", F.lit("]")))
    parsed = F.coalesce(items == 1, F.lit(False)) & F.trim("value").startswith("{")
    broken = ~F.is_valid_utf8("value") | F.col("value").rlike(LONE_SURROGATE)
    return lines.select(
        *[record.getField(name).alias(column) for column, name in matched.items()],
        F.when(~parsed & ~broken, F.col("value")).alias("_line"),
        broken.alias("_broken"),
    )


def _open_delimited(session: SparkSession, table: Table, location: Location, columns: Mapping[str, str]) -> DataFrame:
    separator = "\t" if location.format == "tsv" else ","
    header = _read_header(session, location, separator)
    matched = match_columns(table, location, columns, header)
    # Positions, not names: Spark would fold the case of the shop's names and split them at dots.
    names = {name: f"c{index}" for index, name in enumerate(header)}
    fields = [T.StructField(name, T.StringType()) for name in (*names.values(), "_line")]
    options: dict[str, Any] = {
        "sep": separator,
        "header": True,
        # TSV knows no quoting: a quote is a character like any other.
        "quote": '"' if location.format == "csv" else "",
        "escape": '"',
        # Bytes come through one by one, so that invalid UTF-8 can be told from a replacement character.
        "encoding": "ISO-8859-1",
        "mode": "PERMISSIVE",
        "columnNameOfCorruptRecord": "_line",
        "columnPruning": False,
        "multiLine": location.format == "csv",
        "maxCharsPerColumn": MAX_CELL_CHARACTERS,
    }
    frame = _reader(session).schema(T.StructType(fields)).options(**options).csv(list(location.files))
    chosen = [_decoded(names[name]).alias(column) for column, name in matched.items()]
    return frame.select(*chosen, _decoded("_line").alias("_line"), F.lit(False).alias("_broken"))


def _decoded(name: str) -> Column:
    """Take the bytes of a text that was read as ISO-8859-1 for UTF-8, valid or not."""
    return F.encode(name, "ISO-8859-1").cast("string")


def _read_header(session: SparkSession, location: Location, separator: str) -> list[str]:
    if location.remote:
        lines = [row.value for row in session.read.text(location.files[0]).limit(1).collect()]
    else:
        lines = [_first_line(Path(file), location) for file in location.files]
    headers = {tuple(_split_header(line.rstrip("\r\n"), separator)) for line in lines}
    if len(headers) != 1:
        raise ContractError(f"{location.shown}: expected one header in all files, found {len(headers)} different ones")
    header = list(headers.pop())
    twice = sorted(name for name, count in Counter(header).items() if count > 1)
    if twice:
        raise ContractError(f"{location.shown}: column {', '.join(twice)} appears twice in the header; rename one")
    return header


def _split_header(line: str, separator: str) -> list[str]:
    names = next(csv.reader([line], delimiter=separator), []) if separator == "," else line.split(separator)
    return [name.strip() for name in names]


def _first_line(file: Path, location: Location) -> str:
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            return stream.readline(MAX_HEADER_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ContractError(f"{location.shown}: the header of {file.name} is not UTF-8; convert the file") from None
    except (OSError, EOFError) as error:
        raise ContractError(f"{location.shown}: {file.name} cannot be read: {error}") from None


def _reader(session: SparkSession) -> DataFrameReader:
    """Return a reader that takes paths as they are: a bracket in a folder's name is no pattern."""
    return session.read.option("__globPaths__", "false")
