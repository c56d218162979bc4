"""Python and Spark normalise query text alike: the same nasty strings go through both, in one job."""

import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F

from indexer.text import clean_text, normalise_query
from spark import text

pytestmark = pytest.mark.jvm

NASTY = [
    "",
    " ",
    "Baby  Sipper ",
    "tab\tnew\nline\rfeed\x0b\x0c",
    "no\u00a0break\u2003em\u3000ideographic\u202fnarrow\u1680ogham",
    "zero\u200bwidth\u200cnon\u200djoiner\ufeffbom",
    "bidi \u202eoverride\u202c \u2066isolate\u2069",
    "soft\u00adhyphen",
    "interlinear\ufff9a\ufffab\ufffb replacement\ufffd",
    "tag\U000e0041\U000e007f end",
    "control\x00\x01\x1f\x7f\x80\x9f\x85",
    "ﬁne ﬀ Ａ１ ①½ ㎏ ™ Ⅷ",
    "e\u200b\u0301 A\u00ad\u030a",
    "e\u0301 É é E\u0301 ñ n\u0303",
    "İstanbul ISTANBUL ıI",
    "ΣΑΣ ΣΑΣ. Σ ΑΣΑ",
    "STRASSE ẞ ß",
    "한국어 \u1112\u1161\u11ab",
    "日本語　テスト ﾃｽﾄ ﾊﾞ",
    "العربية ﷺ",
    "हिन्दी क़",
    "👩‍👩‍👧 🏳️‍🌈 👍🏽",
    "\u0041\u030a\u0327 order of marks \u0041\u0327\u030a",
    "\u2028line\u2029paragraph",
    "a\u0345 \u1fb3 ᾳ",
    "Ǆ ǅ ǆ Ω K Å",
    "\u2000\u2001 leading and trailing \u205f",
]


def through_spark(session, strings):
    frame = session.createDataFrame(list(enumerate(strings)), "n int, q string").repartition(2)
    chosen = frame.select("n", text.clean_text(F.col("q")).alias("c"), text.normalised_query(F.col("q")).alias("q"))
    return [(row.c, row.q) for row in chosen.orderBy("n").collect()]


def test_nasty_strings(session):
    expected = [(clean_text(string), normalise_query(string)) for string in NASTY]
    for string, found, wanted in zip(NASTY, through_spark(session, NASTY), expected, strict=True):
        assert found == wanted, repr(string)


def test_null_stays_null(session):
    assert through_spark(session, [None]) == [(None, None)]


def test_every_character_on_its_own(session):
    """All characters that this Python knows, most of them beside a letter, since case may look around."""
    known = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    strings = [f"A{a} {a}B" for a in known[:20_000]] + [
        "".join(known[i : i + 40]) for i in range(20_000, len(known), 40)
    ]
    wrong = [
        (string, found, normalise_query(string))
        for string, (_, found) in zip(strings, through_spark(session, strings), strict=True)
        if found != normalise_query(string)
    ]
    assert not wrong, wrong[:3]


@given(st.lists(st.text(st.characters(exclude_categories=("Cs", "Cn", "Co")), max_size=30), min_size=150, max_size=300))
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_arbitrary_text(session, strings):
    assert [q for _, q in through_spark(session, strings)] == [normalise_query(string) for string in strings]
