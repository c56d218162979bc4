"""How a shop's columns meet the contract's: under the same name, or as the configuration maps them."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from indexer.contracts.schemas import (
    BLOCKED_WORDS,
    CATALOGUE,
    CROSSWALK,
    GOLDEN_QUERIES,
    LABELS,
    PAIRS,
    QUERY_CLASSES,
    RAW_EVENTS,
    RAW_PURCHASES,
    RAW_QUERIES,
    TAXONOMY,
    TAXONOMY_PATHS,
    TEACHER_SCORES,
    Table,
)
from indexer.errors import ConfigError, ContractError

SECTIONS = {
    RAW_PURCHASES.name: "purchases",
    RAW_EVENTS.name: "purchases",
    RAW_QUERIES.name: "queries",
    CATALOGUE.name: "catalogue",
    TAXONOMY.name: "taxonomy",
    TAXONOMY_PATHS.name: "taxonomy",
    CROSSWALK.name: "crosswalk",
    QUERY_CLASSES.name: "query_classes",
    BLOCKED_WORDS.name: "blocked_words",
    LABELS.name: "labels",
    TEACHER_SCORES.name: "distill.teachers",
    PAIRS.name: "pairs",
    GOLDEN_QUERIES.name: "gates.golden",
}
"""Table that the shop delivers -> the configuration's section about it, or its setting, which maps no columns."""


def shop_table(table: Table) -> Table:
    """Return the part of the contract that the shop delivers: the grade of a label is derived from its word."""
    if table.name != LABELS.name:
        return table
    return replace(table, columns=tuple(column for column in table.columns if column.name != "grade"))


def name_columns(table: Table, columns: Mapping[str, str]) -> dict[str, str]:
    """Return contract column -> the shop's name for it; raises ConfigError where an unknown column is mapped."""
    known = [column.name for column in table.columns]
    unknown = sorted(set(columns) - set(known))
    if unknown:
        raise ConfigError(
            f"[{SECTIONS[table.name]}.columns] {', '.join(unknown)}: {table.name} has only {', '.join(known)}"
        )
    return {column.name: columns.get(column.name, column.path or column.name) for column in table.columns}


def expected_columns(table: Table, columns: Mapping[str, str]) -> list[str]:
    """Return the contract columns that an input must have: the required ones, and those the configuration names."""
    return [column.name for column in table.columns if not column.nullable or column.name in columns]


def match_columns(table: Table, columns: Mapping[str, str], found: Collection[str], *, shown: str) -> dict[str, str]:
    """Return contract column -> the shop's name, for the columns found.

    Raises ConfigError where an unknown column is mapped, ContractError where an expected one was not found.
    """
    names = name_columns(table, columns)
    absent = [column for column in expected_columns(table, columns) if names[column] not in found]
    refuse_absent(table, columns, absent, found, shown=shown)
    return {column: name for column, name in names.items() if name in found}


def find_unknown(table: Table, names: Collection[str], found: Iterable[str]) -> set[str]:
    """Return the names found that are none of the shop's names in use, nor lead to one."""
    used = {*names, *(name.partition(".")[0] for name in names if table.nested)}
    return set(found) - used


def refuse_absent(
    table: Table, columns: Mapping[str, str], absent: Collection[str], found: Collection[str], *, shown: str
) -> None:
    """Raise ContractError that names the first of the absent columns, if there is one."""
    section = SECTIONS[table.name]
    for column in absent:
        remedy = f'map it in the configuration: [{section}.columns] {column} = "your column"'
        raise ContractError(
            f"{shown}: {table.name} needs the column {name_columns(table, columns)[column]!r}, "
            f"found {', '.join(found) or 'none'}; {'rename it in the file' if '.' in section else remedy}"
        )


def refuse_partial(matched: Mapping[str, Collection[str]]) -> None:
    """Raise ContractError where one file lacks a column that another has: its rows would pass as rows without values.

    `matched` has the contract's columns that each file holds.
    """
    everything = sorted(set().union(*matched.values()))
    for file, names in matched.items():
        for column in everything:
            if column not in names:
                raise ContractError(f"{file}: no {column}, which other files of the table have; write all files alike")
