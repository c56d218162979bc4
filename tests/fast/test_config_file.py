"""Configuration: precedence, types, nearest names, paths."""

from dataclasses import replace
from pathlib import Path

import pytest

from indexer.config import Config, as_document
from indexer.config_file import collect_settings, load_config
from indexer.errors import ConfigError
from indexer.job_config import NpmiConfig, SparkConfig
from indexer.methods import METHODS


def write(folder: Path, text: str) -> str:
    path = folder / "shop.toml"
    path.write_text(text)
    return str(path)


def test_defaults_are_the_papers_values():
    config = load_config(environment={})
    assert (config.index.m, config.index.ef_construction) == (64, 256)
    assert (config.distill.gamma, config.distill.theta_low, config.distill.theta_high) == (0.9, 0.7, 0.85)
    assert config.purchases.min_purchases == 20
    assert config.npmi.variant == "walk"


def test_option_beats_environment_beats_file_beats_default(tmp_path):
    path = write(tmp_path, "[npmi]\ntau = 0.1\nmin_support = 3\ntop_k = 4\n")
    environment = {"INDEXER_NPMI_TAU": "0.2", "INDEXER_NPMI_MIN_SUPPORT": "7", "HOME": "/x"}
    config = load_config(path, options=["npmi.tau=0.3"], environment=environment)
    assert (config.npmi.tau, config.npmi.min_support, config.npmi.top_k) == (0.3, 7, 4)
    assert config.npmi.min_shared_products == NpmiConfig().min_shared_products
    origins = {
        key: setting.origin for key, setting in collect_settings(path, options=["npmi.tau=0.3"]).get("npmi").items()
    }
    assert origins == {"tau": "--set npmi.tau", "min_support": path, "top_k": path}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[npmi]\ntua = 0.1\n", "unknown key npmi.tua .* did you mean 'tau'"),
        ("[npmy]\ntau = 0.1\n", r"unknown section \[npmy\] .* did you mean 'npmi'"),
        ('[index]\nm = "64"\n', "index.m .* expected a whole number, found '64'"),
        ("[index]\nm = true\n", "expected a whole number, found True"),
        ("[index]\nm = 0\n", "m: expected 2 to 512, found 0"),
        ("[index]\nef_construction = 8\n", "ef_construction: expected at least m, found 8"),
        ("[index]\nshards = 100000\n", "shards: expected 0 to 512"),
        ('[npmi]\nvariant = "literal"\n', "no upper bound"),
        ("[distill]\nstudent_layers = 3\n", "expected a list of a whole number"),
        ("[labels.grades]\nfine = 7\n", "expected 0, 1, 2 or 3"),
        ('[spark.conf]\n"spark.executor.cores" = 2\n', "spark.conf .* expected text in quotes, found 2"),
        (
            '[spark]\ndriver_memory = "4 GB"\n',
            "with k, m, g or t, such as 4g, found '4 GB'",
        ),
        ('[spark]\nmaster = "loca[*]"\n', r"master: expected local\[\*\], .* found 'loca\[\*\]'"),
        ("[distill]\nevery_days = 36501\n", "every_days: expected 1 to 36500, found 36501"),
        ('[spark]\nconf = {memory = "1g"}\n', "expected settings that begin with `spark.`, found memory"),
        ('[spark.conf]\n"spark.hadoop.fs.s3a.secret.key" = "x"\n', "fs.s3a.secret.key is a credential"),
        ('[spark.conf]\n"spark.hadoop.fs.s3a.encryption.key" = "x"\n', "fs.s3a.encryption.key is a credential"),
        ('[spark.conf]\n"spark.x" = "-Dfs.s3a.secret.key=abcdefgh"\n', "conf: spark.x is a credential, or has one"),
        ('[spark]\njava_options = "-Dfs.s3a.secret.key=abcdefgh"\n', "java_options: has a credential"),
        ("[index]\nm = " + "9" * 5000, "cannot be read: Exceeds the limit"),
        ("[index]\nm = 0x" + "f" * 5000, "index.m .* expected a whole number, found a value too large to show"),
        ("[npmi]\ntau = 0x" + "f" * 5000, "npmi.tau .* expected a number, found a value too large to show"),
        ("npmi = 0x" + "f" * 5000, r"expected a table \[npmi\], found a value too large to show"),
        ("npmi.tau" + ".a" * 2000 + " = 1", "npmi.tau .* expected a number, found a value too large to show"),
        ("[index]\nm = 9223372036854775808\n", "expected a whole number, found 9223372036854775808"),
        ("[index]\nm = 9223372036854775807\n", "m: expected 2 to 512, found 9223372036854775807"),
        ("npmi = 3\n", r"expected a table \[npmi\]"),
        ("[npmi\n", "cannot be read"),
    ],
)
@pytest.mark.line(73, 74, 75)
def test_wrong_file_is_refused_with_the_place(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path, environment={})
    assert path in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("npmi.tau", "expected section.key=value"),
        ("tau=0.3", "expected section.key=value"),
        ("npmi.tau=high", "expected a number, found 'high'"),
        ("npmi.tau=1" + "0" * 309, r"expected a number, found 10+\.\.\.$"),
        ("index.m=" + "9" * 5000, r"expected a whole number, found '9+\.\.\.$"),
        ("index.m=" + "[" * 5000, r"expected a whole number, found '\[+\.\.\.$"),
        ("npmi.tao=0.3", "did you mean 'tau'"),
    ],
)
def test_wrong_option_is_refused(option, message):
    with pytest.raises(ConfigError, match=message):
        load_config(options=[option], environment={})


def test_settings_of_spark_that_are_no_credentials_are_taken(monkeypatch):
    monkeypatch.setenv("OAUTH_TOKEN_URL", "https://idp.shop.example")
    settings = {
        "spark.io.encryption.keySizeBits": "256",
        "spark.io.encryption.keygen.algorithm": "HmacSHA1",
        "spark.hadoop.fs.s3a.encryption.key": "arn:aws:kms:eu-west-1:111122223333:key/0a1b",
        "spark.hadoop.fs.azure.endpoint": "https://idp.shop.example/oauth2",
    }
    assert SparkConfig(conf=settings).conf == settings
    for name in (
        "spark.hadoop.fs.azure.account.key.shop.blob",
        "spark.hadoop.fs.s3a.encryption.key",
        "spark.accesskey",
    ):
        with pytest.raises(ConfigError, match=f"conf: {name} is a credential"):
            SparkConfig(conf={name: "abcd"})


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        (f"index.m={'t0ken' * 40}", "expected a whole number, found '[hidden]'"),
        (f"index.m=https://user:{'pa55' * 20}@host/x", "expected a whole number, found 'https://[hidden]@host/x'"),
        (f"index.m=['a', '{'t0ken' * 40}']", "expected a whole number, found ['a', '[hidden]']"),
    ],
)
def test_a_secret_that_is_longer_than_a_message_shows_is_hidden(monkeypatch, option, shown):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "t0ken" * 40)
    with pytest.raises(ConfigError) as caught:
        load_config(options=[option], environment={})
    assert str(caught.value).endswith(shown)


@pytest.mark.line(73)
def test_wrong_environment_key_is_refused():
    with pytest.raises(ConfigError, match=r"INDEXER_NPMI_TUA.*did you mean 'tau'"):
        load_config(environment={"INDEXER_NPMI_TUA": "0.3"})


def test_unknown_environment_section_is_refused():
    with pytest.raises(
        ConfigError, match="INDEXER_NPMY_TAU: expected INDEXER_SECTION_KEY; did you mean 'INDEXER_NPMI'"
    ):
        load_config(environment={"INDEXER_NPMY_TAU": "0.3"})


@pytest.mark.parametrize(
    "option",
    [
        "distill.seed=-1",
        "gates.min_recall_10=95",
        "npmi.min_support=-5",
        "curated.max_characters=0",
        "distill.similar_share=-1",
        "distill.warmup_share=7",
        "distill.alpha_labels=nan",
        "distill.test_share=0.95",
        "index.threads=-3",
    ],
)
@pytest.mark.line(75)
def test_a_value_out_of_range_is_refused_with_its_key(option):
    key = option.partition("=")[0].partition(".")[2]
    with pytest.raises(ConfigError, match=rf"{key}.*: expected .* \(set in --set"):
        load_config(options=[option], environment={})


def test_paths_are_taken_from_the_folder_of_the_file(tmp_path):
    text = """
[catalogue]
path = "in/c.csv"
[shop]
release = "s3://b/p"
work = "/abs"
[distill]
teachers = ["org/name", "scores:in/s.csv"]
[gates]
golden = "in/golden.tsv"
"""
    config = load_config(write(tmp_path, text), environment={})
    assert config.catalogue.path == str(tmp_path / "in/c.csv")
    assert config.gates.golden == str(tmp_path / "in/golden.tsv")
    assert (config.shop.release, config.shop.work) == ("s3://b/p", "/abs")
    assert config.distill.teachers == ("org/name", f"scores:{tmp_path / 'in/s.csv'}")


def test_default_folders_lie_beside_the_file(tmp_path):
    config = load_config(write(tmp_path, ""), options=["shop.release=elsewhere"], environment={})
    assert (config.shop.work, config.shop.release) == (str(tmp_path / "work"), "elsewhere")


def test_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_config(str(tmp_path / "none.toml"), environment={})


def test_document_is_plain():
    document = as_document(Config())
    assert document["distill"]["student_layers"] == list(Config().distill.student_layers)
    assert document["catalogue"]["columns"] == {}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_one_line_of_the_file_and_keys_beside_it_win(tmp_path, name):
    path = write(tmp_path, f'[distill]\nmethod = "{name}"\n')
    found = load_config(path, environment={}).distill
    expected = {**METHODS[name], "method": name}
    assert {key: getattr(found, key) for key in expected} == expected
    beside = load_config(path, options=["distill.theta_low=0.65"], environment={}).distill
    assert beside == replace(found, theta_low=0.65)


def test_the_default_method_is_the_defaults():
    assert load_config(options=["distill.method=default"], environment={}) == Config()


def test_an_unknown_method_is_refused():
    with pytest.raises(ConfigError, match=r"method: expected one of default, kd-boost, .* found 'boost'"):
        load_config(options=["distill.method=boost"], environment={})
