"""Builds that are killed at their calls to the store, and many that publish at once: a small size of both proofs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "kills",
            r"kills at store calls \| [5-9]\d points \| 0 torn, 0 of [1-9]\d* sealed shards and encoders rebuilt",
        ),
        ("races", r"races \| 1 rounds of 2, 4, 8, 16 processes \| 1 winner each"),
    ],
)
def test_a_proof_that_forks_runs_in_a_process_of_its_own(name: str, line: str):
    answer = subprocess.run(
        [sys.executable, "-m", f"tests.proof.{name}"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert answer.returncode == 0, answer.stderr[-5_000:]
    assert re.match(line, answer.stdout), answer.stdout
