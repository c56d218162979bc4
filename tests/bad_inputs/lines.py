"""The hundred bad inputs: number, what is given, what must happen. Each has at least one test that runs the project.

*reject*: the row goes to the rejects with the reason, the others stay. *fix*: mended and counted. *refuse*: nothing is
published and the command ends with the code, 2 for configuration and command line, 4 for a gate, else 3. *integrity*:
exit code 6, and a consumer keeps what it serves. Wherever rows are concerned, rows in = rows out + rejected +
deduplicated.

`pytest -m line` runs them all; the tests lie in `test_bad_*.py` of tests/fast, tests/jvm and tests/train.
"""

from typing import Any, NamedTuple

import pytest


class Line(NamedTuple):
    """One bad input."""

    given: str
    happens: str


LINES = {
    # The catalogue
    1: Line("empty file", "refuse: 0 rows"),
    2: Line("header only", "refuse: 0 rows"),
    3: Line("no product_id column", "refuse, naming it"),
    4: Line("a column name twice", "refuse"),
    5: Line("unknown extra column", "accept; the account names it once"),
    6: Line("null or blank id", "reject product_id_missing"),
    7: Line("an id twice, same content", "one stays, deduplicated is counted"),
    8: Line("an id twice, other content", "the newest updated_at stays, reject duplicate_id; all of them on a tie"),
    9: Line("id over 256 bytes", "reject product_id_too_long"),
    10: Line("id with NUL, newline or ../", "reject product_id_chars"),
    11: Line("ids -1, 2^63, 1e18, 007 and 7", "accept as text, exactly as written; there is no map to numbers"),
    12: Line("title null, blank or white space", "reject title_missing"),
    13: Line("title of one character", "accept and count"),
    14: Line("title of 50 MB", "reject title_too_long; above 16 MiB JSON is malformed, CSV refused"),
    15: Line("invalid UTF-8", "reject encoding"),
    16: Line("UTF-16 file", "refuse; a byte order mark of UTF-8 is stripped"),
    17: Line("half a surrogate pair in JSON", "reject encoding"),
    18: Line("a title in NFD and in NFC", "fix: one text, equal vectors"),
    19: Line("zero-width, bidi and tag characters", "fix: stripped and counted"),
    20: Line("ANSI escapes, control bytes", "fix: stripped and counted"),
    21: Line("<script>, HTML entities", "decoded as text; no page has them as markup"),
    22: Line("=cmd() in a title", "indexed as text; the project writes no rejects as CSV"),
    23: Line("only emoji or punctuation", "reject text_empty"),
    24: Line("10,000 repeated words", "a title over 8 kB is rejected, any other text cut; at the token limit counted"),
    25: Line("words that the encoder does not know", "reject text_empty"),
    26: Line("NaN, negative, 12,99, 1e400 as a number", "reject by column with the reason _type or _range"),
    27: Line("0000-00-00, year 9999, time without zone", "reject; an updated_at that is none is as good as none"),
    28: Line("unbalanced quote before a million lines", "refuse with the line's number"),
    29: Line("ragged CSV row", "reject malformed"),
    30: Line("Parquet column of another type", "refuse with both types"),
    31: Line("truncated Parquet footer", "refuse"),
    32: Line("wrong checksum of a Parquet page", "refuse, naming the file and, without Spark, the row group"),
    33: Line("Parquet bomb", "refuse by the declared sizes, before decoding"),
    34: Line("row group of 10^9 rows", "refuse above 100,000,000"),
    35: Line("gzip bomb, junk after gzip", "refuse above 200:1; several members are one file"),
    36: Line("a part still being written", "refuse"),
    37: Line("an object listed twice", "read once, files_listed_twice is counted"),
    38: Line("a catalogue 40 % smaller than last night's", "refuse, gate"),
    39: Line("all rows in one category", "refuse, gate on nodes that hold products, against the night before"),
    40: Line("last night's catalogue again", "nothing new is published, exit code 0, `unchanged`"),
    # Curated queries
    41: Line("empty query", "reject query_missing or query_empty"),
    42: Line("queries that are one after normalising", "merged, purchases added up"),
    43: Line("weight NaN, negative or 0", "reject"),
    44: Line("query of 100,000 characters", "reject query_too_long"),
    45: Line("e-mail address, card number", "reject pii; the account has the shape alone"),
    46: Line("another language, right to left", "accept"),
    47: Line("query equal to a product's id", "accept and mark"),
    48: Line("a query's vector is NaN", "refuse, gate, naming the query"),
    # Purchases and pairs
    49: Line("unknown product", "counted, with a limit to set (products come and go); refuse where all are unknown"),
    50: Line("negative or fractional quantity", "reject"),
    51: Line("quantity 1e9", "reject as an outlier, above purchases.max_purchases"),
    52: Line("a user with a million events", "capped per day, what is over is reported"),
    53: Line("a time in the future", "reject event_date_future"),
    54: Line("only events of another day", "refuse"),
    55: Line("a file replayed", "each event counts once, the copies are counted"),
    56: Line("sum beyond 64 bits", "refuse"),
    57: Line("pair counted more often than its queries", "integrity: such a table is not left standing"),
    58: Line("pair bought by no or one user", "dropped below purchases.min_users, counted"),
    59: Line("NPMI of nothing in common, and of all", "never NaN: no pair, and 1"),
    60: Line("asymmetric matrix", "integrity: only its upper half can be written"),
    61: Line("one key holds 30 % of the rows", "completes, equal to plain counting"),
    62: Line("no pair is left", "refuse, gate, unless allowed"),
    # Taxonomy and labels
    63: Line("cycle", "refuse with its path"),
    64: Line("two parents", "refuse, or the first by taxonomy.two_parents"),
    65: Line("orphan", "reject parent_unknown, with all below it"),
    66: Line("depth 1,000", "refuse, limit 32"),
    67: Line("node id twice", "refuse"),
    68: Line("label of an unknown product, product of an unknown node", "reject product_unknown, node_unknown"),
    69: Line("grade out of range, 3.5, a boolean", "reject label_unknown"),
    70: Line("conflicting labels of one pair", "the grade of the greatest weight, on a tie the lowest; counted"),
    71: Line("labels of one class", "refuse, gate"),
    72: Line("one pair in training and test", "cannot be: parts are drawn by query"),
    # Configuration and command line
    73: Line("unknown key", "refuse with the nearest name"),
    74: Line('m = "64", yes for true', "refuse, naming the type"),
    75: Line("m = 0, efConstruction below m, 100,000 shards", "refuse, naming the range"),
    76: Line("a bomb as configuration", "refuse: TOML knows neither aliases nor objects; 1 MiB, nesting"),
    77: Line("access key in configuration or address", "refuse; the value is not shown"),
    78: Line(
        "release inside an input, two jobs on one folder", "refuse; of two jobs one commits, the other ends with 5"
    ),
    79: Line("s3://bucket/../x, empty bucket", "refuse; relative paths are those of the file's folder"),
    80: Line("clock wrong by two days", "the number in the log decides, never a clock"),
    # Manifest, log, markers
    81: Line("key ../../other, absolute, //, %2e%2e, \\, NUL, other bucket", "integrity"),
    82: Line("SHA-256 missing, short, upper case, MD5", "integrity"),
    83: Line("size negative, 2^64, NaN", "integrity"),
    84: Line("keys twice, NaN, trailing bytes, deep JSON", "integrity"),
    85: Line("newer format", "integrity: upgrade"),
    86: Line("a shard twice, a number missing", "integrity"),
    87: Line("row counts that do not add up", "integrity"),
    88: Line("gap in the log, older log than served", "integrity"),
    89: Line("log entry of an absent manifest", "integrity"),
    90: Line("expired or wrong signature", "integrity"),
    91: Line("marker with another fingerprint", "ignored, built anew"),
    92: Line("marker whose object is gone or of another size", "that shard is built anew, no other"),
    # Shards and models
    93: Line("index flipped, cut, lengthened, empty", "integrity, by hash"),
    94: Line("right hash, other dimension, metric, count, m or type", "integrity"),
    95: Line("ids missing or twice", "integrity, at the builder"),
    96: Line("inverted file, pre-transform, id map", "integrity, never parsed"),
    97: Line("header that claims 2^40 elements", "integrity, without reading them"),
    98: Line("pickle weights, *.py, a foreign class", "refuse; no code of a model's folder runs"),
    99: Line("broken safetensors, ONNX outside its folder, custom operator, NaN", "refuse"),
    100: Line(
        "other tokenizer, pooling or dimension than the encoder's", "refuse when building, integrity when serving"
    ),
}


def line(number: int, *values: Any, case: str = "") -> Any:
    """Return a parameter for the test of a line; `case` tells several cases of one line apart."""
    name = f"{number:03d} {LINES[number].given}" + (f", {case}" if case else "")
    return pytest.param(*values, id=name, marks=pytest.mark.line(number))
