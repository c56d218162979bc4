"""JSON from outside, read strictly: one spelling per document, every field checked by name.

Python's own parser accepts NaN, infinite numbers and duplicate keys; this one refuses them.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, TypeVar

from indexer.errors import IndexerError
from indexer.text import shorten

MAX_DOCUMENT_BYTES = 16 << 20
LARGEST_INTEGER = 2**62
MAX_DEPTH = 64
"""Of objects and lists in each other: what is read can be written again."""
HASH = re.compile(r"[0-9a-f]{64}")
SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a character, which JSON can spell and UTF-8 cannot."""
TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?(Z|[+-]\d{2}:\d{2})", re.ASCII)

T = TypeVar("T")


class Record:
    """One JSON object whose fields are taken by name; `finish` refuses what nobody asked for."""

    def __init__(self, value: object, place: str, error: type[IndexerError]) -> None:
        self.place = place
        self.error = error
        self._left = dict(value) if isinstance(value, dict) else self.refuse("an object", value)

    def text(self, name: str, *, pattern: str | None = None, empty: bool = False) -> str:
        """Take a string that matches the whole pattern; it may be empty only where `empty` says so."""
        value = self._take(name)
        if not isinstance(value, str) or not (value or empty):
            self.refuse("text", value, name)
        if pattern is not None and not re.fullmatch(pattern, value):
            self.refuse(f"text of the form {pattern}", value, name)
        return str(value)

    def hash(self, name: str) -> str:
        """Take a SHA-256 in 64 lower-case hex digits."""
        value = self._take(name)
        if not isinstance(value, str) or not HASH.fullmatch(value):
            self.refuse("a SHA-256 in 64 lower-case hex digits", value, name)
        return str(value)

    def integer(self, name: str, *, minimum: int = 0, maximum: int = LARGEST_INTEGER) -> int:
        """Take a whole number from `minimum` to `maximum`."""
        value = self._take(name)
        if type(value) is not int or not minimum <= value <= maximum:
            self.refuse(f"a whole number from {minimum} to {maximum}", value, name)
        return int(value)

    def number(self, name: str) -> float:
        """Take a finite number."""
        value = self._take(name)
        if type(value) not in (int, float):
            self.refuse("a number", value, name)
        return float(value)

    def time(self, name: str) -> str:
        """Take an ISO 8601 time with its zone."""
        text = self.text(name)
        try:
            if TIME.fullmatch(text) and datetime.fromisoformat(text):
                return text
        except ValueError:
            pass
        return str(self.refuse("an ISO 8601 time with its zone", text, name))

    def flag(self, name: str) -> bool:
        """Take true or false."""
        value = self._take(name)
        if type(value) is not bool:
            self.refuse("true or false", value, name)
        return bool(value)

    def mapping(self, name: str) -> dict[str, Any]:
        """Take an object as it is."""
        value = self._take(name)
        return dict(value) if isinstance(value, dict) else self.refuse("an object", value, name)

    def record(self, name: str) -> "Record":
        """Take an object to be read field by field."""
        return Record(self._take(name), f"{self.place}.{name}", self.error)

    def optional(self, name: str, parse: Callable[["Record"], T]) -> T | None:
        """Take an object or null."""
        value = self._take(name)
        return None if value is None else parse(Record(value, f"{self.place}.{name}", self.error))

    def records(self, name: str) -> Iterator["Record"]:
        """Take a list of objects."""
        for position, value in enumerate(self.values(name)):
            yield Record(value, f"{self.place}.{name}[{position}]", self.error)

    def texts(self, name: str, *, pattern: str) -> tuple[str, ...]:
        """Take a list of different strings that match the whole pattern, at least one."""
        values = self.values(name)
        fits = [isinstance(value, str) and re.fullmatch(pattern, value) is not None for value in values]
        if not values or not all(fits) or len(set(values)) != len(values):
            self.refuse(f"different texts of the form {pattern}", values, name)
        return tuple(values)

    def values(self, name: str) -> list[Any]:
        """Take a list as it is."""
        value = self._take(name)
        return list(value) if isinstance(value, list) else self.refuse("a list", value, name)

    def names(self) -> list[str]:
        """Return the names of the fields not taken yet."""
        return list(self._left)

    def finish(self) -> None:
        """Refuse fields that were not taken."""
        if self._left:
            raise self.error(f"{self.place}: unknown field {min(self._left)!r}; upgrade this program or check the file")

    def refuse(self, expected: str, found: object, name: str = "") -> Any:
        """Raise the record's error about one field."""
        field = f"{self.place}.{name}" if name else self.place
        raise self.error(f"{field}: expected {expected}, found {shorten(found)}")

    def _take(self, name: str) -> Any:
        if name not in self._left:
            raise self.error(f"{self.place}: field {name!r} is missing")
        return self._left.pop(name)


def parse_record(data: bytes, place: str, error: type[IndexerError]) -> Record:
    """Parse one UTF-8 JSON object; raises `error` for NaN, duplicate keys, half characters, more bytes, depth, size."""
    if len(data) > MAX_DOCUMENT_BYTES:
        raise error(f"{place}: {len(data)} bytes; expected at most {MAX_DOCUMENT_BYTES}")
    try:
        document = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_countable,
        )
        _check_depth_and_texts(document)
    except (ValueError, RecursionError) as problem:
        raise error(f"{place}: not strict JSON: {problem or 'nested too deeply'}") from None
    return Record(document, place, error)


def check_format(record: Record, known: int, *, oldest: int | None = None) -> int:
    """Take the field `format` and return it; raises the record's error for a version this program does not know."""
    found = record.integer("format", minimum=1)
    first = known if oldest is None else oldest
    if not first <= found <= known:
        reads = f"format {known}" if first == known else f"formats {first} to {known}"
        raise record.error(f"{record.place}.format: this program reads {reads}, found {found}; upgrade it")
    return found


def write_document(document: Mapping[str, Any]) -> bytes:
    """Return the one spelling of a document: sorted keys, UTF-8, no NaN, a newline at the end."""
    return (json.dumps(document, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {shorten(key)} stands twice in one object")
        found[key] = value
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"number {text} is out of range")
    return value


def _countable(text: str) -> int:
    value = int(text)
    try:
        float(value)
    except OverflowError:
        raise ValueError(f"number {shorten(value)} is out of range") from None
    return value


def _check_depth_and_texts(document: object) -> None:
    """Raise ValueError for what the parser takes and the writer does not."""
    level = [document]
    for _ in range(MAX_DEPTH):
        parts = [part for value in level for part in _list_parts(value)]
        for part in parts:
            if isinstance(part, str) and SURROGATE.search(part):
                raise ValueError(f"text {shorten(part)} has half of a character")
        level = [part for part in parts if isinstance(part, dict | list)]
        if not level:
            return
    raise ValueError(f"nested more than {MAX_DEPTH} deep")


def _list_parts(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        yield from value
        yield from value.values()
    elif isinstance(value, list):
        yield from value
