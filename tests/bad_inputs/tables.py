"""Lines about files and rows, as data: what is delivered, and what every reader must make of it."""

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from indexer.contracts import schemas
from indexer.contracts.schemas import Table
from indexer.input_config import CatalogueConfig, InputConfig
from tests.bad_inputs.lines import line


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """Files, and what becomes of them: a refusal, or ids that stay and the others by reason."""

    files: Mapping[str, bytes]
    refused: str = ""
    """What the refusal says, as a pattern."""
    kept: tuple[str, ...] = ()
    reasons: Mapping[str, int] = field(default_factory=dict)
    counted: Mapping[str, Any] = field(default_factory=dict)
    """What else the account has: things that were mended, columns that are not read."""
    table: Table = schemas.CATALOGUE
    options: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> InputConfig:
        """Write the files and return the configuration that reads them, with no limit on rejects."""
        for name, content in self.files.items():
            path = folder / "in" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        kind = CatalogueConfig if self.table is schemas.CATALOGUE else InputConfig
        path = folder / "in" if len(self.files) > 1 else path
        return kind(path=str(path), **({"max_reject_share": 1.0} | dict(self.options)))


def parquet(columns: Mapping[str, Any] | pa.Table, **options: Any) -> bytes:
    """Return a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), sink, **options)
    return sink.getvalue().to_pybytes()


def records(*rows: Mapping[str, Any]) -> bytes:
    """Return JSON lines; text beyond ASCII stands as it is."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def products(*ids: str) -> bytes:
    """Return JSON lines of products with these ids as they stand, and a good one."""
    return b"".join(b'{"product_id": %s, "title": "mug"}\n' % value.encode() for value in ids) + GOOD


def titles(*texts: str) -> bytes:
    """Return JSON lines of products 1, 2, ... with these titles, and a good one."""
    return records(*({"product_id": str(at), "title": text} for at, text in enumerate(texts, 1))) + GOOD


def purchases(column: str, *values: str) -> bytes:
    """Return a CSV file of bad purchases with these values in a column, and a good one of product P."""
    lines = [f'mug,bad,"{value}"' for value in values]
    return "\n".join([f"query,product_id,{column}", *lines, "mug,P,", ""]).encode()


HEAD = b"product_id,title\n"
GOOD = b'{"product_id": "P", "title": "steel mug"}\n'
ROWS = pa.table({"product_id": [f"P{n}" for n in range(9_000)], "title": [f"steel mug {n}" for n in range(9_000)]})
PLAIN = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
TWICE = pa.Table.from_arrays([pa.array(["a"])] * 3, names=["product_id", "title", "title"])
MANY_LINES = b"cccccccccc,steel mug\n" * 1_000_000
PURCHASES = {"table": schemas.RAW_PURCHASES}


def flip(data: bytes, mark: bytes) -> bytes:
    """Flip a bit of what the mark stands for."""
    at = data.index(mark) + 1
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def refused(number: int, files: Mapping[str, bytes], message: str, *, case: str = "", **options: Any) -> Any:
    """Return the case of files that no reader takes."""
    return line(number, Delivery(files=files, refused=message, options=options), case=case)


def judged(
    number: int, name: str, content: bytes, kept: tuple[str, ...], reasons: Mapping[str, int], **more: Any
) -> Any:
    """Return the case of a file whose rows are judged one by one."""
    case = more.pop("case", "")
    return line(number, Delivery(files={name: content}, kept=kept, reasons=reasons, **more), case=case)


REFUSED = [
    refused(1, {"c.csv": b""}, "0 rows"),
    refused(1, {"c.jsonl.gz": gzip.compress(b"")}, "0 rows", case="gzip"),
    refused(2, {"c.csv": HEAD}, "0 rows"),
    refused(2, {"c.parquet": parquet(ROWS.slice(0, 0))}, "0 rows", case="Parquet"),
    refused(3, {"c.csv": b"id,title\n1,mug\n"}, "needs the column 'product_id', found id, title"),
    refused(4, {"c.csv": b"product_id,title,title\n1,a,b\n"}, "column 'title' appears twice"),
    refused(4, {"c.parquet": parquet(TWICE)}, "column 'title' appears twice", case="Parquet"),
    refused(14, {"c.csv": HEAD + b"P,mug\nQ," + b"x" * 50_000_000 + b"\n"}, "c.csv", case="CSV"),
    refused(16, {"c.csv": (HEAD + b"1,mug\n").decode().encode("utf-16")}, "is UTF-16; expected UTF-8"),
    refused(28, {"c.csv": HEAD + b'P,mug\nQ,"mug\n' + MANY_LINES}, "c.csv: line 3: .*is a quote unbalanced"),
    refused(
        30,
        {"c.parquet": parquet({"product_id": [7], "title": ["mug"]})},
        "column product_id has type int64; expected string|product_id: expected string, found bigint",
    ),
    refused(31, {"c.parquet": parquet(ROWS)[:-9] + b"PAR1"}, "c.parquet.*cannot be read"),
    refused(32, {"c.parquet": flip(parquet(ROWS, **PLAIN), b"steel mug 777")}, "c.parquet.*(CRC|crc)"),
    refused(
        33,
        {"c.parquet": parquet({"product_id": ["P"], "title": ["x" * 20_000_000]}, compression="zstd")},
        "declares .* 20,0.*at most 200 times",
    ),
    refused(35, {"c.csv.gz": gzip.compress(HEAD + b"\n" * 40_000_000)}, "unpacks to .* at most 200 times its size"),
    refused(
        35,
        {"c.jsonl.gz": gzip.compress(GOOD) + gzip.compress(b" " * 40_000_000)},
        "unpacks to .* at most 200 times its size",
        case="in the second member",
    ),
    refused(35, {"c.csv.gz": gzip.compress(HEAD + b"P,mug\n") + b"junk" * 20_000}, "cannot be read", case="junk"),
    refused(36, {"0.csv": HEAD + b"P,mug\n", "_temporary/0/1.csv": b"Q,"}, "still being written"),
    refused(36, {"0.csv": HEAD + b"P,mug\n", "1.csv": HEAD}, "no _SUCCESS", case="no _SUCCESS", success_file=True),
]

JUDGED = [
    judged(5, "c.csv", b"product_id,x,title\nP,1,mug\n", ("P",), {}, counted={"unknown_columns": "x"}),
    judged(6, "c.jsonl", products("null", '""', '" \\u3000"'), ("P",), {"product_id_missing": 3}),
    judged(9, "c.jsonl", products(f'"{"x" * 257}"'), ("P",), {"product_id_too_long": 1}),
    judged(9, "c.jsonl", products(f'"{"x" * 256}"'), ("P", "x" * 256), {}, case="256 bytes"),
    judged(
        10,
        "c.jsonl",
        products('"\\u0000"', '"p\\nq"', '"\\u007f"', '"../p"', '"a/../b"', '".."', '"a\\\\..\\\\b"'),
        ("P",),
        {"product_id_chars": 7},
    ),
    judged(
        10,
        "c.jsonl",
        products('"a..b"', '"a/b"', '"..."'),
        ("...", "P", "a..b", "a/b"),
        {},
        case="dots that lead nowhere",
    ),
    judged(
        11,
        "c.jsonl",
        products("-1", "9223372036854775808", "1e18", '"007"', "7"),
        ("-1", "007", "1.0E18", "7", "9223372036854775808", "P"),
        {},
    ),
    judged(
        12,
        "c.jsonl",
        titles("", "  ", "\u3000\u00a0") + b'{"product_id": "4", "title": null}\n',
        ("P",),
        {"title_missing": 4},
    ),
    judged(14, "c.jsonl", titles("x" * 50_000_000), ("P",), {"malformed": 1}, case="JSON"),
    judged(14, "c.jsonl", titles("x" * 15_000_000), ("P",), {"title_too_long": 1}, case="JSON of 15 MB"),
    judged(
        14,
        "c.parquet",
        parquet({"product_id": ["Q", "P"], "title": ["x" * 50_000_000, "mug"]}, **PLAIN),
        ("P",),
        {"title_too_long": 1},
        case="Parquet",
    ),
    judged(15, "c.csv", HEAD + b"Q,m\xffg\nP,mug\n", ("P",), {"encoding": 1}),
    judged(15, "c.jsonl", b'{"product_id": "Q", "title": "m\xffg"}\n' + GOOD, ("P",), {"encoding": 1}, case="JSON"),
    judged(16, "c.csv", b"\xef\xbb\xbf" + HEAD + b"P,mug\n", ("P",), {}, case="UTF-8 with a byte order mark"),
    judged(17, "c.jsonl", products('"\\ud800"'), ("P",), {"encoding": 1}),
    judged(18, "c.jsonl", titles("cafe\u0301", "caf\u00e9"), ("1", "2", "P"), {}, counted={"composed": 1}),
    judged(
        19,
        "c.jsonl",
        titles("m\u200bug", "mug\u202e", "mug\U000e0041", "mug\ufeff"),
        ("1", "2", "3", "4", "P"),
        {},
        counted={"invisible_removed": 4},
    ),
    judged(20, "c.jsonl", titles("\x1b[31mmug", "mug\x07"), ("1", "2", "P"), {}, counted={"invisible_removed": 2}),
    judged(
        21,
        "c.jsonl",
        titles("<script>alert(1)</script>", "salt &amp; pepper &lt;b&gt;"),
        ("1", "2", "P"),
        {},
        counted={"entities_decoded": 1},
    ),
    judged(22, "c.csv", HEAD + b"Q,=cmd()\nP,mug\n", ("P", "Q"), {}),
    judged(24, "c.jsonl", titles("word " * 10_000), ("P",), {"title_too_long": 1}),
    judged(
        26,
        "p.csv",
        purchases("purchases", "NaN", "12,99", "1e400", "-1", "0", "9" * 19),
        ("P",),
        {"purchases_type": 4, "purchases_range": 2},
        **PURCHASES,
    ),
    judged(
        27,
        "p.csv",
        purchases("event_date", "0000-00-00", "9999-12-31", "2026-01-01T10:00:00", "2026-02-30"),
        ("P",),
        {"event_date_type": 3, "event_date_range": 1},
        **PURCHASES,
    ),
    judged(29, "c.csv", HEAD + b"P,mug\nQ\nR,mug,1\n", ("P",), {"malformed": 2}),
    judged(35, "c.csv.gz", gzip.compress(HEAD) + gzip.compress(b"P,mug\n"), ("P",), {}, case="two members"),
    judged(41, "p.csv", b"query,product_id\n,bad\n  ,bad\nmug,P\n", ("P",), {"query_missing": 2}, **PURCHASES),
    judged(
        43,
        "p.csv",
        purchases("purchases", "NaN", "-1", "0"),
        ("P",),
        {"purchases_type": 1, "purchases_range": 2},
        **PURCHASES,
    ),
    judged(
        44,
        "p.csv",
        b"query,product_id\n" + b"y" * 100_000 + b",bad\nmug,P\n",
        ("P",),
        {"query_too_long": 1},
        **PURCHASES,
    ),
    judged(
        50,
        "p.csv",
        purchases("purchases", "-2", "1.5"),
        ("P",),
        {"purchases_type": 1, "purchases_range": 1},
        **PURCHASES,
    ),
]
