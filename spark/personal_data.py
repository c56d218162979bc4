"""Personal data in normalised queries: e-mail addresses, telephone numbers, payment cards.

Patterns ask for the marks people write (+, brackets, equal groups): a bare run of digits is more often a part number,
an EAN or a UPC than somebody's telephone. Digits other than 0-9 are not looked at.
"""

from pyspark.sql import Column
from pyspark.sql import functions as F

EMAIL = r"[^\s@]+@[^\s@]+\.[^\s@.0-9]{2,}"
PHONE = (
    r"(?<![0-9])(?:"
    r"\+(?:[ ().-]{0,2}[0-9]){8,15}(?![0-9])"
    r"|\([2-9][0-9]{2}\) ?[2-9][0-9]{2}[ .-]?[0-9]{4}(?![0-9])"
    r"|[2-9][0-9]{2}([.-])[2-9][0-9]{2}\1[0-9]{4}(?![0-9]))"
)
"""International with its plus (ITU-T E.164: 8 to 15 digits), or North American with brackets, hyphens or dots."""
CARD = (
    r"(?<![0-9])(?:3[0-9]{13,14}|[2-6][0-9]{15,18}"
    r"|[2-6][0-9]{3}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{1,3})?"
    r"|3[0-9]{3}([ -])[0-9]{6}\2[0-9]{4,5})(?![0-9])"
)
"""14 to 19 digits of an issuer's range, together or in the groups printed on a card; Luhn's check digit decides."""


def has_personal_data(query: Column) -> Column:
    """Tell whether a query holds an e-mail address, a telephone number or a payment card's number."""
    cards = F.regexp_extract_all(query, F.lit(CARD), F.lit(0))
    card = F.exists(cards, lambda text: passes_luhn(F.regexp_replace(text, "[^0-9]", "")))
    return query.rlike(EMAIL) | query.rlike(PHONE) | card


def passes_luhn(digits: Column) -> Column:
    """Tell whether the last of the digits is their check digit (ISO/IEC 7812-1 annex B)."""
    backwards = F.reverse(digits)

    def add(total: Column, place: Column) -> Column:
        digit = backwards.substr(place, F.lit(1)).cast("int")
        doubled = digit * 2 - F.when(digit > 4, 9).otherwise(0)
        return total + F.when(place % 2 == 0, doubled).otherwise(digit)

    return F.aggregate(F.sequence(F.lit(1), F.char_length(digits)), F.lit(0), add) % 10 == 0


def mask_text(text: Column) -> Column:
    """Return the text's shape alone: letters as x, digits as 0."""
    return F.regexp_replace(F.regexp_replace(text, r"[\p{L}\p{M}]", "x"), r"\p{N}", "0")
