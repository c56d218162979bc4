"""Open a shop's input as raw columns, before any value is judged.

Text formats come as text, whatever the value looks like; Parquet keeps its types. Besides the contract's columns a
raw frame has `_line`, a record that could not be parsed, `_broken`, whether its bytes are no UTF-8, `_file`, the file
it lies in, and `_record`, a hash of all it says; Spark works out only what is used. JSON has no header: there
`_has_<column>` tells for each expected column whether the record has its key.
"""

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import reduce
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame, DataFrameReader, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from indexer.contracts.columns import (
    expected_columns,
    find_unknown,
    match_columns,
    name_columns,
    refuse_absent,
    refuse_partial,
)
from indexer.contracts.days import Days, read_day
from indexer.contracts.files import (
    Delivery,
    check_path,
    detect_format,
    download_files,
    find_files,
    finished_names,
    hash_input,
    identify_input,
    is_hidden,
)
from indexer.contracts.preflight import check_file
from indexer.contracts.raw import (
    DELIMITERS,
    LONE_SURROGATE,
    RECORD_BYTES,
    parse_header,
    read_batches,
    read_columns,
    read_header,
    read_paths,
    read_types,
    refuse_unbalanced,
)
from indexer.contracts.schemas import Table
from indexer.errors import ConfigError, ContractError, StoreError
from indexer.input_config import InputConfig
from spark.objects import list_objects, read_first_line
from spark.session import local_address
from spark.text import is_valid_text, is_whole_json

HAS = "_has_"
FILE_PATH = "_metadata.file_path"
LINE = r"^\x{FEFF}?\s*(\S+)\s+[:-]\s+(.*\S)\s*$"
"""A node on a line of its own, as Shopify (`id : path`) and Google (`id - path`) publish theirs."""
COMMENT = r"^\x{FEFF}?\s*#"
HEADERS_AT_ONCE = 16
CUT_CHARACTERS = 1 << 20
"""What is left of a Parquet cell beyond RECORD_BYTES: more than any column may hold."""
KEY_SAMPLE_ROWS = 1_000
"""Records of which all keys are looked at."""


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where an input lies and how it is written."""

    section: str
    shown: str
    """The address as the configuration has it, for messages."""
    files: tuple[str, ...]
    """Local files, or the `s3a://` objects that Spark reads on a cluster."""
    format: str
    identity: Any
    """JSON-ready; other bytes give another one: hashes of local files, sizes and times of remote ones."""
    days: tuple[date, ...] = ()
    """The days of daily files, in order; none where files have no days."""
    listed_twice: int = 0
    """Objects that the store listed again."""

    @property
    def remote(self) -> bool:
        """Whether the executors read the input from object storage."""
        return self.files[0].startswith("s3a://")

    @property
    def addresses(self) -> list[str]:
        """What Spark is told to read."""
        return list(self.files) if self.remote else [local_address(file) for file in self.files]


def locate_input(
    session: SparkSession, source: InputConfig, *, section: str, staging: Path, days: Days | None = None
) -> Location:
    """Find the input's files; `s3://` is downloaded below `staging` where Spark runs on this machine alone.

    With `days` every file is one of a day, and only those of these days are looked at.

    Raises ConfigError where the section has no path, ContractError where nothing usable lies there.
    """
    check_path(source.path, section)
    if not source.path.startswith("s3://"):
        root = Path(source.path)
        delivery = Delivery(find_files(root, section=section, days=days, success_file=source.success_file))
        if is_hidden(root.name) and root.is_file():
            # Wanted, since it is named in full; Spark reads none of such a name.
            link = _make_folder(staging / uuid.uuid4().hex) / f"named{root.name}"
            link.symlink_to(root.resolve())
            root, delivery = link, Delivery([link])
        return _local_location(delivery, root, source, section, days)
    if runs_here(session):
        root = _make_folder(staging / uuid.uuid4().hex)
        delivery = download_files(source.path, root, days=days, success_file=source.success_file)
        return _local_location(delivery, root, source, section, days)
    return _remote_location(session, source, section, days)


def runs_here(session: SparkSession) -> bool:
    """Tell whether Spark runs on this machine alone, where its tasks see what the driver has downloaded."""
    return (session.sparkContext.master or "").startswith("local")


def _remote_location(session: SparkSession, source: InputConfig, section: str, days: Days | None) -> Location:
    address = "s3a://" + source.path.removeprefix("s3://").rstrip("/")
    listed = list_objects(session, address)
    if not listed:
        raise ContractError(f"{source.path}: no such object or folder; correct [{section}] path or deliver the table")
    names = {item.address.removeprefix(address).lstrip("/") or item.address.rpartition("/")[2]: item for item in listed}
    # An object named in full needs no mark that its folder is whole.
    alone = [item.address for item in listed] == [address]
    kept = list(names) if alone else finished_names(names, source.path, source.success_file)
    chosen = {names[name] for name in (days.choose_names(kept, source.path) if days else kept)}
    files = tuple(sorted(item.address for item in chosen if item.size))
    if not files:
        raise ContractError(f"{source.path}: 0 rows; an empty input stops the run")
    return Location(
        section=section,
        shown=source.path,
        files=files,
        format=_one_format(files, source, section),
        identity=sorted([item.address, item.size, item.changed] for item in chosen),
        days=_sort_days(files) if days else (),
    )


def open_input(
    session: SparkSession, table: Table, location: Location, columns: Mapping[str, str], *, filled: Collection[str] = ()
) -> DataFrame:
    """Return the raw columns of the table that the input has; raises ContractError where an expected one is missing.

    A JSON input is not read yet: it seems to have every column. `_has_<column>` of the expected and the
    `filled` columns tells, once it is read, which of them it lacks.
    """
    if not location.remote:
        for file in location.files:
            check_file(Path(file), location.format)
    if location.format == "parquet":
        return _open_parquet(session, table, location, columns)
    if location.format == "lines":
        return _open_lines(session, location)
    if location.format == "jsonl":
        return _open_json(session, table, location, columns, {*expected_columns(table, columns), *filled})
    return _open_delimited(session, table, location, columns)


def refuse_keys(
    session: SparkSession, table: Table, location: Location, columns: Mapping[str, str], absent: Collection[str]
) -> None:
    """Raise ContractError where one of the absent columns is expected of a JSON input."""
    wrong = [name for name in expected_columns(table, columns) if name in absent]
    if not wrong:
        return
    refuse_absent(table, columns, wrong, sorted(_sample_keys(session, location)), shown=location.shown)


def read_unknown(session: SparkSession, table: Table, location: Location, columns: Mapping[str, str]) -> set[str]:
    """Return the columns of the input that the table does not have; of JSON those that its first records have."""
    if location.format == "lines":
        return set()
    return find_unknown(table, name_columns(table, columns).values(), _column_names(session, location))


def name_line(location: Location) -> None:
    """Raise ContractError that names file and line of a record without an end, where a local CSV input has one."""
    if location.format == "csv" and not location.remote:
        for file in location.files:
            refuse_unbalanced(Path(file), location.format)


def _column_names(session: SparkSession, location: Location) -> Iterable[str]:
    if location.format == "jsonl" and location.remote:
        return _sample_keys(session, location)
    if location.format == "jsonl":
        return {key for batch in islice(read_batches(Path(location.files[0]), "jsonl", []), 1) for key in batch.keys}
    if location.format != "parquet":
        return _read_headers(session, location)
    if location.remote:
        return file_reader(session).parquet(*location.addresses).columns
    return {name for file in location.files for name in read_header(Path(file), "parquet") or ()}


def _sample_keys(session: SparkSession, location: Location) -> set[str]:
    """Return the keys of the first records of a JSON input."""
    lines = _read_lines(session, location).where(is_valid_text(F.col("value"))).limit(KEY_SAMPLE_ROWS)
    return {key for row in lines.select(F.json_object_keys("value").alias("keys")).collect() for key in row.keys or ()}


def _make_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be made: {error.strerror}") from None
    return folder


def _local_location(delivery: Delivery, root: Path, source: InputConfig, section: str, days: Days | None) -> Location:
    files = delivery.files
    full = [file for file in files if file.stat().st_size]
    if not full:
        raise ContractError(f"{source.path}: 0 rows; an empty input stops the run")
    # Below the folder by its own name: a linked file's day stands in the link's.
    top = root if root.is_dir() else root.parent
    names = tuple(str(top.resolve() / file.relative_to(top)) for file in full)
    return Location(
        section=section,
        shown=source.path,
        files=names,
        format=_one_format(names, source, section),
        # Files of other days have no part in the result.
        identity=_identify_files(files, root) if days else identify_input(root),
        days=_sort_days(str(file) for file in files) if days else (),
        listed_twice=delivery.listed_twice,
    )


def _identify_files(files: Iterable[Path], root: Path) -> list[list[str]]:
    return [[file.relative_to(root).as_posix(), hash_input(file)] for file in files]


def _sort_days(names: Iterable[str]) -> tuple[date, ...]:
    return tuple(sorted({day for name in names if (day := read_day(name))}))


def _one_format(names: Collection[str], source: InputConfig, section: str) -> str:
    formats = sorted({detect_format(Path(name), source.format) for name in names})
    if len(formats) != 1:
        raise ContractError(
            f"{source.path}: expected files of one kind, found {', '.join(formats) or 'none'}; "
            f"name it: [{section}] format"
        )
    return formats[0]


def _open_parquet(session: SparkSession, table: Table, location: Location, columns: Mapping[str, str]) -> DataFrame:
    if not location.remote:
        read = read_paths if table.nested else read_columns
        headers = {file: read(Path(file)) for file in location.files}
        matched = {file: match_columns(table, columns, names, shown=file) for file, names in headers.items()}
        refuse_partial(matched)
        wanted = {file: set(names.values()) for file, names in matched.items()}
        parts = [
            _read_parquet(session, table, location, columns, addresses, nulls)
            for nulls, addresses in _find_nulls(wanted).items()
        ]
        return reduce(DataFrame.unionByName, parts)
    return _read_parquet(session, table, location, columns, location.addresses, frozenset())


def _find_nulls(wanted: Mapping[str, Collection[str]]) -> dict[frozenset[str], list[str]]:
    """Return wanted columns without any value, which have no type either, and the addresses of files where it is these.

    Spark would take the column for one of whole numbers, and one file's type for that of all.
    """
    found: dict[frozenset[str], list[str]] = {}
    for file, names in wanted.items():
        types = read_types(Path(file)).items()
        nulls = frozenset(name for name, kind in types if name in names and pa.types.is_null(kind))
        found.setdefault(nulls, []).append(local_address(file))
    return found


def _read_parquet(
    session: SparkSession,
    table: Table,
    location: Location,
    columns: Mapping[str, str],
    addresses: Iterable[str],
    nulls: Collection[str],
) -> DataFrame:
    # Only Spark sees the files of a cluster: a column that some of them lack is null there.
    frame = file_reader(session).option("mergeSchema", location.remote).parquet(*addresses)
    known = {name: f"`{name}`" for name in frame.columns}
    if table.nested:
        known = _nested_columns(frame.schema) | known
    matched = match_columns(table, columns, known, shown=location.shown)
    chosen = [
        F.lit(None).alias(column) if name in nulls else _raw_column(frame, table, known[name], column)
        for column, name in matched.items()
    ]
    return frame.select(
        *chosen,
        F.lit(None).cast("string").alias("_line"),
        F.lit(False).alias("_broken"),
        F.sha2(F.to_json(F.struct("*")), 256).alias("_record"),
        F.col(FILE_PATH).alias("_file"),
    )


def _nested_columns(schema: T.StructType, before: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the dotted name of every field below a struct, and how Spark addresses it."""
    found = {}
    for field in schema:
        path = (*before, field.name)
        found[".".join(path)] = ".".join(f"`{name}`" for name in path)
        if isinstance(field.dataType, T.StructType):
            found |= _nested_columns(field.dataType, path)
    return found


def _raw_column(frame: DataFrame, table: Table, name: str, column: str) -> Column:
    """Return a column of a Parquet file as the rules take it; logs may write ids as numbers."""
    value, kind = F.col(name), frame.select(name).schema[0].dataType
    if isinstance(kind, T.StringType):
        # Every rule would hold a copy of such a cell; it stays too long for any column.
        value = F.when(F.octet_length(value) > RECORD_BYTES, F.substring(value, 1, CUT_CHARACTERS)).otherwise(value)
    whole = table.nested and isinstance(kind, T.IntegralType)
    return (value.cast("string") if whole and table.column(column).type == pa.string() else value).alias(column)


def _open_json(
    session: SparkSession, table: Table, location: Location, columns: Mapping[str, str], watched: Collection[str]
) -> DataFrame:
    names = name_columns(table, columns)
    heads = [name.split(".")[0] for name in names.values() if table.nested]
    fields = [T.StructField(name, T.StringType()) for name in dict.fromkeys([*names.values(), *heads])]
    _refuse_alike([field.name for field in fields], location)
    value = F.col("value")
    parsed = is_whole_json(value) & F.trim(value).startswith("{")
    broken = ~is_valid_text(value) | value.rlike(LONE_SURROGATE)
    short = F.octet_length(value) <= RECORD_BYTES
    lines = _read_lines(session, location).select(
        "value",
        F.col(FILE_PATH).alias("_file"),
        F.from_json(value, T.StructType(fields), {"mode": "PERMISSIVE"}).alias("record"),
        (short & parsed & ~broken).alias("usable"),
        broken.alias("_broken"),
    )
    record, usable = F.col("record"), F.col("usable")
    # Only a null leaves open whether the key is there, and asks for a second look at the line.
    values = {column: _json_value(record, name, nested=table.nested) for column, name in names.items()}
    has = {
        name: values[name].isNotNull() | F.array_contains(F.json_object_keys(value), names[name])
        for name in sorted(watched)
    }
    return lines.select(
        *[found.alias(column) for column, found in values.items()],
        F.when(~usable & ~F.col("_broken"), value).alias("_line"),
        "_broken",
        "_file",
        F.sha2(value, 256).alias("_record"),
        *[F.when(usable, there).alias(HAS + name) for name, there in has.items()],
    )


def _refuse_alike(names: Sequence[str], location: Location) -> None:
    """Raise ConfigError for fields of one JSON record that Spark does not tell apart."""
    for name, other in combinations(names, 2):
        if name.lower() == other.lower():
            raise ConfigError(
                f"[{location.section}] columns: {name!r} and {other!r} differ in upper and lower case alone, which "
                "Spark does not tell apart in JSON; rename one of them in the table"
            )


def _json_value(record: Column, name: str, *, nested: bool) -> Column:
    """Return the text of a record's value; a dotted name that is no key leads into the records inside."""
    head, *rest = name.split(".")
    if not nested or not rest:
        return record.getField(name)
    inside = "$" + "".join(f"['{part}']" for part in rest)
    return F.coalesce(record.getField(name), F.get_json_object(record.getField(head), inside))


def _read_lines(session: SparkSession, location: Location) -> DataFrame:
    return file_reader(session).text(location.addresses).where(F.trim("value") != "")


def _open_lines(session: SparkSession, location: Location) -> DataFrame:
    """Return the columns of TAXONOMY_PATHS."""
    value = F.col("value")
    fits, broken = value.rlike(LINE), ~is_valid_text(value)
    return (
        _read_lines(session, location)
        .where(~value.rlike(COMMENT))
        .select(
            F.when(fits, F.regexp_extract(value, LINE, 1)).alias("node_id"),
            F.when(fits, F.regexp_extract(value, LINE, 2)).alias("category_path"),
            F.when(~fits & ~broken, value).alias("_line"),
            broken.alias("_broken"),
        )
    )


def _open_delimited(session: SparkSession, table: Table, location: Location, columns: Mapping[str, str]) -> DataFrame:
    header = _read_headers(session, location)
    matched = match_columns(table, columns, header, shown=location.shown)
    # Positions, not names: Spark would fold the case of the shop's names and split them at dots.
    names = {name: f"c{index}" for index, name in enumerate(header)}
    fields = [T.StructField(name, T.StringType()) for name in (*names.values(), "_line")]
    options: dict[str, Any] = {
        "sep": DELIMITERS[location.format],
        "header": True,
        # TSV knows no quoting: a quote is a character like any other.
        "quote": '"' if location.format == "csv" else "",
        "escape": '"',
        # Else a quoted field without an end takes in all lines to the next quote.
        "unescapedQuoteHandling": "RAISE_ERROR",
        # Bytes come through one by one, so that invalid UTF-8 can be told from a replacement character.
        "encoding": "ISO-8859-1",
        "mode": "PERMISSIVE",
        "columnNameOfCorruptRecord": "_line",
        "columnPruning": False,
        "multiLine": location.format == "csv",
        "maxCharsPerColumn": RECORD_BYTES,
    }
    if location.format == "tsv":
        # A carriage return within a line is a character like any other.
        options["lineSep"] = "\n"
    frame = file_reader(session).schema(T.StructType(fields)).options(**options).csv(location.addresses)
    if location.format == "tsv":
        ends = {name: F.regexp_replace(name, "\r+$", "") for name in ([*names.values()][-1], "_line")}
        frame = frame.withColumns(ends)
    chosen = [_decoded(names[name]).alias(column) for column, name in matched.items()]
    return frame.select(
        *chosen,
        _decoded("_line").alias("_line"),
        F.lit(False).alias("_broken"),
        F.sha2(F.to_json(F.struct(*names.values())), 256).alias("_record"),
        F.col(FILE_PATH).alias("_file"),
    )


def _decoded(name: str) -> Column:
    """Take the bytes of a text that was read as ISO-8859-1 for UTF-8, valid or not."""
    return F.encode(name, "ISO-8859-1").cast("string")


def _read_headers(session: SparkSession, location: Location) -> list[str]:
    if location.remote:
        with ThreadPoolExecutor(HEADERS_AT_ONCE) as pool:
            first_lines = list(
                pool.map(lambda file: read_first_line(session, file, limit=RECORD_BYTES), location.files)
            )
        lines = zip(location.files, first_lines, strict=True)
        read: Iterable[list[str] | None] = (
            parse_header([line.removeprefix("\ufeff")], location.format, file) for file, line in lines
        )
    else:
        read = (read_header(Path(file), location.format) for file in location.files)
    headers = {tuple(header) for header in read if header}
    if not headers:
        raise ContractError(f"{location.shown}: 0 rows; an empty input stops the run")
    if len(headers) != 1:
        raise ContractError(f"{location.shown}: expected one header in all files, found {len(headers)} different ones")
    return list(headers.pop())


def file_reader(session: SparkSession) -> DataFrameReader:
    """Return a reader that takes paths as they are, brackets and all, and verifies the checksums of Parquet pages."""
    return session.read.options(**{"__globPaths__": "false", "parquet.page.verify-checksum.enabled": "true"})
