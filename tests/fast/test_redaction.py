"""Secrets are hidden by value and by form, in errors, logs, tracebacks and what a nightly run leaves."""

import logging
import os

import pytest
from click.testing import CliRunner

from indexer.cli.group import indexer
from indexer.console import HELD, SafeRecord, clean, start_logging
from indexer.errors import StoreError
from indexer.redaction import has_credentials, hide_value, redact

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
PEM = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIE\n-----END PRIVATE KEY-----"
TOKEN = "IQoJb3JpZ2luX2VjEXAMPLE//token=="


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://key:secret@bucket/x", "s3://[hidden]@bucket/x"),
        ("http://user:pa:ss@host:80/x", "http://[hidden]@host:80/x"),
        ("?X-Amz-Credential=A%2FB&X-Amz-Signature=0a&b", "?X-Amz-Credential=[hidden]&X-Amz-Signature=[hidden]&b"),
        ("Authorization: AWS4-HMAC-SHA256 Credential=A/b, Signature=0", "Authorization: [hidden]"),
        ("{'Authorization': b'Bearer abcdefgh'}", "{'Authorization': '[hidden]'}"),
        ("sent Bearer abcdefghijk now", "sent Bearer [hidden] now"),
        ("aws_secret_access_key = abcdefgh", "aws_secret_access_key = [hidden]"),
        ('{"SecretAccessKey": "abcdefgh", "x": 1}', '{"SecretAccessKey": "[hidden]", "x": 1}'),
        ("-Dspark.hadoop.fs.s3a.secret.key=abcdefgh -Xmx2g", "-Dspark.hadoop.fs.s3a.secret.key=[hidden] -Xmx2g"),
        ("fs.s3a.session.token=abcdefgh", "fs.s3a.session.token=[hidden]"),
        ("fs.s3a.encryption.key = abcdefgh", "fs.s3a.encryption.key = [hidden]"),
        ("<name>s3a.access.key</name> <value>abcd</value>", "<name>s3a.access.key</name> <value>[hidden]</value>"),
        ("<SessionToken>abcdefgh</SessionToken>", "<SessionToken>[hidden]</SessionToken>"),
        ("{'WebIdentityToken': 'eyJhbGciOi.eyJzdWIi.c2ln'}", "{'WebIdentityToken': '[hidden]'}"),
        ("Action=Assume&WebIdentityToken=eyJhbGciOi&x=1", "Action=Assume&WebIdentityToken=[hidden]&x=1"),
        ("web_identity_token=b'eyJhbGciOi')", "web_identity_token='[hidden]')"),
        ('{"accessToken": "aoaAAA", "refreshToken":"aorAAA", "expiresIn": 9}',
            '{"accessToken": "[hidden]", "refreshToken":"[hidden]", "expiresIn": 9}'),
        ('"{\\"accessToken\\": \\"aoaAAA\\"}"', '"{\\"accessToken\\": \\"[hidden]"}"'),
        ("?access_token=abcd&id_token=efgh", "?access_token=[hidden]&id_token=[hidden]"),
        ("next=%2Fx%3Faccess_token%3Dabcd%26", "next=%2Fx%3Faccess_token%3D[hidden]"),
        ("idToken: 'eyJhbGciOi'", "idToken: '[hidden]'"),
        ("x-amz-sso_bearer_token: aoaAAAAAGX\r\nhost: x", "x-amz-sso_bearer_token: [hidden]\r\nhost: x"),
        ("'X-aws-ec2-metadata-token': 'AQAEAOx=='", "'X-aws-ec2-metadata-token': '[hidden]'"),
        ("the key AKIAIOSFODNN7EXAMPLE is", "the key [hidden] is"),
        ("key sk-proj-abcdefghijklmnop1234", "key [hidden]"),
        ("key sk-ant-api03-Zx9_kLmN0pQrStUvWxYz12-AbC_d3F", "key [hidden]"),
        ("key sk-0123456789abcdef0123456789abcdef.", "key [hidden]."),
        ("url=sk-T3BlbkFJabcdefghijklmnopqrstuvwx", "url=[hidden]"),
        ("s3a://key:a/b/c@bucket/x", "s3a://[hidden]@bucket/x"),
        (f"key {PEM}: cannot be read", "key [hidden]: cannot be read"),
        (repr(PEM.replace("PRIVATE", "RSA PRIVATE")), "'[hidden]'"),
        (f"found {PEM[:40]}...", "found [hidden]"),
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_hidden(text, shown):
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/prefix: log/: no such bucket; create it or correct the address",
        "mail a@b.example about http://host:9000/path",
        "2026-11-20T10:00:00+00:00 tokens: 12, query_tokens 32",
        "X-aws-ec2-metadata-token-ttl-seconds: 21600",
        "a valid token: none, invalid_token: 1200 tokens, access tokens: 1234",
        "AWS_WEB_IDENTITY_TOKEN_FILE=/var/run/token",
        "map it in the configuration: [catalogue.columns] product_id = \"your column\"",
        "expected SHA-256 " + "0" * 64,
        "exports/sk-SK-products-2024-export.csv",
        "s3://shop/sk-slovakia-production/search",
        "sk-internationalisationofproducts",
        "s3://shop/sk-ant-internationalisation-2024-11-20",
        "http://gw:8080/v1/@cf/meta",
        "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2Vw\n-----END PUBLIC KEY-----",
    ],
)  # fmt: skip
def test_other_text_stays_as_it_is(text):
    assert redact(text) == text
    assert not has_credentials(text)


def test_values_of_the_environment_are_hidden_in_every_form(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("SHOP_API_KEY", TOKEN)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/secrets/of/the/pod")
    text = f"{SECRET} wJalrXUtnFEMI%2FK7MDENG%2FbPxRfiCYEXAMPLEKEY {TOKEN} /var/run/secrets/of/the/pod"
    assert redact(text) == "[hidden] [hidden] [hidden] /var/run/secrets/of/the/pod"


def test_a_value_that_is_not_utf8_is_hidden_and_stops_no_message(monkeypatch):
    monkeypatch.setitem(os.environ, "DB_PASSWORD", os.fsdecode(b"caf\xe9-secret"))
    error = StoreError("no answer to caf%E9-secret, Y2Fm6S1zZWNyZXQ= and caf\udce9-secret")
    assert str(error) == "no answer to [hidden], [hidden] and [hidden]"


def test_a_value_of_any_name_is_hidden_once_it_is_told(monkeypatch):
    monkeypatch.setattr("indexer.redaction._known", set())
    hide_value("a key of the shop")
    hide_value("short")
    assert redact("short: a key of the shop") == "short: [hidden]"


def test_an_error_never_shows_what_a_library_said_of_its_request():
    error = StoreError(f"broke off: https://bucket/x?X-Amz-Signature={SECRET}; check the endpoint")
    assert str(error) == "broke off: https://bucket/x?X-Amz-Signature=[hidden]; check the endpoint"


@pytest.fixture
def loud(monkeypatch):
    """Let the root logger be as a command's, and put everything back afterwards."""
    root, factory = logging.getLogger(), logging.getLogRecordFactory()
    before = (root.level, list(root.handlers), {name: logging.getLogger(name).level for name in HELD})
    yield start_logging
    logging.setLogRecordFactory(factory)
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    for name, level in before[2].items():
        logging.getLogger(name).setLevel(level)


def test_lines_of_any_library_are_redacted_and_cannot_forge_another(loud, monkeypatch, capsys):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    loud("debug")
    logger = logging.getLogger("some.package")
    logger.debug("signed %s with %r", "\x1b[31mrow\r\n2026 INFO forged", {"key": SECRET})
    try:
        raise RuntimeError(f"GET /x?X-Amz-Signature={SECRET}")
    except RuntimeError:
        logger.exception("failed")
    logger.debug("%d is no number", "x")
    shown = capsys.readouterr().err
    assert SECRET not in shown
    assert "signed \\x1b[31mrow\\r" in shown
    assert "\x1b" not in shown
    assert "RuntimeError: GET /x?X-Amz-Signature=[hidden]" in shown
    assert "%d is no number ('x',)" in shown


def test_handlers_of_a_librarys_own_get_clean_records(loud, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    loud("info")
    seen = []
    logger = logging.getLogger("with.its.own.handler")
    handler = logging.Handler()
    handler.emit = seen.append
    logger.addHandler(handler)
    logger.propagate = False
    logger.info("key %s", SECRET)
    assert [record.getMessage() for record in seen] == ["key [hidden]"]
    assert isinstance(seen[0], SafeRecord)


@pytest.mark.parametrize(("unsafe", "level"), [(False, logging.INFO), (True, logging.DEBUG)])
def test_libraries_that_write_whole_requests_are_held_back(loud, unsafe, level):
    loud("debug", unsafe=unsafe)
    for name in HELD:
        assert logging.getLogger(name).getEffectiveLevel() == level
    loud("error")
    assert logging.getLogger("botocore").getEffectiveLevel() == logging.ERROR


@pytest.mark.parametrize("debug", [True, False])
def test_an_unexpected_error_shows_its_traceback_without_secrets(loud, monkeypatch, debug):
    def fail(*_, **__):
        raise RuntimeError(f"Authorization: AWS4-HMAC-SHA256 Credential=AKIA/x \x1b[31m {SECRET}")

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setattr("indexer.reader.open_index", fail)
    result = CliRunner().invoke(indexer, [*(["--debug"] if debug else []), "query", "live", "mug"])
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "indexer: unexpected RuntimeError: Authorization: [hidden]" in result.stderr
    assert SECRET not in result.output
    assert "\x1b" not in result.output


TYPED = f"s3://AKIAIOSFODNN7EXAMPLE:{SECRET}@bucket/x"


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (["--log-level", TYPED], {}),
        (["config", "show"], {"INDEXER_LOG_LEVEL": TYPED}),
        ([f"--{TYPED}"], {}),
        ([TYPED], {}),
        (["query", "release", "mug", TYPED], {}),
        (["release", "list", "release", TYPED], {}),
        (["query", "release", "mug", "-k", TYPED], {}),
    ],
)
def test_a_usage_error_shows_no_secret_that_was_typed(words, environment):
    result = CliRunner().invoke(indexer, words, env=environment)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr
    assert "s3://[hidden]@bucket/x" in result.stderr
    assert not any(secret in result.output for secret in (SECRET, "AKIA"))


@pytest.mark.parametrize("name", ["command", "build_index"])
@pytest.mark.parametrize("words", [[TYPED], [f"--{TYPED}"], ["--log-level", TYPED]])
def test_a_usage_error_of_a_job_shows_none_either(name, words):
    from jobs import build_index, npmi_pairs
    from jobs.command import make_command

    job = build_index.command if name == "build_index" else make_command(npmi_pairs.STEP, npmi_pairs.run)
    result = CliRunner().invoke(job, ["--run-date", "2026-11-20", *words])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "s3://[hidden]@bucket/x" in result.stderr
    assert not any(secret in result.output for secret in (SECRET, "AKIA"))


@pytest.mark.parametrize("words", [[], ["release"]])
def test_a_group_without_a_command_shows_its_help_once(words):
    result = CliRunner().invoke(indexer, words)
    assert result.exit_code == 2
    assert result.stderr.count("Usage: ") == 1
    assert "Error" not in result.stderr


def test_a_job_ends_in_the_same_way(monkeypatch, capsys):
    from jobs.command import exit_codes

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    for error, code in ((RuntimeError(f"\x1b[31m {SECRET}"), 1), (StoreError(f"\x1b[31m {SECRET}"), 75)):
        with pytest.raises(SystemExit) as ended, exit_codes("npmi_pairs"):
            raise error
        shown = capsys.readouterr().err
        assert (ended.value.code, "Traceback" in shown) == (code, code == 1)
        assert "\\x1b[31m [hidden]" in shown.splitlines()[-1]
        assert SECRET not in shown


def test_debug_shows_the_traceback_of_a_known_error_and_keeps_its_exit_code(loud, tmp_path):
    result = CliRunner().invoke(indexer, ["--debug", "query", str(tmp_path), "mug"])
    assert result.exit_code == 75
    assert "Traceback" in result.stderr
    assert "indexer: " in result.stderr.splitlines()[-1]


def test_lines_stay_lines():
    assert clean("a\n\tb\x07") == "a\n\tb\\x07"
