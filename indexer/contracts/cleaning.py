"""Texts on their way in: HTML entities are decoded, and rows counted by what normalisation has to mend in them."""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from indexer.text import decode_entities, find_fixes

UNUSUAL = r"[^\x20-\x7e]|&"
"""What no text lacks that has something to mend."""


def decode_texts(values: pa.Array) -> pa.Array:
    """Decode the entities of texts, or of the texts in lists; anything else is returned as it is."""
    if is_text_list(values.type):
        lists = values.to_pylist() if _holds(pc.list_flatten(values), "&") else None
        return values if lists is None else pa.array([_decode_items(items) for items in lists], values.type)
    if not pa.types.is_string(values.type) or not _holds(values, "&"):
        return values
    holding = pc.fill_null(pc.match_substring(values, "&"), False)
    decoded = [decode_entities(text) for text in values.filter(holding).to_pylist()]
    return pc.replace_with_mask(values, holding, pa.array(decoded, pa.string()))


def count_fixes(values: pa.Array, count: Callable[[str, int], None]) -> None:
    """Call `count` with the fix and the row of every text, or text in a list, that has something to mend."""
    if is_text_list(values.type):
        # A null may have items behind it: they belong to a row for one of the two functions only.
        lists = pc.fill_null(values, [])
        texts, rows = pc.list_flatten(lists), pc.list_parent_indices(lists)
    elif pa.types.is_string(values.type):
        texts, rows = values, pa.array(range(len(values)), pa.int64())
    else:
        return
    unusual = pc.fill_null(pc.match_substring_regex(texts, UNUSUAL), False)
    for text, row in zip(texts.filter(unusual).to_pylist(), rows.filter(unusual).to_pylist(), strict=True):
        for fix in find_fixes(text):
            count(fix, row)


def is_text_list(kind: pa.DataType) -> bool:
    """Tell whether a column holds lists of text, however wide their offsets are."""
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    return bool(pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type))


def _holds(texts: pa.Array, mark: str) -> bool:
    return bool(pc.any(pc.match_substring(texts, mark)).as_py())


def _decode_items(items: list[str | None] | None) -> list[str | None] | None:
    return items if items is None else [item if item is None else decode_entities(item) for item in items]
