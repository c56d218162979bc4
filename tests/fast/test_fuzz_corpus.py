"""The inputs that are kept of the fuzzed readers, again: no other error than the project's, and in time."""

import time
from pathlib import Path

import pytest

from indexer.errors import IndexerError
from tests.proof.fuzz import MAX_SECONDS, NAMES
from tests.proof.fuzz_targets import TARGETS, list_corpus, run_target

CASES = [pytest.param(name, path, id=f"{name}-{path.name}") for name in NAMES for path in list_corpus(name)]
SEEDS = {
    "entry", "pin", "signed", "release_v1", "release_v3", "shop.toml", "encoder.json", "canaries.json", "flat", "sq8",
    "sqfp16", "small.onnx", "rows.csv", "rows.tsv", "rows.jsonl", "rows.csv.gz",
}  # fmt: skip


def test_every_target_has_a_corpus():
    assert set(NAMES) == set(TARGETS)
    assert {path.name for name in NAMES for path in list_corpus(name)} >= SEEDS


@pytest.mark.parametrize(("name", "path"), CASES)
def test_a_kept_input_is_answered(name: str, path: Path):
    started = time.process_time()
    run_target(name, path.read_bytes())
    assert time.process_time() - started < MAX_SECONDS


@pytest.mark.parametrize(("name", "path"), [case for case in CASES if Path(case.values[1]).name in SEEDS])
def test_a_seed_is_accepted_and_half_of_it_is_not(name: str, path: Path):
    """Otherwise the fuzzer would never get past the first line of a reader."""
    data = path.read_bytes()
    TARGETS[name](data)
    if name == "catalogue":
        return
    with pytest.raises(IndexerError):
        TARGETS[name](data[: len(data) // 2])
