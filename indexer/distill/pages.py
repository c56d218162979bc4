"""Pages of comparisons and of trainings: self-contained HTML without scripts."""

from collections.abc import Collection, Mapping
from typing import Any

from indexer import html_page
from indexer.config import as_document
from indexer.distill_config import BermConfig, DistillConfig


def render_page(template: str, *, title: str, facts: Mapping[str, Any], **values: Any) -> str:
    """Return the page of a template of this package; `facts` stand first, and all text is escaped."""
    return html_page.render_page("indexer.distill", template, title=title, facts=facts, show=show_figure, **values)


def changed_settings(config: DistillConfig | BermConfig, *, left_out: Collection[str] = ()) -> dict[str, Any]:
    """Return what differs from the defaults."""
    found, default = as_document(config), as_document(type(config)())
    return {name: value for name, value in found.items() if value != default[name] and name not in left_out}


def show_figure(value: Any) -> str:
    """Return a figure for people."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:,.0f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {show_figure(item)}" for name, item in value.items()) or "-"
    return f"{value:,}" if isinstance(value, int) else str(value)
