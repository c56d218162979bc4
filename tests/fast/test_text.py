"""Text rules, on strings chosen to be nasty."""

import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.text import ENTITIES, clean_text, decode_entities, escape, find_fixes, normalise_query, product_text


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


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Johnson &amp; Johnson", "Johnson & Johnson"),
        ("90&ldquo; x 3&#39; &Amp; JAM &AMP; &#x1F600;", "90\u201c x 3' & JAM & \U0001f600"),
        ("once &amp;lt; &amp;amp;", "once &lt; &amp;"),
        ("&lt;script&gt;", "<script>"),
        ("AT&T &eacute; &amp &; &#; &#x; &#99999999; &#x1234567;",) * 2,
        ("&#0;&#xD800;&#1114112;", "\ufffd" * 3),
        ("&apo\u017f; &t\u0131mes; &hell\u0130p;",) * 2,
    ],
)
def test_entities_are_decoded_once_and_unknown_ones_left_alone(raw, expected):
    assert decode_entities(raw) == expected


@given(st.text(st.characters(exclude_categories=("Cs", "Cc"))))
def test_entities_are_decoded_as_the_standard_library_does(text):
    assert decode_entities(html.escape(text)) == text
    numbered = "".join(f"&#{ord(c)};&#x{ord(c):X};" for c in text)
    assert decode_entities(numbered) == html.unescape(numbered).ljust(2 * len(text)) == "".join(c * 2 for c in text)


def test_numbers_of_control_characters_are_read_as_in_html():
    numbered = [f"&#{code};&#x{code:x};&#0{code};" for code in range(0x80, 0xA0)]
    assert [decode_entities(text) for text in numbered] == [html.unescape(text) for text in numbered]
    assert decode_entities("Levi&#146;s &#x80;5&#153;") == "Levi\u2019s \u20ac5\u2122"


def test_every_named_entity_is_the_one_of_html():
    assert {name: html.unescape(f"&{name};") for name in ENTITIES} == ENTITIES


@pytest.mark.parametrize(
    ("text", "fixes"),
    [
        ("caf\u00e9 \u2122 \u00a0 tab\t", []),
        ("cafe\u0301", ["composed"]),
        ("a\u200bb", ["invisible_removed"]),
        ("a\u202eb", ["invisible_removed"]),
        ("a\U000e0041", ["invisible_removed"]),
        ("\x1b[31mred", ["invisible_removed"]),
        ("a &amp; e\u0301\x00", ["entities_decoded", "invisible_removed", "composed"]),
        ("AT&T", []),
    ],
)
def test_what_is_mended_is_named(text, fixes):
    assert find_fixes(text) == fixes


def test_product_text_joins_what_is_there():
    product = {"title": " Steel  sipper ", "brand": "Acme", "product_type": None, "color": " "}
    fields = ("title", "product_type", "brand", "color")
    assert product_text(product, fields=fields, separator=" | ") == "Steel sipper | Acme"


def test_escaped_text_shows_control_characters_and_keeps_the_others():
    assert escape("caf\u00e9 \x1b]0;x\x07\u202e\r\n") == "caf\u00e9 \\x1b]0;x\\x07\\u202e\\r\\n"
