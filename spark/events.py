"""Events of a UBI 1.3 log as purchases: which ones count, which are copies, and whose query they follow."""

from collections.abc import Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from indexer.contracts.schemas import QUERY_BYTES
from spark.pairs import first_reason
from spark.purchases import file_day
from spark.text import is_blank, normalised_query

KNOWN_ACTIONS = ("add_to_cart", "click", "click_through", "impression", "purchase", "view", "watch")
"""The usual actions (UBI 1.3, event schema)."""


def unwanted_actions(weights: Mapping[str, int]) -> dict[str, Column]:
    """Return the conditions on which an event counts for nothing: a known action of weight 0, or an unknown one."""
    action = F.col("action_name")
    counted = [name for name, weight in weights.items() if weight]
    known = {*KNOWN_ACTIONS, *weights} - set(counted)
    return {
        "action_without_weight": action.isin(sorted(known)),
        "action_unknown": ~action.isin(sorted({*known, *counted})),
    }


def merge_copies(events: DataFrame, *, remove_repeats: bool) -> DataFrame:
    """Count every event once; `repeats` are its other copies.

    Copies have the same `event_id`. Without one they have the same record; unless `remove_repeats`, equal records are
    so many events, and `times` says how many. Events that differ under one id cannot be believed: their reason is
    `duplicate_id`, and `rows` counts them all.
    """
    content = ["action_name", "timestamp", "object_id", "query_id", "user_query", "quantity", "user_id", "event_id"]
    user = F.coalesce(_filled("user_id"), _filled("client_id"))
    known = events.withColumns({"user_id": user, "event_id": _filled("event_id"), "file_day": file_day("_file")})
    # An id and a hash are kept apart by their first character.
    identity = F.coalesce(F.concat(F.lit("="), "event_id"), F.concat(F.lit("#"), "_record"))
    event = F.struct(*content)
    merged = known.groupBy(identity.alias("identity")).agg(
        F.min(event).alias("event"),
        F.max(event).alias("other"),
        F.min("file_day").alias("file_day"),
        F.count("*").alias("copies"),
    )
    differ = ~F.col("event").eqNullSafe(F.col("other"))
    several = F.col("event.event_id").isNull() & F.lit(not remove_repeats)
    rows = F.when(differ | several, F.col("copies")).otherwise(F.lit(1))
    return merged.select(
        "event.*",
        "identity",
        "file_day",
        rows.alias("rows"),
        (F.col("copies") - rows).alias("repeats"),
        F.when(several, F.col("copies")).otherwise(F.lit(1)).alias("times"),
        F.when(differ, F.lit("duplicate_id")).alias("reason"),
    )


def query_texts(queries: DataFrame) -> DataFrame:
    """Return one row (query_id, text, rows, conflict) per id; ids of different queries have a conflict."""
    normalised = queries.withColumn("query", normalised_query(F.coalesce("user_query", F.lit(""))))
    return normalised.groupBy("query_id").agg(
        F.min("user_query").alias("text"),
        F.count("*").alias("rows"),
        (F.min("query") != F.max("query")).alias("conflict"),
    )


def count_texts(texts: DataFrame) -> DataFrame:
    """Return one row: `queries` that stand, `merged` copies of them, and rows of `duplicate_id` with an example."""
    conflict = F.col("conflict")
    return texts.agg(
        F.count_if(~conflict).alias("queries"),
        F.coalesce(F.sum(F.when(~conflict, F.col("rows") - 1)), F.lit(0)).alias("merged"),
        F.coalesce(F.sum(F.when(conflict, F.col("rows"))), F.lit(0)).alias("duplicate_id"),
        F.min(F.when(conflict, F.col("query_id"))).alias("example"),
    )


def resolve_queries(events: DataFrame, texts: DataFrame | None) -> DataFrame:
    """Add `query`, the event's own text or else that of its `query_id`, and a reason where there is none."""
    own = _filled("user_query")
    asked = F.when(own.isNull(), _filled("query_id"))
    if texts is None:
        found = events.withColumn("text", F.lit(None).cast("string")).withColumn("known", F.lit(False))
    else:
        # Events that ask for nothing have a key each, lest one task gets them all.
        keyed = events.withColumn("key", F.coalesce(asked, "identity"))
        answers = texts.where(~F.col("conflict")).select(
            F.col("query_id").alias("key"), "text", F.lit(True).alias("known")
        )
        found = keyed.join(answers, on="key", how="left")
    query = F.coalesce(own, F.when(asked.isNotNull(), F.coalesce("text", F.lit(""))))
    known = F.coalesce("known", F.lit(False))
    reason = first_reason(
        ("query_missing", own.isNull() & asked.isNull()),
        ("query_id_unknown", asked.isNotNull() & ~known),
        ("query_too_long", F.octet_length(query) > QUERY_BYTES),
    )
    return found.withColumns({"query": query, "reason": F.coalesce("reason", reason)})


def weigh_events(events: DataFrame, weights: Mapping[str, int]) -> DataFrame:
    """Return resolved events as purchases: number of events, times quantity, times the weight of the action."""
    action = F.col("action_name")
    cases = [F.when(action == name, F.lit(weight).cast("bigint")) for name, weight in weights.items() if weight]
    return events.select(
        "query",
        F.col("object_id").alias("product_id"),
        (F.col("times") * F.coalesce("quantity", F.lit(1)) * F.coalesce(*cases)).alias("purchases"),
        F.to_date("timestamp").alias("event_date"),
        "user_id",
        "file_day",
        "rows",
        "repeats",
        "reason",
        F.when(F.col("reason").isNotNull(), F.coalesce("query_id", "event_id")).alias("sample"),
    )


def _filled(name: str) -> Column:
    return F.when(~is_blank(F.col(name)), F.col(name))
