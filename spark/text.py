"""The rules of `indexer.text` as native Spark expressions; a test sends the same strings through both."""

import pyspark
from pyspark.sql import Column
from pyspark.sql import functions as F

from indexer.text import INVISIBLES, SPACES

SPARK_3 = pyspark.__version__.startswith("3.")
VISIBLE = "[^" + SPACES.removeprefix("[").removesuffix("]+") + "]"
"""A character that is no white space: found at once in most texts, however long."""
WIDE = r"[^\x00-\x7f]"
"""A character beyond ASCII: only texts that have one need ICU."""


def clean_text(text: Column) -> Column:
    """Strip invisible characters, apply NFKC and squeeze white space."""
    visible = F.regexp_replace(compose_text(F.regexp_replace(text, INVISIBLES, "")), INVISIBLES, "")
    return F.trim(F.regexp_replace(visible, SPACES, " "))


def normalised_query(text: Column) -> Column:
    """Clean the text and fold its case through ICU; Spark 3 itself knows no more letters than its Java."""
    clean = clean_text(text)
    return F.when(text.rlike(WIDE), _call_icu("lang.UCharacter", "toLowerCase", clean)).otherwise(F.lower(clean))


def is_blank(text: Column) -> Column:
    """Tell whether a text is null or white space alone."""
    return text.isNull() | ~text.rlike(VISIBLE)


def strip_text(text: Column) -> Column:
    """Remove white space at both ends."""
    return F.regexp_replace(text, f"^{SPACES}|{SPACES}$", "")


def is_valid_text(text: Column) -> Column:
    """Tell whether the bytes of a text are UTF-8."""
    if SPARK_3:
        return F.encode(repair_text(text), "UTF-8") == text.cast("binary")
    return F.is_valid_utf8(text)


def repair_text(text: Column) -> Column:
    """Replace bytes that are no UTF-8 by the replacement character."""
    # Spark 3 decodes so; Spark 4 raises, and has a function instead.
    return F.decode(text.cast("binary"), "UTF-8") if SPARK_3 else F.make_valid_utf8(text)


def compose_text(text: Column) -> Column:
    """Apply NFKC through ICU, which Spark 4 ships and Spark 3 is given; plain ASCII is spared the call."""
    return F.when(text.rlike(WIDE), _call_icu("text.Normalizer", "compose", text, F.lit(True))).otherwise(text)


def _call_icu(name: str, method: str, *arguments: Column) -> Column:
    return F.reflect(F.lit(f"com.ibm.icu.{name}"), F.lit(method), *arguments)
