"""Bad configuration and command lines (tests/bad_inputs): exit code 2, one sentence, nothing published."""

from urllib.parse import quote

import pytest
from click.testing import CliRunner

from indexer.cli.group import indexer
from tests.bad_inputs.lines import line

KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
QUOTED = quote(SECRET, safe="")

FILES = [
    line(73, "[npmi]\ntua = 0.1\n", "unknown key npmi.tua .* did you mean 'tau'"),
    line(73, "[npmy]\ntau = 0.1\n", r"unknown section \[npmy\].* did you mean 'npmi'", case="section"),
    line(74, '[index]\nm = "64"\n', "index.m .*expected a whole number, found '64'"),
    line(74, "[index]\nm = yes\n", "cannot be read: Invalid value", case="yes"),
    line(74, '[purchases]\ndaily = "no"\n', "purchases.daily .*expected true or false, found 'no'", case="no as text"),
    line(75, "[index]\nm = 0\n", r"\[index\] m: expected 2 to 512, found 0"),
    line(75, "[index]\nef_construction = 8\n", "ef_construction: expected at least m, found 8", case="efConstruction"),
    line(75, "[index]\nef_search = 1048577\n", "ef_search: expected 0 to 1048576, found 1048577", case="efSearch"),
    line(75, "[index]\nef_construction = 1048577\n", "ef_construction: expected 0 to 1048576", case="too wide"),
    line(75, "[index]\nshards = 100000\n", "shards: expected 0 to 512, found 100000", case="100,000 shards"),
    line(76, "a = &b [1]\nc = [*b, *b]\n", "cannot be read: Invalid value", case="aliases"),
    line(76, 'a = !!python/object:os.system "x"\n', "cannot be read: Invalid value", case="an object"),
    line(76, "# " + "x" * (1 << 20), "larger than 1048576 bytes", case="1 MiB"),
    line(76, "a = " + "[" * 100_000, "cannot be read|nested too deeply", case="nesting"),
    line(77, f'[shop]\nrelease = "s3://{KEY}:{SECRET}@bucket/x"\n', "shop.release in .*holds an access key"),
    line(77, f'[shop]\nrelease = "s3://bucket/x?X-Amz-Signature={SECRET}"\n', "holds an access key", case="signed"),
    line(77, f'[shop]\nname = "{KEY}"\n', "shop.name in .*holds an access key", case="key id"),
    line(77, f'[shop]\nsecret_access_key = "{SECRET}"\n', "unknown key shop.secret_", case="a setting"),
    line(77, f'[spark.conf]\n"spark.hadoop.fs.s3a.secret.key" = "{SECRET}"\n', "is a credential", case="of Spark"),
    line(
        77,
        f'[distill]\nteachers = ["https://u:{quote(SECRET, safe="")}@host/m"]\n',
        "distill.teachers in .*holds",
        case="in a list",
    ),
    line(77, f'[llm]\nkey_variable = "sk-{SECRET}"\n', "holds an access key|expected the name", case="of a model"),
    line(
        78,
        '[shop]\nrelease = "in/live"\n[catalogue]\npath = "in"\n',
        "shop.release: .* lies inside the input",
    ),
    line(78, '[shop]\nwork = "in"\n[labels]\npath = "in"\n', "shop.work: .* lies inside the input labels", case="work"),
]


def run(*words, **environment):
    return CliRunner().invoke(indexer, [str(word) for word in words], env=environment)


def assert_refused(result, message, match):
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert match.search(result.stderr), result.stderr
    assert "Traceback" not in result.stderr
    for secret in (KEY, SECRET, SECRET[:20]):
        assert secret not in result.output


@pytest.fixture
def refuse():
    import re

    return lambda result, message: assert_refused(result, message, re.compile(message))


@pytest.mark.parametrize(("text", "message"), FILES)
def test_a_bad_file_is_refused(tmp_path, refuse, text, message):
    path = tmp_path / "shop.toml"
    path.write_text(text)
    refuse(run("config", "show", "--config", path), message)
    refuse(run("nightly", "--config", path, "--run-date", "2026-11-20"), message)
    assert list(tmp_path.iterdir()) == [path]


ADDRESSES = [
    line(77, f"s3://{KEY}:{SECRET}@bucket/x", "store address: holds an access key"),
    line(77, f"https://b.s3.amazonaws.com/x?X-Amz-Signature={SECRET}", "store address: holds", case="signed"),
    line(79, "s3://bucket/../x", r"s3://bucket/\.\./x: expected s3://bucket/prefix"),
    line(79, "s3://", "expected s3://bucket/prefix", case="no bucket"),
    line(79, "s3:///prefix", "expected s3://bucket/prefix", case="empty bucket"),
    line(79, "ftp://host/x", "expected a folder or s3://bucket/prefix", case="another protocol"),
]


@pytest.mark.parametrize(("url", "message"), ADDRESSES)
def test_a_bad_address_is_refused(tmp_path, refuse, url, message):
    refuse(run("query", url, "mug"), message)
    refuse(run("release", "list", url), message)
    refuse(run("export", url, tmp_path / "out", "--format", "npy"), message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [line(77, "INDEXER_SHOP_RELEASE")])
def test_a_key_in_the_environment_is_refused(refuse, name):
    result = run("config", "show", **{name: f"s3://{KEY}:{SECRET}@bucket/x"})
    refuse(result, f"shop.release in {name}: holds an access key")


@pytest.mark.parametrize("path", [line(79, "in/c.csv")])
def test_a_relative_path_is_that_of_the_files_folder(tmp_path, path):
    (tmp_path / "shop.toml").write_text(f'[catalogue]\npath = "{path}"\n')
    shown = run("config", "show", "--config", tmp_path / "shop.toml").stdout
    assert f"path = '{tmp_path / path}'" in shown


def test_the_level_of_logging_is_no_setting():
    assert run("config", "show", INDEXER_LOG_LEVEL="error").exit_code == 0
    refused = run("config", "show", INDEXER_LOG_LEVEL="loud")
    assert (refused.exit_code, "loud" in refused.stderr) == (2, True)
