"""A product's attributes as one text in which each is announced by a token of its own (Vo et al. 2024)."""

from collections.abc import Collection, Mapping

from indexer.contracts import schemas
from indexer.contracts.inputs import open_input
from indexer.input_config import CatalogueConfig
from indexer.text import product_text

MARKS: Mapping[str, str] = {"title": "[SEPt]", "product_type": "[SEPp]", "brand": "[SEPb]"}
"""Column of the catalogue -> the token that announces it."""


def mark_text(product: Mapping[str, object]) -> str:
    """Return the product's attributes, each behind its mark, those it lacks left out."""
    texts = {name: product_text(product, fields=(name,), separator="") for name in MARKS}
    return " ".join(f"{MARKS[name]} {text}" for name, text in texts.items() if text)


def mark_title(text: str) -> str:
    """Return a product text of unknown attributes as a title."""
    return f"{MARKS['title']} {text}"


def read_marked_texts(catalogue: CatalogueConfig, wanted: Collection[str]) -> dict[str, str]:
    """Stream the catalogue and return the marked text of each wanted product text; of several, the first in order."""
    found: dict[str, str] = {}
    for batch in open_input(schemas.CATALOGUE, catalogue):
        for product in batch.to_pylist():
            text = product_text(product, fields=catalogue.text_fields, separator=catalogue.text_separator)
            if text in wanted:
                marked = mark_text(product)
                found[text] = min(marked, found.get(text, marked))
    return found
