"""Python and Spark decode, judge and normalise query text alike: the same nasty strings go through both, in one job."""

import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F

from indexer.text import ENTITIES, clean_text, decode_entities, find_fixes, normalise_query
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
    "Salt &amp; pepper &AMP; &Amp;lt; &amp;amp; &lt;script&gt;",
    "&#39;&#039;&#x27;&#X0027; &#8482;&#128512;&#x1f600;&#1114111;&#153;&#1;",
    "AT&T & &; &#; &#x; &amp &bogus; &#0; &#xD800; &#57343; &#1114112; &#9999999; &#99999999; &&amp;&lt",
    "".join(f"&{name};" for name in ENTITIES),
    "&apo\u017f;",
    "&t\u0131mes;",
    "&hell\u0130p;",
    "".join(f"&#{code};" for code in range(127, 161)) + "&#x92;&#X099;&#0146;",
    "\x1b[31mred\x1b[0m",
    "caf\u00e9 \u212b \u2126 \uac00",
]


def through_spark(session, strings):
    frame = session.createDataFrame(list(enumerate(strings)), "n int, q string").repartition(2)
    query = F.col("q")
    fixes = [F.when(test(query), F.lit(name)) for name, test in text.FIXES.items()]
    chosen = frame.select(
        "n",
        text.clean_text(query).alias("c"),
        text.normalised_query(query).alias("q"),
        text.decode_entities(query).alias("d"),
        F.array_compact(F.array(*fixes)).alias("f"),
    )
    return [(row.c, row.q, row.d, row.f) for row in chosen.orderBy("n").collect()]


def test_nasty_strings(session):
    expected = [(clean_text(text), normalise_query(text), decode_entities(text), find_fixes(text)) for text in NASTY]
    for string, found, wanted in zip(NASTY, through_spark(session, NASTY), expected, strict=True):
        assert found == wanted, repr(string)


def test_null_stays_null(session):
    assert through_spark(session, [None]) == [(None, None, None, [])]


def test_every_character_on_its_own(session):
    """All characters that this Python knows, most of them beside a letter, since case may look around."""
    known = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    strings = [f"A{a} {a}B" for a in known[:20_000]] + [
        "".join(known[i : i + 40]) for i in range(20_000, len(known), 40)
    ]
    wrong = [
        (string, found, fixes)
        for string, (_, found, _, fixes) in zip(strings, through_spark(session, strings), strict=True)
        if (found, fixes) != (normalise_query(string), find_fixes(string))
    ]
    assert not wrong, wrong[:3]


@given(st.lists(st.text(st.characters(exclude_categories=("Cs", "Cn", "Co")), max_size=30), min_size=150, max_size=300))
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_arbitrary_text(session, strings):
    expected = [(normalise_query(string), find_fixes(string)) for string in strings]
    assert [(query, fixes) for _, query, _, fixes in through_spark(session, strings)] == expected
