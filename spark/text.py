"""The rules of `indexer.text` as native Spark expressions; a test sends the same strings through both."""

from collections.abc import Callable, Mapping

import pyspark
from pyspark.sql import Column
from pyspark.sql import functions as F

from indexer.text import ENTITIES, INVISIBLES, REFERENCE, SPACES, WINDOWS_1252

SPARK_3 = pyspark.__version__.startswith("3.")
VISIBLE = "[^" + SPACES.removeprefix("[").removesuffix("]+") + "]"
"""A character that is no white space: found at once in most texts, however long."""
ENTITIES_DECODED = "entities_decoded"
WIDE = r"[^\x00-\x7f]"
"""A character beyond ASCII: only texts that have one need ICU."""


def decode_entities(text: Column) -> Column:
    """Decode HTML entities once."""
    parts = F.transform(F.split(text, "(?=&)"), _decode_start)
    return F.when(text.contains("&"), F.array_join(parts, "")).otherwise(text)


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


def is_whole_json(text: Column) -> Column:
    """Tell whether a text is one JSON value and nothing more."""
    # Spark reads up to the end of a value, or as far as it can: what comes after adds to this list, or ends it early.
    listed = F.concat(F.lit("["), text, F.lit(",0]"))
    return F.coalesce(F.json_array_length(listed) == 2, F.lit(False))


def repair_text(text: Column) -> Column:
    """Replace bytes that are no UTF-8 by the replacement character."""
    # Spark 3 decodes so; Spark 4 raises, and has a function instead.
    return F.decode(text.cast("binary"), "UTF-8") if SPARK_3 else F.make_valid_utf8(text)


def compose_text(text: Column, *, compatible: bool = True) -> Column:
    """Apply NFKC, or NFC, through ICU, which Spark 4 ships and Spark 3 is given; plain ASCII is spared the call."""
    composed = _call_icu("text.Normalizer", "compose", text, F.lit(compatible))
    return F.when(text.rlike(WIDE), composed).otherwise(text)


def _call_icu(name: str, method: str, *arguments: Column) -> Column:
    return F.reflect(F.lit(f"com.ibm.icu.{name}"), F.lit(method), *arguments)


def _decode_start(part: Column) -> Column:
    """Decode the reference that a text starts with, if any."""
    reference = f"^{REFERENCE}"
    decimal, hexadecimal, name = (F.regexp_extract(part, reference, group) for group in (1, 2, 3))
    table = "\n".join("\t".join(entity) for entity in ENTITIES.items())
    named = F.str_to_map(F.lit(table), F.lit("\n"), F.lit("\t"))
    number = F.when(decimal != "", decimal).otherwise(F.conv(hexadecimal, 16, 10))
    found = F.when(name != "", F.try_element_at(named, F.lower(name))).otherwise(_character(number.cast("int")))
    rest = part.substr(F.instr(part, ";") + 1, F.length(part))
    return F.when(part.rlike(reference), F.concat(found, rest)).otherwise(part)


def _character(code: Column) -> Column:
    """Return the character of a number that may be none."""
    single = code.between(1, 0x10FFFF) & ~code.between(0xD800, 0xDFFF)
    # `reflect` would do, but not inside a lambda that Spark interprets.
    character = F.decode(F.unhex(F.lpad(F.hex(code), 8, "0")), "UTF-32")
    meant = F.translate(character, "".join(map(chr, WINDOWS_1252)), "".join(WINDOWS_1252.values()))
    return F.when(single, meant).otherwise("\ufffd")


FIXES: Mapping[str, Callable[[Column], Column]] = {
    ENTITIES_DECODED: lambda text: text.rlike(REFERENCE),
    "invisible_removed": lambda text: text.rlike(INVISIBLES),
    "composed": lambda text: compose_text(text, compatible=False) != text,
}
"""What of a text may not be as its writer meant it, and how that is told."""
