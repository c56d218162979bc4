"""One rule for query text and one for product text, shared by Python and Spark.

Regular expressions spell their characters out because `\\s` means different sets in Java and Python
(U+00A0, U+2003 and U+3000 among them); `tests/jvm` sends the same nasty strings through both engines.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence

from indexer.redaction import redact

SPACES = "[\\u0009-\\u000d\\u0020\\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]+"
"""One or more white-space characters: every code point with the Unicode property White_Space."""

INVISIBLES = (
    "[\\u0000-\\u0008\\u000e-\\u001f\\u007f-\\u0084\\u0086-\\u009f\\u00ad\\u200b-\\u200f\\u202a-\\u202e\\u2060-\\u2064"
    "\\u2066-\\u206f\\ufeff\\ufff9-\\ufffd" + chr(0xE0000) + "-" + chr(0xE007F) + "]"
)
"""Control, zero-width, bidirectional-override, interlinear, replacement and tag characters: no meaning in a search."""

ENTITIES = {
    "amp": "&",
    "lt": "<",
    "gt": ">",
    "quot": '"',
    "apos": "'",
    "nbsp": "\u00a0",
    "reg": "\u00ae",
    "copy": "\u00a9",
    "trade": "\u2122",
    "deg": "\u00b0",
    "times": "\u00d7",
    "bull": "\u2022",
    "hellip": "\u2026",
    "ndash": "\u2013",
    "mdash": "\u2014",
    "lsquo": "\u2018",
    "rsquo": "\u2019",
    "ldquo": "\u201c",
    "rdquo": "\u201d",
    "frac14": "\u00bc",
    "frac12": "\u00bd",
    "frac34": "\u00be",
}
"""The HTML entities that shops' exports hold, in any case: exports write titles in capitals too."""

WINDOWS_1252 = {code: bytes([code]).decode("cp1252", "ignore") or chr(code) for code in range(0x80, 0xA0)}
"""What a number that Unicode gives to a control character means in HTML; five of the 32 mean nothing else."""

REFERENCE = "&(?:#0*([0-9]{1,7})|#[xX]0*([0-9a-fA-F]{1,6})|(?i:(" + "|".join(ENTITIES) + ")));"
"""A character by its number, decimal or hexadecimal, or its name; Python needs re.ASCII to fold case as Java does."""

MOST_SEARCHED = 1 << 16
"""Characters of a value that are searched for secrets before it is cut."""

_REFERENCE = re.compile(REFERENCE, re.ASCII)
_SPACES = re.compile(SPACES)
_INVISIBLES = re.compile(INVISIBLES + "|[\\ud800-\\udfff]")
"""Python alone can hold half a surrogate pair, which no file can."""


def decode_entities(text: str) -> str:
    """Decode HTML entities once: those of ENTITIES, and numbers.

    As in HTML, 128 to 159 are read by WINDOWS_1252, and a number of no character is U+FFFD. Unknown entities, and
    those without a semicolon, are left as they are.
    """
    return _REFERENCE.sub(_decode_reference, text)


def find_fixes(text: str) -> list[str]:
    """Return what is not as a writer meant it: entities, invisible characters, characters in parts (no NFC)."""
    fixes = {
        "entities_decoded": _REFERENCE.search(text) is not None,
        "invisible_removed": _INVISIBLES.search(text) is not None,
        "composed": not unicodedata.is_normalized("NFC", text),
    }
    return [name for name, found in fixes.items() if found]


def clean_text(text: str) -> str:
    """Strip invisible characters, apply NFKC and squeeze white space."""
    if text.isascii() and text.isprintable():
        # Most titles: there may be spaces to squeeze, and nothing else.
        return " ".join(text.split()) if "  " in text else text.strip(" ")
    # Before, since an invisible character keeps its neighbours from composing; after, should one come out of it.
    visible = _INVISIBLES.sub("", unicodedata.normalize("NFKC", _INVISIBLES.sub("", text)))
    return _SPACES.sub(" ", visible).strip(" ")


def normalise_query(text: str) -> str:
    """Clean the text and fold its case: the one identity of a query everywhere in the system."""
    return clean_text(text).lower()


def escape(text: str, *, keep: str = "") -> str:
    """Return text that cannot steer a terminal: control characters are shown, not sent, but for those to `keep`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)


def shorten(value: object) -> str:
    """Return a value's spelling for an error message, at most 80 characters of it and no secret."""
    try:
        # Before it is cut: half of a secret is not told from other text.
        text = redact(repr(value)[:MOST_SEARCHED])
    except (ValueError, RecursionError):
        text = "a value too large to show"
    return text if len(text) <= 80 else text[:77] + "..."


def product_text(product: Mapping[str, object], *, fields: Sequence[str], separator: str) -> str:
    """Join the product's non-empty fields, in the given order, with the separator (Vo et al. 2024, section 3)."""
    return separator.join(filter(None, clean_fields(product, fields)))


def clean_fields(product: Mapping[str, object], fields: Sequence[str]) -> list[str]:
    """Return the cleaned text of each field, empty where the product has none."""
    return [clean_text(value) if isinstance(value := product.get(field), str) else "" for field in fields]


def _decode_reference(match: re.Match[str]) -> str:
    decimal, hexadecimal, name = match.groups()
    if name:
        return ENTITIES[name.lower()]
    code = int(decimal) if decimal else int(hexadecimal, 16)
    return "\ufffd" if code == 0 or code > 0x10FFFF or 0xD800 <= code <= 0xDFFF else chr(code).translate(WINDOWS_1252)
