"""Near-duplicates of a query: the same words in another order, number, spacing or hyphenation."""

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from spark.negatives import related_nodes

APOSTROPHES = r"(?<![0-9])['’‘ʼ`]"
HYPHENS = r"(?<=\p{L})[-‐‑–](?=[\p{L}\p{N}])|(?<=\p{N})[-‐‑–](?=\p{L})"
"""Not between digits: 10-20 is a range."""
LOOSE_SPACES = r" (?![0-9])|(?<![0-9]) "
"""Not between digits: 5 6 is not 56."""
PLURALS = (
    (r"^(\p{L}{3,})ies?$", "$1y"),
    (r"^(\p{L}{2,}(?:ss|x|ch|sh))es$", "$1"),
    (r"^(\p{L}{2,}[^\P{L}siu])s$", "$1"),
)
"""English endings; the first that fits is cut: hoodies and hoodie, boxes, chargers. Words with digits stay."""
LINKS = 2


def find_variants(queries: DataFrame, lineages: DataFrame) -> DataFrame:
    """Return the queries (query, purchases) with `main_query`, the most bought of its near-duplicates, and `apart`.

    Ties go by the text. A near-duplicate whose labels share no node with those of the most bought is `apart`
    and stands for itself: *milk chocolate* is no *chocolate milk*. `lineages` is of `negatives.label_lineages`.
    """
    most_bought = Window.partitionBy("family").orderBy(F.col("purchases").desc(), "query")
    labelled = with_families(queries).join(lineages, on="query", how="left")
    main = F.first(F.struct("query", "labels", "lineage")).over(most_bought)
    unrelated = ~related_nodes("labels", "lineage", "main.labels", "main.lineage")
    return labelled.withColumn("main", main).select(
        "query",
        "purchases",
        F.when(unrelated, F.col("query")).otherwise(F.col("main.query")).alias("main_query"),
        F.coalesce(unrelated, F.lit(False)).alias("apart"),
    )


def with_families(queries: DataFrame) -> DataFrame:
    """Add `family`: equal for queries of one order key or one spacing key, and for short chains of such links."""
    families = queries.select("*", order_key(F.col("query")).alias("order_key"))
    families = families.withColumn("spacing_key", spacing_key(F.col("query"))).withColumn("family", F.col("order_key"))
    for _ in range(LINKS):
        for key in ("spacing_key", "order_key"):
            families = families.withColumn("family", F.min("family").over(Window.partitionBy(key)))
    return families.drop("order_key", "spacing_key")


def order_key(query: Column) -> Column:
    """Return the singular words, sorted; those with a digit come last in their own order (size 5 age 7)."""
    words = singular_words(query)
    numbered = F.filter(words, lambda word: word.rlike("[0-9]"))
    others = F.filter(words, lambda word: ~word.rlike("[0-9]"))
    return _or_itself(F.array_join(F.concat(F.array_sort(others), numbered), " "), query)


def spacing_key(query: Column) -> Column:
    """Return the singular words written together, except between digits."""
    return _or_itself(F.regexp_replace(F.array_join(singular_words(query), " "), LOOSE_SPACES, ""), query)


def singular_words(query: Column) -> Column:
    """Split a query at spaces and hyphens, drop apostrophes, and cut plural endings."""
    plain = F.regexp_replace(F.regexp_replace(query, APOSTROPHES, ""), HYPHENS, " ")
    return F.transform(F.filter(F.split(plain, " "), lambda word: word != ""), _singular)


def _singular(word: Column) -> Column:
    first, *others = PLURALS
    cut = F.when(word.rlike(first[0]), F.regexp_replace(word, *first))
    for pattern, replacement in others:
        cut = cut.when(word.rlike(pattern), F.regexp_replace(word, pattern, replacement))
    return cut.otherwise(word)


def _or_itself(key: Column, query: Column) -> Column:
    return F.when(key == "", query).otherwise(key)
