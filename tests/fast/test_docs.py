"""The documentation says what the code does."""

import re
from pathlib import Path

import pytest

from indexer.config_file import section_types
from indexer.contracts import schemas
from indexer.input_config import GRADES

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("table", schemas.TABLES.values(), ids=list(schemas.TABLES))
def test_the_page_of_tables_equals_the_schemas(table):
    assert schemas.describe_table(table) in (ROOT / "docs" / "inputs.md").read_text()


def test_label_words_of_the_page_are_the_known_ones():
    rows = re.findall(r"^\| ([0-3]) \| \w+ \| (.*) \|$", (ROOT / "docs" / "inputs.md").read_text(), re.M)
    words = {word.strip().lower(): int(grade) for grade, cells in rows for word in re.split(r"[,|]", cells)}
    assert {word: grade for word, grade in words.items() if word} == dict(GRADES)


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
