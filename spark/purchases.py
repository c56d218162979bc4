"""Purchases per query and product, cleaned, and their margins."""

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal, localcontext

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from indexer.contracts.days import DAY_IN_PATH, Days
from spark.pairs import first_reason
from spark.text import normalised_query

WEIGHT_DIGITS = 12
WEIGHT_TYPE = f"decimal({WEIGHT_DIGITS + 1},{WEIGHT_DIGITS})"


FILTERS = ("outside_window", "over_user_limit", "below_min_users", "below_min_purchases")
"""Reasons to leave purchases out that are no fault of theirs; every other reason rejects them."""


def fill_purchases(raw: DataFrame, *, default_purchases: int) -> DataFrame:
    """Return rows of RAW_PURCHASES as purchases, with the default count where the table has none.

    A purchase stands for `rows` of the input and has merged `repeats` of them; `sample` goes with a `reason`.
    """
    return raw.select(
        "query",
        "product_id",
        F.coalesce("purchases", F.lit(default_purchases)).alias("purchases"),
        "event_date",
        "user_id",
        file_day("_file"),
        F.lit(1).cast("bigint").alias("rows"),
        F.lit(0).cast("bigint").alias("repeats"),
        F.lit(None).cast("string").alias("reason"),
        F.lit(None).cast("string").alias("sample"),
    )


def file_day(path: str) -> Column:
    """Return the last day written in a file's path, as `file_day`."""
    return F.try_to_timestamp(F.regexp_extract(F.url_decode(path), DAY_IN_PATH, 1)).cast("date").alias("file_day")


def judge_purchases(purchases: DataFrame, days: Days, *, daily: bool) -> DataFrame:
    """Normalise the query, give every purchase its day, and add the first reason not to count it, or null.

    A daily file may hold purchases of earlier days (`late` counts them) and none of later ones. The day after the
    span is one that has begun when a night's run starts; nothing can be known of days after it.
    """
    day = F.coalesce("event_date", "file_day") if daily else F.col("event_date")
    first = F.lit(days.first).cast("date")
    query = normalised_query(F.col("query"))
    reason = F.coalesce(
        "reason",
        first_reason(
            ("query_empty", query == ""),
            ("event_date_wrong_day", (day > F.col("file_day")) if daily else F.lit(False)),
            ("event_date_future", day > F.lit(days.last + timedelta(days=1))),
            ("outside_window", (day < first) | (day > F.lit(days.last))),
        ),
    )
    late = day < F.col("file_day") if daily else F.lit(False)
    return purchases.select(
        query.alias("query"),
        "product_id",
        "purchases",
        day.alias("event_date"),
        "user_id",
        "rows",
        "repeats",
        reason.alias("reason"),
        F.coalesce("sample", day.cast("string"), "query").alias("sample"),
        F.when(reason.isNull() & late, F.col("rows")).otherwise(0).alias("late"),
    )


def group_purchases(judged: DataFrame, *, by: Sequence[str] = ()) -> DataFrame:
    """Sum purchases per reason, query, product and the columns of `by`."""
    return judged.groupBy("reason", "query", "product_id", *by).agg(
        *[F.sum(name).alias(name) for name in ("purchases", "rows", "repeats", "late")],
        F.min(F.when(F.col("reason").isNotNull(), F.col("sample"))).alias("sample"),
    )


def limit_users(groups: DataFrame, *, per_pair: int, per_day: int) -> DataFrame:
    """Count no more purchases of a user on a day than `per_pair` of one pair and `per_day` of all; 0 sets no limit.

    Over the limit of all, the pairs first in code point order of query and product count. The groups are those of a
    pair, day and user; purchases without a user count in full. `over_limit` says how many of a group's do not count;
    a group of which none counts has a reason.
    """
    limited = F.col("reason").isNull() & F.col("user_id").isNotNull()
    of_pair = F.least("purchases", F.lit(per_pair)) if per_pair else F.col("purchases")
    # Purchases without a user are nobody's, and so each a part of its own: they may be most of all.
    owner = [F.when(~limited, F.col(name)) for name in ("query", "product_id")]
    in_order = Window.partitionBy("reason", "user_id", "event_date", *owner).orderBy("query", "product_id")
    before = F.coalesce(F.sum("counted").over(in_order.rowsBetween(Window.unboundedPreceding, -1)), F.lit(0))
    left = F.greatest(F.least("counted", F.lit(per_day) - before), F.lit(0)) if per_day else F.col("counted")
    counted = groups.withColumn("counted", F.when(limited, of_pair).otherwise(F.col("purchases")))
    kept = counted.withColumn("counted", F.when(limited, left).otherwise(F.col("counted")))
    none_left = limited & (F.col("counted") == 0)
    return kept.select(
        *[name for name in groups.columns if name not in ("reason", "purchases")],
        F.when(none_left, F.lit("over_user_limit")).otherwise(F.col("reason")).alias("reason"),
        F.col("counted").alias("purchases"),
        (F.col("purchases") - F.col("counted")).alias("over_limit"),
    )


def halving_weights(half_life_days: int, *, longest: int) -> list[tuple[int, Decimal]]:
    """Return (age, 2 ** (-age / half_life_days)) for ages in days up to the longest, to WEIGHT_DIGITS decimal places.

    Ages whose weight rounds to nothing are left out.
    """
    with localcontext(prec=40):
        unit = Decimal(1).scaleb(-WEIGHT_DIGITS)
        ages = range(min(longest, half_life_days * (4 * WEIGHT_DIGITS)) + 1)
        found = ((age, (Decimal(2) ** (-Decimal(age) / half_life_days)).quantize(unit)) for age in ages)
        return [(age, weight) for age, weight in found if weight]


def weigh_purchases(groups: DataFrame, *, half_life_days: int, days: Days) -> DataFrame:
    """Add the `weight` of each group's age on the last day."""
    longest = days.last.toordinal() - (days.first.toordinal() if days.first else 1)
    rows = halving_weights(half_life_days, longest=longest)
    weights = groups.sparkSession.createDataFrame(rows, f"age int, weight {WEIGHT_TYPE}")
    aged = groups.withColumn("age", F.datediff(F.lit(days.last), "event_date"))
    return aged.join(F.broadcast(weights), on="age", how="left").drop("age")


def sum_purchases(groups: DataFrame) -> DataFrame:
    """Sum the groups per reason, query and product; with a `weight` the sum is exact and then rounded half up.

    `users` counts the different users where the groups are those of users.
    """
    purchases = F.sum("purchases")
    if "weight" in groups.columns:
        # Types that Spark multiplies and sums without rounding; a weight that is not there is nothing.
        weight = F.coalesce("weight", F.lit(0).cast(WEIGHT_TYPE))
        weighed = F.sum(F.col("purchases").cast("decimal(19,0)") * weight)
        purchases = F.round(weighed, 0).cast("bigint")
    optional = {
        "over_limit": F.sum("over_limit").alias("over_limit"),
        "user_id": F.count_distinct("user_id").alias("users"),
    }
    return groups.groupBy("reason", "query", "product_id").agg(
        purchases.alias("purchases"),
        *[F.sum(name).alias(name) for name in ("rows", "repeats", "late")],
        F.min("sample").alias("sample"),
        *[sum for name, sum in optional.items() if name in groups.columns],
    )


def judge_pairs(pairs: DataFrame, *, min_purchases: int, min_users: int = 0) -> DataFrame:
    """Give pairs bought too rarely (KD-Boost section 4.1: 20 times, per pair), or by too few, a reason."""
    rules = [("below_min_purchases", F.col("purchases") < min_purchases)]
    if min_users:
        rules.insert(0, ("below_min_users", F.col("users") < min_users))
    return pairs.withColumn("reason", F.coalesce("reason", first_reason(*rules)))


def count_purchases(judged: DataFrame) -> DataFrame:
    """Count by reason: `pairs`, their `rows` and copies of rows, and their purchases; null counts what is kept."""
    sums = [name for name in ("purchases", "rows", "repeats", "late", "over_limit") if name in judged.columns]
    return judged.groupBy("reason").agg(
        F.count("*").alias("pairs"),
        *[F.sum(name).alias(name) for name in sums],
        F.max("purchases").alias("largest"),
        *[F.max(name).alias(name) for name in ("users",) if name in judged.columns],
        F.min(F.struct(F.col("product_id").alias("key"), "sample")).alias("example"),
    )


def count_unknown(purchases: DataFrame, products: DataFrame) -> DataFrame:
    """Return one row: all purchases, those of products that the catalogue lacks, so many products, and one of them."""
    known = products.select("product_id", F.lit(True).alias("known"))
    of_product = purchases.groupBy("product_id").agg(F.sum("purchases").alias("purchases"))
    found = of_product.join(known, on="product_id", how="left")
    unknown = F.col("known").isNull()
    return found.agg(
        F.sum("purchases").alias("purchases"),
        F.coalesce(F.sum(F.when(unknown, F.col("purchases"))), F.lit(0)).alias("purchases_of_unknown_products"),
        F.count_if(unknown).alias("bought_products_unknown"),
        F.min(F.when(unknown, F.col("product_id"))).alias("example"),
    )


def query_totals(purchases: DataFrame) -> DataFrame:
    """Return n_i, the purchases after each query, as `query_purchases`."""
    return purchases.groupBy("query").agg(F.sum("purchases").alias("query_purchases"))


def product_totals(purchases: DataFrame) -> DataFrame:
    """Return N_k, the purchases of each product, as `product_purchases`."""
    return purchases.groupBy("product_id").agg(F.sum("purchases").alias("product_purchases"))
