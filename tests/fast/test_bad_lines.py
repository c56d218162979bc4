"""Every one of the hundred bad inputs has a test."""

import ast
from collections import defaultdict
from pathlib import Path

from tests.bad_inputs.lines import LINES

TESTS = Path(__file__).parents[1]
MAKERS = ("line", "refused", "judged")
"""What the number of a line is given to: the mark of a test, or what makes a parameter for one."""


def find_numbers(path):
    """Yield the numbers of lines that a file of tests names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        mark = isinstance(node.func, ast.Attribute) and node.func.attr == "line"
        if mark or (isinstance(node.func, ast.Name) and node.func.id in MAKERS):
            for value in node.args if mark else node.args[:1]:
                if isinstance(value, ast.Constant) and type(value.value) is int:
                    yield value.value


def test_every_line_has_a_test():
    places = defaultdict(set)
    for path in [*TESTS.rglob("test_*.py"), TESTS / "bad_inputs" / "tables.py"]:
        for number in find_numbers(path):
            places[number].add(path.relative_to(TESTS).as_posix())
    assert list(LINES) == list(range(1, 101))
    assert sorted(places) == list(LINES), sorted(set(LINES) - set(places))


def test_lines_about_tables_are_tested_with_spark_and_without():
    table = TESTS / "bad_inputs" / "tables.py"
    for readers in ("fast", "jvm"):
        assert "JUDGED, REFUSED" in (TESTS / readers / "test_bad_tables.py").read_text()
    assert len(set(find_numbers(table))) >= 30
