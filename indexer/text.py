"""One rule for query text and one for product text, shared by Python and Spark.

Regular expressions spell their characters out because `\\s` means different sets in Java and Python
(U+00A0, U+2003 and U+3000 among them); `tests/jvm` sends the same nasty strings through both engines.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence

SPACES = "[\\u0009-\\u000d\\u0020\\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]+"
"""One or more white-space characters: every code point with the Unicode property White_Space."""

INVISIBLES = (
    "[\\u0000-\\u0008\\u000e-\\u001f\\u007f-\\u0084\\u0086-\\u009f\\u00ad\\u200b-\\u200f\\u202a-\\u202e\\u2060-\\u2064"
    "\\u2066-\\u206f\\ufeff\\ufff9-\\ufffd" + chr(0xE0000) + "-" + chr(0xE007F) + "]"
)
"""Control, zero-width, bidirectional-override, interlinear, replacement and tag characters: no meaning in a search."""

_SPACES = re.compile(SPACES)
_INVISIBLES = re.compile(INVISIBLES + "|[\\ud800-\\udfff]")
"""Python alone can hold half a surrogate pair, which no file can."""


def clean_text(text: str) -> str:
    """Strip invisible characters, apply NFKC and squeeze white space."""
    # Before, since an invisible character keeps its neighbours from composing; after, should one come out of it.
    visible = _INVISIBLES.sub("", unicodedata.normalize("NFKC", _INVISIBLES.sub("", text)))
    return _SPACES.sub(" ", visible).strip(" ")


def normalise_query(text: str) -> str:
    """Clean the text and fold its case: the one identity of a query everywhere in the system."""
    return clean_text(text).lower()


def escape(text: str) -> str:
    """Return text that cannot steer a terminal: control characters are shown, not sent."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def product_text(product: Mapping[str, object], *, fields: Sequence[str], separator: str) -> str:
    """Join the product's non-empty fields, in the given order, with the separator (Vo et al. 2024, section 3)."""
    values = (product.get(field) for field in fields)
    cleaned = (clean_text(value) for value in values if isinstance(value, str))
    return separator.join(text for text in cleaned if text)
