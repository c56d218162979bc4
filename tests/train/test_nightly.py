"""A night that fails: one sentence, the right exit code, `run.json` says so, the live release is untouched."""

import json
import shutil

import pytest
from click.testing import CliRunner

from indexer.build.night import find_training
from indexer.cli.group import indexer
from indexer.config_file import load_config
from indexer.reader import open_index
from indexer.runs import StepCommit, StepFolder

pytestmark = pytest.mark.train
RUN_DATE = "2026-11-20"
LABELS = "query\tproduct_id\tlabel\n" + "".join(f"q{at}\t{at % 2}\t{'EI'[at % 2]}\n" for at in range(40))


@pytest.fixture
def shop(tmp_path, golden):
    """A shop without purchases, so that no Spark is needed, and with a live release."""
    shutil.copytree(golden / "release_v1", tmp_path / "live")
    (tmp_path / "catalogue.csv").write_text("product_id,title\n0,steel mug\n1,red mug\n")
    (tmp_path / "labels.tsv").write_text(LABELS)
    (tmp_path / "shop.toml").write_text(
        '[shop]\nrelease = "live"\n[catalogue]\npath = "catalogue.csv"\n[labels]\npath = "labels.tsv"\n'
    )
    return tmp_path


def night(shop, *options):
    command = ["nightly", "--config", str(shop / "shop.toml"), "--run-date", RUN_DATE, *options]
    return CliRunner().invoke(indexer, command)


@pytest.mark.parametrize(
    ("file", "content", "code", "message"),
    [
        ("labels.tsv", None, 3, "no such file"),
        ("labels.tsv", "", 3, "labels.tsv"),
        ("labels.tsv", "query\tproduct_id\n", 3, "needs the column 'label'"),
        ("labels.tsv", LABELS.replace("\tI\n", "\tE\n"), 4, "class"),
        ("labels.tsv", LABELS.replace("\tI\n", "\tmaybe\n"), 3, "label_unknown"),
        ("catalogue.csv", "product_id,title\n0,\n1,red mug\n", 3, "title_missing 1"),
        ("catalogue.csv", None, 3, "no such file"),
    ],
)
def test_a_failed_night_leaves_the_live_release(shop, file, content, code, message):
    (shop / file).unlink()
    if content is not None:
        (shop / file).write_text(content)
    result = night(shop)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
    summary = json.loads((shop / "work" / "nightly" / f"run_date={RUN_DATE}" / "run.json").read_text())
    assert (summary["status"], summary["exit_code"]) == ("failed", code)
    assert message in summary["reason"]
    assert open_index(str(shop / "live")).release.sequence == 1


def test_a_package_that_is_missing_ends_with_2_everywhere(shop, monkeypatch):
    def lack(*_):
        raise ModuleNotFoundError("No module named 'pyspark'", name="pyspark")

    monkeypatch.setattr("indexer.cli.steps._check_start", lack)
    result = night(shop)
    assert (result.exit_code, "needs the package pyspark" in result.stderr) == (2, True), result.output
    summary = json.loads((shop / "work" / "nightly" / f"run_date={RUN_DATE}" / "run.json").read_text())
    assert (summary["status"], summary["exit_code"]) == ("failed", 2)


def test_a_training_serves_as_many_nights_as_configured(shop):
    config = load_config(str(shop / "shop.toml"), options=["distill.every_days=7"], environment={})
    folder = StepFolder(config.shop.work, "distill", "2026-11-14")
    commit = StepCommit(step="distill", run_date="2026-11-14", attempt="a", fingerprint="f")
    folder.commit(commit, 1)
    assert find_training(config, "2026-11-20") == commit
    assert find_training(config, "2026-11-21") is None
    assert find_training(config, "2026-11-13") is None


def test_a_night_in_several_processes_is_refused(shop, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = night(shop)
    assert (result.exit_code, "expected one process, found several" in result.output) == (2, True)


@pytest.mark.parametrize(
    "words",
    [["demo", "--shop-only", "--folder"], ["compare", "--methods", "direct", "--folds", "2", "--seeds", "1", "--out"]],
)
def test_a_file_in_place_of_a_folder_is_one_sentence(shop, tmp_path, words):
    (tmp_path / "file").write_text("")
    options = ["--config", str(shop / "shop.toml"), "--run-date", "2026-11-20"] if words[0] == "compare" else []
    result = CliRunner().invoke(indexer, [*words, str(tmp_path / "file"), *options])
    assert result.exit_code == 75, result.output
    assert "check the work folder, its rights and the disk" in result.output
