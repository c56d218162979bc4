"""Labels by a language model, against a small server on loopback that speaks the protocol."""

import csv
import json
import re
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from click.testing import CliRunner

from indexer.cli.group import indexer
from indexer.contracts import schemas
from indexer.contracts.inputs import open_input
from indexer.contracts.rejects import InputCounts
from indexer.distill.llm_client import ChatClient, NoAnswerError
from indexer.distill.llm_labels import (
    Labelling,
    Question,
    _ask_all,
    _label_pair,
    fill_prompt,
    parse_label,
    parse_queries,
)
from indexer.distill_config import LlmConfig
from indexer.errors import ConfigError, StoreError
from indexer.input_config import LabelsConfig
from indexer.redaction import redact

PRODUCTS = [("p1", "steel cup"), ("p2", "red hat"), ("p3", "blue pen"), ("p4", "old bag")]
KEY = "secret of the test"


class Endpoint:
    """Answers by a function of (prompt, seed, requests so far), which returns content, or (status, headers, body)."""

    def __init__(self, answer: Callable[[str, int, int], Any]) -> None:
        self.answer, self.requests, self.lock = answer, [], threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with endpoint.lock:
                    endpoint.requests.append((self.path, self.headers.get("Authorization"), document))
                    number = len(endpoint.requests)
                found = endpoint.answer(document["messages"][0]["content"], document["seed"], number)
                if isinstance(found, str):
                    body = {"choices": [{"message": {"content": found}}], "usage": {"total_tokens": 10}}
                    found = (200, {}, json.dumps(body))
                status, headers, text = found
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("LLM_KEY", KEY)
    endpoints = []

    def start(answer):
        endpoints.append(Endpoint(answer))
        return endpoints[-1]

    yield start
    for endpoint in endpoints:
        endpoint.server.shutdown()
        endpoint.server.server_close()


@pytest.fixture
def run(tmp_path):
    """Run `indexer label` on four products; returns its figures, and the rows it wrote by (query, product)."""
    (tmp_path / "catalogue.csv").write_text("product_id,title\n" + "".join(f"{a},{b}\n" for a, b in PRODUCTS))

    def label(endpoint, pairs=(), *options, code=0):
        (tmp_path / "pairs.csv").write_text("query,product_id\n" + "".join(f"{a},{b}\n" for a, b in pairs))
        settings = {
            "llm.url": endpoint.url,
            "llm.model": "judge",
            "llm.key_variable": "LLM_KEY",
            "llm.backoff_seconds": "0",
            "llm.parallel": "1",
            "shop.work": tmp_path / "work",
            "catalogue.path": tmp_path / "catalogue.csv",
            "pairs.path": tmp_path / "pairs.csv",
        }
        command = ["label", "--output", str(tmp_path / "llm.csv"), "--json", *options]
        for name, value in settings.items():
            if f"{name}=" not in " ".join(options):
                command += ["--set", f"{name}={value}"]
        result = CliRunner().invoke(indexer, command)
        assert result.exit_code == code, result.output
        if code:
            return result.output, {}
        with (tmp_path / "llm.csv").open() as file:
            rows = {(row["query"], row["product_id"]): row["label"] for row in csv.DictReader(file)}
        return json.loads(result.stdout), rows

    return label


def answer_label(word):
    return f'```json\n{{"label": "{word}"}}\n```'


def reasons(figures):
    return {row["reason"]: row["count"] for row in figures["rejects"]}


def test_every_pair_becomes_a_label_or_a_reason(serve, run, tmp_path):
    def answer(prompt, seed, _):
        if "red hat" in prompt:
            return answer_label("exact" if seed == 1 else "irrelevant")
        if "blue pen" in prompt:
            return "I would rather not say"
        if "old bag" in prompt:
            return answer_label("complement" if seed == 1 else "irrelevant")
        return answer_label("Exact")

    endpoint = serve(answer)
    pairs = [("Cup ", "p1"), ("cup", "p1"), ("cup", "p2"), ("cup", "p3"), ("cup", "p4"), ("cup", "gone")]
    figures, rows = run(endpoint, pairs)
    # Complement and irrelevant are one label; the lower grade stands.
    assert rows == {("cup", "p1"): "exact", ("cup", "p4"): "irrelevant"}
    assert reasons(figures) == {"duplicate": 1, "disagreement": 1, "answer_malformed": 1, "product_unknown": 1}
    assert (figures["rows_in"], figures["rows_out"], figures["rejected"]) == (6, 2, 4)
    assert figures["endpoint"] == {"requests": 7, "retries": 0, "tokens": 70, "from_cache": 0}
    path, key, document = endpoint.requests[0]
    assert (path, key) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert (document["model"], document["seed"]) == ("judge", 1)
    assert "Query: cup\nProduct: steel cup\n" in document["messages"][0]["content"]
    table = next(iter(open_input(schemas.LABELS, LabelsConfig(path=str(tmp_path / "llm.csv"))))).to_pylist()
    assert [(row["query"], row["grade"], row["source"]) for row in table] == [("cup", 3, "llm"), ("cup", 0, "llm")]
    assert KEY not in "".join(str(file.read_bytes()) for file in tmp_path.rglob("*") if file.is_file())


def test_a_busy_endpoint_is_asked_again(serve, run):
    busy = {1: (429, {"Retry-After": "0"}, "slow down"), 2: (503, {}, ""), 4: (500, {}, "")}
    endpoint = serve(lambda prompt, seed, number: busy.get(number) or answer_label("low"))
    figures, rows = run(endpoint, [("cup", "p1")])
    assert rows == {("cup", "p1"): "substitute"}
    assert figures["endpoint"] == {"requests": 5, "retries": 3, "tokens": 20, "from_cache": 0}


def test_what_was_answered_is_never_paid_for_again(serve, run):
    pairs = [("cup", "p1"), ("hat", "p2"), ("pen", "p3")]
    endpoint = serve(lambda *_: answer_label("exact"))
    figures, rows = run(endpoint, pairs, "--set", "llm.max_requests=3")
    assert rows == {("cup", "p1"): "exact"}
    assert reasons(figures) == {"budget_reached": 2}
    assert figures["endpoint"]["requests"] == 3
    figures, rows = run(endpoint, pairs, "--set", "llm.max_total_tokens=20")
    assert rows == {("cup", "p1"): "exact", ("hat", "p2"): "exact"}
    assert figures["endpoint"] == {"requests": 2, "retries": 0, "tokens": 20, "from_cache": 3}
    assert reasons(figures) == {"budget_reached": 1}
    figures, rows = run(endpoint, pairs)
    assert len(rows) == 3
    assert figures["endpoint"] == {"requests": 1, "retries": 0, "tokens": 10, "from_cache": 5}
    # Another model, another server, or another prompt, is another question.
    figures, _ = run(serve(lambda *_: answer_label("low")), pairs)
    assert figures["endpoint"]["from_cache"] == 0
    figures, _ = run(endpoint, pairs, "--set", "llm.model=other")
    assert figures["endpoint"]["from_cache"] == 0


def test_queries_are_written_and_looked_at_again(serve, run):
    written = [("steel mug", "exact"), ("glass", "substitute"), ("cup holder", "irrelevant"), ("", "exact")]

    def answer(prompt, seed, _):
        if "Write search queries" in prompt:
            return json.dumps({"queries": [{"query": query, "label": label} for query, label in written]})
        assert seed == 2
        return answer_label("irrelevant" if "Query: glass" in prompt else "exact")

    figures, rows = run(serve(answer), (), "--products", "2")
    assert (figures["rows_in"], figures["rows_out"], figures["labels"]) == (2, 2, 2)
    assert {(query, label) for (query, _), label in rows.items()} == {("steel mug", "exact")}
    assert figures["left_out"] == {"disagreement": 4}


def test_a_second_look_without_an_answer_leaves_out_its_query_alone(serve, run):
    def answer(prompt, seed, _):
        if "Write search queries" in prompt:
            return json.dumps({"queries": [{"query": name, "label": "exact"} for name in ("glass", "steel mug")]})
        return "no idea" if "Query: glass" in prompt else answer_label("exact")

    figures, rows = run(serve(answer), (), "--products", "2")
    assert {query for query, _ in rows} == {"steel mug"}
    assert figures["left_out"] == {"answer_malformed": 2}


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (401, 2, "HTTP 401 no.*LLM_KEY"),
        (302, 2, "HTTP 302"),
        (503, 75, "no answer after 7 requests, the last: HTTP 503"),
    ],
)
def test_an_endpoint_that_refuses_all_ends_the_run_with_one_sentence(serve, run, status, code, message):
    output, _ = run(serve(lambda *_: (status, {"Location": "http://127.0.0.1:9/"}, "no")), [("cup", "p1")], code=code)
    assert re.search(message, output)
    assert KEY not in output


def test_a_refused_pair_is_counted_and_without_any_label_nothing_is_written(serve, run, tmp_path):
    output, _ = run(serve(lambda *_: (400, {}, "content filter")), [("cup", "p1")], code=3)
    assert "no label to write (request_refused 1)" in output
    assert not (tmp_path / "llm.csv").exists()


def test_bodies_of_another_protocol_are_malformed_answers(serve, run, tmp_path):
    bodies = ["not json", "[]", "{}", '{"choices": []}', '{"choices": [{"message": {"content": null}}]}']
    bodies += ["[" * 100_000, '{"choices": [{"message": {"content": "{\\"label\\": \\"exact\\"} \\ud800"}}]}']
    for body in bodies:
        client = ChatClient(
            LlmConfig(url=serve(lambda *_, body=body: (200, {}, body)).url, model="m"), key=None, cache=tmp_path
        )
        with pytest.raises(NoAnswerError, match="answer_malformed"):
            client.ask("prompt", generation=1, parse=parse_label)


def test_an_answer_that_is_nested_without_end_is_malformed():
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_queries('{"queries": ' + "[" * 100_000 + "]" * 100_000 + "}")


def test_waits_double_unless_the_endpoint_names_one(serve, tmp_path):
    waits = []
    endpoint = serve(
        lambda _, __, number: (429, {"Retry-After": {2: "7", 3: "\u00b2"}[number]} if number in (2, 3) else {}, "")
    )
    config = LlmConfig(url=endpoint.url, model="m", retries=4)
    with pytest.raises(StoreError, match="after 5 requests"):
        ChatClient(config, key=None, cache=tmp_path, sleep=waits.append).ask("x", generation=1, parse=parse_label)
    assert waits == [1, 7, 4, 8]
    assert endpoint.requests[0][1] is None


@pytest.mark.parametrize(("url", "model"), [("", "m"), ("file:///etc/passwd", "m"), ("http://x", "")])
def test_an_endpoint_must_be_named(url, model, tmp_path):
    with pytest.raises(ConfigError, match="expected the http"):
        ChatClient(LlmConfig(url=url, model=model), key=None, cache=tmp_path)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/v\u00e9", "http://127.0.0.1:9/a b", "http://127.0.0.1:9/\x00"])
def test_an_address_that_no_request_can_have_is_refused_at_once(url, tmp_path):
    with pytest.raises(ConfigError, match="expected ASCII without spaces"):
        ChatClient(LlmConfig(url=url, model="m"), key=None, cache=tmp_path)


def test_the_end_of_a_line_is_no_part_of_a_key(serve, tmp_path):
    endpoint = serve(lambda *_: answer_label("exact"))
    client = ChatClient(LlmConfig(url=endpoint.url, model="m"), key="gw!7f$2k%Qz9-Lm&4\n", cache=tmp_path)
    assert client.ask("x", generation=1, parse=parse_label) == 3
    assert endpoint.requests[0][1] == "Bearer gw!7f$2k%Qz9-Lm&4"
    assert redact("sent b'Bearer gw!7f$2k%Qz9-Lm&4\\n'") == "sent b'Bearer [hidden]\\n'"


@pytest.mark.parametrize("key", ["gw-7f2k\nQz9-Lm4", "gw-7f2kQz9-\u00e94"])
def test_a_key_that_no_header_takes_is_refused_and_not_shown(key, tmp_path):
    with pytest.raises(ConfigError) as caught:
        ChatClient(LlmConfig(url="http://x", model="m", key_variable="GATEWAY"), key=key, cache=tmp_path)
    assert str(caught.value) == "environment variable GATEWAY: expected a key in printable ASCII"


def test_a_connection_that_breaks_within_tls_is_tried_again(serve, tmp_path, monkeypatch):
    endpoint = serve(lambda *_: answer_label("exact"))
    client = ChatClient(LlmConfig(url=endpoint.url, model="m", backoff_seconds=0), key=None, cache=tmp_path)
    opened, tried = client._opener.open, []

    def break_first(*words, **options):
        tried.append(words)
        if len(tried) == 1:
            raise ssl.SSLEOFError(8, "EOF occurred in violation of protocol")
        return opened(*words, **options)

    monkeypatch.setattr(client._opener, "open", break_first)
    assert client.ask("x", generation=1, parse=parse_label) == 3
    assert client.counts["retries"] == 1


def test_an_answer_that_is_cut_and_a_timeout_of_the_server_are_tried_again(serve, tmp_path):
    cut = (200, {"Content-Length": "1000"}, '{"choices": [')
    endpoint = serve(lambda _, __, number: {1: cut, 2: (408, {}, "")}.get(number, answer_label("exact")))
    client = ChatClient(LlmConfig(url=endpoint.url, model="m", backoff_seconds=0), key=None, cache=tmp_path)
    assert client.ask("x", generation=1, parse=parse_label) == 3
    assert client.counts["retries"] == 2


@pytest.mark.parametrize(
    ("status", "error", "message"), [(401, ConfigError, "HTTP 401 ;"), (400, NoAnswerError, "request_refused")]
)
def test_a_refusal_whose_words_are_cut_is_one_all_the_same(serve, tmp_path, status, error, message):
    endpoint = serve(lambda *_: (status, {"Transfer-Encoding": "chunked"}, "zz\r\n"))
    client = ChatClient(LlmConfig(url=endpoint.url, model="m"), key=None, cache=tmp_path)
    with pytest.raises(error, match=message):
        client.ask("x", generation=1, parse=parse_label)
    assert len(endpoint.requests) == 1


def test_who_stops_the_command_waits_for_no_further_try(serve, tmp_path, monkeypatch):
    """As by Ctrl-C while others wait to try again."""
    endpoint = serve(lambda prompt, _, __: answer_label("exact") if "now" in prompt else (500, {}, ""))
    client = ChatClient(
        LlmConfig(url=endpoint.url, model="m", backoff_seconds=60, parallel=2), key=None, cache=tmp_path
    )
    found = Labelling(InputCounts("PAIRS", "pairs"))
    waiting = threading.Event()
    wait = client._sleep
    client._sleep = lambda seconds: waiting.set() or wait(seconds)

    def stop(*_):
        waiting.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(found, "add", stop)
    questions = [Question("now", "a", "a"), *(Question("later", name, name) for name in "bcdefgh")]
    with pytest.raises(KeyboardInterrupt):
        _ask_all(found, questions, lambda question: _label_pair(question, client, "{query} {product}"), client, False)
    # The first has two answers, and at most two of the others were asked.
    assert len(endpoint.requests) <= 4


def test_a_folder_in_place_of_the_output_is_told_before_anything_is_paid_for(serve, run, tmp_path):
    endpoint = serve(lambda *_: answer_label("exact"))
    output, _ = run(endpoint, [("cup", "p1")], "--output", str(tmp_path), code=2)
    assert "expected a file to write, found a folder" in output
    assert endpoint.requests == []


def test_prompts_are_filled_by_name_and_must_have_the_names(serve, run, tmp_path):
    assert fill_prompt('{"a": {query}}', query="cup", product="x") == '{"a": cup}'
    assert fill_prompt("{query} {product}", query="{product}", product="x") == "{product} x"
    (tmp_path / "prompt.txt").write_text("Is {product} good?")
    endpoint = serve(lambda *_: answer_label("exact"))
    output, _ = run(endpoint, [("cup", "p1")], "--set", f"llm.prompt={tmp_path / 'prompt.txt'}", code=2)
    assert "expected {query} where the query shall stand" in output
    (tmp_path / "prompt.txt").write_text("Is {product} good for {query}?")
    run(endpoint, [("cup", "p1")], "--set", f"llm.prompt={tmp_path / 'prompt.txt'}")
    assert endpoint.requests[0][2]["messages"][0]["content"] == "Is steel cup good for cup?"


@pytest.mark.parametrize(
    "answer", ["", "{}", "[1]", '{"queries": []}', '{"queries": [1]}', '{"queries": [{"label": "so"}]}']
)
def test_answers_of_another_form_are_refused(answer):
    with pytest.raises(ValueError, match=r".*"):
        parse_queries(answer)
    with pytest.raises(ValueError, match=r".*"):
        parse_label(answer)
