"""Step commits: numbered, create-only, found by fingerprint."""

from contextlib import contextmanager
from dataclasses import replace

import pytest

from indexer import claims
from indexer.errors import ConfigError, ContractError, ManifestError, PublishConflictError
from indexer.runs import StepCommit, StepFolder, check_run_date, fingerprint, newest_before


def commit_of(folder: StepFolder, mark: str) -> StepCommit:
    return StepCommit(step=folder.step, run_date=folder.run_date, attempt=folder.new_attempt(), fingerprint=mark)


@contextmanager
def open_built(folder: StepFolder):
    with folder.open_attempt() as attempt:
        (attempt.folder / "QUERY_PAIRS").mkdir(parents=True)
        yield attempt


def commit_mark(folder: StepFolder, mark: str, *, attempt: str | None = None, number: int | None = None) -> StepCommit:
    commit = commit_of(folder, mark)
    commit = replace(commit, attempt=attempt or commit.attempt)
    folder.commit(commit, number or folder.next_number())
    return commit


def test_the_newest_commit_counts(tmp_path):
    folder = StepFolder(tmp_path, "npmi_pairs", "2026-11-20")
    assert folder.newest() is None
    commit_mark(folder, "a")
    second = commit_mark(folder, "b")
    assert folder.newest() == second
    assert folder.finished("b") == second
    assert folder.finished("a") is None
    assert folder.table_folder("QUERY_PAIRS").name == "QUERY_PAIRS"
    assert folder.table_folder("QUERY_PAIRS").parent.name == f"attempt={second.attempt}"


def test_another_date_is_untouched(tmp_path):
    folder = StepFolder(tmp_path, "npmi_pairs", "2026-11-20")
    commit_mark(folder, "a")
    assert StepFolder(tmp_path, "npmi_pairs", "2026-11-21").newest() is None


def test_the_night_before_is_the_newest_earlier_one_that_finished(tmp_path):
    for day in ("2026-09-30", "2026-10-01", "2026-11-21"):
        folder = StepFolder(tmp_path, "npmi_pairs", day)
        commit_mark(folder, day)
    for name in ("2026-11-19/attempt=0", "2026-11-18.bak/commits", "2026-11-1/commits"):
        (tmp_path / "npmi_pairs" / f"run_date={name}").mkdir(parents=True)
    assert newest_before(tmp_path, "npmi_pairs", "2026-11-20").run_date == "2026-10-01"
    assert newest_before(tmp_path, "npmi_pairs", "2026-09-30") is None
    assert newest_before(tmp_path, "purchase_gram", "2026-11-20") is None


def test_of_two_attempts_at_once_the_first_to_finish_wins(tmp_path):
    folder, other = (StepFolder(tmp_path, "npmi_pairs", "2026-11-20") for _ in range(2))
    commit_mark(folder, "before")

    def finish_late():
        number = other.next_number()
        with open_built(other) as late:
            with open_built(folder) as first:
                commit_mark(folder, "a", attempt=first.name)
            commit_mark(other, "b", attempt=late.name, number=number)

    with pytest.raises(PublishConflictError, match="finished while this one worked") as caught:
        finish_late()
    winner = folder.newest()
    assert (winner.fingerprint, caught.value.exit_code) == ("a", 5)
    assert winner.attempt in str(caught.value)
    assert [path.name for path in folder.folder.glob("attempt=*")] == [f"attempt={winner.attempt}"]


@pytest.mark.parametrize("commits", [False, True])
def test_only_an_unfinished_attempt_is_removed(tmp_path, commits):
    folder = StepFolder(tmp_path, "npmi_pairs", "2026-11-20")

    def break_off():
        with open_built(folder) as attempt:
            if commits:
                commit_mark(folder, "a", attempt=attempt.name)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    names = {path.name.partition("=")[0] for path in folder.folder.iterdir()}
    assert names == ({"attempt", "commits"} if commits else set())


def test_a_sweep_spares_what_any_commit_names(tmp_path, monkeypatch):
    folder = StepFolder(tmp_path, "npmi_pairs", "2026-11-20")
    for mark in ("a", "b"):
        with open_built(folder) as attempt:
            commit_mark(folder, mark, attempt=attempt.name)
    (folder.attempt_folder("lost") / "QUERY_PAIRS").mkdir(parents=True)
    assert folder.remove_abandoned() == []
    monkeypatch.setattr(claims, "IDLE_SECONDS", -1)
    assert folder.remove_abandoned() == ["attempt=lost"]
    assert len(list(folder.folder.glob("attempt=*/QUERY_PAIRS"))) == 2


def test_missing_table_names_the_step_to_run(tmp_path):
    with pytest.raises(ContractError, match="run the step purchase_gram"):
        StepFolder(tmp_path, "purchase_gram", "2026-11-20").table_folder("PURCHASES")


def test_damaged_commit_is_refused(tmp_path):
    folder = StepFolder(tmp_path, "npmi_pairs", "2026-11-20")
    commit_mark(folder, "a")
    next((folder.folder / "commits").iterdir()).write_text("{")
    with pytest.raises(ManifestError, match="not a step commit"):
        folder.newest()


@pytest.mark.parametrize("text", ["2026-2-1", "20261120", "yesterday", "2026-02-30", ""])
def test_wrong_run_date(text):
    with pytest.raises(ConfigError, match="expected YYYY-MM-DD"):
        check_run_date(text)


def test_fingerprint_knows_contents_not_key_order():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})
