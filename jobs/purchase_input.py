"""What a shop delivers as purchases: read, judged, summed per pair, and every row entered in the step's account."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from indexer.config import Config
from indexer.contracts.days import Days
from indexer.contracts.schemas import RAW_EVENTS, RAW_PURCHASES, RAW_QUERIES, Table
from indexer.errors import ContractError
from indexer.input_config import PurchasesConfig
from jobs.steps import Account, first_row
from spark import events, purchases
from spark.inputs import Location
from spark.tables import Input, count_rows, read_input, reject_row

PAIR_FILTERS = ("below_min_users", "below_min_purchases")
OTHER_DAYS = ("outside_window", "event_date_wrong_day", "event_date_future")

Counts = Mapping[str | None, Mapping[str, Any]]
"""Reason -> what `purchases.count_purchases` counted; None is what is kept."""


@dataclass(frozen=True, kw_only=True)
class PurchaseInput:
    """The rows that were read, and the purchases they are."""

    table: Table
    source: Input
    location: Location
    rows: DataFrame


def input_days(config: Config, days: Days) -> dict[str, Days]:
    """Return the inputs that lie in daily files, with the days to read."""
    # A search may lie before midnight, and the purchase behind it.
    before = replace(days, first=days.first and days.first - timedelta(days=1))
    spans = {"purchases": days, "queries": before}
    return {name: spans[name] for name in input_sections(config) if getattr(config, name).daily}


def input_sections(config: Config) -> tuple[str, ...]:
    """Return the sections of the configuration that the purchases come from."""
    joined = config.purchases.kind == "events" and config.queries.path
    return ("purchases", "queries") if joined else ("purchases",)


def raw_table(config: PurchasesConfig, *, daily: bool = False) -> Table:
    """Return the contract of the input with the shop's own limit for an outlier, and days where they are needed."""
    table = RAW_EVENTS if config.kind == "events" else RAW_PURCHASES
    changes: dict[str, dict[str, Any]] = {
        "purchases": {"maximum": config.max_purchases},
        "quantity": {"maximum": config.max_purchases},
        "event_date": {"nullable": daily or not config.needs_days},
    }
    return replace(table, columns=tuple(replace(column, **changes.get(column.name, {})) for column in table.columns))


def read_purchases(
    session: SparkSession, config: Config, locations: Mapping[str, Location], account: Account
) -> PurchaseInput:
    """Read the shop's purchases, or its events as purchases; raises ContractError for unusable tables."""
    location, settings = locations["purchases"], config.purchases
    table = raw_table(settings, daily=bool(location.days))
    if settings.kind == "columns":
        source = read_input(session, table, location, settings, filled=("purchases",), kept=("_file",))
        rows = purchases.fill_purchases(source.rows, default_purchases=settings.default_purchases)
        return PurchaseInput(table=table, source=source, location=location, rows=rows)
    weights = settings.all_weights()
    texts = _read_texts(session, config, locations["queries"], account) if "queries" in locations else None
    unwanted = events.unwanted_actions(weights)
    source = read_input(session, table, location, settings, kept=("_file", "_record"), unwanted=unwanted)
    merged = events.merge_copies(source.rows, remove_repeats=settings.remove_repeats)
    rows = events.weigh_events(events.resolve_queries(merged, texts), weights)
    return PurchaseInput(table=table, source=source, location=location, rows=rows)


def sum_pairs(found: PurchaseInput, config: PurchasesConfig, days: Days) -> DataFrame:
    """Return the purchases of every pair, with a reason where they do not count."""
    judged = purchases.judge_purchases(found.rows, days, daily=bool(found.location.days))
    limited = bool(config.max_user_pair_day or config.max_user_day)
    dated = ["event_date"] if limited or config.half_life_days else []
    groups = purchases.group_purchases(judged, by=[*dated, *(["user_id"] if config.needs_users else [])])
    if limited:
        groups = purchases.limit_users(groups, per_pair=config.max_user_pair_day, per_day=config.max_user_day)
    if config.half_life_days:
        groups = purchases.weigh_purchases(groups, half_life_days=config.half_life_days, days=days)
    sums = purchases.sum_purchases(groups)
    return purchases.judge_pairs(sums, min_purchases=config.min_purchases, min_users=config.min_users)


def enter_counts(account: Account, found: PurchaseInput, counts: Counts, config: PurchasesConfig) -> None:
    """Enter what became of every row; raises ContractError where too many are rejected or no pair is left."""
    source, location = found.source, found.location
    rejects = [
        *source.rejects,
        *[
            reject_row(found.table, reason, row["rows"], **row["example"])
            for reason, row in sorted((reason, row) for reason, row in counts.items() if reason is not None)
            if reason not in purchases.FILTERS
        ],
    ]
    account.add_rows(found.table, source.counts | count_rows(source.counts["rows_in"], rejects), rejects)
    _refuse_other_days(counts, found, config)
    account.check(found.table, location, config.max_reject_share)
    _refuse_nameless(counts, location, config)
    _refuse_nothing(counts, location, config)
    account.filters |= source.unwanted | _count_filters(counts)
    account.figures |= _count_figures(counts, found, config)
    _balance(account, found, counts)


def _read_texts(session: SparkSession, config: Config, location: Location, account: Account) -> DataFrame:
    source = read_input(session, RAW_QUERIES, location, config.queries)
    account.add_rows(RAW_QUERIES, source.counts, source.rejects)
    texts = events.query_texts(source.rows)
    counts = first_row(events.count_texts(texts))
    if counts["duplicate_id"]:
        account.reject(RAW_QUERIES, "duplicate_id", counts["duplicate_id"], key=counts["example"], sample=None)
        account.check(RAW_QUERIES, location, config.queries.max_reject_share)
    account.filters["merged_queries"] = counts["merged"]
    parts = [counts["duplicate_id"], counts["merged"], counts["queries"]]
    account.balance(RAW_QUERIES.name, source.counts["valid"], parts)
    return texts


def _refuse_other_days(counts: Counts, found: PurchaseInput, config: PurchasesConfig) -> None:
    others = {reason: counts[reason]["rows"] for reason in OTHER_DAYS if reason in counts}
    if others and len(others) == len(counts):
        listed = ", ".join(f"{rows} {reason}" for reason, rows in others.items())
        raise ContractError(
            f"{found.location.shown}: no purchase is of the days that count ({listed}, such as "
            f"{counts[next(iter(others))]['example']['sample']}); correct the date of the run, "
            "purchases.lookback_days or the input"
        )


def _refuse_nameless(counts: Counts, location: Location, config: PurchasesConfig) -> None:
    if config.needs_users and not any(row["users"] for row in counts.values()):
        raise ContractError(
            f"{location.shown}: no purchase names its user, expected by purchases.max_user_pair_day, max_user_day and "
            'min_users; map the column, [purchases.columns] user_id = "your column", or set them to 0'
        )


def _refuse_nothing(counts: Counts, location: Location, config: PurchasesConfig) -> None:
    if None in counts:
        return
    largest = max((row["largest"] for reason, row in counts.items() if reason in PAIR_FILTERS), default=0)
    users = f" by {config.min_users} users" if config.min_users else ""
    raise ContractError(
        f"{location.shown}: no pair of query and product was bought {config.min_purchases} times{users}, the most is "
        f"{largest}; lower purchases.min_purchases, or set purchases.default_purchases for a table without counts"
    )


def _count_filters(counts: Counts) -> dict[str, int]:
    pairs = [row for reason, row in counts.items() if reason is None or reason in PAIR_FILTERS]
    filters = {
        "merged": sum(row["rows"] - row["pairs"] for row in pairs),
        "repeated": sum(row["repeats"] for row in counts.values()),
    }
    for reason in purchases.FILTERS:
        filters[reason] = counts[reason]["pairs" if reason in PAIR_FILTERS else "rows"] if reason in counts else 0
    always = ("merged", "below_min_purchases")
    return {name: count for name, count in filters.items() if count or name in always}


def _count_figures(counts: Counts, found: PurchaseInput, config: PurchasesConfig) -> dict[str, int]:
    below = [counts[reason]["purchases"] for reason in PAIR_FILTERS if reason in counts]
    figures = {"purchases": counts[None]["purchases"], "purchases_below_min": sum(below)}
    if found.source.unwanted:
        figures["events"] = found.source.counts["rows_in"] + sum(found.source.unwanted.values())
    if config.max_user_pair_day or config.max_user_day:
        figures["purchases_over_user_limit"] = sum(row["over_limit"] for row in counts.values())
    if found.location.days:
        figures["days"] = len(found.location.days)
        figures["late"] = sum(row["late"] for row in counts.values())
    return figures


def _balance(account: Account, found: PurchaseInput, counts: Counts) -> None:
    """Raise IntegrityError unless every row is rejected, filtered, or part of a pair."""
    source = found.source
    rejected = account.inputs[found.table.name]["rejected"] - source.counts["rejected"]
    unwanted = sum(source.unwanted.values())
    filters = {name: count for name, count in account.filters.items() if name != "merged_queries"}
    parts = [rejected, *filters.values(), -unwanted, counts[None]["pairs"]]
    account.balance(found.table.name, source.counts["valid"], parts)
