"""The tables as Spark frames: the shop's, judged row by row, and the project's own, by their commits."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_schema

from indexer.contracts.rejects import describe_unknown
from indexer.contracts.schemas import REJECTS, Table
from indexer.errors import ContractError, IntegrityError
from indexer.input_config import InputConfig
from indexer.runs import StepFolder
from spark.checks import FIX, UNBALANCED, judge_rows
from spark.inputs import HAS, Location, file_reader, name_line, open_input, read_unknown, refuse_keys
from spark.invariants import count_broken
from spark.pairs import first_reason
from spark.session import local_address, spark_failures
from spark.text import ENTITIES_DECODED, decode_entities

WIDENED = {
    "bigint": ("tinyint", "smallint", "int"),
    "double": ("float", "tinyint", "smallint", "int", "bigint"),
    "timestamp": ("timestamp_ntz", "bigint", "string"),
}
"""Contract type -> the Parquet types that fit into it without loss."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """The valid rows of a shop's table, and an account of the others."""

    rows: DataFrame
    counts: dict[str, Any]
    """`rows_in` = `valid` + `rejected`; where there are any, how many valid rows each fix of `indexer.text` concerns,
    `files_listed_twice`, and the names of `unknown_columns`."""
    rejects: list[dict[str, Any]]
    """Rows of REJECTS."""
    unwanted: dict[str, int] = dataclasses.field(default_factory=dict)
    """Rows left out before they were judged, by reason; no part of `rows_in`."""


def spark_schema(table: Table) -> T.StructType:
    """Derive the Spark types of a table from its contract."""
    return from_arrow_schema(table.schema)


def frame_of(session: SparkSession, rows: pa.Table) -> DataFrame:
    """Return Arrow rows as a frame; Spark 3.5 does not take them as they are."""
    values = list(zip(*[column.to_pylist() for column in rows.columns], strict=True))
    return session.createDataFrame(values, from_arrow_schema(rows.schema), verifySchema=False)


def read_input(
    session: SparkSession,
    table: Table,
    location: Location,
    source: InputConfig,
    *,
    separator: str = ">",
    filled: Collection[str] = (),
    kept: Sequence[str] = (),
    unwanted: Mapping[str, Column] | None = None,
) -> Input:
    """Read a shop's table; one pass counts and explains the rejected rows.

    `filled` names nullable columns that a table may lack as a whole, but where it has them no row may. `kept` names
    what of `_file` and `_record` goes with the valid rows. `unwanted` holds conditions on the table's columns: rows
    that meet one are left out whatever their faults, unless they cannot be read at all.

    Raises ContractError for a missing or mistyped column, 0 rows, an unreadable file, or more than
    `source.max_reject_share` rejected rows.
    """
    with spark_failures(location.shown):
        raw = open_input(session, table, location, source.columns, filled=filled)
        if location.format == "parquet":
            raw = _type_nulls(raw, table)
            _check_types(raw, table, location.shown)
    with _named_lines(location), spark_failures(location.shown):
        judged, reasons = _judge(raw, table, filled, separator, kept, unwanted or {})
        absent = [name for name in _watched(raw) if _is_absent(name, reasons)]
        refuse_keys(session, table, location, source.columns, absent)
        if absent:
            raw = raw.drop(*absent, *(HAS + name for name in absent))
            judged, reasons = _judge(raw, table, filled, separator, kept, unwanted or {})
        _refuse_unbalanced(reasons, location)
        unknown = read_unknown(session, table, location, source.columns)
    left_out = {row["_reason"]: row["count"] for row in reasons if row["_reason"] in (unwanted or {})}
    rejects = [
        reject_row(table, row["_reason"], row["count"], key=row["example"]["key"], sample=row["example"]["sample"])
        for row in reasons
        if row["_reason"] is not None and row["_reason"] not in left_out
    ]
    rows_in = sum(row["count"] for row in reasons) - sum(left_out.values())
    if left_out and not rows_in:
        _refuse_unwanted(table, reasons, location)
    counts = count_rows(rows_in, rejects)
    check_rejects(counts, rejects, shown=location.shown, limit=source.max_reject_share, section=location.section)
    counts |= _count_fixes(reasons) | ({"files_listed_twice": location.listed_twice} if location.listed_twice else {})
    counts |= describe_unknown(unknown)
    texts = {column.name for column in table.columns if column.text and column.type == pa.string()}
    # Few inputs have entities, and the expression is a long one to plan.
    decoded = texts if ENTITIES_DECODED in counts else set()
    columns = [
        decode_entities(F.col(name)).alias(name) if name in decoded else name for name in spark_schema(table).names
    ]
    valid = judged.where(F.col("_reason").isNull()).select(*columns, *kept)
    return Input(rows=valid, counts=counts, rejects=rejects, unwanted=left_out)


def reject_row(
    table: Table, reason: str, count: int, *, key: str | None = None, sample: str | None = None
) -> dict[str, Any]:
    """Return a row of REJECTS."""
    return {"table": table.name, "reason": reason, "key": key, "sample": sample, "count": count}


def count_rows(rows_in: int, rejects: list[dict[str, Any]]) -> dict[str, Any]:
    """Return `rows_in`, `valid` and `rejected`."""
    rejected = sum(reject["count"] for reject in rejects)
    return {"rows_in": rows_in, "valid": rows_in - rejected, "rejected": rejected}


def check_rejects(
    counts: Mapping[str, Any], rejects: list[dict[str, Any]], *, shown: str, limit: float, section: str
) -> None:
    """Raise ContractError for an empty table or one with too large a share of rejected rows."""
    if counts["rows_in"] == 0:
        raise ContractError(f"{shown}: 0 rows; an empty input stops the run")
    share = counts["rejected"] / counts["rows_in"]
    if share > limit:
        reasons = "; ".join(f"{r['count']} {r['reason']} (such as {r['sample']!r} of {r['key']!r})" for r in rejects)
        raise ContractError(
            f"{shown}: {counts['rejected']} of {counts['rows_in']} rows rejected, which is more than "
            f"{limit:.2%}: {reasons}; correct the table or raise {section}.max_reject_share"
        )


def read_table(session: SparkSession, work: str | Path, table: Table, run_date: str) -> DataFrame:
    """Read the committed rows of one of the project's own tables; raises ContractError where there are none."""
    return read_rows(session, StepFolder(work, table.written_by, run_date).table_folder(table.name), table)


def read_rows(session: SparkSession, folder: Path, table: Table) -> DataFrame:
    """Read the rows of one of the project's own tables from its folder."""
    with spark_failures(str(folder)):
        reader = file_reader(session).schema(spark_schema(table))
        return reader.parquet(local_address(folder.resolve())).select(*spark_schema(table).names)


def write_table(frame: DataFrame, folder: Path, table: Table) -> int:
    """Write exactly the contract's columns as Parquet below an attempt's folder and return the rows written.

    Raises ContractError where the frame lacks a column or has it in another type, IntegrityError where a row
    breaks a rule of `spark.invariants`.
    """
    expected = spark_schema(table)
    for field in expected:
        found = frame.schema[field.name].dataType if field.name in frame.columns else None
        if found != field.dataType:
            raise ContractError(
                f"{table.name}.{field.name}: expected {field.dataType.simpleString()} to write, "
                f"found {found.simpleString() if found else 'no such column'}"
            )
    with spark_failures(table.name):
        frame.select(*expected.names).write.parquet(local_address(folder.resolve() / table.name))
    written = read_rows(frame.sparkSession, folder / table.name, table)
    (counts,) = (row.asDict() for row in count_broken(written, table).collect())
    rows: int = counts.pop("rows")
    for rule, broken in counts.items():
        if broken:
            raise IntegrityError(f"{table.name}: {broken} of {rows} rows break the rule {rule}; please report this")
    return rows


def write_rejects(session: SparkSession, rejects: list[dict[str, Any]], folder: Path) -> None:
    """Write the REJECTS table of a step."""
    rows = pa.Table.from_pylist(rejects, schema=REJECTS.schema)
    write_table(frame_of(session, rows).coalesce(1), folder, REJECTS)


@contextmanager
def _named_lines(location: Location) -> Iterator[None]:
    """Name the line of a CSV record without an end, which Spark cannot: it reads a file from many places."""
    try:
        yield
    except ContractError:
        name_line(location)
        raise


def _judge(
    raw: DataFrame,
    table: Table,
    filled: Collection[str],
    separator: str,
    kept: Sequence[str],
    unwanted: Mapping[str, Column],
) -> tuple[DataFrame, list[Any]]:
    """Judge the rows and count them by reason, and with them the records that have each watched key."""
    required = _require_filled(table, set(filled) & set(raw.columns))
    passed = [*_watched_flags(raw), *kept]
    judged = judge_rows(raw, required, spark_schema(required), separator=separator, kept=passed)
    reason = F.col("_reason")
    if unwanted:
        readable = ~F.coalesce(reason.isin(UNBALANCED, "malformed", "encoding"), F.lit(False))
        judged = judged.withColumn("_reason", F.coalesce(F.when(readable, first_reason(*unwanted.items())), reason))
    return judged, _count_reasons(judged)


def _watched(raw: DataFrame) -> list[str]:
    """Return the columns of a JSON input of which only its records tell whether it has them."""
    return [name.removeprefix(HAS) for name in _watched_flags(raw)]


def _watched_flags(frame: DataFrame) -> list[str]:
    return [name for name in frame.columns if name.startswith(HAS)]


def _is_absent(name: str, reasons: list[Any]) -> bool:
    """Tell whether there are records and none has the column; lines that are no record tell nothing (null)."""
    flags = [row[HAS + name] for row in reasons]
    return False in flags and True not in flags


def _require_filled(table: Table, names: Collection[str]) -> Table:
    columns = tuple(replace(c, nullable=False) if c.name in names else c for c in table.columns)
    return replace(table, columns=columns)


def _type_nulls(raw: DataFrame, table: Table) -> DataFrame:
    """Give a column that has no value in any file, and so no type, that of the contract."""
    kinds = {field.name: field.dataType for field in spark_schema(table)}
    nulls = [field.name for field in raw.schema if isinstance(field.dataType, T.NullType) and field.name in kinds]
    return raw.withColumns({name: F.col(name).cast(kinds[name]) for name in nulls})


def _check_types(raw: DataFrame, table: Table, shown: str) -> None:
    wrong = []
    for field in spark_schema(table):
        if field.name not in raw.columns:
            continue
        expected, found = field.dataType.simpleString(), raw.schema[field.name].dataType.simpleString()
        # A list may also be written as one text.
        also = ("string",) if expected.startswith("array") else WIDENED.get(expected, ())
        if found not in (expected, *also):
            wrong.append(f"{field.name}: expected {expected}, found {found}")
    if wrong:
        raise ContractError(
            f"{shown}: {table.name} columns of another type: {'; '.join(wrong)}; write them as expected"
        )


def _refuse_unwanted(table: Table, reasons: list[Any], location: Location) -> None:
    kinds = "; ".join(f"{row['count']} {row['_reason']}, such as {row['example']['key']!r}" for row in reasons)
    raise ContractError(
        f"{location.shown}: no row of {table.name} counts: {kinds}; expected some, correct [{location.section}]"
    )


def _refuse_unbalanced(reasons: list[Any], location: Location) -> None:
    for row in reasons:
        if row["_reason"] == UNBALANCED:
            start = row["example"]["sample"].splitlines()[0]
            raise ContractError(f"{location.shown}: the record that starts with {start!r} has an unbalanced quote")


def _count_reasons(judged: DataFrame) -> list[Any]:
    example = F.struct(F.col("_key").alias("key"), F.col("_sample").alias("sample"))
    flags = [F.bool_or(name).alias(name) for name in _watched_flags(judged)]
    fixes = [F.count_if(name).alias(name) for name in judged.columns if name.startswith(FIX)]
    counted = [F.count("*").alias("count"), F.min(example).alias("example"), *flags, *fixes]
    return judged.groupBy("_reason").agg(*counted).orderBy("_reason").collect()


def _count_fixes(reasons: list[Any]) -> dict[str, int]:
    """Return how many rows without a reason need each fix, of those that any needs."""
    kept: dict[str, Any] = next((row.asDict() for row in reasons if row["_reason"] is None), {})
    return {name.removeprefix(FIX): count for name, count in kept.items() if name.startswith(FIX) and count}
