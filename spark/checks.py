"""Judge raw rows by the rules of their contract: typed values, and the first reason to reject, or null.

`indexer.contracts` holds the same rules and reason codes for readers that run without Spark.
"""

from collections.abc import Sequence
from functools import reduce
from operator import or_

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from indexer.contracts.checks import NOT_IN_IDS
from indexer.contracts.rejects import WITHHELD
from indexer.contracts.schemas import Column as ContractColumn
from indexer.contracts.schemas import Table
from indexer.text import SPACES
from spark.duplicates import read_time
from spark.text import FIXES, decode_entities, is_blank, is_valid_text, is_whole_json, repair_text, strip_text

SAMPLE_CHARACTERS = 200
UNBALANCED = "quote_unbalanced"
"""Not a reason to reject a row: such a record has swallowed lines after it, so the table cannot be used."""

FIX = "_fix_"
SMALLEST_MILLISECONDS = 10**11
"""As seconds this is the year 5138."""
SMALLEST_MICROSECONDS = 10**14
SMALLEST_NANOSECONDS = 10**17

ARRAY = rf"^(?:{SPACES})?\["
"""How a list written as JSON begins."""
PATTERNS = {
    "long": r"^[+-]?[0-9]{1,18}$",
    "double": r"^[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]{1,3})?$",
    "date": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$",
}
"""How a value is written as text; Spark's own casts also take `12.0f` and `2026`."""


def judge_rows(
    raw: DataFrame, table: Table, types: T.StructType, *, separator: str, kept: Sequence[str] = ()
) -> DataFrame:
    """Return the table's columns, typed, with `_reason`, `_key` and `_sample` of the row's first fault.

    Texts stay as they are written; `_fix_<name>` tells whether one of the row has something to mend. The `kept` columns
    pass through as they are.

    The order of reasons is malformed, encoding, then per column missing, type, too_long, chars, range.
    Nullable text above its limit is cut instead.
    """
    present = [column for column in table.columns if column.name in raw.columns]
    values = {column.name: _typed(raw, column, types[column.name].dataType, separator) for column in table.columns}
    staged = raw.select(
        "_line",
        "_broken",
        *kept,
        *[_as_text(raw, column.name).alias(f"_raw_{column.name}") for column in present],
        F.concat_ws("\n", *[column.name for column in present if column.text]).alias("_texts"),
        *[value.alias(name) for name, value in values.items()],
    )
    line = F.col("_line")
    unbalanced = line.contains("\n") & (F.length(F.regexp_replace(line, '[^"]', "")) % 2 == 1)
    # Where the contract has people, a line may have them in a column that nobody mapped.
    shown = F.lit(WITHHELD) if any(column.private for column in table.columns) else line
    faults = [
        _fault(UNBALANCED, unbalanced, shown),
        _fault("malformed", line.isNotNull(), shown),
        *_encoding_faults(present),
    ]
    for column in present:
        faults += _column_faults(column)
    fault = F.coalesce(*faults)
    keys = [f"_raw_{name}" for name in table.key or _required(table) if f"_raw_{name}" in staged.columns]
    return staged.select(
        *[_cut(column).alias(column.name) for column in table.columns],
        fault["reason"].alias("_reason"),
        _shorten(F.concat_ws(" / ", *keys)).alias("_key"),
        _shorten(fault["sample"]).alias("_sample"),
        *[test(F.col("_texts")).alias(FIX + name) for name, test in FIXES.items()],
        *kept,
    )


def _typed(raw: DataFrame, column: ContractColumn, target: T.DataType, separator: str) -> Column:
    if column.name not in raw.columns:
        return F.lit(None).cast(target)
    value, kind = F.col(column.name), raw.schema[column.name].dataType
    if isinstance(target, T.ArrayType):
        names = F.transform(value, decode_entities) if isinstance(kind, T.ArrayType) else _split(value, separator)
        trimmed = F.transform(F.filter(names, lambda name: ~is_blank(name)), lambda name: strip_text(name))
        return F.when(F.size(trimmed) > 0, trimmed)
    if isinstance(target, T.StringType):
        return F.when(~is_blank(value), value)
    if isinstance(target, T.TimestampType):
        return _instant(value, kind)
    if not isinstance(kind, T.StringType):
        return value.cast(target)
    text = F.trim(value)
    return F.when(text.rlike(PATTERNS[target.typeName()]), _try_cast(column.name, target))


def _try_cast(name: str, target: T.DataType) -> Column:
    """Cast the trimmed text of a column, null where it cannot be; Spark 3.5 knows the cast in SQL alone."""
    return F.expr(f"try_cast(trim(`{name}`) AS {target.simpleString()})")


def _instant(value: Column, kind: T.DataType) -> Column:
    """Read a point in time: ISO 8601, else seconds since 1970 or, from 1973 on, thousandths of them and so forth."""
    if isinstance(kind, T.TimestampType | T.TimestampNTZType):
        return value.cast("timestamp")
    text = F.trim(value.cast("string"))
    number = F.when(text.rlike("^[0-9]{1,18}$") | text.rlike("^[1-8][0-9]{18}$"), text).cast("bigint")
    clock = F.timestamp_micros(
        F.when(number < SMALLEST_MILLISECONDS, number * 1_000_000)
        .when(number < SMALLEST_MICROSECONDS, number * 1_000)
        .when(number < SMALLEST_NANOSECONDS, number)
        .otherwise(F.floor(number.cast("decimal(19,0)") / 1_000).cast("bigint"))
    )
    return F.coalesce(clock, read_time(text))


def _split(text: Column, separator: str) -> Column:
    """Read a list written as a JSON array or as one string, and decode its items; a broken array is null."""
    array = F.when(is_whole_json(text), F.from_json(text, T.ArrayType(T.StringType()), {"mode": "PERMISSIVE"}))
    # Decoded as a whole, since entities may end in the separator.
    parts = F.split(decode_entities(text), "\\Q" + separator.strip() + "\\E")
    return F.when(text.rlike(ARRAY), F.transform(array, decode_entities)).otherwise(parts)


def _as_text(raw: DataFrame, name: str) -> Column:
    if isinstance(raw.schema[name].dataType, T.StringType):
        return F.col(name)
    return F.to_json(name) if isinstance(raw.schema[name].dataType, T.ArrayType) else F.col(name).cast("string")


def _encoding_faults(columns: list[ContractColumn]) -> list[Column]:
    texts = {column.name: F.col(f"_raw_{column.name}") for column in columns}
    private = {column.name for column in columns if column.private}
    nothing = F.lit(None).cast("string")
    broken = [
        _fault("encoding", ~is_valid_text(text), nothing if name in private else text) for name, text in texts.items()
    ]
    return [*broken, _fault("encoding", F.col("_broken"), next(iter(texts.values())))]


def _column_faults(column: ContractColumn) -> list[Column]:
    raw, value = F.col(f"_raw_{column.name}"), F.col(column.name)
    faults = []
    if not column.nullable:
        faults.append(_fault(f"{column.name}_missing", is_blank(raw), raw))
    if column.type == pa.list_(pa.string()):
        wanted = ~raw.rlike(r"^\s*\[\s*\]\s*$") & ~is_blank(raw)
        items = F.when(is_whole_json(raw), F.from_json(raw, T.ArrayType(T.StringType())))
        broken_array = raw.rlike(ARRAY) & items.isNull()
        faults.append(_fault(f"{column.name}_type", wanted & broken_array, raw))
        if not column.nullable:
            faults.append(_fault(f"{column.name}_missing", value.isNull(), raw))
    elif column.type != pa.string():
        faults.append(_fault(f"{column.name}_type", value.isNull() & ~is_blank(raw), raw))
    if column.max_bytes is not None and not _is_cut(column):
        faults.append(_fault(f"{column.name}_too_long", F.octet_length(value) > column.max_bytes, raw))
    if column.identifier:
        faults.append(_fault(f"{column.name}_chars", value.rlike(NOT_IN_IDS), raw))
    outside = _outside(column, value)
    return faults if outside is None else [*faults, _fault(f"{column.name}_range", outside, raw)]


def _outside(column: ContractColumn, value: Column) -> Column | None:
    limits = []
    # The last day lasts until midnight.
    ranked = F.to_date(value) if pa.types.is_timestamp(column.type) else value
    if column.minimum is not None:
        limits.append(ranked < column.minimum)
    if column.maximum is not None:
        limits.append(ranked > column.maximum)
    if column.type == pa.float64():
        limits += [F.isnan(value), F.abs(value) == float("inf")]
    return reduce(or_, limits) if limits else None


def _fault(reason: str, condition: Column, sample: Column) -> Column:
    return F.when(condition, F.struct(F.lit(reason).alias("reason"), sample.cast("string").alias("sample")))


def _is_cut(column: ContractColumn) -> bool:
    return column.nullable and column.type == pa.string()


def _cut(column: ContractColumn) -> Column:
    """Cut free text that is longer than its limit."""
    value = F.col(column.name)
    if column.max_bytes is None or not _is_cut(column):
        return value
    # A character takes up to four bytes, so a quarter of the limit in characters always fits.
    head = F.substring(value, 1, column.max_bytes // 4)
    return F.when(F.octet_length(value) > column.max_bytes, head).otherwise(value)


def _shorten(text: Column) -> Column:
    return repair_text(F.substring(repair_text(text), 1, SAMPLE_CHARACTERS))


def _required(table: Table) -> list[str]:
    return [column.name for column in table.columns if not column.nullable]
