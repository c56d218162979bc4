"""Turn raw columns into typed ones and give every row the first reason to reject it, column by column.

`spark/` checks the same rules as Spark expressions; a test sends the same rows through both.
"""

import re
from collections.abc import Callable, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from indexer.contracts.cleaning import decode_texts, is_text_list
from indexer.contracts.raw import json_text, parse_json
from indexer.contracts.schemas import Column, Table
from indexer.errors import ContractError
from indexer.text import SPACES, decode_entities

NOT_IN_IDS = r"[\x00-\x1f\x7f]|(^|[/\\])\.\.($|[/\\])"
"""Control characters, and steps to a folder above: a consumer may put ids into addresses."""
WHOLE_NUMBER = r"^\s*[+-]?[0-9]{1,18}\s*$"
NUMBER = r"^\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?\s*$"
DAY = r"^\s*[0-9]{4}-[0-9]{2}-[0-9]{2}\s*$"

_EDGES = re.compile(f"^{SPACES}|{SPACES}$")

Findings = list[tuple[str, pa.BooleanArray]]
"""Reason codes in order, each with the rows it applies to."""


def check_column(
    values: pa.Array, column: Column, *, place: str, separator: str = ">"
) -> tuple[pa.Array, Findings, int]:
    """Return the column in its contract type, its findings, and how many texts were cut to their limit.

    Raises ContractError where a typed column (Parquet) has a type that is not safely widened to the contract's.
    """
    findings: Findings = []
    if pa.types.is_string(values.type):
        values = _blank_to_null(values)
        empty = pc.is_null(values)
        typed = _parse(values, column.type, separator)
        unparsed = pc.and_(pc.is_null(typed), pc.is_valid(values))
    else:
        empty = pc.is_null(values)
        typed = _widen(values, column, place)
        # A list written as text is decoded when it is split.
        typed = decode_texts(typed) if pa.types.is_list(typed.type) else typed
        unparsed = None
    if not column.nullable:
        findings.append((f"{column.name}_missing", empty))
    if unparsed is not None:
        findings.append((f"{column.name}_type", unparsed))
    if pa.types.is_list(typed.type):
        typed = pa.array([_clean_list(items) for items in typed.to_pylist()], column.type)
        if not column.nullable:
            findings.append((f"{column.name}_missing", pc.is_null(typed)))
    typed, cut = _limit_text(typed, column, findings)
    if column.identifier:
        findings.append((f"{column.name}_chars", _true(pc.match_substring_regex(typed, NOT_IN_IDS))))
    if column.minimum is not None or column.maximum is not None:
        findings.append((f"{column.name}_range", _out_of_range(typed, column)))
    return decode_texts(typed) if column.text and pa.types.is_string(typed.type) else typed, findings, cut


def refuse_text(table: Table, names: Mapping[str, str], types: Mapping[str, pa.DataType], *, shown: str) -> None:
    """Raise ContractError where a typed file holds as text what the contract has as a number or date.

    `names` maps the contract's columns to the file's, whose `types` are given.
    """
    for column in table.columns:
        found = types[names[column.name]] if column.name in names else column.type
        text = pa.types.is_string(found) or pa.types.is_large_string(found)
        if text and not (pa.types.is_string(column.type) or pa.types.is_list(column.type)):
            raise _refuse_type(shown, column, found)


def first_reasons(reasons: list[str | None], findings: Findings) -> pa.StringArray:
    """Return per row the reason it already has, else the first finding that applies, else null."""
    result = pa.array(reasons, pa.string())
    for reason, applies in findings:
        result = pc.if_else(pc.and_(pc.is_null(result), applies), reason, result)
    return result


def _blank_to_null(values: pa.StringArray) -> pa.StringArray:
    blank = pc.equal(pc.utf8_trim_whitespace(values), "")
    return pc.if_else(_true(blank), pa.scalar(None, pa.string()), values)


def _true(mask: pa.BooleanArray) -> pa.BooleanArray:
    return pc.fill_null(mask, False)


def _parse(values: pa.StringArray, kind: pa.DataType, separator: str) -> pa.Array:
    """Parse text; what does not parse becomes null."""
    if pa.types.is_string(kind):
        return values
    if pa.types.is_list(kind):
        return pa.array([_parse_list(text, separator) for text in values.to_pylist()], kind)
    pattern = {pa.int64(): WHOLE_NUMBER, pa.float64(): NUMBER, pa.date32(): DAY}[kind]
    fits = _true(pc.match_substring_regex(values, pattern))
    trimmed = pc.utf8_ltrim(pc.utf8_trim_whitespace(values), characters="+")
    plausible = pc.if_else(fits, trimmed, pa.scalar(None, pa.string()))
    if pa.types.is_date(kind):
        times = pc.strptime(plausible, format="%Y-%m-%d", unit="s", error_is_null=True)
        same = pc.equal(pc.strftime(times, format="%Y-%m-%d"), plausible)
        return pc.if_else(_true(same), times.cast(pa.date32()), pa.scalar(None, pa.date32()))
    return plausible.cast(kind)


def _parse_list(text: str | None, separator: str) -> list[str] | None:
    """Split a list and decode its items; one text is decoded as a whole, since entities may end in the separator."""
    if text is None:
        return None
    if not text.lstrip().startswith("["):
        return decode_entities(text).split(separator.strip())
    try:
        items = parse_json(text)
    except (ValueError, RecursionError):
        return None
    return [decode_entities(word) for word in map(json_text, items) if word is not None]


def _clean_list(items: list[str | None] | None) -> list[str] | None:
    """Drop nulls and blank items and the white space around the others; nothing left is null."""
    words = [_EDGES.sub("", item) for item in items or () if item]
    return [word for word in words if word] or None


def _widen(values: pa.Array, column: Column, place: str) -> pa.Array:
    have, want = values.type, column.type
    tests: list[tuple[pa.DataType, Callable[[pa.DataType], bool]]] = [
        (pa.string(), pa.types.is_large_string),
        (pa.int64(), lambda kind: pa.types.is_integer(kind) and kind != pa.uint64()),
        (pa.float64(), lambda kind: pa.types.is_floating(kind) or pa.types.is_integer(kind)),
        (pa.date32(), pa.types.is_date),
        (pa.list_(pa.string()), is_text_list),
    ]
    if have == want or any(want == kind and accepts(have) for kind, accepts in tests):
        # A whole number beyond 2^53 is rounded, as Spark does.
        return values.cast(want, safe=want != pa.float64())
    if pa.types.is_null(have):
        return pa.nulls(len(values), want)
    raise _refuse_type(place, column, have)


def _refuse_type(place: str, column: Column, found: pa.DataType) -> ContractError:
    return ContractError(
        f"{place}: column {column.name} has type {found}; expected {column.type}, write it again in this type"
    )


def _limit_text(values: pa.Array, column: Column, findings: Findings) -> tuple[pa.Array, int]:
    if column.max_bytes is None:
        return values, 0
    too_long = _true(pc.greater(pc.binary_length(values), column.max_bytes))
    if not column.nullable:
        findings.append((f"{column.name}_too_long", too_long))
        return values, 0
    count: int = pc.sum(too_long).as_py() or 0
    if not count:
        return values, 0
    # A character takes up to four bytes, so a quarter of the limit in characters always fits.
    cut = pc.utf8_slice_codeunits(values, 0, column.max_bytes // 4)
    return pc.if_else(too_long, cut, values), count


def _out_of_range(values: pa.Array, column: Column) -> pa.BooleanArray:
    outside = pa.array([False] * len(values))
    if pa.types.is_floating(column.type):
        outside = pc.or_(outside, _true(pc.invert(pc.is_finite(values))))
    if column.minimum is not None:
        outside = pc.or_(outside, _true(pc.less(values, column.minimum)))
    if column.maximum is not None:
        outside = pc.or_(outside, _true(pc.greater(values, column.maximum)))
    return outside
