"""Damage of every kind of object is refused by its hash; without hashes it takes nobody down but a child."""

from pathlib import Path

import pytest

from indexer.store import hash_file
from tests.proof import corruption
from tests.proof.corruption import run_guarded, run_hashed, run_unhashed
from tests.proof.damaged_release import DAMAGES, Release, make_release

KINDS = {
    "canaries", "dead", "digests", "encoder.json", "encoder.onnx", "ids", "index", "log entry", "manifest", "probe",
    "seal", "texts", "tokenizer.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return make_release(tmp_path_factory.mktemp("corruption"))


def test_every_damaged_object_is_refused_before_a_parser_sees_it(release: Release):
    tried, wrong = run_hashed(release, dict.fromkeys(DAMAGES, 5 * len(KINDS)))
    assert wrong == []
    assert dict(tried) == dict.fromkeys(KINDS, 5 * len(DAMAGES))


def test_a_reader_that_skips_the_hash_is_noticed(release: Release, monkeypatch: pytest.MonkeyPatch):
    promised = {entry.bytes: entry.sha256 for entry in release.manifest.objects}
    # Markers and probes, which no manifest names, are hashed as ever.
    monkeypatch.setattr(
        "indexer.object_cache.hash_file", lambda path: promised.get(path.stat().st_size) or hash_file(path)
    )
    _, wrong = run_hashed(release, {"flip": 3 * len(KINDS)})
    assert {line.partition(" of ")[0] for line in wrong} == {"flip"}
    assert len(wrong) > 10


def test_without_hashes_the_children_answer_or_die_alone(release: Release, tmp_path: Path):
    outcomes = run_unhashed(release, tmp_path / "children", 200)
    assert outcomes.total() == 200
    assert sum(count for outcome, count in outcomes.items() if "refused" in outcome) > 100


def test_the_guard_outlives_what_it_opens(release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    outcomes = run_guarded(release, tmp_path / "guarded", 8)
    assert outcomes.total() == 8
    assert outcomes["refused"] > 2
    # A guard that opens files by itself would end with what they raise.
    monkeypatch.setattr(corruption, "try_release", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_guarded(release, tmp_path / "guarded", 1)
