"""Reports as self-contained HTML pages without scripts, from templates that extend `page.html`."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape

from indexer.console import show_text


def render_page(package: str, template: str, *, title: str, facts: Mapping[str, Any], **values: Any) -> str:
    """Return the page of a package's template; `facts` stand first, and all text is escaped.

    Among the values is `show`, which returns a value as people read it.
    """
    return _open_templates(package).get_template(template).render(title=title, facts=facts, **values)


@cache
def _open_templates(package: str) -> Environment:
    return Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader("indexer", ".")]),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        finalize=show_text,
        trim_blocks=True,
        lstrip_blocks=True,
    )
