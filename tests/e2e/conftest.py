"""One run of the whole demo, shared by every test here."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


class Demo(NamedTuple):
    """The demo's folder and what it printed."""

    folder: Path
    output: str


def run(command: str, *, folder: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a shell command as a user with the virtual environment activated would."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("INDEXER_", "AWS_"))}
    environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"
    result = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=1200, check=False
    )
    if check and result.returncode:
        raise AssertionError(f"{command}\nended with {result.returncode}\n{result.stdout}\n{result.stderr}")
    return result


@pytest.fixture(scope="session")
def shell():
    return run


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("demo") / "shop"
    folder.parent.mkdir(exist_ok=True)
    return Demo(folder, run(f"indexer demo --folder {folder}", folder=folder.parent).stdout)
