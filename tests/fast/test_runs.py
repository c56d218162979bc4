"""Step commits: numbered, create-only, found by fingerprint."""

import pytest

from indexer.errors import ConfigError, ContractError, ManifestError, PublishConflictError
from indexer.runs import StepCommit, StepFolder, check_run_date, fingerprint, identify_input


def commit_of(folder: StepFolder, mark: str) -> StepCommit:
    return StepCommit(step=folder.step, run_date=folder.run_date, attempt=folder.new_attempt(), fingerprint=mark)


def test_the_newest_commit_counts(tmp_path):
    folder = StepFolder(tmp_path, "npmi_pairs", "2026-11-20")
    assert folder.newest() is None
    first, second = commit_of(folder, "a"), commit_of(folder, "b")
    folder.commit(first)
    folder.commit(second)
    assert folder.newest() == second
    assert folder.finished("b") == second
    assert folder.finished("a") is None
    assert folder.table_folder("QUERY_PAIRS").name == "QUERY_PAIRS"
    assert folder.table_folder("QUERY_PAIRS").parent.name == f"attempt={second.attempt}"


def test_another_date_is_untouched(tmp_path):
    folder = StepFolder(tmp_path, "npmi_pairs", "2026-11-20")
    folder.commit(commit_of(folder, "a"))
    assert StepFolder(tmp_path, "npmi_pairs", "2026-11-21").newest() is None


def test_of_two_writers_one_wins(tmp_path, monkeypatch):
    folder = StepFolder(tmp_path, "npmi_pairs", "2026-11-20")
    winner = commit_of(folder, "a")
    folder.commit(winner)
    monkeypatch.setattr(type(folder._store), "list", lambda self, prefix: iter(()))
    with pytest.raises(PublishConflictError, match=winner.attempt):
        folder.commit(commit_of(folder, "b"))


def test_only_an_unfinished_attempt_is_removed(tmp_path):
    folder = StepFolder(tmp_path, "npmi_pairs", "2026-11-20")
    finished, failed = commit_of(folder, "a"), folder.new_attempt()
    folder.commit(finished)
    for attempt in (finished.attempt, failed):
        (folder.attempt_folder(attempt) / "QUERY_PAIRS").mkdir(parents=True)
        folder.remove_unfinished(attempt)
    assert folder.attempt_folder(finished.attempt).exists()
    assert not folder.attempt_folder(failed).exists()


def test_missing_table_names_the_step_to_run(tmp_path):
    with pytest.raises(ContractError, match="run the step purchase_gram"):
        StepFolder(tmp_path, "purchase_gram", "2026-11-20").table_folder("PURCHASES")


def test_damaged_commit_is_refused(tmp_path):
    folder = StepFolder(tmp_path, "npmi_pairs", "2026-11-20")
    folder.commit(commit_of(folder, "a"))
    next((folder.folder / "commits").iterdir()).write_text("{")
    with pytest.raises(ManifestError, match="not a step commit"):
        folder.newest()


@pytest.mark.parametrize("text", ["2026-2-1", "20261120", "yesterday", "2026-02-30", ""])
def test_wrong_run_date(text):
    with pytest.raises(ConfigError, match="expected YYYY-MM-DD"):
        check_run_date(text)


def test_fingerprint_knows_contents_not_key_order(tmp_path):
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "part-0").write_text("x")
    before = identify_input(tmp_path / "in")
    (tmp_path / "in" / "part-0").write_text("y")
    assert identify_input(tmp_path / "in") != before
