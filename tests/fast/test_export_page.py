"""What docs/exports.md shows, done on the golden release."""

import contextlib
import json
import re
import shlex
import shutil
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner

from indexer.cli.group import indexer
from indexer.text import INVISIBLES, SPACES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "exports.md"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.M | re.S)


@pytest.fixture(scope="module")
def folder(golden, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(golden / "release_v2", folder / "release")
    with contextlib.chdir(folder):
        for line in "".join(blocks("bash")).splitlines():
            command, *words = shlex.split(line)
            assert command == "indexer"
            result = CliRunner().invoke(indexer, words)
            assert result.exit_code == 0, result.output
    return folder


def test_it_has_every_format(folder):
    assert {path.name for path in folder.iterdir()} == {
        "release",
        *(f"for-{name}" for name in ("parquet", "numpy", "vespa", "opensearch", "hnswlib")),
    }


def test_sql(folder):
    with contextlib.chdir(folder):
        found = duckdb.sql(*blocks("sql")).fetchall()
    assert [row[0] for row in found][:1] == ["P000"]
    assert len(found) == 3
    assert found[0][2] == pytest.approx(1)


@pytest.mark.parametrize(
    ("number", "starts"),
    [(0, "(200, 32) float32 P0"), (1, "['P000', "), (2, "0.853 P005\n0.841 P010\n0.836 P015\n0.783 P000\n")],
)
def test_python(folder, number, starts, capsys):
    if number == 2:
        pytest.importorskip("hnswlib", reason="hnswlib is not installed; pip compiles it")
    with contextlib.chdir(folder):
        exec(blocks("python")[number], {})
    assert capsys.readouterr().out.startswith(starts)


def test_json():
    mapping, field = (json.loads(block) for block in blocks("json"))
    assert set(mapping["mappings"]["properties"]) == {"id", "text", "vector"}
    assert set(field) == {"vector"}


def test_java_strips_what_the_rule_for_queries_strips():
    (java,) = blocks("java")
    for name, expected in (("INVISIBLE", INVISIBLES + "|[\\ud800-\\udfff]"), ("SPACE", SPACES)):
        literal = re.search(rf"String {name} = (.*?);", java, re.S)[1]
        written = "".join(re.findall(r'"(.*?)"', literal)).replace("\\\\x", "\\x")
        ours = re.sub(r"\\x\{([0-9a-f]+)\}", lambda match: f"\\U{int(match[1], 16):08x}", written)
        for code in range(0x110000):
            assert bool(re.fullmatch(ours, chr(code))) == bool(re.fullmatch(expected, chr(code))), hex(code)
