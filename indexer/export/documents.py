"""Rows as JSON, one document per line, for engines that build an index of their own."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from indexer.errors import ContractError
from indexer.export.rows import ShardRows
from indexer.text import shorten

BULK_BYTES = 32 << 20
"""Most bytes of a file for _bulk; by default a server takes at most 100 MB in one request (http.max_content_length)."""
NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,100}")
REFUSED = re.compile(
    "[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\ufdd0-\\ufddf"
    + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0x10000, 0x110000, 0x10000))
    + "]"
)
"""Characters that Vespa takes in no string and no id: isTextCharacter in com.yahoo.text.Text."""


def write_vespa(shard: ShardRows, folder: Path, namespace: str) -> None:
    """Write a feed of puts; the document type is the collection.

    A document id ends with the row's id as it is: clients encode it for URLs themselves. Raises ContractError for an
    id that Vespa refuses.
    """
    prefix = f"id:{namespace}:{shard.collection.name}::"
    with (folder / f"feed-{shard.number:05d}.jsonl").open("wb") as file:
        for fields in _read_fields(shard):
            if REFUSED.search(fields["id"]):
                raise ContractError(
                    f"{shard.collection.name}: id {shorten(fields['id'])} has a character that Vespa takes in no id; "
                    "rename the product or choose another format"
                )
            if "text" in fields:
                fields["text"] = REFUSED.sub(" ", fields["text"])
            fields["vector"] = {"values": fields["vector"]}
            file.write(_as_line({"put": prefix + fields["id"], "fields": fields}))


def write_opensearch(shard: ShardRows, folder: Path) -> None:
    """Write files of action and source lines for _bulk, each of at most BULK_BYTES unless one row is larger."""
    part, waiting = 0, bytearray()
    for fields in _read_fields(shard):
        lines = _as_line({"index": {"_id": fields["id"]}}) + _as_line(fields)
        if waiting and len(waiting) + len(lines) > BULK_BYTES:
            (folder / f"bulk-{shard.number:05d}-{part:05d}.jsonl").write_bytes(waiting)
            part, waiting = part + 1, bytearray()
        waiting += lines
    (folder / f"bulk-{shard.number:05d}-{part:05d}.jsonl").write_bytes(waiting)


def _read_fields(shard: ShardRows) -> Iterator[dict[str, Any]]:
    for batch in shard.read_batches():
        for name, text, vector in zip(*batch, strict=True):
            yield {"id": name, **({} if text is None else {"text": text}), "vector": vector}


def _as_line(document: dict[str, Any]) -> bytes:
    """Return one line of JSON; numbers have as many digits as float32 needs to come back the same."""
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)
