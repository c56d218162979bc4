"""Bad catalogues (tests/bad_inputs) through `indexer build`: what is live afterwards, and where every row went."""

import csv
import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from click.testing import CliRunner

from indexer.build import publish, release, verdict
from indexer.cli.group import indexer
from indexer.encoder import Encoder, open_encoder
from indexer.errors import ConfigError
from indexer.log import live_entry, read_head
from indexer.reader import open_index
from indexer.store import open_store
from tests.bad_inputs.lines import line

DATE, LATER = "2026-11-20", "2026-11-21"
GOOD = [(f"P{number}", f"steel mug {number}", "") for number in range(40)]
CONFIG = """
[shop]
release = "live"
[catalogue]
path = "catalogue.csv"
max_reject_share = 0.5
[index]
m = 8
ef_construction = 40
recall_queries = 20
"""


@pytest.fixture
def shop(tmp_path, encoder_directory):
    """Return a function that writes a catalogue and builds it by the command."""
    (tmp_path / "shop.toml").write_text(CONFIG)

    def build(rows, run_date=DATE, *options):
        with (tmp_path / "catalogue.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("product_id", "title", "updated_at"), *rows])
        words = ["build", "--config", tmp_path / "shop.toml", "--run-date", run_date, "--encoder", encoder_directory]
        return CliRunner().invoke(indexer, [str(word) for word in (*words, *options, "--json")])

    build.folder = tmp_path
    return build


def read_live(folder):
    """Return id -> title of all that is live."""
    return {hit.id: hit.text for hit in open_index(str(folder / "live")).search("mug", k=1_000)}


BUILT = [
    line(7, [("A", "red mug", ""), ("A", "red mug", "")], {"A": "red mug"}, {"duplicates": 1}, {}),
    line(
        8,
        [("A", "old mug", "2026-01-01"), ("A", "new mug", "2026-02-01")],
        {"A": "new mug"},
        {},
        {"duplicate_id": 1},
    ),
    line(8, [("A", "one mug", ""), ("A", "two mug", "")], {}, {}, {"duplicate_id": 2}, case="on a tie"),
    line(10, [("../A", "red mug", "")], {}, {}, {"product_id_chars": 1}),
    line(12, [("A", " \u3000 ", "")], {}, {}, {"title_missing": 1}),
    line(13, [("A", "a", "")], {"A": "a"}, {}, {}),
    line(19, [("A", "red\u200b mug\u202e\U000e0041", "")], {"A": "red mug"}, {}, {}),
    line(20, [("A", "\x1b[31mred mug\x07", "")], {"A": "[31mred mug"}, {}, {}),
    line(21, [("A", "<b>red</b> mug &amp; cup", "")], {"A": "<b>red</b> mug & cup"}, {}, {}),
    line(22, [("A", "=red(mug)", "")], {"A": "=red(mug)"}, {}, {}),
    line(23, [("A", "\U0001f600\U0001f680 !!!", "")], {}, {}, {"text_empty": 1}),
    line(
        24,
        [("A", "mug " * 2_000, "")],
        {"A": ("mug " * 2_000).strip()},
        {"truncated": 1, "cut_fields": {"title": 1}},
        {},
    ),
    line(25, [("A", "中国 日本", "")], {}, {}, {"text_empty": 1}),
    line(27, [("A", "red mug", "0000-00-00"), ("A", "red mug", "9999-99-99")], {"A": "red mug"}, {"duplicates": 1}, {}),
]


@pytest.mark.parametrize(("rows", "live", "figures", "rejected"), BUILT)
def test_every_row_is_published_a_duplicate_or_rejected(shop, rows, live, figures, rejected):
    result = shop([*GOOD, *rows])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    (products,) = document["collections"]
    assert {reject["reason"]: reject["count"] for reject in document["rejects"]} == rejected
    assert products["rows_in"] == products["rows"] + products["duplicates"] + products["rejected"] == 40 + len(rows)
    expected = {"duplicates": 0, "truncated": 0, "cut_fields": {}} | figures
    assert {name: products[name] for name in expected} == expected
    assert read_live(shop.folder) == {row[0]: row[1] for row in GOOD} | live


@pytest.mark.parametrize("title", [line(13, "5")])
def test_titles_of_one_character_are_counted(shop, title):
    document = json.loads(shop([*GOOD, ("A", title, "")]).stdout)
    assert document["remarks"]["CATALOGUE"]["texts_of_one_character"] == 1


@pytest.mark.parametrize(("parts", "whole"), [line(18, "cafe\u0301 mug", "caf\u00e9 mug")])
def test_a_title_in_two_forms_is_one_text_with_one_vector(shop, encoder_directory, parts, whole):
    document = json.loads(shop([*GOOD, ("A", parts, ""), ("B", whole, "")]).stdout)
    assert document["remarks"]["CATALOGUE"]["fixed"] == {"composed": 1}
    live = read_live(shop.folder)
    assert live["A"] == live["B"] == whole
    scores = {hit.id: hit.score for hit in open_index(str(shop.folder / "live")).search(whole, k=1_000)}
    assert scores["A"] == scores["B"]
    encoder = open_encoder(encoder_directory)
    assert np.array_equal(*encoder.encode_queries([parts, whole]))


@pytest.mark.parametrize("rows", [line(38, 24), line(38, 0, case="nothing left")])
def test_a_catalogue_that_lost_its_rows_is_refused(shop, rows):
    assert shop(GOOD).exit_code == 0
    result = shop(GOOD[:rows], LATER)
    assert result.exit_code == (4 if rows else 3)
    assert ("share lost since an earlier night: expected at most 0.3, found 0.4" in result.stderr) == bool(rows)
    assert (read_head(open_store(str(shop.folder / "live"))), len(read_live(shop.folder))) == (1, 40)


@pytest.mark.parametrize("force", [line(40, ())])
def test_the_catalogue_of_last_night_makes_no_release(shop, force):
    assert shop(GOOD).exit_code == 0
    result = shop(GOOD, LATER, *force)
    assert (result.exit_code, json.loads(result.stdout)["status"]) == (0, "unchanged")
    assert read_head(open_store(str(shop.folder / "live"))) == 1


@pytest.mark.parametrize("wrong", [line(48, np.nan), line(48, np.inf, case="infinite")])
def test_a_query_without_a_vector_is_refused(shop, monkeypatch, wrong):
    encode = Encoder.encode

    def spoil(self, texts, *, kind):
        encoded = encode(self, texts, kind=kind)
        if kind == "query" and len(texts) > 1:
            encoded.vectors[3] = wrong
        return encoded

    monkeypatch.setattr(Encoder, "encode", spoil)
    result = shop(GOOD)
    assert result.exit_code == 4
    assert "gate max_norm_error, queries: expected vectors of length 1" in result.stderr
    assert read_head(open_store(str(shop.folder / "live"))) == 0


@pytest.mark.parametrize("days", [line(80, -2), line(80, 2, case="ahead")])
def test_the_log_decides_and_never_a_clock(shop, monkeypatch, days):
    assert shop(GOOD).exit_code == 0
    wrong = (datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="seconds")
    for module in (publish, release, verdict):
        monkeypatch.setattr(module, "now_text", lambda: wrong)
    changed = [*GOOD[1:], ("Q", "red mug", "")]
    assert shop(changed, LATER).exit_code == 0
    entry = live_entry(open_store(str(shop.folder / "live")))
    assert (entry.sequence, entry.run_id[:10], entry.created_at) == (2, LATER, wrong)
    assert "Q" in read_live(shop.folder)


@pytest.mark.parametrize("place", [line(78, "in/live"), line(78, "in", case="the folder itself")])
def test_a_release_inside_an_input_is_refused(shop, place):
    (shop.folder / "in").mkdir()
    (shop.folder / "in" / "c.csv").write_text("product_id,title\nA,red mug\n")
    options = ("--set", f"catalogue.path={shop.folder / 'in'}", "--set", f"shop.release={shop.folder / place}")
    result = shop(GOOD, DATE, *options)
    assert result.exit_code == ConfigError.exit_code, result.output
    assert "shop.release: " in result.stderr
    assert sorted(path.name for path in (shop.folder / "in").iterdir()) == ["c.csv"]
