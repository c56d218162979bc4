"""Every command of the README is executed, in the README's order, in the demo shop's folder."""

import json
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def commands():
    return [line for block in blocks("bash") for line in block.splitlines() if line.strip()]


def test_the_two_commands_are_targets_of_the_makefile():
    first = blocks("")[0].split("\n")
    assert first[:2] == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{line.split()[1]}:.* ## ", makefile, re.M) for line in first[:2])
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("command", commands())
def test_command(demo, shell, command):
    """Jobs are named by their path in the checkout; everything else lies in the folder of shop.toml."""
    result = shell(command.replace("jobs/", f"{ROOT}/jobs/"), folder=demo.folder)
    assert result.stdout.strip()


def test_consumer_code(demo, shell):
    (code,) = blocks("python")
    (demo.folder / "consumer.py").write_text(code)
    output = shell("python consumer.py", folder=demo.folder).stdout
    assert "sipper" in output
    assert "sofa" in output
    assert "False 2026-01-07" in output


def test_configuration_of_the_readme_is_valid(tmp_path, shell):
    (code,) = blocks("toml")
    (tmp_path / "shop.toml").write_text(code)
    shown = json.loads(shell("indexer config show --config shop.toml --json", folder=tmp_path).stdout)
    assert shown["catalogue"]["columns"] == {"product_id": "asin"}
    assert shown["shop"]["release"] == "s3://my-bucket/search"
