"""The documentation says what the code does."""

import ast
import itertools
import re
from pathlib import Path

import pytest

from indexer.config_file import section_types
from indexer.contracts import schemas
from indexer.input_config import GRADES, InputConfig
from indexer.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("table", schemas.TABLES.values(), ids=list(schemas.TABLES))
def test_the_page_of_tables_equals_the_schemas(table):
    assert schemas.describe_table(table) in (ROOT / "docs" / "inputs.md").read_text()


def settings_of(module):
    """Section -> rows of a Markdown table, from a module's own fields and the docstrings beside them."""
    tree = ast.parse((ROOT / "indexer" / f"{module}.py").read_text())
    for kind in [node for node in tree.body if isinstance(node, ast.ClassDef)]:
        rows = []
        for field, after in itertools.zip_longest(kind.body, kind.body[1:]):
            if isinstance(field, ast.AnnAssign):
                beside = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                meaning = " ".join(after.value.value.split()) if beside else ""
                default = "{}" if "dict" in ast.unparse(field.value) else ast.unparse(field.value)
                rows.append(f"| {field.target.id} | `{default}` | {meaning} |".replace("' | '", "' \\| '"))
        yield kind.name, ast.get_docstring(kind), rows


def test_the_page_of_settings_equals_the_configuration():
    """`python -m pytest tests/fast/test_docs.py` prints what the page should hold where it differs."""
    modules = ("input_config", "job_config", "distill_config", "index_config", "config")
    known = {name: (text, rows) for module in modules for name, text, rows in settings_of(module)}
    inputs = known["InputConfig"][1]
    page = ["# Settings", "", "Every key of `shop.toml`, its default, and what it means.", ""]
    for section, kind in section_types().items():
        text, rows = known[kind.__name__]
        shared = inputs if issubclass(kind, InputConfig) else []
        page += [f"## [{section}]", "", text, "", "| key | default | |", "| --- | --- | --- |", *shared, *rows, ""]
    assert (ROOT / "docs" / "configuration.md").read_text() == "\n".join(page)


def test_label_words_of_the_page_are_the_known_ones():
    rows = re.findall(r"^\| ([0-3]) \| \w+ \| (.*) \|$", (ROOT / "docs" / "inputs.md").read_text(), re.M)
    words = {word.strip().lower(): int(grade) for grade, cells in rows for word in re.split(r"[,|]", cells)}
    assert {word: grade for word, grade in words.items() if word} == dict(GRADES)


def test_the_page_of_methods_names_them_all():
    page = (ROOT / "docs" / "distillation.md").read_text()
    methods = page.partition("## The methods")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([a-z-]+)` \|", methods, re.M) == list(METHODS)


def test_links_of_the_documentation_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_settings_named_in_the_documentation_exist():
    known = {f"{name}.{key}" for name, kind in section_types().items() for key in kind.__dataclass_fields__}
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for setting in re.findall(r"--set ([a-z_]+\.[a-z_0-9]+)", page.read_text()):
            assert setting in known, f"{page.name} names {setting}"


def test_every_command_has_help_and_stands_in_the_readme():
    from indexer.cli.group import indexer

    readme = (ROOT / "README.md").read_text()
    for name, command in indexer.commands.items():
        assert command.help, name
        assert re.search(rf"(indexer|make) {name}\b", readme), f"README does not show {name}"


def test_the_table_of_the_papers_has_every_method():
    from indexer.methods import METHODS

    named = re.search(r"^TABLE_METHODS := (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert named
    # The labels of ESCI have one source: there, RTSM is KD-Boost.
    assert {name.partition(":")[0] for name in named[1].split(",")} == set(METHODS) - {"rtsm"}
