"""The command `indexer`: output, exit codes, one sentence per error, the live release untouched."""

import errno
import json
import os
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner

from indexer.cli.group import indexer
from indexer.cli.summary import print_step, print_table
from indexer.config import Config
from indexer.log import read_head
from indexer.reader import open_index
from indexer.runs import StepCommit
from indexer.store import open_store

RUN_DATE = "2026-11-20"


def run(*words):
    return CliRunner().invoke(indexer, [str(word) for word in words])


@pytest.fixture
def release(golden, tmp_path):
    return shutil.copytree(golden / "release_v1", tmp_path / "live")


@pytest.fixture
def shop(tmp_path, release):
    """A shop whose release folder already has a live release; returns the configuration's path."""
    (tmp_path / "catalogue.csv").write_text("product_id,title\n1,steel mug\n2,red mug\n")
    (tmp_path / "shop.toml").write_text('[shop]\nrelease = "live"\n[catalogue]\npath = "catalogue.csv"\n')
    return tmp_path / "shop.toml"


def test_query_prints_ids_titles_and_scores(release):
    hits = open_index(str(release)).search("steel", k=2)
    shown = run("query", release, "steel", "-k", 2)
    assert shown.exit_code == 0
    assert [line.split()[:2] for line in shown.stdout.splitlines()] == [[f"{hit.score:.4f}", hit.id] for hit in hits]
    document = json.loads(run("query", release, "steel", "-k", 2, "--json").stdout)
    assert [(hit["id"], hit["text"]) for hit in document] == [(hit.id, hit.text) for hit in hits]


def test_query_shows_through_which_query_a_product_was_found(release):
    hits = open_index(str(release)).source("pot mug", 10, reformulations=3)
    shown = run("query", release, "pot mug", "--reformulations", 3).stdout.splitlines()
    assert shown == [f"{hit.score:.4f}  {hit.id}  {hit.text}  ({hit.through})" for hit in hits]
    document = json.loads(run("query", release, "pot mug", "--reformulations", 3, "--json").stdout)
    assert {hit["through"] for hit in document} > {"pot mug"}
    refused = run("query", release, "pot mug", "--reformulations", 3, "--collection", "queries")
    assert refused.exit_code == 2
    assert "--reformulations: expected the collection products, found queries" in refused.stderr


def test_a_reader_that_goes_away_is_no_error_of_ours(release):
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-c", "from indexer.cli import main; main()", "release", "list", str(release)]
    try:
        ended = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_another_broken_pipe_is_told(release, monkeypatch):
    def lose(*_):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("indexer.store.open_store", lose)
    ended = run("release", "list", release)
    assert (ended.exit_code, "unexpected BrokenPipeError" in ended.stderr) == (1, True)


def test_text_of_the_catalogue_cannot_steer_the_terminal():
    from indexer.text import escape

    assert escape("a\x1b[31mb\u202ec\n") == "a\\x1b[31mb\\u202ec\\n"


def test_config_show_says_where_a_value_comes_from(shop):
    shown = run("config", "show", "--config", shop, "--set", "npmi.tau=0.4").stdout
    assert "tau = 0.4  # --set npmi.tau" in shown
    assert "m = 64  # default" in shown
    assert f"path = '{shop.parent}/catalogue.csv'  # {shop}" in shown
    shown = run("config", "show", "--set", "distill.method=hiss", "--set", "distill.gamma=0.8").stdout
    assert "alpha_teacher = 1.0  # method hiss" in shown
    assert "gamma = 0.8  # --set distill.gamma" in shown
    assert json.loads(run("config", "show", "--json").stdout)["index"]["m"] == Config().index.m


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nightly", "--run-date", RUN_DATE, "--config", "none.toml"], 2, "none.toml"),
        (["nightly", "--run-date", "yesterday", "--config", "{shop}"], 2, "expected YYYY-MM-DD"),
        (["nightly", "--run-date", RUN_DATE, "--set", "npmi.tua=1"], 2, "did you mean 'tau'"),
        (["nightly", "--config", "{shop}"], 2, "--run-date"),
        (
            ["nightly", "--run-date", RUN_DATE, "--config", "{shop}", "--set", "distill.student_kind=ngrams"],
            2,
            "leave ngrams to `indexer compare`",
        ),
        (
            [
                *(
                    "nightly",
                    "--run-date",
                    RUN_DATE,
                    "--config",
                    "{shop}",
                    "--set",
                    "labels.path={folder}/catalogue.csv",
                ),
                *("--set", 'distill.teachers=["scores:none.csv"]'),
            ],
            3,
            "none.csv: no such file or folder; correct [distill.teachers]",
        ),
        (["compare", "--run-date", RUN_DATE, "--config", "{shop}", "--out", "x", "--seeds", "0"], 2, "--seeds"),
        (["compare", "--run-date", RUN_DATE, "--config", "{shop}", "--out", "x", "--folds", "1"], 2, "--folds"),
        (["nightly", "--run-date", RUN_DATE, "--set", "shop.work=/dev/null/x"], 75, "correct shop.work"),
        (["build", "--run-date", RUN_DATE, "--config", "{shop}"], 3, "run `indexer distill` first"),
        (["build", "--run-date", RUN_DATE, "--config", "{shop}", "--encoder", "none"], 2, "encoder.json"),
        (["query", "{folder}/nothing", "mug"], 75, "no release is published here"),
        (["query", "ftp://shop/release", "mug"], 2, "expected a folder or s3://bucket/prefix"),
        (["query", "{folder}/live", "mug", "--collection", "brands"], 2, "expected one of products"),
        (["query", "{folder}/live", "mug", "-k", "0"], 2, "expected 1 to"),
        (
            ["evaluate", "--encoder", "x", "--catalogue", "c", "--labels", "l", "--column", "title=x"],
            2,
            "--column title",
        ),
    ],
)
def test_a_mistake_ends_in_one_sentence_and_its_exit_code(shop, tmp_path, words, code, message):
    result = run(*(word.format(shop=shop, folder=tmp_path) for word in words))
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert read_head(open_store(str(tmp_path / "live"))) == 1


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (b"", 3, "CATALOGUE"),
        (b"product_id,title\n", 3, "0 rows"),
        (b"id,title\n1,mug\n", 3, "needs the column 'product_id'"),
        (b"product_id,title\n1,mug\n2,\n", 3, "title_missing 1"),
        (b"product_id,title\n1,mug\n2,m\xffg\n", 3, "encoding 1"),
        (b"product_id,title\n1,steel mug\n1,red mug\n2,blue mug\n", 3, "duplicate_id"),
    ],
    ids=["empty", "header only", "missing column", "null title", "invalid UTF-8", "duplicate id"],
)
def test_a_bad_catalogue_publishes_nothing(shop, tmp_path, encoder_directory, content, code, message):
    (tmp_path / "catalogue.csv").write_bytes(content)
    result = run("build", "--config", shop, "--run-date", RUN_DATE, "--encoder", encoder_directory)
    assert result.exit_code == code, result.output
    *plan, error = result.stderr.strip().splitlines()
    assert message in error
    assert not plan or plan[0].startswith("run 2026-11-20-")
    assert read_head(open_store(str(tmp_path / "live"))) == 1
    assert open_index(str(tmp_path / "live")).release.sequence == 1


def test_a_build_says_what_is_ahead_where_there_is_no_terminal(shop, encoder_directory):
    result = run(
        "build", "--config", shop, "--run-date", RUN_DATE, "--encoder", encoder_directory, "--set", "index.m=12"
    )
    assert result.exit_code == 0, result.output
    assert "HNSW M=12" in result.stderr
    assert "expected peak memory" in result.stderr


def test_an_unreachable_bucket_is_a_storage_error(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-shop")
    result = run("query", "s3://shop/release", "mug")
    assert result.exit_code == 75
    assert "cannot be reached" in result.stderr
    assert "secret-of-the-shop" not in result.output


def test_every_help_text_shows_an_example():
    for name, command in indexer.commands.items():
        assert run(name, "--help").exit_code == 0
        commands = getattr(command, "commands", {name: command}).values()
        assert all("Example" in child.help for child in commands), name


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.delitem(sys.modules, "indexer.reader", raising=False)
    result = run("query", "live", "mug")
    assert result.exit_code == 2
    assert "needs the package faiss" in result.stderr


def test_a_step_prints_rows_in_and_out_filters_and_rejects(capsys):
    counts = {
        "inputs": {"RAW_PURCHASES": {"rows_in": 1_010, "valid": 1_007, "rejected": 3}},
        "tables": {"PURCHASES": 900},
        "history": [{"epoch": 1}],
        "recall": 0.5,
    }
    reject = {"table": "RAW_PURCHASES", "reason": "purchases_range", "key": "a\x1b / 1", "sample": "-1", "count": 3}
    commit = StepCommit(
        step="purchase_gram", run_date=RUN_DATE, attempt="a", fingerprint="f", counts=counts, rejects=[reject]
    )
    print_step(commit)
    assert capsys.readouterr().out.splitlines() == [
        "purchase_gram  2026-11-20  done  0.0 s",
        "  recall 0.5000",
        "  inputs RAW_PURCHASES: rows_in 1,010, valid 1,007, rejected 3",
        "  tables: PURCHASES 900",
        "  rejected from RAW_PURCHASES: 3 purchases_range, such as 'a\\x1b / 1'",
    ]


def test_figures_by_name_stand_in_one_cell(capsys):
    figures = {"products": {"brand": 1_200, "title": 3}, "queries": {}}
    print_table([{"name": name, "cut_fields": found} for name, found in figures.items()])
    assert capsys.readouterr().out.splitlines() == [
        "  name      cut_fields",
        "  products  brand 1,200, title 3",
        "  queries   -",
    ]


@pytest.mark.parametrize("section", ["purchases", "taxonomy", "crosswalk", "query_classes"])
def test_an_input_that_is_not_there_ends_the_night_at_its_start(shop, section):
    night = ["nightly", "--config", shop, "--run-date", RUN_DATE, "--set", f"labels.path={shop}"]
    result = run(*night, "--set", f"{section}.path={shop.parent / 'absent.csv'}")
    assert result.exit_code == 3, result.output
    assert f"absent.csv: no such file or folder; correct [{section}] path" in result.stderr
