"""Text rules, on strings chosen to be nasty."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.text import clean_text, escape, normalise_query, product_text


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Baby  Sipper ", "baby sipper"),
        ("caf\u0065\u0301", "caf\u00e9"),
        ("\uff33\uff4f\uff46\uff41", "sofa"),
        ("a\u00a0b\u2003c\u3000d\u0085e", "a b c d e"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("ab\u202egnp.exe", "abgnp.exe"),
        ("tag\U000e0041s", "tags"),
        ("tab\tnew\r\nline", "tab new line"),
        ("\x1b[31mred", "[31mred"),
        ("\ufb01sh", "fish"),
        ("", ""),
        ("  \u2028 ", ""),
        ("e\u200b\u0301", "\u00e9"),
        ("half \ud83d pair\udc00", "half pair"),
    ],
)
def test_normalise_query(raw, expected):
    assert normalise_query(raw) == expected


@given(st.text(st.characters()))
def test_cleaning_twice_changes_nothing(text):
    once = clean_text(text)
    assert clean_text(once) == once
    assert normalise_query(normalise_query(text)) == normalise_query(text)
    assert once == once.strip()
    assert "  " not in once


def test_product_text_joins_what_is_there():
    product = {"title": " Steel  sipper ", "brand": "Acme", "product_type": None, "color": " "}
    fields = ("title", "product_type", "brand", "color")
    assert product_text(product, fields=fields, separator=" | ") == "Steel sipper | Acme"


def test_escaped_text_shows_control_characters_and_keeps_the_others():
    assert escape("caf\u00e9 \x1b]0;x\x07\u202e\r\n") == "caf\u00e9 \\x1b]0;x\\x07\\u202e\\r\\n"
