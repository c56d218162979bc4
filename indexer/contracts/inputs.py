"""Read a shop's table in batches by its contract; every row comes out or is rejected with a reason."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from indexer.contracts.checks import Findings, check_column, first_reasons, refuse_text
from indexer.contracts.cleaning import count_fixes
from indexer.contracts.columns import (
    SECTIONS,
    expected_columns,
    find_unknown,
    match_columns,
    name_columns,
    refuse_absent,
    refuse_partial,
    shop_table,
)
from indexer.contracts.files import detect_format, local_files
from indexer.contracts.preflight import check_file
from indexer.contracts.raw import RawBatch, read_batches, read_header, read_types
from indexer.contracts.rejects import WITHHELD, InputCounts
from indexer.contracts.schemas import LABELS, Table
from indexer.input_config import CatalogueConfig, InputConfig, LabelsConfig

MAX_KEYS = 1_000
"""Keys of JSON records beyond which only the contract's are noted."""
LABEL_OF_GRADE = ("irrelevant", "irrelevant", "low", "high")
"""Grades 0 and 1 are irrelevant, 2 is low, 3 is high (KD-Boost appendix A.1)."""


class InputReader:
    """An iteration over record batches of the contract's schema; `counts` is complete when it ends.

    Memory holds one batch of at most 5,000 rows or 16 MiB of text, whatever the size of the input.
    """

    def __init__(self, table: Table, source: InputConfig) -> None:
        self.table = table
        self.source = source
        self._shop_table = shop_table(table)
        self._keys: set[str] = set()
        self.counts = InputCounts(table.name, source.path)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield valid rows; raises ContractError at the end where too many rows were rejected."""
        self.counts = InputCounts(self.table.name, self.source.path)
        self._keys = set()
        section, success_file = SECTIONS[self.table.name], self.source.success_file
        with local_files(self.source.path, section=section, success_file=success_file) as delivery:
            self.counts.fix("files_listed_twice", delivery.listed_twice)
            headers = {file: self._match_file(file) for file in delivery.files}
            refuse_partial({str(file): names for file, names in headers.items() if names})
            for file, names in headers.items():
                yield from self._read_file(file, names)
        self._check_keys()
        self.counts.check(self.source.max_reject_share)

    def _match_file(self, file: Path) -> dict[str, str]:
        """Return contract column -> the file's name for it; empty for an empty file."""
        kind = detect_format(file, self.source.format)
        check_file(file, kind)
        header = read_header(file, kind)
        if header is None:
            return name_columns(self._shop_table, self.source.columns)
        names = match_columns(self._shop_table, self.source.columns, header, shown=str(file)) if header else {}
        self.counts.unknown_columns |= find_unknown(self._shop_table, names.values(), header)
        if kind == "parquet":
            refuse_text(self._shop_table, names, read_types(file), shown=str(file))
        return names

    def _read_file(self, file: Path, names: dict[str, str]) -> Iterator[pa.RecordBatch]:
        if not names:
            return
        for raw in read_batches(file, detect_format(file, self.source.format), list(names.values())):
            batch = self._check_batch(raw, names)
            self._keys |= raw.keys if len(self._keys) < MAX_KEYS else raw.keys & set(names.values())
            self.counts.rows_out += batch.num_rows
            if batch.num_rows:
                yield batch

    def _check_keys(self) -> None:
        """Raise ContractError where no record of a JSON input had an expected column."""
        if not self._keys:
            return
        columns = self.source.columns
        names = name_columns(self._shop_table, columns)
        self.counts.unknown_columns |= find_unknown(self._shop_table, names.values(), self._keys)
        absent = [name for name in expected_columns(self._shop_table, columns) if names[name] not in self._keys]
        refuse_absent(self._shop_table, columns, absent, sorted(self._keys), shown=self.source.path)

    def _check_batch(self, raw: RawBatch, names: dict[str, str]) -> pa.RecordBatch:
        columns: dict[str, pa.Array] = {}
        findings: Findings = []
        fixed: dict[str, set[int]] = {}
        rows = len(raw.reasons)
        if self.table is LABELS:
            self._grade_labels(raw, names, columns, findings)
        for column in self.table.columns:
            if column.name in columns:
                continue
            theirs = names.get(column.name)
            values = raw.columns[theirs] if theirs is not None else pa.nulls(rows, column.type)
            if column.text:
                count_fixes(values, lambda fix, row: fixed.setdefault(fix, set()).add(row))
            typed, found, cut = check_column(values, column, place=raw.place, separator=self._separator())
            columns[column.name] = typed
            self._count_damage(column.name, typed)
            findings.extend(found)
            self.counts.fix(f"{column.name}_cut", cut)
        reasons = first_reasons(raw.reasons, findings)
        self._count(raw, reasons, names)
        for fix, changed in fixed.items():
            self.counts.fix(fix, sum(not reasons[row].is_valid for row in changed))
        arrays = [columns[column.name] for column in self.table.columns]
        batch = pa.RecordBatch.from_arrays(arrays, names=[column.name for column in self.table.columns])
        return batch.filter(pc.is_null(reasons)).cast(self.table.schema)

    def _count_damage(self, name: str, values: pa.Array) -> None:
        """Count texts that an earlier decoding damaged; `indexer.text` strips the mark it left."""
        if pa.types.is_string(values.type):
            self.counts.fix(f"{name}_damaged", pc.sum(pc.match_substring(values, "\ufffd")).as_py() or 0)

    def _grade_labels(
        self, raw: RawBatch, names: dict[str, str], columns: dict[str, pa.Array], findings: Findings
    ) -> None:
        """Map the shop's label words to grades and labels, in place of the label column's own check."""
        assert isinstance(self.source, LabelsConfig)
        grades = self.source.all_grades()
        words = [_word(value) for value in raw.columns[names["label"]].to_pylist()]
        found = [None if word is None else grades.get(word) for word in words]
        columns["grade"] = pa.array(found, pa.int64())
        columns["label"] = pa.array([None if grade is None else LABEL_OF_GRADE[grade] for grade in found], pa.string())
        findings.append(("label_missing", pa.array([word is None for word in words])))
        findings.append(("label_unknown", pc.is_null(columns["grade"])))

    def _separator(self) -> str:
        return self.source.category_separator if isinstance(self.source, CatalogueConfig) else ">"

    def _count(self, raw: RawBatch, reasons: pa.StringArray, names: dict[str, str]) -> None:
        self.counts.rows_in += len(reasons)
        rejected = pc.indices_nonzero(pc.is_valid(reasons)).to_pylist()
        # Where the contract has people, a line may have them in a column that nobody mapped.
        private = any(column.private for column in self.table.columns)
        key_columns = [raw.columns[names[name]] for name in self.table.key if name in names]
        for row in rejected:
            reason = reasons[row].as_py()
            key = " / ".join(str(column[row].as_py()) for column in key_columns if column[row].is_valid)
            column = next((names[c.name] for c in self.table.columns if reason.startswith(f"{c.name}_")), None)
            value = raw.columns[column][row].as_py() if column in raw.columns else None
            unread = WITHHELD if raw.samples.get(row) and private else raw.samples.get(row)
            sample = unread or (None if value is None else str(value))
            self.counts.reject(reason, key=key or None, sample=sample)


def open_input(table: Table, source: InputConfig) -> InputReader:
    """Open a shop's table for reading; nothing is read before the iteration starts."""
    return InputReader(table, source)


def _word(value: object) -> str | None:
    """Return a label as a lower-case word; whole numbers may come as numbers."""
    if value is None or not str(value).strip():
        return None
    return str(value).strip().lower()
