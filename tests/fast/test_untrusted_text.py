"""Text of sellers and shoppers in everything that people look at: it steers no terminal, page or line of a log."""

import json
import re

import pytest
from click.testing import CliRunner

from indexer.cli.group import indexer
from indexer.distill.llm_labels import FORMULA

DATE = "2026-11-20"
HOSTILE = (
    "<script>alert(1)</script> mug",
    "\x1b[31mred\x1b]0;title\x07 mug",
    "\x9b31m red mug",
    "mug \u202egnp.exe",
    "=cmd()|' /C calc'!A0 mug",
    "{{ 7 * 7 }} mug %s %(x)s",
    "red mug\u2028indexer: forged line\r",
)
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")
"""What a terminal or a page obeys instead of showing it."""
IDS = ("P\u202e1", "P\x9b31m2", "<b>P3</b>", "=P4", "P'5\"", "P6\u2028x")


def run(*words):
    return CliRunner().invoke(indexer, [str(word) for word in words])


def assert_harmless(text):
    found = STEERING.search(text)
    assert found is None, repr(text[max(0, found.start() - 60) : found.end() + 20])


@pytest.fixture(scope="module")
def shop(tmp_path_factory, encoder_directory):
    """A shop whose titles and ids are hostile, published twice; returns its folder and what the builds printed."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "shop.toml").write_text(
        '[shop]\nrelease = "live"\n[catalogue]\npath = "catalogue.jsonl"\nmax_reject_share = 0.9\n'
        "[index]\nm = 8\nef_construction = 40\n[gates]\nmin_own_title = 0.0\nmax_hub_share = 1.0\n"
    )
    printed = []
    for night, date in enumerate((DATE, "2026-11-21")):
        rows = [{"product_id": f"{name}", "title": HOSTILE[at % 7]} for at, name in enumerate(IDS)]
        rows += [{"product_id": f"Q{at}", "title": text} for at, text in enumerate(HOSTILE)]
        rows += [{"product_id": f"R{at}", "title": f"steel mug {at + night}"} for at in range(40)]
        rows += [{"product_id": IDS[0], "title": "another red mug"}, {"product_id": "\x1b[2J", "title": "mug"}]
        (folder / "catalogue.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        build = ("build", "--config", folder / "shop.toml", "--run-date", date, "--encoder", encoder_directory)
        printed += [run(*build, "--dry-run"), run(*build)]
    assert [result.exit_code for result in printed] == [0] * 4, printed[-1].output
    return folder, printed


def test_a_build_and_its_plan(shop):
    for result in shop[1]:
        assert_harmless(result.output)


COMMANDS = (
    ("query", "{live}", "red mug", "-k", "60"),
    ("query", "{live}", "red mug", "-k", "60", "--json"),
    ("query", "{live}", "\x1b[31m mug"),
    ("release", "list", "{live}"),
    ("release", "show", "{live}"),
    ("release", "show", "{live}", "--json"),
    ("release", "verify", "{live}"),
    ("release", "gc", "{live}"),
)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_that_prints_it(shop, words):
    result = run(*(word.format(live=shop[0] / "live") for word in words))
    assert result.exit_code == 0, result.output
    assert_harmless(result.output)


def test_json_for_machines_has_every_character_all_the_same(shop):
    hits = json.loads(run("query", shop[0] / "live", "red mug", "-k", 60, "--json").stdout)
    assert {IDS[1], IDS[2], IDS[3], IDS[5]} <= {hit["id"] for hit in hits}


WRONG = (
    ("query", "{live}", "mug", "--collection", "\x1b[31m\u202e"),
    ("query", "\x1b[31m\u202e", "mug"),
    ("query", "ftp://\x1b[31m\u202e", "mug"),
    ("release", "show", "{live}", "\x1b[31m\u202e"),
    ("release", "rollback", "{live}", "\x1b[31m\u202e"),
    ("config", "show", "--set", "npmi.tau=\x1b[31m\u202e"),
    ("config", "show", "--set", "\x1b[31m\u202e"),
    ("query", "{live}", "mug", "--no-such-\x1b[31m\u202e"),
    ("\x1b[31m\u202e",),
    ("evaluate", "--encoder", "x", "--catalogue", "c", "--labels", "l", "--column", "\x1b[31m\u202e"),
)


@pytest.mark.parametrize("words", WRONG, ids=repr)
def test_an_error_that_quotes_it(shop, words):
    result = run(*(word.format(live=shop[0] / "live") for word in words))
    assert result.exit_code in (2, 75)
    assert_harmless(result.output)
    assert "Traceback" not in result.output


BAD = (
    '{"product_id": "\\u001b[31m\\u202e", "title": "mug"}\n',
    '{"product_id": "P1", "title": ""}\n{"product_id": "\\u202e", "title": null}\n',
    '{"title": "\\u001b[31m"}\n',
    '{"product_id": "P1", "title": "m", "\\u001b[31m\\u202e": 1}\n{"product_id": "", "title": "\\u001b"}\n',
    '\u202e\x9b not JSON\n',
)  # fmt: skip


@pytest.mark.parametrize("content", BAD)
def test_a_refusal_that_quotes_a_bad_row(shop, encoder_directory, tmp_path, content):
    path = tmp_path / "bad \u202e.jsonl"
    path.write_text(content)
    result = run(
        *("build", "--config", shop[0] / "shop.toml", "--run-date", "2026-11-22", "--encoder", encoder_directory),
        *("--set", f"catalogue.path={path}", "--set", "catalogue.max_reject_share=0"),
    )
    assert result.exit_code == 3, result.output
    assert_harmless(result.output)
    assert len(result.stderr.strip().splitlines()) == 1


def test_the_report_shows_it_as_text(shop):
    pages = [*shop[0].rglob("report-*.html"), *shop[0].glob("live/v/*/report.*.html")]
    assert len(pages) == 4
    shown = ""
    for page in pages:
        source = page.read_text(encoding="utf-8")
        assert_harmless(source.replace("\r\n", "\n"))
        assert not re.search(r"<(script|b>P3)", source)
        shown += source
    for text in (r"\x1b[2J", r"P\u202e1"):
        assert text in shown


def test_titles_that_are_live_have_lost_what_steers(shop):
    hits = json.loads(run("query", shop[0] / "live", "red mug", "-k", 60, "--json").stdout)
    for hit in hits:
        assert_harmless(hit["text"])
    assert {"=cmd()|' /C calc'!A0 mug", "<script>alert(1)</script> mug"} <= {hit["text"] for hit in hits}


@pytest.mark.parametrize("kind", ["vespa", "opensearch"])
def test_documents_of_an_export_are_one_line_each(shop, tmp_path, kind):
    assert run("export", shop[0] / "live", tmp_path / kind, "--format", kind).exit_code == 0
    for path in (tmp_path / kind).rglob("*.jsonl"):
        for text in path.read_text(encoding="utf-8").split("\n"):
            assert not text or json.loads(text)


@pytest.mark.parametrize("start", FORMULA)
def test_a_model_cannot_write_formulas_into_the_csv_of_labels(start, monkeypatch):
    from indexer.distill import llm_labels

    class Client:
        def ask(self, prompt, *, generation, parse):
            if generation == 1:
                return [(f"{start}cmd()", 3), ("red mug", 3)]
            return 3

    question = llm_labels.Question("", "P1", "red mug")
    outcome = llm_labels._write_queries(question, Client(), "{product}")
    assert outcome.labels == [("red mug", 3)]
    assert outcome.reasons == [("query_formula", f"{start}cmd()")]
