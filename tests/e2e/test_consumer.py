"""A consumer's machine: a fresh environment with nothing but the bare package."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[2]

OPEN_AND_SEARCH = """
import importlib.util, sys
from indexer.reader import open_index
absent = ("torch", "transformers", "sentence_transformers", "pyspark", "pyarrow", "pandas", "jinja2", "sklearn")
installed = [name for name in absent if importlib.util.find_spec(name)]
assert not installed, installed
index = open_index(sys.argv[1])
print(len(index.search(sys.argv[2], k=3)), index.release.run_id)
"""


@pytest.fixture(scope="session")
def consumer(tmp_path_factory):
    """The python of an environment into which only `pip install .` went."""
    home = tmp_path_factory.mktemp("consumer")
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    python = home / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", str(ROOT)]
    subprocess.run(install, check=True, capture_output=True, timeout=600)
    return python


def ask(python, release, query):
    command = [python, "-c", OPEN_AND_SEARCH, str(release), query]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=release).stdout.split()


def test_the_golden_release_opens(consumer):
    hits, run_id = ask(consumer, ROOT / "tests" / "golden" / "release_v1", "steel sipper")
    assert int(hits) > 0
    assert run_id


def test_the_demo_release_opens(consumer, demo):
    hits, run_id = ask(consumer, demo.folder / "release", "couch")
    assert int(hits) == 3
    assert run_id.startswith("2026-01-07-")
